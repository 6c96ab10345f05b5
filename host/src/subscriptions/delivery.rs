//! How workers are told: a request to a webhook, or an event in a stream.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::state::Work;
use super::{SubscriptionKey, Subscriptions};
use crate::clock::Time;
use crate::egress::webhook;
use crate::id::Offset;
use crate::streams::{AppendError, StreamPath, Verdict, Wish, flatten};

/// A webhook answers within this, or nine tenths of what is left of its lease: one that does not is told later, and not
/// at once because its lease is over.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Of an answer: it holds one word.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Streams that a worker is told of at once, those with work first. It is asked for no others.
pub(super) const WORK_MAX: usize = 1_000;

/// A wake that somebody is to be told of.
pub(super) struct Notice {
    pub wake: String,
    pub generation: u64,
    pub work: Vec<Work>,
    pub lease_until: Option<Time>,
}

/// What a webhook may answer.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    done: bool,
}

/// Of what is told of each stream.
pub fn described(work: &[Work]) -> Vec<serde_json::Value> {
    let described = |work: &Work| {
        json!({
            "path": work.path.as_str(),
            "link_type": link_type(work),
            "acked_offset": Offset(work.acked).to_string(),
            "tail_offset": Offset(work.tail).to_string(),
            "has_pending": work.is_pending(),
        })
    };
    work.iter().map(described).collect()
}

pub fn link_type(work: &Work) -> &'static str {
    match work.is_explicit {
        true => "explicit",
        false => "glob",
    }
}

impl Subscriptions {
    /// Send a wake to a webhook; true if it answers that all is done.
    pub(super) async fn send(
        &self,
        key: &SubscriptionKey,
        (root, created): (&str, Time),
        url: &str,
        notice: &Notice,
    ) -> Result<bool, String> {
        let parts = self.parts();
        let body = json!({
            "subscription_id": key.id.as_str(),
            "wake_id": notice.wake,
            "generation": notice.generation,
            "streams": described(&notice.work),
            "callback_url": format!("{root}/__ds/subscriptions/{}/callback", key.id),
            "callback_token": parts.keys.token(key, created, notice.generation),
        });
        let body = body.to_string();
        let signature = parts.keys.signature(parts.clock.now(), body.as_bytes());
        let headers = [("webhook-signature", signature)];
        let lease = notice.lease_until.unwrap_or_default();
        let left = Duration::from_millis(lease.ms_since(parts.clock.now()));
        let time = ANSWER_MAX.min(left * 9 / 10);
        let sent = tokio::time::timeout(time, async {
            let mut response = webhook::post(&parts.egress, url, &headers, body).await?;
            let mut read = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(webhook::failure)? {
                read.extend_from_slice(&chunk);
                if read.len() > ANSWER_BYTES_MAX {
                    return Ok(false);
                }
            }
            // Whatever else it says: it will call back.
            let answer: Answer = serde_json::from_slice(&read).unwrap_or_default();
            Ok(answer.done)
        });
        sent.await
            .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
    }

    /// Write a wake into the stream that workers read.
    pub(super) async fn announce(
        &self,
        key: &SubscriptionKey,
        stream: &StreamPath,
        notice: &Notice,
    ) -> Result<(), String> {
        let parts = self.parts();
        let first = notice.work.first().map(|work| work.path.as_str());
        let event = json!({
            "type": "wake",
            "subscription_id": key.id.as_str(),
            "stream": first,
            "generation": notice.generation,
            "ts": parts.clock.now().0,
        });
        let event = event.to_string();
        let found = parts.streams.find(&key.tenant, stream).await;
        let found = found.map_err(|error| error.to_string())?;
        let event = Bytes::from(event);
        let data = match found.is_json {
            true => flatten(&event).map_err(|error| error.to_string())?.0,
            false => event,
        };
        let wish = Wish {
            producer: None,
            order: None,
            closes: false,
            has_data: true,
            is_of_other_type: false,
        };
        match found.append(wish, data).await {
            Ok(appended) if appended.verdict == Verdict::Accept => Ok(()),
            Ok(_) => Err("the wake stream takes no more".to_owned()),
            Err(AppendError::Stream(error)) => Err(error.to_string()),
            Err(AppendError::Refused { refusal, .. }) => Err(refusal.to_string()),
        }
    }
}
