//! The store: it makes frames durable, answers SQL over them, and keeps them as long as it is told to.
//!
//! It is the only room that links DataFusion. What the others need of a store is [`FactStore`]; [`open`] gives the one
//! that `store.url` chooses: [`Store`], which keeps facts in a folder and is what the rest of this text is about,
//! [`MemoryStore`], or [`ClickHouseStore`]. One conformance suite (`tests/conformance`) holds all three to the same.
//! What a commit stores is decided in one place (`commit.rs`, `admit.rs`), and queries are planned by one engine that
//! asks each for the rows of tables (`query/stock.rs`).
//!
//! Rows come as frames of [`fleetmend_event`] and are gone through
//! three forms: *hot* in append-only segments (`segment.rs` is their specification), then *compacted* in sorted
//! Parquet files, metrics as chunks of series (`chunk.rs` is theirs), then deleted; of metrics, tiers are kept longer
//! (`tier.rs`). The catalogue, a SQLite file of the store's own, says which files there are; where it is lost, and its
//! copy too, it is made anew from what the files say of themselves (`open.rs`, `rebuild.rs`).
//!
//! # Invariants
//! - [`Store::commit`] returns after an fsync: what was acknowledged survives a kill and a power cut.
//! - The identity (host, epoch, lane, sequence) is stored once, whatever is sent twice. Another record under a
//!   stored identity is refused, and so is a skipped number, unless [`Store::declare_lost`] said that what is
//!   skipped will never come. A stream that the store does not know may begin anywhere. Digests are kept for
//!   the latest 256 records of a stream that are not compacted; before these, a repetition is told by its number alone.
//!   A host has the marks of its latest 64 epochs; what it sends under an older one counts as new.
//! - Rows that cannot be read, records that never came and files that are damaged become gap rows, and stop nothing
//!   else. An [`Answer`] names the gaps that touch what it read.
//! - A host has a number of series; samples of further ones are a gap (`series.rs`), the frame is stored without them
//!   and its head says how many rows came.
//! - Rows keep the times of their host's clock; what the store decides, it decides by the times of its own
//!   (`clock.rs`): which day a row belongs to, when it expires, how late it came.
//! - A query sees every row of a table once, also while it is compacted. Rows in one frame keep their order.
//! - Bounded: the queue of commits in bytes, decoded, and in number (a full one makes `commit` wait, then fail), what
//!   one commit decodes to (the rest of it becomes a gap), the rows that one step of compaction decodes at once, the
//!   decoded hot rows, the memory, time, rows and spill of queries, the gaps kept at hand, the backlog of subscribers.
//! - A disk that refuses makes `commit` fail with [`CommitError::Unavailable`] and [`Store::health`] say why;
//!   the next commit tries again, and no one need restart anything.
//!
//! # Tasks
//! - `store-writer`, a thread, critical: takes commands from one `mpsc` (1,024 and
//!   [`StoreConfig::queue_bytes_max`]), writes groups, tells a `broadcast` of [`Committed`] (1,024, a slow subscriber
//!   misses the oldest, and of frames of more than 1 MiB decoded it is told without their rows). At the drain it finishes what is queued and seals; it ends after maintenance.
//! - `store-maintenance`, critical: sets aside, compacts, merges, deletes what expired, checks every file's digest
//!   once a day. Woken by a sealed segment, else by its interval. A step that fails is tried again.
//! - `store-tiers`, critical: sums up the days of which samples came. What fails is tried again.
//! - The query engine has a runtime of its own, so that queries that read files do not hold up anybody else; it ends
//!   with the last clone of [`Store`].
//!
//! # Limits of today
//! One store, one process (the folder is locked). Hot rows are found by scanning their list, which suits the minutes
//! until compaction. Damage inside the newest segment's last group cannot be told from an unfinished write: it is cut
//! off, and agents that still hold those records send them again. A filled file of events is not rewritten for a new
//! column: older rows show null.

pub mod backend;
pub mod backup;
pub mod config;
pub mod error;
mod metrics;
pub mod query;

mod admit;
mod catalogue;
mod chunk;
pub mod clickhouse;
mod clock;
mod commit;
mod compact;
mod disk;
mod gaps;
mod inner;
mod label;
mod mark;
mod memory;
mod open;
mod own;
mod rebuild;
mod recover;
mod retain;
mod segment;
mod select;
mod series;
mod shape;
mod steps;
mod store;
mod strangers;
mod task;
mod tier;
mod view;
mod writer;

pub use backend::{FactStore, open};
#[doc(hidden)]
pub use chunk::ChunkBytes;
pub use clickhouse::config::{ClickHouseConfig, ClickHouseUrl, StoreUrl};
pub use clickhouse::{ClickHouseStore, LEDGER_TABLES};
pub use clock::ClockAhead;
pub use config::StoreConfig;
pub use error::{CommitError, OpenError, QueryError};
pub use gaps::HostGap;
pub use inner::Health;
pub use memory::MemoryStore;
pub use own::{Maker, OWN_HOST};
pub use query::{Answer, QueryClass, QueryLimits, RunningQuery, to_json_rows};
pub use select::{
    KeepSeries, Resolution, SeriesAnswer, SeriesKey, SeriesSelect, SeriesWindow, StoredSeries, TierSpan,
};
pub use store::{Committed, Store, StoreStats, TableStats};

#[cfg(test)]
mod tests;
