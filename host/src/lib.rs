pub mod clock;
pub mod config;
pub mod guest;
pub mod id;
pub mod journal;
pub mod shutdown;
pub mod store;
