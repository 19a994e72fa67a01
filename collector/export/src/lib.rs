//! Export: facts to where others keep theirs, as they come and as they are stored.
//!
//! | to | how | what |
//! |---|---|---|
//! | stores of metrics | Prometheus' remote write 1.0 ([`remote_write`]) | samples |
//! | OpenTelemetry | OTLP over HTTP ([`otlp`]) | samples as gauges and sums, rows as log records |
//! | SIEMs | lines of ECS ([`ecs`]) or OCSF ([`ocsf`]) over HTTP | rows |
//! | analysts | Parquet ([`parquet`]), pages of records ([`page`]) | both |
//!
//! `docs/specs/export.md` is the contract: settings, names, mappings with their versions, limits.
//!
//! # Invariants
//! - **Nothing is skipped silently.** A target stands somewhere, and that is kept in the control database: of metrics the
//!   newest sample of every series of every host (`marks.rs` is their format), of rows the place in the order in which they were stored.
//!   What is durable and beyond that place is sent, whatever happened in between: live as it is told, or read from the
//!   store after a start, when too much waits, or when the store told less than it took. What is older than
//!   `catch_up_max` is left out, noted, counted and logged as an error.
//! - **At least once, in order for each series.** Places are kept after the target took what is before them; a kill
//!   between the two has the last seconds sent again. A sample that is not newer than the target's of its series is not
//!   sent: stores of metrics refuse those, with everything beside them.
//! - What a target refuses for good costs only itself: the request is halved until the bad part stands alone.
//! - Of several collectors over one store one at a time feeds a target: who has its lease (`turn.rs`). The next goes on
//!   where that one kept to have come.
//! - A slow target, or one that is down, holds up nothing: neither ingest nor other targets nor readiness. What waits for
//!   it is one request and a queue of 32 MiB; beyond, it is fed from the store.
//! - Secrets are files, read for each request, and are in no log, status or error. Redirects are not followed. Plain HTTP
//!   is for loopback. TLS is 1.3.
//!
//! # Tasks and channels
//! [`Export::spawn`] starts `export-metrics` for each target of metrics and `export-rows` for each table of each target
//! of rows, all best effort, and over a shared store `control-lease` for each target, which ends after them. They share
//! nothing but the control database. Each hears the store's channel of what became durable, in its turns alone.
//!
//! # Limits
//! - A sample that becomes durable later than newer ones of its series is not sent, and counted (`not_newer`), also
//!   while its target is away or the store is read. When the store is read, reading begins two minutes before the newest
//!   sample of each host, or before what came late of it. Nobody hears what came later than that in the moments before
//!   a kill or a change of turns, on another collector, or in a batch that the store does not tell: it is neither sent
//!   nor counted.
//! - A store that several collectors put into is read every 30 seconds: what came to the others is sent so late.
//! - A sample more than an hour ahead of the collector's clock is not sent (`clock_ahead`): it would keep the true ones of
//!   its series out. Two samples of a series within a millisecond are one to remote write.
//! - Sums are sent to OTLP without a start time. gRPC and remote write 2.0 are not spoken.
//! - The store is read by one query at a time and target, in turn with the collector's own.

mod config;
mod database;
mod deliver;
pub mod ecs;
mod error;
mod feed;
mod filter;
mod http;
mod marks;
mod metrics;
pub mod ocsf;
pub mod otlp;
pub mod page;
pub mod parquet;
mod record;
pub mod remote_write;
mod row_feed;
mod sample;
mod source;
pub mod sql;
mod status;
mod stream;
mod summary;
mod task;
mod turn;

pub use config::{ExportConfig, MetricFilter, Otlp, RecordFormat, RemoteWrite, WebhookStream};
pub use database::{Skip, TABLES};
pub use error::{ExportError, ParquetError, SourceError};
pub use record::{Record, Rows, records_of};
pub use source::{FactSource, Live, LiveRows, NewRows, RowKey, RowSpan, SampleSpan, Series, Wants};
pub use status::{SignalStatus, TargetStatus, TestOutcome};
pub use stream::render;
pub use task::Export;
