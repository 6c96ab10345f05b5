pub mod clock;
pub mod id;
pub mod journal;
pub mod ledger;
pub mod store;
