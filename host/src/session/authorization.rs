//! Credentials that callers forward: kept sealed beside the journal, as long as a turn may need them.
//!
//! Invariant: a credential is in no entry, no snapshot and no log. Its sealed record is written
//! in the commit of its message, and removed in that of the entry with which the message is done.

use crate::bus::Authorization;
use crate::id::{MessageId, TenantId};
use crate::ledger::authorization_key;
use crate::store::ReadError;

use super::Sessions;

/// What names the sealed bytes: they open nowhere else.
fn context(tenant: &TenantId, message: &MessageId) -> String {
    format!("authorization/{tenant}/{message}")
}

/// Seal a credential for its message.
pub(super) fn seal(
    sessions: &Sessions,
    tenant: &TenantId,
    message: &MessageId,
    authorization: &Authorization,
) -> std::io::Result<Vec<u8>> {
    let text = authorization.reveal().as_bytes();
    sessions.0.parts.seal.seal(&context(tenant, message), text)
}

/// The credential that came with a message; none if it is not there, or not ours.
pub(super) async fn kept(
    sessions: &Sessions,
    tenant: &TenantId,
    message: &MessageId,
) -> Result<Option<Authorization>, ReadError> {
    let (store, key) = (sessions.store().clone(), authorization_key(tenant, message));
    let sealed = match tokio::task::spawn_blocking(move || store.record(&key)).await {
        Ok(record) => record?,
        Err(_) => None,
    };
    let Some(sealed) = sealed else {
        return Ok(None);
    };
    let opened = sessions
        .0
        .parts
        .seal
        .open(&context(tenant, message), &sealed);
    let Ok(opened) = opened else {
        tracing::warn!(%message, "a forwarded authorization was sealed with another key");
        return Ok(None);
    };
    let text = String::from_utf8(opened).ok();
    Ok(text.as_deref().and_then(Authorization::new))
}
