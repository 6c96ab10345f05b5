//! The guest's imports: one WIT interface per file, over the scope of its turn.
//!
//! A guest's expected failure is a case of its WIT error. A call that cannot be
//! answered any more traps with a [`super::scope::Stop`].

pub(super) mod agents;
pub(super) mod context;
pub(super) mod http;
pub(super) mod kernel;
pub(super) mod log;
pub(super) mod mailbox;
pub(super) mod model;
pub(super) mod questions;
pub(super) mod reply;
pub(super) mod transcript;
pub(super) mod turn;

use wasmtime::component::{HasSelf, Linker};

use super::bindings::antiphon::agent;
use super::engine::Grants;
use super::guest::Guest;

/// Link what is granted, and nothing else.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>, grants: &Grants) -> wasmtime::Result<()> {
    if grants.contains("kernel") {
        agent::kernel::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("mailbox") {
        agent::mailbox::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("context") {
        agent::context::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("transcript") {
        agent::transcript::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("reply") {
        agent::reply::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("model") {
        agent::model::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("turn") {
        agent::turn::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("log") {
        agent::log::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("agents") {
        agent::agents::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("http") {
        agent::http::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    if grants.contains("questions") {
        agent::questions::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    }
    Ok(())
}
