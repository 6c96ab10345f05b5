//! Making, linking and removing subscriptions. Whoever makes or removes one holds the tenant's `making` lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::{Config, Delivery};
use super::state::{Link, State, Subscription};
use super::{Body, Held, SubscriptionError, SubscriptionKey, Subscriptions, View};
use crate::egress::webhook;
use crate::id::TenantId;
use crate::store::{ReadError, Write};
use crate::streams::{Change, Extent, StreamPath, Streams};
use crate::telemetry::{self, Limit};
use crate::tenants::Standing;

impl Subscriptions {
    /// Make a subscription, and say whether it is new. The same again is the same one. What its pattern matches is linked
    /// where it ends now.
    pub async fn create(
        &self,
        key: &SubscriptionKey,
        config: Config,
        root: String,
    ) -> Result<(View, bool), SubscriptionError> {
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move { this.make(key, config, root).await })
            .await
    }

    async fn make(
        &self,
        key: SubscriptionKey,
        config: Config,
        root: String,
    ) -> Result<(View, bool), SubscriptionError> {
        let parts = self.parts();
        let making = self.making(&key.tenant);
        let _making = making.lock().await;
        if let Ok(held) = self.held(&key) {
            let body = held.body.lock().await;
            return match body.subscription.state.config == config {
                true => Ok((body.view(), false)),
                false => Err(SubscriptionError::Exists),
            };
        }
        match parts.tenants.get(&key.tenant).map(|it| it.standing) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended | Standing::Deleting) | None => {
                return Err(SubscriptionError::NotFound);
            }
        }
        if let Delivery::Webhook { url } = &config.delivery {
            let checked = webhook::check(&parts.egress, url);
            checked.map_err(SubscriptionError::WebhookRejected)?;
        }
        self.has_room(config.streams.len())?;
        let count = self.all().get(&key.tenant).map_or(0, BTreeMap::len);
        if count >= parts.bounds.subscriptions_max {
            telemetry::hit(Limit::Subscriptions);
            return Err(SubscriptionError::TooMany);
        }
        let subscription = Subscription {
            state: State {
                config,
                root,
                created: parts.clock.now(),
                generation: 0,
                wake: None,
                failures: 0,
                retry_at: None,
            },
            links: BTreeMap::new(),
            extents: BTreeMap::new(),
        };
        let held = Arc::new(Held::new(key, subscription, true));
        let mut body = held.body.lock().await;
        // From here on it is told what changes, and takes that up after what is read now.
        self.keep(held.clone());
        parts.streams.changes().watch(&held.key.tenant);
        match self.begin(&held.key, &mut body).await {
            Ok(()) => {
                body.is_gone = false;
                Ok((body.view(), true))
            }
            Err(error) => {
                self.forget(&held.key);
                Err(error)
            }
        }
    }

    /// Link what it names and what it matches, and store it.
    async fn begin(&self, key: &SubscriptionKey, body: &mut Body) -> Result<(), SubscriptionError> {
        let (store, record) = (self.parts().store.clone(), key.record());
        let stored = self.blocking(move || Ok(store.record(&record)?)).await?;
        if stored.is_some() {
            // It was there before and could not be read: what it knew is not thrown away.
            let what = format!("the subscription {} of the tenant {}", key.id, key.tenant);
            return Err(ReadError::bad_record(what).into());
        }
        let subscription = &mut body.subscription;
        let config = subscription.state.config.clone();
        let (named, matched) = self.extents(key, config).await?;
        let mut delta = subscription.link(&named);
        for (path, extent) in &matched {
            let link = Link {
                stream: Some(extent.id),
                is_explicit: false,
                is_glob: true,
                acked: extent.tail,
            };
            if !subscription.state.config.streams.contains(path) {
                delta.links.push((path.clone(), Some(link)));
            }
        }
        self.has_room(delta.links.len())?;
        let named = named
            .into_iter()
            .filter_map(|(path, extent)| Some((path, extent?)));
        subscription.extents.extend(named.chain(matched));
        delta.state = Some(subscription.state.clone());
        self.store(key.writes(&delta)).await?;
        subscription.apply(delta);
        Ok(())
    }

    fn has_room(&self, streams: usize) -> Result<(), SubscriptionError> {
        let most = self.parts().bounds.streams_max;
        if streams > most {
            telemetry::hit(Limit::SubscriptionStreams);
            return Err(SubscriptionError::TooManyStreams(most));
        }
        Ok(())
    }

    /// Where the streams end that it names, and those that it matches.
    async fn extents(
        &self,
        key: &SubscriptionKey,
        config: Config,
    ) -> Result<(Vec<Named>, Vec<(StreamPath, Extent)>), SubscriptionError> {
        let (streams, tenant) = (self.parts().streams.clone(), key.tenant.clone());
        let most = self.parts().bounds.streams_max;
        self.blocking(move || {
            let named = ends(&streams, &tenant, config.streams.iter().cloned())?;
            let matched = match &config.pattern {
                Some(_) => streams.extents(&tenant, most + 1, |path| config.matches(path))?,
                None => Vec::new(),
            };
            Ok((named, matched))
        })
        .await
    }

    /// Remove a subscription; fine if there is none.
    pub async fn delete(&self, key: &SubscriptionKey) -> Result<(), SubscriptionError> {
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move {
            // Not while one is made under the same id.
            let making = this.making(&key.tenant);
            let _making = making.lock().await;
            let Ok(held) = this.held(&key) else {
                return this.delete_unread(&key).await;
            };
            let mut body = held.body.lock().await;
            let links = body.subscription.links.keys();
            let keys = links.map(|path| key.link(path)).chain([key.record()]);
            let writes = keys.map(|key| Write::Unrecord { key }).collect();
            this.store(writes).await?;
            body.is_gone = true;
            this.forget(&key);
            Ok(())
        })
        .await
    }

    /// Look at more streams, from where they end now.
    pub async fn link(
        &self,
        key: &SubscriptionKey,
        streams: Vec<StreamPath>,
    ) -> Result<(), SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.has_room(streams.len())?;
        self.whole(async move {
            // Held while it is read where they end: what they grow by meanwhile is told after that.
            let mut body = held.body.lock().await;
            body.is_there()?;
            let (of, tenant) = (this.parts().streams.clone(), held.key.tenant.clone());
            let named = this.blocking(move || ends(&of, &tenant, streams)).await?;
            let delta = body.subscription.link(&named);
            let links = &body.subscription.links;
            let new = delta
                .links
                .iter()
                .filter(|(path, _)| !links.contains_key(path));
            this.has_room(links.len() + new.count())?;
            this.take(&held.key, &mut body, delta).await?;
            for (path, extent) in named {
                if let Some(extent) = extent {
                    let delta = body.subscription.changed(&path, Change::Grown(extent));
                    this.take(&held.key, &mut body, delta).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Do not look at a stream any more, unless the pattern matches it.
    pub async fn unlink(
        &self,
        key: &SubscriptionKey,
        path: &StreamPath,
    ) -> Result<(), SubscriptionError> {
        let (this, held, path) = (self.clone(), self.held(key)?, path.clone());
        self.whole(async move {
            let mut body = held.body.lock().await;
            body.is_there()?;
            let delta = body.subscription.unlink(&path);
            this.take(&held.key, &mut body, delta).await
        })
        .await
    }
}

type Named = (StreamPath, Option<Extent>);

/// Where streams end. Blocks.
pub(super) fn ends(
    streams: &Streams,
    tenant: &TenantId,
    paths: impl IntoIterator<Item = StreamPath>,
) -> Result<Vec<Named>, SubscriptionError> {
    let ends = paths.into_iter().map(|path| {
        let extent = streams.extent(tenant, &path)?;
        Ok((path, extent))
    });
    ends.collect()
}
