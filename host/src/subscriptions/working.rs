//! What workers do: claim a wake, report of it, give it back.
//!
//! Invariant: only who shows the token of the wake that is under way moves a cursor.

use super::keys::Token;
use super::making::ends;
use super::{
    Body, Claimed, Report, SubscriptionError, SubscriptionKey, Subscriptions, delivery, wake_id,
};
use crate::streams::Change;

impl Subscriptions {
    /// Take the wake that is there, or one for what there is to do.
    pub async fn claim(
        &self,
        key: &SubscriptionKey,
        worker: String,
    ) -> Result<Claimed, SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let key = &held.key;
            let mut body = held.body.lock().await;
            body.is_there()?;
            body.is_pulled()?;
            // An append that was acknowledged before is work.
            this.hear();
            this.catch_up(&held, &mut body).await;
            this.lapse(key, &mut body).await?;
            let (now, id) = (this.parts().clock.now(), wake_id());
            let delta = body.subscription.claim(worker, now, id)?;
            this.take(key, &mut body, delta).await?;
            let state = &body.subscription.state;
            let wake = state.wake.as_ref().map(|wake| wake.id.clone());
            let mut work = body.subscription.work();
            work.truncate(delivery::WORK_MAX);
            Ok(Claimed {
                wake: wake.unwrap_or_default(),
                generation: state.generation,
                token: (this.keys()).token(key, state.created, state.generation),
                work,
                lease_ttl_ms: state.config.lease_ttl_ms,
            })
        })
        .await
    }

    /// Move cursors by the token of a wake; true if there is another wake at once.
    pub async fn ack(
        &self,
        key: &SubscriptionKey,
        token: Token,
        report: Report,
    ) -> Result<bool, SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let mut body = held.body.lock().await;
            this.may_report(&held.key, &mut body, &token, &report)
                .await?;
            this.catch_up(&held, &mut body).await;
            let unknown = body.subscription.unknown(&report.acks);
            if !unknown.is_empty() {
                // Whoever follows a stream may know its end before this was told of it.
                let (of, tenant) = (this.parts().streams.clone(), held.key.tenant.clone());
                let ends = this.blocking(move || ends(&of, &tenant, unknown)).await?;
                for (path, extent) in ends {
                    if let Some(extent) = extent {
                        let grown = Change::Grown(extent);
                        this.follow(&held.key, &mut body, &path, grown).await?;
                    }
                }
            }
            let now = this.parts().clock.now();
            let delta = body.subscription.ack(&report.acks, report.is_done, now)?;
            this.take(&held.key, &mut body, delta).await?;
            let next = report.is_done && body.subscription.pending().is_some();
            drop(body);
            if report.is_done {
                this.look(&held).await;
            }
            Ok(next)
        })
        .await
    }

    /// Give a wake back by its token.
    pub async fn release(
        &self,
        key: &SubscriptionKey,
        token: Token,
        report: Report,
    ) -> Result<(), SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let mut body = held.body.lock().await;
            body.is_pulled()?;
            this.may_report(&held.key, &mut body, &token, &report)
                .await?;
            let delta = body.subscription.release();
            this.take(&held.key, &mut body, delta).await?;
            drop(body);
            this.look(&held).await;
            Ok(())
        })
        .await
    }

    /// Refuse whoever does not have the wake that is under way.
    async fn may_report(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
        token: &Token,
        report: &Report,
    ) -> Result<(), SubscriptionError> {
        body.is_there()?;
        if !(self.keys()).is_ours(token, key, body.subscription.state.created) {
            return Err(SubscriptionError::UnknownToken);
        }
        self.lapse(key, body).await?;
        let checked = body
            .subscription
            .check(token.generation, report.generation, &report.wake);
        Ok(checked?)
    }

    /// A lease that has run out is over, whether or not anybody has looked.
    pub(super) async fn lapse(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
    ) -> Result<(), SubscriptionError> {
        match body.subscription.lapse(self.parts().clock.now()) {
            Some(delta) => self.take(key, body, delta).await,
            None => Ok(()),
        }
    }
}
