//! Antiphon: durable sessions for sandboxed AI agents, in one binary.
//!
//! # Layout, in reading order
//!
//! - [`id`], [`clock`]: names, digests, offsets; time handed in at the top.
//! - [`bus`]: what one runtime tells another about a call. Pure.
//! - [`journal`]: what a session's journal says. Pure.
//! - [`store`]: what is durable, and how.
//! - [`budgets`]: what was spent, and what may be.
//! - [`ledger`]: the open journal: where entries are numbered.
//! - [`model`]: calls of language models.
//! - [`egress`]: what agents send to places outside, and may.
//! - [`runtime`]: wasmtime: a component and a turn in, an exit out.
//! - [`agents`], [`tenants`], [`secrets`], [`logs`]: deployments; keys; what goes with agents' requests;
//!   what agents print.
//! - [`streams`]: Durable Streams, which anybody may append to and read.
//! - [`session`]: who runs, when, and what happens after a crash.
//! - [`http`]: the only place that knows status codes.
//! - [`config`], [`fair`], [`seal`], [`secret`], [`shutdown`], [`telemetry`], [`guest`]: leaves.
//!
//! Data flows one way: http -> session -> runtime -> ledger, model -> store; the
//! tidy test holds it. docs/architecture.md says what is absent on purpose.

pub mod agents;
pub mod audit;
pub mod budgets;
pub mod bus;
pub mod clock;
pub mod config;
pub mod egress;
pub mod fair;
pub mod guest;
pub mod http;
pub mod id;
pub mod journal;
pub mod ledger;
pub mod logs;
pub mod model;
pub mod notices;
pub mod runtime;
pub mod seal;
pub mod secret;
pub mod secrets;
mod serve;
pub mod session;
pub mod shutdown;
pub mod store;
pub mod streams;
pub mod subscriptions;
pub mod telemetry;
pub mod tenants;

pub use serve::{ServeError, serve};
