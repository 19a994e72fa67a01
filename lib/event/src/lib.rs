//! The shared nouns of Fleetmend: ids, lanes, the rows of every table, findings, remedies and gaps.
//!
//! This crate holds pure types. It opens no file and no socket, starts no task and keeps no state, so that
//! the agent, the healer, the collector and the tools agree on one description of a fact:
//!
//! - a **row** ([`table::Table`]) is a struct whose fields are the columns of one Arrow schema, declared once
//!   with the `table!` macro; [`table::tables`] lists all of them;
//! - a **fact** ([`Fact`]) is one row, or one second of metrics, on its way from a collector to the spool;
//! - a **frame** ([`frame::Frame`]) is a numbered batch of rows of one table: the one record format of spool,
//!   wire and segment. Its identity is (host, epoch, lane, sequence) and never changes;
//! - **bases** ([`relative::Bases`]) are the last bodies of one stream, at both of its ends: on it a frame may
//!   travel [`relative`] to them, a quarter as long. Spool and store only know frames that stand for themselves.
//!
//! Invariants: a schema only grows (a new column is nullable and raises the table's version); a frame's bytes
//! are written once, at the agent, and what a body holds is the same bytes everywhere; everything that is decoded from bytes is bounded and never panics.

pub mod batch;
pub mod column;
pub mod fact;
pub mod frame;
pub mod healer;
pub mod id;
pub mod metric;
pub mod prometheus_names;
pub mod relative;
pub mod remedy;
pub mod scope;
pub mod table;
pub mod time;
pub mod word;

pub use fact::{Fact, FactBuffer};
pub use frame::{Frame, FrameError};
pub use id::{ActionId, FindingId, HostId, Lane, Mark, RecordId, Sequence, SpoolEpoch};
pub use metric::{MetricFrame, SeriesKey, SeriesSet};
pub use scope::HostScope;
pub use table::{Table, TableInfo, tables};
pub use time::TimeMicros;
