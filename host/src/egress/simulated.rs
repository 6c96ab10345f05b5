//! An origin inside the process, for tests on virtual time: what it is asked says what it does.
//!
//! The last part of the path: `SLOW` answers after a second, `CUT` breaks off after the request was
//! made, `LONG` answers 100 KiB, `GONE` refuses connections; anything else is answered with itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::redirect::Hop;
use super::{Answered, Body, EgressError, is_idempotent};

/// What the origin saw, of every process that asked it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<BTreeMap<String, (String, u32)>>>);

impl Log {
    /// Method and how often it was made, of each request, by its key.
    pub(crate) fn made(&self) -> BTreeMap<String, (String, u32)> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn make(&self, hop: &Hop, headers: &HeaderMap) {
        let key = headers["idempotency-key"].to_str().expect("it is hex");
        let mut made = self.0.lock().expect("nobody panics with it");
        let (_, times) = made
            .entry(key.to_owned())
            .or_insert_with(|| (hop.method.to_string(), 0));
        *times += 1;
    }

    pub(super) async fn answer(
        &self,
        hop: &Hop,
        headers: &HeaderMap,
    ) -> Result<Answered, EgressError> {
        let word = hop.url.path_segments().and_then(Iterator::last);
        let word = word.unwrap_or_default().to_owned();
        if word == "GONE" {
            return Err(EgressError::Unreachable("it is gone".to_owned()));
        }
        self.make(hop, headers);
        tokio::time::sleep(Duration::from_millis(if word == "SLOW" {
            1_000
        } else {
            1
        }))
        .await;
        let body = match word.as_str() {
            "CUT" if is_idempotent(hop.method.as_str()) => {
                return Err(EgressError::Other("the connection broke".to_owned()));
            }
            "CUT" => return Err(EgressError::OutcomeUnknown),
            "LONG" => "long ".repeat(20 * 1024),
            _ => word,
        };
        Ok(Answered {
            status: 200,
            headers: HeaderMap::new(),
            body: Body::Whole(Bytes::from(body)),
        })
    }
}
