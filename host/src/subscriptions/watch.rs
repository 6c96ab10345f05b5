//! What goes on behind: streams change, leases run out, deliveries are tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::config::Delivery;
use super::delivery::{Notice, WORK_MAX};
use super::state::{Delta, Work};
use super::{Body, Held, SubscriptionError, SubscriptionKey, Subscriptions, wake_id};
use crate::clock::Time;
use crate::egress::webhook;
use crate::id::TenantId;
use crate::streams::{Change, StreamPath};
use crate::telemetry::{self, Limit};
use crate::tenants::Standing;

/// Wall time may step: at most so much is slept on it. As often one looks whether a suspended tenant is served again.
const LOOK_EVERY_MS: u64 = 30_000;

/// When subscriptions are to be looked at. One entry each.
#[derive(Default)]
pub(super) struct Agenda(Mutex<Times>);

#[derive(Default)]
struct Times {
    order: BTreeSet<(Time, SubscriptionKey)>,
    of: HashMap<SubscriptionKey, Time>,
}

impl Agenda {
    fn put(&self, key: &SubscriptionKey, at: Option<Time>) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = times.of.remove(key) {
            times.order.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            times.of.insert(key.clone(), at);
            times.order.insert((at, key.clone()));
        }
    }

    /// Those that are due, and when the next one is.
    fn take_due(&self, now: Time) -> (Vec<SubscriptionKey>, Option<Time>) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some((at, key)) = times.order.first().cloned() {
            if at > now {
                return (due, Some(at));
            }
            times.order.pop_first();
            times.of.remove(&key);
            due.push(key);
        }
        (due, None)
    }
}

impl Subscriptions {
    pub(super) fn schedule(&self, key: &SubscriptionKey, at: Option<Time>) {
        self.0.agenda.put(key, at);
        self.0.sooner.notify_one();
    }

    /// Go on with what an older process left. What cannot be read is said, and keeps nothing else back.
    pub async fn take_up(&self) {
        for tenant in self.parts().tenants.names() {
            if let Err(error) = self.take_up_tenant(&tenant).await {
                tracing::error!(%tenant, %error, "the tenant's subscriptions cannot be read: nobody is woken");
            }
        }
    }

    /// Wake workers as streams change, until the host stops.
    pub async fn run(self) {
        loop {
            let now = self.parts().clock.now();
            let (due, next) = self.0.agenda.take_due(now);
            for key in due {
                if let Ok(held) = self.held(&key) {
                    self.look_behind(held);
                }
            }
            let wait = next.map_or(LOOK_EVERY_MS, |next| next.ms_since(now));
            let wait = Duration::from_millis(wait.clamp(1, LOOK_EVERY_MS));
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                () = self.0.sooner.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.parts().streams.changes().next() => self.hear(),
            }
        }
    }

    /// Streams that came while nobody looked are work from their beginning.
    async fn take_up_tenant(&self, tenant: &TenantId) -> Result<(), SubscriptionError> {
        let (this, of) = (self.clone(), tenant.clone());
        let loaded = self.blocking(move || this.load(&of)).await?;
        if loaded.is_empty() {
            return Ok(());
        }
        self.parts().streams.changes().watch(tenant);
        for held in loaded {
            let held = Arc::new(held);
            let mut body = held.body.lock().await;
            let extents = std::mem::take(&mut body.subscription.extents);
            let links = body.subscription.links.iter();
            let lost = links.filter_map(|(path, link)| {
                let is_there = extents.contains_key(path);
                let id = link.stream.filter(|_| !is_there)?;
                Some((path.clone(), Change::Removed(id)))
            });
            let mut changes: Vec<_> = lost.collect();
            let grown = extents.into_iter();
            changes.extend(grown.map(|(path, extent)| (path, Change::Grown(extent))));
            for (path, change) in changes {
                self.follow(&held.key, &mut body, &path, change).await?;
            }
            // Nobody knows whether workers were told.
            if let Some(wake) = &body.subscription.state.wake
                && wake.lease_until.is_none()
            {
                let delta = body.subscription.release();
                self.take(&held.key, &mut body, delta).await?;
            }
            self.schedule(&held.key, body.subscription.due());
            drop(body);
            self.keep(held.clone());
            self.look_behind(held);
        }
        Ok(())
    }

    /// Of everything that is known to have changed, before anything is answered from it.
    pub(super) fn hear(&self) {
        let changes = self.parts().streams.changes();
        changes.hand_on(|changes| self.changed(changes));
    }

    fn changed(&self, changes: BTreeMap<(TenantId, StreamPath), Change>) {
        let mut of: HashMap<TenantId, Vec<(StreamPath, Change)>> = HashMap::new();
        for ((tenant, path), change) in changes {
            of.entry(tenant).or_default().push((path, change));
        }
        for (tenant, changes) in of {
            for held in self.of_tenant(&tenant) {
                let is_first = {
                    let mut waiting = held.changed();
                    let is_first = waiting.is_empty();
                    waiting.extend(changes.iter().cloned());
                    is_first
                };
                // Whoever was sent before takes these up too.
                if !is_first {
                    continue;
                }
                let this = self.clone();
                self.0.tasks.spawn(async move {
                    let mut body = held.body.lock().await;
                    let is_concerned = this.catch_up(&held, &mut body).await;
                    drop(body);
                    if is_concerned {
                        this.look(&held).await;
                    }
                });
            }
        }
    }

    /// Take up what is known of streams; true if any of it concerns the subscription.
    pub(super) async fn catch_up(&self, held: &Held, body: &mut Body) -> bool {
        let changes = std::mem::take(&mut *held.changed());
        let mut is_concerned = false;
        for (path, change) in changes {
            if !body.subscription.looks_at(&path) {
                continue;
            }
            is_concerned = true;
            if let Err(error) = self.follow(&held.key, body, &path, change).await {
                tracing::warn!(subscription = %held.key.id, %error, "a change of a stream is not noted");
            }
        }
        is_concerned
    }

    pub(super) async fn follow(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
        path: &StreamPath,
        change: Change,
    ) -> Result<(), SubscriptionError> {
        if body.is_gone {
            return Ok(());
        }
        let is_new = !body.subscription.links.contains_key(path);
        let delta = body.subscription.changed(path, change);
        if is_new
            && !delta.links.is_empty()
            && body.subscription.links.len() >= self.parts().bounds.streams_max
        {
            telemetry::hit(Limit::SubscriptionStreams);
            body.subscription.extents.remove(path);
            tracing::warn!(
                tenant = %key.tenant, subscription = %key.id, %path,
                "a subscription looks at as many streams as it may: it is not woken for this one"
            );
            return Ok(());
        }
        self.take(key, body, delta).await
    }

    fn look_behind(&self, held: Arc<Held>) {
        let this = self.clone();
        self.0.tasks.spawn(async move { this.look(&held).await });
    }

    /// Wake its workers, if that is to be done now.
    pub(super) async fn look(&self, held: &Arc<Held>) {
        let mut body = held.body.lock().await;
        let is_to_wake = match self.is_to_wake(&held.key, &mut body).await {
            Ok(is_to_wake) => is_to_wake,
            Err(error) => return self.is_stuck(held, &error),
        };
        drop(body);
        // One at a time, which waits for its turn.
        if is_to_wake && !held.is_telling.swap(true, Ordering::AcqRel) {
            let (this, telling) = (self.clone(), Telling(held.clone()));
            self.0.tasks.spawn(async move {
                let stopping = this.0.stopping.clone();
                let held = telling.0.clone();
                tokio::select! {
                    () = this.tell(&held) => {}
                    // The next process tells.
                    () = stopping.cancelled() => return,
                }
                drop(telling);
                this.look_behind(held);
            });
        }
    }

    fn is_stuck(&self, held: &Held, error: &SubscriptionError) {
        let key = &held.key;
        tracing::warn!(tenant = %key.tenant, subscription = %key.id, %error, "nobody is woken");
        let again = self.parts().clock.now().plus_ms(LOOK_EVERY_MS);
        self.schedule(key, Some(again));
    }

    /// Whether somebody is to be woken now; otherwise it is looked at again when time changes that.
    async fn is_to_wake(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
    ) -> Result<bool, SubscriptionError> {
        if body.is_gone || self.0.stopping.is_cancelled() {
            return Ok(false);
        }
        let now = self.parts().clock.now();
        match self.parts().tenants.get(&key.tenant).map(|it| it.standing) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended) => {
                self.schedule(key, Some(now.plus_ms(LOOK_EVERY_MS)));
                return Ok(false);
            }
            Some(Standing::Deleting) | None => return Ok(false),
        }
        self.lapse(key, body).await?;
        let is_to_wake = body.subscription.is_to_wake(now);
        if !is_to_wake {
            self.schedule(key, body.subscription.due());
        }
        Ok(is_to_wake)
    }

    /// Make a wake and tell of it. A webhook waits for a place first, so that its lease begins when it is sent.
    async fn tell(&self, held: &Arc<Held>) {
        let key = &held.key;
        let mut place = None;
        if held.is_sent_for {
            let place = place.insert(self.parts().gate.enter(&key.tenant, self.parts().places));
            if place.waits() {
                telemetry::hit(Limit::Webhooks);
            }
            place.admitted().await;
        }
        let (delivery, root, created, notice) = {
            let mut body = held.body.lock().await;
            let notice = match self.woken(key, &mut body).await {
                Ok(Some(notice)) => notice,
                Ok(None) => return,
                Err(error) => return self.is_stuck(held, &error),
            };
            let state = &body.subscription.state;
            let (delivery, root) = (state.config.delivery.clone(), state.root.clone());
            (delivery, root, state.created, notice)
        };
        let told = match &delivery {
            Delivery::Webhook { url } => self.send(key, (&root, created), url, &notice).await,
            Delivery::PullWake { stream } => {
                self.announce(key, stream, &notice).await.map(|()| false)
            }
        };
        drop(place);
        self.told(held, notice, told).await;
    }

    /// A new wake, if there is still something to do.
    async fn woken(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
    ) -> Result<Option<Notice>, SubscriptionError> {
        if !self.is_to_wake(key, body).await? {
            return Ok(None);
        }
        let now = self.parts().clock.now();
        let Some(delta) = body.subscription.wake(now, wake_id()) else {
            return Ok(None);
        };
        self.take(key, body, delta).await?;
        let state = &body.subscription.state;
        Ok(state.wake.as_ref().map(|wake| {
            let mut work = body.subscription.work();
            work.truncate(WORK_MAX);
            Notice {
                wake: wake.id.clone(),
                generation: state.generation,
                work,
                lease_until: wake.lease_until,
            }
        }))
    }

    async fn told(&self, held: &Arc<Held>, notice: Notice, told: Result<bool, String>) {
        let key = &held.key;
        let mut body = held.body.lock().await;
        let Notice {
            wake, generation, ..
        } = &notice;
        // Its lease may have run out, or a worker may have been faster.
        let is_current = !body.is_gone
            && body
                .subscription
                .check(*generation, *generation, wake)
                .is_ok();
        if !is_current {
            return;
        }
        let delta = match told {
            Ok(is_done) => self.answered(&body, &notice.work, is_done),
            Err(error) => {
                tracing::info!(tenant = %key.tenant, subscription = %key.id, error, "a wake is not delivered");
                let wake = body.subscription.state.wake.as_ref();
                if wake.is_some_and(|wake| wake.worker.is_some() || wake.is_reported) {
                    // Somebody is at it all the same.
                    return;
                }
                let now = self.parts().clock.now();
                body.subscription.failed(now, webhook::jitter())
            }
        };
        if let Err(error) = self.take(key, &mut body, delta).await {
            tracing::warn!(tenant = %key.tenant, subscription = %key.id, %error, "what became of a wake is not noted");
        }
    }

    fn answered(&self, body: &Body, work: &[Work], is_done: bool) -> Delta {
        let is_new = is_done || body.subscription.is_failed();
        match is_new {
            true => body.subscription.answered(work, is_done),
            false => Delta::default(),
        }
    }
}

/// Whoever tells a subscription's workers: nobody else does meanwhile, and somebody may again however this ends.
struct Telling(Arc<Held>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.is_telling.store(false, Ordering::Release);
    }
}
