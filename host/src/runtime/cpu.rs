//! Time spent computing in guests: counted per turn, and per tenant over its minute; and who may compute
//! for long at once.
//!
//! A guest that computes for longer than [`BURST_MAX`] without waiting for anything goes on only with one of
//! few places, which tenants take in turns, tick by tick. So there is a core for those who compute for a
//! moment, which is what most turns do.
//!
//! Invariants: waiting for anything costs nobody anything, and is done without such a place; what a
//! turn computed is the tenant's in the end, however the turn ended. The tenant's count is touched
//! when a guest was looked at (each tick) and when its turn is over, never by a host call.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::time::Instant;

use crate::fair::{Bounds, Gate, Pass};
use crate::id::TenantId;
use crate::telemetry::{self, Limit, TenantMetrics};

use super::limits::{COUNTED_MAX, TICK};
use super::minute::Minute;

/// What a guest computes at a stretch before it needs a place: a tick of the epoch. Small agents' whole
/// turns take a tenth of it.
const BURST_MAX: Duration = TICK;

/// Time spent inside the guest of one turn. Waiting for anything stops the watch.
#[derive(Debug, Clone)]
pub struct Cpu(Arc<Watch>);

#[derive(Debug)]
struct Watch {
    start: std::time::Instant,
    /// Nanoseconds after `start` since which the guest runs.
    since: AtomicU64,
    used: AtomicU64,
    /// Of it, what instances before this one did.
    before: AtomicU64,
    /// What this instance did, doing again what another did included.
    instance: AtomicU64,
    /// Of it, what came since the guest last waited.
    burst: AtomicU64,
    /// Its place among those that compute for long.
    place: Mutex<Option<Pass>>,
    /// Of what was used, what the tenant was not told yet.
    untold: AtomicU64,
    tenant: Option<Arc<TenantCpu>>,
}

impl Cpu {
    /// Of a turn that counts for nobody: run again to look at it.
    pub fn start() -> Self {
        Self::of(None)
    }

    /// Of a turn of this tenant.
    pub fn start_for(tenant: Arc<TenantCpu>) -> Self {
        Self::of(Some(tenant))
    }

    fn of(tenant: Option<Arc<TenantCpu>>) -> Self {
        Self(Arc::new(Watch {
            start: std::time::Instant::now(),
            since: AtomicU64::new(0),
            used: AtomicU64::new(0),
            before: AtomicU64::new(0),
            instance: AtomicU64::new(0),
            burst: AtomicU64::new(0),
            place: Mutex::default(),
            untold: AtomicU64::new(0),
            tenant,
        }))
    }

    /// Another instance begins.
    pub fn begin(&self) {
        let used = self.0.used.load(Ordering::Relaxed);
        self.0.before.store(used, Ordering::Relaxed);
        self.0.instance.store(0, Ordering::Relaxed);
        self.resume();
    }

    /// What this instance computed so far.
    pub fn of_instance(&self) -> Duration {
        self.pause();
        Duration::from_nanos(self.0.instance.load(Ordering::Relaxed))
    }

    /// How long ago the first instance of this attempt began.
    pub fn age_ms(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The guest starts or goes on.
    pub fn resume(&self) {
        self.0.since.store(self.0.elapsed_ns(), Ordering::Relaxed);
    }

    /// The guest waits or was looked at: count what it ran.
    pub fn pause(&self) -> Duration {
        let now = self.0.elapsed_ns();
        let ran = now.saturating_sub(self.0.since.swap(now, Ordering::Relaxed));
        let counted = ran.min(COUNTED_MAX.as_nanos() as u64);
        self.0.untold.fetch_add(counted, Ordering::Relaxed);
        self.0.burst.fetch_add(counted, Ordering::Relaxed);
        self.0.instance.fetch_add(counted, Ordering::Relaxed);
        Duration::from_nanos(self.0.used.fetch_add(counted, Ordering::Relaxed) + counted)
    }

    /// What was computed once was computed again: a replay that took long leaves at least half of
    /// what the turn may use. After an instance of the same attempt it is known what that used.
    pub fn go_live(&self, cpu_ms_max: u64) {
        let before = self.0.before.load(Ordering::Relaxed);
        if before > 0 {
            self.pause();
            self.0.used.store(before, Ordering::Relaxed);
            return;
        }
        let half = Duration::from_millis(cpu_ms_max / 2);
        let half = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        self.0.used.fetch_min(half, Ordering::Relaxed);
    }

    /// Wait for something outside with the watch stopped. What is there at once was not waited for.
    pub async fn waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        self.pause();
        let mut wait = pin!(wait);
        let answer = match poll!(&mut wait) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                self.0.give_place(None);
                let answer = wait.await;
                self.0.burst.store(0, Ordering::Relaxed);
                answer
            }
        };
        self.resume();
        answer
    }

    /// The guest was looked at, and lets others by: if it has a place, that is free.
    pub fn step_aside(&self) {
        self.0.give_place(None);
    }

    /// It would go on: wait until its tenant may compute, if the minute is used up,
    /// and for a place, if it has computed for long. At once for most.
    pub async fn allowed(&self) {
        let Some(tenant) = &self.0.tenant else {
            return;
        };
        tenant.allowed(self.0.untold()).await;
        if u128::from(self.0.burst.load(Ordering::Relaxed)) >= BURST_MAX.as_nanos() {
            let mut place = tenant.place();
            place.admitted().await;
            self.0.give_place(Some(place));
        }
    }
}

impl Watch {
    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// In exchange for what it has.
    fn give_place(&self, place: Option<Pass>) {
        let mut own = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let _left = std::mem::replace(&mut *own, place);
    }

    fn untold(&self) -> Duration {
        Duration::from_nanos(self.untold.swap(0, Ordering::Relaxed))
    }
}

/// Turns shorter than a tick are told of here, and so is the rest of all others.
impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(tenant) = &self.tenant {
            tenant.take(self.untold());
        }
    }
}

/// What one tenant's agents computed, and may.
#[derive(Debug)]
pub struct TenantCpu {
    start: Instant,
    tenant: TenantId,
    places: Places,
    minute: Mutex<Minute>,
    metrics: TenantMetrics,
}

impl TenantCpu {
    fn new(tenant: &TenantId, allowance: Duration, places: Places) -> Self {
        Self {
            start: Instant::now(),
            tenant: tenant.clone(),
            places,
            minute: Mutex::new(Minute::new(allowance, Duration::ZERO)),
            metrics: TenantMetrics::new(tenant.as_str()),
        }
    }

    /// So much was computed. None if the tenant may go on at once.
    fn take(&self, computed: Duration) -> Option<Duration> {
        self.metrics.computed(computed);
        self.minute().take(computed, self.start.elapsed())
    }

    /// Whether who asks now would wait.
    pub fn is_used_up(&self) -> bool {
        self.take(Duration::ZERO).is_some()
    }

    /// Book what was computed, and wait until the tenant may go on. Others of the tenant that wait may
    /// have been first: then it waits again.
    pub async fn allowed(&self, computed: Duration) {
        let Some(mut wait) = self.take(computed) else {
            return;
        };
        telemetry::hit(Limit::CpuTenantMinute);
        loop {
            tokio::time::sleep(wait).await;
            match self.take(Duration::ZERO) {
                Some(again) => wait = again,
                None => return,
            }
        }
    }

    /// A place among those that compute for long, or in their line.
    fn place(&self) -> Pass {
        self.places.gate.enter(&self.tenant, self.places.bounds)
    }

    fn allow(&self, allowance: Duration) {
        self.minute().allow(allowance, self.start.elapsed());
    }

    fn minute(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where guests that compute for long stand.
#[derive(Debug, Clone)]
struct Places {
    gate: Arc<Gate>,
    bounds: Bounds,
}

/// Every tenant's minute, in memory: a host that starts has seen nobody compute. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Minutes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowance: Duration,
    places: Places,
    /// As many as there are tenants whose agents ran.
    tenants: Mutex<HashMap<TenantId, Arc<TenantCpu>>>,
}

impl Minutes {
    /// With what each tenant may compute in a minute, and how many guests may compute for long at once.
    pub fn new(minute_ms_max: u64, computing_max: u64) -> Self {
        let all = usize::try_from(computing_max).unwrap_or(usize::MAX);
        // A tenant that is alone may have them all: they go round when others come.
        let bounds = Bounds {
            host_max: all,
            tenant_max: all,
        };
        Self(Arc::new(Inner {
            allowance: Duration::from_millis(minute_ms_max),
            places: Places {
                gate: Arc::default(),
                bounds,
            },
            tenants: Mutex::default(),
        }))
    }

    /// Of a tenant that may compute so much in a minute, and never more than the host gives everybody;
    /// none for that.
    pub fn of(&self, tenant: &TenantId, minute_ms_max: Option<u64>) -> Arc<TenantCpu> {
        let all = self.0.allowance;
        let own = minute_ms_max.map_or(all, |own| Duration::from_millis(own).min(all));
        let mut tenants = self.tenants();
        if let Some(known) = tenants.get(tenant) {
            known.allow(own);
            return known.clone();
        }
        let new = Arc::new(TenantCpu::new(tenant, own, self.0.places.clone()));
        tenants.insert(tenant.clone(), new.clone());
        new
    }

    /// Nobody asks about this tenant any more.
    pub fn forget(&self, tenant: &TenantId) {
        self.tenants().remove(tenant);
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<TenantCpu>>> {
        self.0
            .tenants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Virtual time: what is waited for passes at once, and only that.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_whose_minute_is_used_waits_and_others_do_not() {
        let minutes = Minutes::new(6_000, 1);
        let (greedy, modest) = (
            minutes.of(&tenant("greedy"), None),
            minutes.of(&tenant("modest"), None),
        );
        let start = Instant::now();
        greedy.allowed(ms(5_900)).await;
        assert_eq!(start.elapsed(), ms(0));
        greedy.allowed(ms(200)).await;
        assert_eq!(start.elapsed(), ms(1_500));
        let before = Instant::now();
        modest.allowed(ms(5_000)).await;
        assert_eq!(before.elapsed(), ms(0));
        // The same tenant, however often it is asked for.
        let again = minutes.of(&tenant("greedy"), None);
        again.allowed(ms(50)).await;
        assert_eq!(before.elapsed(), ms(500));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_tenant_share_its_minute() {
        let minutes = Minutes::new(6_000, 1);
        let one = minutes.of(&tenant("t"), None);
        one.allowed(ms(5_999)).await;
        let start = Instant::now();
        let mut turns = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let one = one.clone();
            turns.spawn(async move {
                for _ in 0..10 {
                    one.allowed(ms(10)).await;
                }
            });
        }
        turns.join_all().await;
        // 800 ms of computing at a tenth of the time, less what each was a tick ahead.
        let took = start.elapsed();
        assert!(took >= ms(7_000) && took <= ms(9_500), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_own_allowance_is_below_the_hosts() {
        let minutes = Minutes::new(6_000, 1);
        let one = minutes.of(&tenant("t"), Some(600));
        let start = Instant::now();
        one.allowed(ms(600)).await;
        assert_eq!(start.elapsed(), ms(5_000));
        // Those that run already obey it too.
        minutes.of(&tenant("t"), Some(u64::MAX));
        let start = Instant::now();
        one.allowed(ms(6_000)).await;
        assert!(start.elapsed() > ms(0), "not above the host's");
        minutes.forget(&tenant("t"));
        let start = Instant::now();
        minutes.of(&tenant("t"), None).allowed(ms(5_999)).await;
        assert_eq!(start.elapsed(), ms(0));
    }

    #[test]
    fn an_instance_has_computed_what_came_since_it_began() {
        let cpu = Cpu::start();
        cpu.begin();
        // However long the machine is elsewhere, one look counts no more than that.
        let long = 10 * COUNTED_MAX;
        while cpu.of_instance() < long {}
        cpu.begin();
        assert!(cpu.of_instance() <= COUNTED_MAX);
        assert!(cpu.pause() >= long, "it is the turn's all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn who_computes_for_long_needs_a_place_and_who_waits_has_none() {
        let minutes = Minutes::new(u64::MAX, 1);
        let new = |name: &str| Cpu::start_for(minutes.of(&tenant(name), None));
        let compute = |cpu: &Cpu, for_: Duration| {
            let ns = u64::try_from(for_.as_nanos()).unwrap();
            cpu.0.burst.fetch_add(ns, Ordering::Relaxed);
        };
        let (one, other, short) = (new("a"), new("b"), new("c"));
        compute(&one, BURST_MAX);
        compute(&other, BURST_MAX);
        compute(&short, BURST_MAX / 2);
        assert!(one.allowed().now_or_never().is_some());
        let mut waits = Box::pin(other.allowed());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(short.allowed().now_or_never().is_some());
        // At its next tick the first lets the other one by.
        one.step_aside();
        let mut again = Box::pin(one.allowed());
        assert!(again.as_mut().now_or_never().is_none());
        assert!(waits.as_mut().now_or_never().is_some());
        drop(waits);
        // What is there at once is no waiting; what is waited for is, and its place is free meanwhile.
        other.waiting(async {}).await;
        assert!(again.as_mut().now_or_never().is_none());
        other.waiting(tokio::time::sleep(ms(1))).await;
        assert!(again.as_mut().now_or_never().is_some());
        drop(again);
        assert!(other.allowed().now_or_never().is_some(), "a new stretch");
        // A turn that is over has no place.
        compute(&other, BURST_MAX);
        drop(one);
        assert!(other.allowed().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_turn_computed_is_told_when_it_is_over() {
        let minutes = Minutes::new(1, 1);
        let one = minutes.of(&tenant("t"), None);
        let cpu = Cpu::start_for(one.clone());
        cpu.0.untold.store(1_000_000, Ordering::Relaxed);
        let start = Instant::now();
        drop(cpu);
        one.allowed(ms(0)).await;
        assert_eq!(start.elapsed(), ms(60_000));
        // Nobody's turn costs nobody anything, and never waits.
        let nobodys = Cpu::start();
        nobodys.0.untold.store(1_000_000, Ordering::Relaxed);
        nobodys.allowed().await;
        assert_eq!(start.elapsed(), ms(60_000));
    }
}
