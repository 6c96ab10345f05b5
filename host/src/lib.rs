pub mod clock;
pub mod id;
pub mod journal;
pub mod model;
pub mod store;
