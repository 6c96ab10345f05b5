//! wasmtime: a component and a turn in, an exit out.
//!
//! - [`engine`]: the one engine, compiled components, checks of what is uploaded.
//! - [`compiler`], [`shape`], `cache`: how components are compiled, of what they may be made, where they are kept.
//! - [`instance`]: one turn: a fresh store and instance, and how it ended.
//! - [`scope`]: what an instance may reach, and the one point at which its calls
//!   are numbered and written down.
//! - [`replay`], [`random`]: pure, what a turn did before, and its randomness.
//! - [`host`]: one WIT interface per file, over the scope.
//! - [`conversation`]: a turn of a conversation, in place of an instance.
//! - [`limits`], [`cpu`], [`wasi`]: what a guest may use, and how little is behind WASI.
//!
//! Invariants: one wasmtime store per turn, never used again after the turn; an
//! instance reaches one session, the one of its scope. Traps, limits and
//! time-outs are exits, not errors. It decides nothing about what runs when: session/ does.

mod bindings;
mod cache;
pub mod compiler;
pub mod conversation;
pub mod cpu;
pub mod engine;
mod guest;
mod host;
pub mod instance;
pub mod limits;
pub mod minute;
pub mod random;
pub mod replay;
pub mod scope;
#[cfg(test)]
pub(crate) mod scripted;
pub mod shape;
mod wasi;
