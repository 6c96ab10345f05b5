//! A turn of a conversation: participants that speak one after the other, run by the host itself where other
//! agents have an instance.
//!
//! - [`definition`]: pure, what a conversation is.
//! - [`machine`]: pure, whose turn it is and when it halts.

pub mod definition;
pub mod machine;
