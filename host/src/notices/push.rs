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
use tokio::time::Instant;

use super::webhook::{DeadLetter, Webhook};
use super::webhooks::{Held, Kept, WebhookError, WebhookKey, Webhooks};
use super::{Follower, NoticeError, Page, public};
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

/// What a webhook may pass over before that is written down, in commits and in time: after a crash it is looked at again,
/// and by then it must not look as if it had been missed.
const PASSED_MAX: u64 = 1_000;
const PASSED_FOR: Duration = Duration::from_secs(10 * 60);

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
    /// Nothing any more.
    Over,
}

/// How far somebody looked on a webhook's behalf, which is not written down each time.
struct Looked {
    at: NoticeOffset,
    /// Of the webhook that it was looked for.
    generation: u64,
    saved: Instant,
}

impl Looked {
    /// What was seen for another generation is void.
    fn catch_up(&mut self, kept: &Kept) {
        if self.generation != kept.generation {
            (self.at, self.generation) = (NoticeOffset::default(), kept.generation);
        }
        self.at = self.at.max(kept.webhook.cursor);
    }
}

impl Webhooks {
    /// Tell a webhook of everything, until it is removed or the host stops.
    pub(super) async fn push(self, held: Arc<Held>) {
        let stopping = self.0.stopping.clone();
        tokio::select! {
            biased;
            () = held.gone.cancelled() => {}
            // What is under way is sent again by the next process.
            () = stopping.cancelled() => {}
            () = self.keep_pushing(&held) => {}
        }
    }

    async fn keep_pushing(&self, held: &Arc<Held>) {
        let mut looked = Looked {
            at: NoticeOffset::default(),
            generation: 0,
            saved: Instant::now(),
        };
        loop {
            let done = match self.next(held, &mut looked).await {
                Ok(Next::Send(message)) => self.tell(held, message, looked.generation).await,
                Ok(Next::Again) => Ok(()),
                Ok(Next::Over) => return,
                Ok(Next::Wait(wait)) => {
                    self.wait(held, wait).await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                let key = &held.key;
                tracing::warn!(tenant = %key.tenant, webhook = %key.name, %error, "the webhook is not told");
                self.wait(held, LOOK_EVERY).await;
            }
        }
    }

    async fn wait(&self, held: &Held, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = held.changed.notified() => {}
        }
    }

    /// What is to be done now; waits while there is nothing to tell.
    async fn next(&self, held: &Arc<Held>, looked: &mut Looked) -> Result<Next, WebhookError> {
        let key = &held.key;
        let notices = &self.parts().notices;
        match self.standing(&key.tenant) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended) => return Ok(Next::Wait(LOOK_EVERY)),
            Some(Standing::Deleting) | None => return Ok(Next::Over),
        }
        if notices.0.store.latched().is_some() {
            // What was told could not be written down: it would be told again and again.
            return Ok(Next::Wait(LOOK_EVERY));
        }
        let kept = self.kept(held).await?;
        let webhook = &kept.webhook;
        looked.catch_up(&kept);
        let failing = webhook.failing.as_ref();
        let left = failing.map_or(0, |failing| failing.next.ms_since(self.now()));
        if left > 0 {
            return Ok(Next::Wait(Duration::from_millis(left).min(LOOK_EVERY)));
        }
        let filter = webhook.config.filter.clone();
        let read = async {
            let mut follower = notices.follow(&key.tenant, Some(looked.at), filter).await?;
            let page = follower.page(NOTICES).await?;
            Ok((follower, page))
        };
        let (follower, mut page) = match read.await {
            Ok(read) => read,
            Err(NoticeError::Gone { earliest }) => {
                self.has_missed(held, looked.at, earliest).await?;
                return Ok(Next::Again);
            }
            // The store is an older one than the webhook saw: there is nothing newer to tell.
            Err(NoticeError::Ahead) => {
                let end = notices.end(&key.tenant).await?;
                looked.at = end;
                self.pass(held, end).await?;
                return Ok(Next::Again);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(failing) = failing {
            page.notices.retain(|(at, _)| *at <= failing.until);
        }
        if let Some(message) = message(key, webhook, &page) {
            return Ok(Next::Send(message));
        }
        looked.at = page.at;
        let passed = looked.at.after.0.saturating_sub(webhook.cursor.after.0);
        if passed >= PASSED_MAX || (passed > 0 && looked.saved.elapsed() >= PASSED_FOR) {
            looked.saved = Instant::now();
            self.pass(held, looked.at).await?;
        }
        if page.is_end {
            self.more(held, follower).await;
        }
        Ok(Next::Again)
    }

    /// Wait for more than there was.
    async fn more(&self, held: &Held, mut follower: Follower) {
        tokio::select! {
            () = follower.more() => {}
            () = held.changed.notified() => {}
            () = tokio::time::sleep(PASSED_FOR) => {}
        }
    }

    async fn has_missed(
        &self,
        held: &Arc<Held>,
        looked: NoticeOffset,
        earliest: NoticeOffset,
    ) -> Result<(), WebhookError> {
        let key = &held.key;
        tracing::warn!(
            tenant = %key.tenant, webhook = %key.name,
            "notices were removed before the webhook could be told of them"
        );
        telemetry::hit(Limit::Notices);
        let missing = self.change(held, move |kept| {
            kept.webhook.missed(looked, earliest);
            Ok(((), Vec::new()))
        });
        missing.await
    }

    /// There was nothing for it up to here.
    async fn pass(&self, held: &Arc<Held>, at: NoticeOffset) -> Result<(), WebhookError> {
        let passing = self.change(held, move |kept| {
            kept.webhook.delivered(at);
            Ok(((), Vec::new()))
        });
        passing.await
    }

    /// Send it, and note what became of it.
    async fn tell(
        &self,
        held: &Arc<Held>,
        message: Message,
        generation: u64,
    ) -> Result<(), WebhookError> {
        let key = held.key.clone();
        let sent = self.send(held, &message.id, &message.body).await?;
        let (bounds, now) = (self.parts().bounds, self.now());
        let noting = self.change(held, move |kept| {
            if kept.generation != generation {
                // It is something else now, and looked at again.
                return Ok(((), Vec::new()));
            }
            let Err(error) = sent else {
                kept.webhook.delivered(message.until);
                return Ok(((), Vec::new()));
            };
            tracing::info!(tenant = %key.tenant, webhook = %key.name, error, "notices are not delivered");
            let attempts = kept.webhook.failing.as_ref().map_or(0, |it| it.attempts) + 1;
            let (until, jitter) = (message.until, webhook::jitter());
            let is_dead = kept
                .webhook
                .failed(until, &error, now, bounds.patience, jitter);
            let letter = DeadLetter {
                message: message.id,
                died: now,
                attempts,
                error,
                body: message.body,
            };
            let writes = match is_dead {
                true => bury(&key, kept, until, &letter, bounds.dead_letters_max),
                false => Vec::new(),
            };
            Ok(((), writes))
        });
        noting.await
    }

    /// Send a dead letter once more; it is gone if that is answered.
    pub async fn retry_letter(
        &self,
        key: &WebhookKey,
        letter: NoticeOffset,
    ) -> Result<(), WebhookError> {
        let held = self.held(key)?;
        let dead = self.letter(key, letter).await?;
        let sent = self.send(&held, &dead.message, &dead.body).await?;
        sent.map_err(WebhookError::Failed)?;
        match self.forget_letter(key, letter).await {
            // Somebody else was as fast.
            Err(WebhookError::NoDeadLetter) => Ok(()),
            other => other,
        }
    }

    /// The inner error says why the webhook did not get it; the outer one that nothing was sent.
    async fn send(
        &self,
        held: &Held,
        id: &str,
        body: &str,
    ) -> Result<Result<(), String>, WebhookError> {
        let parts = self.parts();
        let mut place = parts.gate.enter(&held.key.tenant, parts.places);
        if place.waits() {
            telemetry::hit(Limit::Webhooks);
        }
        place.admitted().await;
        // As it is now: it may have waited.
        let webhook = self.kept(held).await?.webhook;
        let seconds = self.now().0 / 1_000;
        let headers = [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", seconds.to_string()),
            (
                "webhook-signature",
                self.signature(&held.key, &webhook, id, seconds, body)?,
            ),
        ];
        let (egress, url) = (&parts.egress, &webhook.config.url);
        let posting = webhook::post(egress, url, &headers, body.to_owned());
        Ok(match tokio::time::timeout(ANSWER_MAX, posting).await {
            Ok(posted) => posted.map(drop),
            Err(_) => Err("it did not answer in time".to_owned()),
        })
    }

    /// Of all secrets that are good now.
    fn signature(
        &self,
        key: &WebhookKey,
        webhook: &Webhook,
        id: &str,
        seconds: u64,
        body: &str,
    ) -> Result<String, WebhookError> {
        let mut signatures = Vec::new();
        for secret in webhook.secrets_at(self.now()) {
            // What is no hexadecimal was not sealed by us either.
            let sealed = hex::decode(&secret.sealed).unwrap_or_default();
            let opened = self.parts().seal.open(&key.sealed_for(), &sealed)?;
            let mut mac = Hmac::<Sha256>::new_from_slice(&opened).expect("any length is a key");
            mac.update(format!("{id}.{seconds}.{body}").as_bytes());
            let signature = BASE64.encode(mac.finalize().into_bytes());
            signatures.push(format!("v1,{signature}"));
        }
        Ok(signatures.join(" "))
    }
}

/// Keep a dead letter, in place of the oldest if there are too many.
fn bury(
    key: &WebhookKey,
    kept: &mut Kept,
    until: NoticeOffset,
    letter: &DeadLetter,
    letters_max: usize,
) -> Vec<Write> {
    tracing::warn!(
        tenant = %key.tenant, webhook = %key.name, error = letter.error,
        "notices are put aside as a dead letter"
    );
    let mut writes = Vec::new();
    kept.letters.insert(until);
    while kept.letters.len() > letters_max
        && let Some(oldest) = kept.letters.pop_first()
    {
        telemetry::hit(Limit::DeadLetters);
        let key = key.dead_record(oldest);
        writes.push(Write::Unrecord { key });
    }
    if kept.letters.contains(&until) {
        let bytes = serde_json::to_vec(letter).expect("a dead letter has string keys");
        writes.push(Write::Record {
            key: key.dead_record(until),
            bytes: bytes.into(),
        });
    }
    writes
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
