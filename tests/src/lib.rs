//! Tests from outside: `antiphon::serve` itself, in process, on a free port and a fresh
//! data folder, spoken to over HTTP; and the rules of the source tree (`tidy`).
//!
//! - The harness: `browser`, `server`, [`process`] (the real binary), `client`, `logged`, `noise`, `described`, `origin`, `stream`, `guests`, `golden`.
//! - [`load`] and [`observed`]: what benchmarks share.
//! - [`torture`]: the real binary, killed again and again under load, and the laws that hold all the same.
//! - The tests: the other modules, one topic each.
//!
//! Rules: nothing sleeps and nothing is tried again until it works. A test waits for
//! events, or holds the scripted model back with a gate. Timeouts are only there so that
//! a test that hangs says where.

pub mod load;
pub mod observed;
pub mod process;
pub mod torture;

#[cfg(test)]
mod browser;
#[cfg(test)]
mod client;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod described;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod logged;
#[cfg(test)]
mod noise;
#[cfg(test)]
mod origin;
#[cfg(test)]
mod server;
#[cfg(test)]
mod stream;

#[cfg(test)]
mod agents;
#[cfg(test)]
mod attach;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod bombs;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod bursts;
#[cfg(test)]
mod bus;
#[cfg(test)]
mod console;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod conversations;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod debates;
#[cfg(test)]
mod durable_streams;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod events;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forks;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod invoke;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod models;
#[cfg(test)]
mod nested;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod offsets;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod openai_clients;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod promise;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod resumed;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod scaffold;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod subscriptions;
#[cfg(test)]
mod suspended;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod waiting;
#[cfg(test)]
mod webhooks;
