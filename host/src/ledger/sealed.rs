//! Records that live as long as a message is not done with: written and removed with its entries.

use bytes::Bytes;

use crate::id::{MessageId, TenantId};
use crate::journal::entry::{Fate, Payload, SessionChange};
use crate::journal::state::{Pending, State};
use crate::store::{RecordKey, RecordSpace, Write};

/// The record of the credential that came with a message.
pub fn authorization_key(tenant: &TenantId, message: &MessageId) -> RecordKey {
    RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Authorization,
        name: message.as_str().to_owned(),
    }
}

/// Keep sealed bytes with a message that is pushed next.
pub(super) fn kept(tenant: &TenantId, message: &MessageId, sealed: Vec<u8>) -> Write {
    Write::Record {
        key: authorization_key(tenant, message),
        bytes: Bytes::from(sealed),
    }
}

/// The records that are not needed once this entry is there.
pub(super) fn removed(state: &State, tenant: &TenantId, payload: &Payload) -> Vec<Write> {
    let is_authorized = |pending: &&Pending| pending.bus.as_ref().is_some_and(|bus| bus.authorized);
    let of = |message: &MessageId| {
        let pending = state.participants.values().flat_map(|it| &it.pending);
        pending
            .filter(is_authorized)
            .any(|pending| pending.message == *message)
    };
    let done: Vec<MessageId> = match payload {
        Payload::TurnEnded(ended) => {
            let done = ended.inputs.iter().filter(|it| it.fate != Fate::Returned);
            done.map(|it| it.message.clone())
                .filter(|it| of(it))
                .collect()
        }
        Payload::MessageSetAside(aside) if of(&aside.message) => vec![aside.message.clone()],
        Payload::SessionChanged(changed)
            if matches!(
                changed.change,
                SessionChange::Expired | SessionChange::Deleted
            ) =>
        {
            let pending = state.participants.values().flat_map(|it| &it.pending);
            let authorized = pending.filter(is_authorized);
            authorized.map(|pending| pending.message.clone()).collect()
        }
        _ => Vec::new(),
    };
    let unrecord = |message: &MessageId| Write::Unrecord {
        key: authorization_key(tenant, message),
    };
    done.iter().map(unrecord).collect()
}
