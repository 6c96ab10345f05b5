//! What goes on behind: streams change, leases run out, deliveries are tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::config::Delivery;
use super::delivery::Notice;
use super::state::{Delta, Work};
use super::{Body, Held, SubscriptionError, SubscriptionKey, Subscriptions, wake_id};
use crate::clock::Time;
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
                changes = self.parts().streams.changes().next() => self.changed(changes),
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

    fn changed(&self, changes: BTreeMap<(TenantId, StreamPath), Change>) {
        let mut of: HashMap<TenantId, Vec<(StreamPath, Change)>> = HashMap::new();
        for ((tenant, path), change) in changes {
            of.entry(tenant).or_default().push((path, change));
        }
        for (tenant, changes) in of {
            let changes = Arc::new(changes);
            for held in self.of_tenant(&tenant) {
                let (this, changes) = (self.clone(), changes.clone());
                self.0.tasks.spawn(async move {
                    let mut body = held.body.lock().await;
                    for (path, change) in changes.iter() {
                        let followed = this.follow(&held.key, &mut body, path, *change).await;
                        if let Err(error) = followed {
                            tracing::warn!(subscription = %held.key.id, %error, "a change of a stream is not noted");
                        }
                    }
                    drop(body);
                    this.look(&held).await;
                });
            }
        }
    }

    async fn follow(
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
        let key = &held.key;
        let mut body = held.body.lock().await;
        let woken = self.woken(key, &mut body).await;
        match woken {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(tenant = %key.tenant, subscription = %key.id, %error, "nobody is woken");
                let again = self.parts().clock.now().plus_ms(LOOK_EVERY_MS);
                self.schedule(key, Some(again));
                return;
            }
        }
        let state = &body.subscription.state;
        let Some(wake) = &state.wake else {
            return;
        };
        let notice = Notice {
            wake: wake.id.clone(),
            generation: state.generation,
            work: body.subscription.work(),
            lease_ttl_ms: state.config.lease_ttl_ms,
        };
        let (delivery, root) = (state.config.delivery.clone(), state.root.clone());
        let (this, held, created) = (self.clone(), held.clone(), state.created);
        self.0.tasks.spawn(async move {
            let tell = this.tell(&held.key, (&root, created), &delivery, &notice);
            let told = tokio::select! {
                told = tell => told,
                // The next process tells.
                () = this.0.stopping.cancelled() => return,
            };
            this.told(&held, notice, told).await;
        });
    }

    /// True if there is a new wake.
    async fn woken(
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
        match body.subscription.wake(now, wake_id()) {
            Some(delta) => self.take(key, body, delta).await.map(|()| true),
            None => {
                self.schedule(key, body.subscription.due());
                Ok(false)
            }
        }
    }

    /// True if all that it was told of is done.
    async fn tell(
        &self,
        key: &SubscriptionKey,
        (root, created): (&str, Time),
        delivery: &Delivery,
        notice: &Notice,
    ) -> Result<bool, String> {
        match delivery {
            Delivery::Webhook { url } => {
                let permit = self.0.webhooks.acquire().await;
                let sent = self.send(key, (root, created), url, notice).await;
                drop(permit);
                sent
            }
            Delivery::PullWake { stream } => {
                self.announce(key, stream, notice).await.map(|()| false)
            }
        }
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
                let is_claimed = body.subscription.state.wake.as_ref();
                if is_claimed.is_some_and(|wake| wake.worker.is_some()) {
                    return;
                }
                let now = self.parts().clock.now();
                body.subscription.failed(now, jitter())
            }
        };
        if let Err(error) = self.take(key, &mut body, delta).await {
            tracing::warn!(tenant = %key.tenant, subscription = %key.id, %error, "what became of a wake is not noted");
            return;
        }
        drop(body);
        self.look_behind(held.clone());
    }

    fn answered(&self, body: &Body, work: &[Work], is_done: bool) -> Delta {
        let is_new = is_done || body.subscription.is_failed();
        match is_new {
            true => body.subscription.answered(work, is_done),
            false => Delta::default(),
        }
    }
}

/// From -1 to 1.
fn jitter() -> f64 {
    let mut random = [0; 2];
    // Without randomness those who failed together come back together, which is slower and not wrong.
    let _ = getrandom::fill(&mut random);
    f64::from(i16::from_ne_bytes(random)) / f64::from(i16::MAX)
}
