//! Sessions of nested calls that people may have heard of and that are still being opened.
//!
//! `agent-called` is durable, and so told to whoever follows the caller, before the child's session is opened.
//!
//! Invariant: from before that entry is written until its session can be had, or never will be, the session is
//! in here; whoever does not find it waits for the end of that and looks again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::store::JournalId;

/// By session: how many calls are about to open it, and the end of the last of them.
type Map = HashMap<JournalId, (usize, CancellationToken)>;

#[derive(Clone, Default)]
pub(super) struct Announced(Arc<Mutex<Map>>);

impl Announced {
    /// The session is announced until this is dropped.
    pub(super) fn put(&self, session: JournalId) -> Announcement {
        self.map().entry(session.clone()).or_default().0 += 1;
        Announcement {
            announced: self.clone(),
            session,
        }
    }

    /// Wait until nobody is about to open the session.
    pub(super) async fn settled(&self, session: &JournalId) {
        let end = self.map().get(session).map(|(_, end)| end.clone());
        if let Some(end) = end {
            end.cancelled().await;
        }
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(super) struct Announcement {
    announced: Announced,
    session: JournalId,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut map = self.announced.map();
        let Some((calls, end)) = map.get_mut(&self.session) else {
            return;
        };
        *calls -= 1;
        if *calls == 0 {
            end.cancel();
            map.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::Announced;
    use crate::store::JournalId;

    fn session(name: &str) -> JournalId {
        JournalId {
            tenant: "default".parse().expect("a tenant"),
            session: name.parse().expect("a session"),
        }
    }

    #[test]
    fn the_last_call_settles_a_session() {
        let announced = Announced::default();
        let first = announced.put(session("s"));
        let second = announced.put(session("s"));
        let (s, t) = (session("s"), session("t"));
        let mut settled = Box::pin(announced.settled(&s));
        assert!(settled.as_mut().now_or_never().is_none());
        drop(first);
        assert!(settled.as_mut().now_or_never().is_none());
        assert!(announced.settled(&t).now_or_never().is_some());
        drop(second);
        assert!(settled.as_mut().now_or_never().is_some());
        assert!(announced.settled(&s).now_or_never().is_some());
        assert!(announced.map().is_empty());
    }
}
