//! The store.

pub mod config;
pub mod error;
pub mod metrics;
pub mod query;

mod catalogue;
mod commit;
mod gaps;
mod inner;
mod mark;
mod own;
mod recover;
mod segment;
mod shape;
mod store;
mod task;
mod view;
mod writer;

pub use config::StoreConfig;
pub use error::{CommitError, OpenError, QueryError};
pub use gaps::HostGap;
pub use inner::Health;
pub use own::OWN_HOST;
pub use query::{Answer, QueryLimits, to_json_rows};
pub use store::{Committed, Store, StoreStats, TableStats};

#[cfg(test)]
mod tests;
