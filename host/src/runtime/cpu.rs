//! Time spent computing in guests: counted per turn, and per tenant over its minute.
//!
//! Invariants: waiting for anything costs nobody anything; what a turn computed is the tenant's in the
//! end, however the turn ended. The tenant's count is touched when a guest was looked at (each tick)
//! and when its turn is over, never by a host call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::TenantId;
use crate::telemetry::{self, Limit, TenantMetrics};

use super::limits::COUNTED_MAX;
use super::minute::Minute;

/// Time spent inside the guest of one turn. Waiting for anything stops the watch.
#[derive(Debug, Clone)]
pub struct Cpu(Arc<Watch>);

#[derive(Debug)]
struct Watch {
    start: std::time::Instant,
    /// Nanoseconds after `start` since which the guest runs.
    since: AtomicU64,
    used: AtomicU64,
    /// Of it, what the tenant was not told yet.
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
            untold: AtomicU64::new(0),
            tenant,
        }))
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
        Duration::from_nanos(self.0.used.fetch_add(counted, Ordering::Relaxed) + counted)
    }

    /// What was computed once was computed again: a replay that took long leaves at least half of
    /// what the turn may use.
    pub fn go_live(&self, cpu_ms_max: u64) {
        let half = Duration::from_millis(cpu_ms_max / 2);
        let half = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        self.0.used.fetch_min(half, Ordering::Relaxed);
    }

    /// Wait for something outside with the watch stopped.
    pub async fn waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        self.pause();
        let answer = wait.await;
        self.resume();
        answer
    }

    /// Wait until the tenant may compute, if its minute is used up. At once for most.
    pub async fn allowed(&self) {
        if let Some(tenant) = &self.0.tenant {
            tenant.allowed(self.0.untold()).await;
        }
    }
}

impl Watch {
    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
    minute: Mutex<Minute>,
    metrics: TenantMetrics,
}

impl TenantCpu {
    fn new(tenant: &TenantId, allowance: Duration) -> Self {
        Self {
            start: Instant::now(),
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

    fn allow(&self, allowance: Duration) {
        self.minute().allow(allowance, self.start.elapsed());
    }

    fn minute(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every tenant's minute, in memory: a host that starts has seen nobody compute. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Minutes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowance: Duration,
    /// As many as there are tenants whose agents ran.
    tenants: Mutex<HashMap<TenantId, Arc<TenantCpu>>>,
}

impl Minutes {
    /// With what each tenant may compute in a minute.
    pub fn new(minute_ms_max: u64) -> Self {
        Self(Arc::new(Inner {
            allowance: Duration::from_millis(minute_ms_max),
            tenants: Mutex::default(),
        }))
    }

    pub fn of(&self, tenant: &TenantId) -> Arc<TenantCpu> {
        let mut tenants = self.tenants();
        if let Some(known) = tenants.get(tenant) {
            return known.clone();
        }
        let new = Arc::new(TenantCpu::new(tenant, self.0.allowance));
        tenants.insert(tenant.clone(), new.clone());
        new
    }

    /// From now on this tenant may compute so much in a minute, and never more than the host gives
    /// everybody; none for that.
    pub fn allow(&self, tenant: &TenantId, minute_ms_max: Option<u64>) {
        let own = minute_ms_max.map_or(self.0.allowance, Duration::from_millis);
        self.of(tenant).allow(own.min(self.0.allowance));
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
        let minutes = Minutes::new(6_000);
        let (greedy, modest) = (minutes.of(&tenant("greedy")), minutes.of(&tenant("modest")));
        let start = Instant::now();
        greedy.allowed(ms(5_900)).await;
        assert_eq!(start.elapsed(), ms(0));
        greedy.allowed(ms(200)).await;
        assert_eq!(start.elapsed(), ms(1_500));
        let before = Instant::now();
        modest.allowed(ms(5_000)).await;
        assert_eq!(before.elapsed(), ms(0));
        // The same tenant, however often it is asked for.
        let again = minutes.of(&tenant("greedy"));
        again.allowed(ms(50)).await;
        assert_eq!(before.elapsed(), ms(500));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_tenant_share_its_minute() {
        let minutes = Minutes::new(6_000);
        let one = minutes.of(&tenant("t"));
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
        let minutes = Minutes::new(6_000);
        minutes.allow(&tenant("t"), Some(600));
        let one = minutes.of(&tenant("t"));
        let start = Instant::now();
        one.allowed(ms(600)).await;
        assert_eq!(start.elapsed(), ms(5_000));
        minutes.allow(&tenant("t"), Some(u64::MAX));
        let start = Instant::now();
        one.allowed(ms(6_000)).await;
        assert!(start.elapsed() > ms(0), "not above the host's");
        minutes.forget(&tenant("t"));
        let start = Instant::now();
        minutes.of(&tenant("t")).allowed(ms(5_999)).await;
        assert_eq!(start.elapsed(), ms(0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_turn_computed_is_told_when_it_is_over() {
        let minutes = Minutes::new(1);
        let one = minutes.of(&tenant("t"));
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
