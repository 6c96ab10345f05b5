//! Telling webhooks: one request after the other, until each is answered or given up.
//!
//! Requests are those of Standard Webhooks. Invariant: the cursor is on disk before the next request leaves, and a
//! request that is made again is the same, `webhook-id` and body.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use super::webhook::{DeadLetter, Webhook};
use super::webhooks::{Held, WebhookError, WebhookKey, Webhooks};
use super::{NoticeError, Page, public};
use crate::egress::webhook;
use crate::id::NoticeOffset;
use crate::store::Write;
use crate::telemetry::{self, Limit};
use crate::tenants::Standing;

/// In one request.
const NOTICES: usize = 100;

/// A webhook answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Wall time may step: at most so much is slept on it. As often one looks whether a suspended tenant is served again, or
/// the store reads again.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Commits whose notices a webhook may pass over before that is written down: after a crash they are looked at again.
const PASSED_MAX: u64 = 1_000;

/// A request as it is made, however often.
struct Message {
    id: String,
    body: String,
    until: NoticeOffset,
}

/// What there is to do for a webhook.
enum Next {
    Send(Message),
    /// Nothing before this.
    Wait(Duration),
    /// Look again at once.
    Again,
}

impl Webhooks {
    /// Tell a webhook of everything, until it is removed or the host stops.
    pub(super) async fn push(self, held: Arc<Held>) {
        let stopping = self.0.stopping.clone();
        tokio::select! {
            () = held.gone.cancelled() => {}
            // What is under way is sent again by the next process.
            () = stopping.cancelled() => {}
            () = self.keep_pushing(&held) => {}
        }
    }

    async fn keep_pushing(&self, held: &Held) {
        // How far was looked, which is not written down each time.
        let mut looked = NoticeOffset::default();
        loop {
            let wait = match self.next(held, &mut looked).await {
                Ok(Next::Again) => continue,
                Ok(Next::Wait(wait)) => wait,
                Ok(Next::Send(message)) => match self.tell(held, message).await {
                    Ok(()) => continue,
                    Err(error) => {
                        self.is_stuck(held, &error);
                        LOOK_EVERY
                    }
                },
                Err(error) => {
                    self.is_stuck(held, &error);
                    LOOK_EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = held.changed.notified() => {}
            }
        }
    }

    fn is_stuck(&self, held: &Held, error: &WebhookError) {
        let key = &held.key;
        tracing::warn!(tenant = %key.tenant, webhook = %key.name, %error, "the webhook is not told");
    }

    /// What is to be done now; waits while there is nothing to tell.
    async fn next(&self, held: &Held, looked: &mut NoticeOffset) -> Result<Next, WebhookError> {
        let key = &held.key;
        let notices = &self.parts().notices;
        match notices.0.tenants.get(&key.tenant).map(|it| it.standing) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended | Standing::Deleting) | None => {
                return Ok(Next::Wait(LOOK_EVERY));
            }
        }
        if notices.0.store.latched().is_some() {
            // What was told could not be written down: it would be told again and again.
            return Ok(Next::Wait(LOOK_EVERY));
        }
        let webhook = held.webhook.lock().await.clone();
        let failing = webhook.failing.as_ref();
        let left = failing.map_or(0, |failing| failing.next.ms_since(self.now()));
        if left > 0 {
            return Ok(Next::Wait(Duration::from_millis(left).min(LOOK_EVERY)));
        }
        *looked = (*looked).max(webhook.cursor);
        let from = failing.map_or(*looked, |_| webhook.cursor);
        let filter = webhook.config.filter.clone();
        let mut follower = match notices.follow(&key.tenant, Some(from), filter).await {
            Ok(follower) => follower,
            Err(NoticeError::Gone { earliest }) => {
                self.has_missed(held, earliest).await?;
                return Ok(Next::Again);
            }
            // The store is an older one than the webhook saw: there is nothing newer to tell.
            Err(NoticeError::Ahead) => {
                let end = notices.end(&key.tenant).await?;
                *looked = end;
                self.change(held, |webhook| webhook.delivered(end)).await?;
                return Ok(Next::Again);
            }
            Err(error) => return Err(error.into()),
        };
        let mut page = follower.page(NOTICES).await?;
        if let Some(failing) = failing {
            page.notices.retain(|(at, _)| *at <= failing.until);
        }
        if let Some(message) = message(key, &webhook, &page) {
            return Ok(Next::Send(message));
        }
        *looked = page.at;
        if looked.after.0.saturating_sub(webhook.cursor.after.0) >= PASSED_MAX {
            let at = *looked;
            self.change(held, |webhook| webhook.delivered(at)).await?;
        }
        if page.is_end {
            tokio::select! {
                () = follower.more() => {}
                () = held.changed.notified() => *looked = NoticeOffset::default(),
            }
        }
        Ok(Next::Again)
    }

    async fn has_missed(&self, held: &Held, earliest: NoticeOffset) -> Result<(), WebhookError> {
        let key = &held.key;
        tracing::warn!(
            tenant = %key.tenant, webhook = %key.name,
            "notices were removed before the webhook could be told of them"
        );
        telemetry::hit(Limit::Notices);
        self.change(held, |webhook| webhook.missed(earliest)).await
    }

    async fn change(
        &self,
        held: &Held,
        change: impl FnOnce(&mut Webhook),
    ) -> Result<(), WebhookError> {
        let mut webhook = held.webhook.lock().await;
        let mut changed = webhook.clone();
        change(&mut changed);
        self.store(vec![held.key.write(&changed)]).await?;
        *webhook = changed;
        Ok(())
    }

    /// Send it, and note what became of it.
    async fn tell(&self, held: &Held, message: Message) -> Result<(), WebhookError> {
        let parts = self.parts();
        let before = held.webhook.lock().await.clone();
        let sent = self.send(&held.key, &before, &message.id, &message.body);
        let sent = sent.await;
        let mut webhook = held.webhook.lock().await;
        if webhook.cursor != before.cursor || webhook.config != before.config {
            // It is something else now, and looked at again.
            return Ok(());
        }
        let (mut changed, mut writes) = (webhook.clone(), Vec::new());
        match sent {
            Ok(()) => changed.delivered(message.until),
            Err(error) => {
                let (key, now) = (&held.key, self.now());
                tracing::info!(tenant = %key.tenant, webhook = %key.name, error, "notices are not delivered");
                let attempts = changed.failing.as_ref().map_or(0, |it| it.attempts) + 1;
                let patience = parts.bounds.patience;
                if changed.failed(message.until, &error, now, patience, webhook::jitter()) {
                    let letter = DeadLetter {
                        message: message.id,
                        died: now,
                        attempts,
                        error,
                        body: message.body,
                    };
                    writes = self.bury(key, &mut changed, message.until, &letter).await?;
                }
            }
        }
        writes.push(held.key.write(&changed));
        self.store(writes).await?;
        *webhook = changed;
        Ok(())
    }

    /// Keep a dead letter, in place of the oldest if there are too many.
    async fn bury(
        &self,
        key: &WebhookKey,
        webhook: &mut Webhook,
        until: NoticeOffset,
        letter: &DeadLetter,
    ) -> Result<Vec<Write>, WebhookError> {
        tracing::warn!(
            tenant = %key.tenant, webhook = %key.name, error = letter.error,
            "notices are put aside as a dead letter"
        );
        let mut writes = Vec::new();
        if webhook.dead_letters >= self.parts().bounds.dead_letters_max {
            telemetry::hit(Limit::DeadLetters);
            let oldest = self.letters(key, None, 1).await?;
            writes.extend(oldest.iter().map(|(letter, _)| Write::Unrecord {
                key: key.dead_record(letter),
            }));
        } else {
            webhook.dead_letters += 1;
        }
        let bytes = serde_json::to_vec(letter).expect("a dead letter has string keys");
        writes.push(Write::Record {
            key: key.dead_record(&until.to_string()),
            bytes: bytes.into(),
        });
        Ok(writes)
    }

    /// Send a dead letter once more; it is gone if that is answered.
    pub async fn retry_letter(&self, key: &WebhookKey, letter: &str) -> Result<(), WebhookError> {
        let held = self.held(key)?;
        let webhook = held.webhook.lock().await.clone();
        let dead = self.letter(key, letter).await?;
        let sent = self.send(key, &webhook, &dead.message, &dead.body);
        sent.await.map_err(WebhookError::Failed)?;
        match self.forget_letter(key, letter).await {
            // Somebody else was as fast.
            Err(WebhookError::NoDeadLetter) => Ok(()),
            other => other,
        }
    }

    async fn send(
        &self,
        key: &WebhookKey,
        webhook: &Webhook,
        id: &str,
        body: &str,
    ) -> Result<(), String> {
        let parts = self.parts();
        let mut place = parts.gate.enter(&key.tenant, parts.places);
        if place.waits() {
            telemetry::hit(Limit::Webhooks);
        }
        place.admitted().await;
        let url = webhook::check(&parts.egress, &webhook.config.url)?;
        let client = parts.egress.client(&url);
        let client = client.map_err(|error| error.to_string())?;
        let seconds = self.now().0 / 1_000;
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header(
                "webhook-signature",
                self.signature(key, webhook, id, seconds, body)?,
            )
            .timeout(ANSWER_MAX)
            .body(body.to_owned());
        let answer = request.send().await.map_err(|error| {
            // Without the URL, which may hold what its owner wants nobody to see.
            error.without_url().to_string()
        })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Of all secrets that are good now.
    fn signature(
        &self,
        key: &WebhookKey,
        webhook: &Webhook,
        id: &str,
        seconds: u64,
        body: &str,
    ) -> Result<String, String> {
        let mut signatures = Vec::new();
        for secret in webhook.secrets_at(self.now()) {
            let sealed = hex::decode(&secret.sealed).map_err(|error| error.to_string())?;
            let opened = self.parts().seal.open(&key.sealed_for(), &sealed);
            let opened = opened.map_err(|error| format!("its secret: {error}"))?;
            let mut mac = Hmac::<Sha256>::new_from_slice(&opened).expect("any length is a key");
            mac.update(format!("{id}.{seconds}.{body}").as_bytes());
            let signature = BASE64.encode(mac.finalize().into_bytes());
            signatures.push(format!("v1,{signature}"));
        }
        Ok(signatures.join(" "))
    }
}

/// What is sent of a page; none if there is nothing.
fn message(key: &WebhookKey, webhook: &Webhook, page: &Page) -> Option<Message> {
    let (until, _) = *page.notices.last()?;
    let notices = page.notices.iter();
    let notices: Vec<_> = notices.map(|(at, notice)| public(*at, notice)).collect();
    let body = json!({
        "webhook": key.name.as_str(),
        "notices": notices,
        "offset": until.to_string(),
    });
    Some(Message {
        // No dot, which stands between the parts of what is signed. Made again under the same name it is another one.
        id: format!("{}-{}-{until}", key.name, webhook.created.0),
        body: body.to_string(),
        until,
    })
}
