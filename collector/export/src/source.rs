//! What this room needs of the facts: rows as they become durable, and rows that are stored. Wiring adapts the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetmend_event::{HostId, HostScope, TimeMicros};

use crate::error::SourceError;

/// Rows that have just become durable.
#[derive(Debug, Clone)]
pub struct NewRows {
    /// Whose.
    pub host: HostId,
    /// Their table.
    pub table: &'static str,
    /// The rows as they were sent: `metrics` as chunks of series. Empty when they are too many to be told.
    pub batch: RecordBatch,
    /// Whether the rows are left out here, and have to be read.
    pub withheld: bool,
}

/// What comes next of what is new.
#[derive(Debug, Clone)]
pub enum Live {
    /// Rows.
    Rows(Arc<NewRows>),
    /// So many batches were not told: they have to be read.
    Missed(u64),
    /// Nothing more will come: the process ends.
    Closed,
}

/// Rows from now on.
#[async_trait]
pub trait LiveRows: Send {
    /// The next of them.
    ///
    /// # Cancel safety
    /// May be dropped: nothing is lost.
    async fn next(&mut self) -> Live;
}

/// One series and what was read of it, in rising time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its host.
    pub host: HostId,
    /// OpenTelemetry name.
    pub name: Arc<str>,
    /// Unit in UCUM.
    pub unit: Arc<str>,
    /// Attributes as a JSON object of texts.
    pub labels: Arc<str>,
    /// Time and value.
    pub samples: Vec<(TimeMicros, f64)>,
}

impl Series {
    /// One of `host` by its name, unit and labels, with as many times as values.
    pub fn new(
        host: HostId,
        [name, unit, labels]: [&str; 3],
        times: Vec<TimeMicros>,
        values: Vec<f64>,
    ) -> Self {
        Self {
            host,
            name: name.into(),
            unit: unit.into(),
            labels: labels.into(),
            samples: times.into_iter().zip(values).collect(),
        }
    }
}

/// Whether a metric is wanted, by its OpenTelemetry name.
#[derive(Clone)]
pub struct Wants(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl std::fmt::Debug for Wants {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Wants")
    }
}

/// Which samples: those of `hosts` with `after < time ≤ until`.
#[derive(Debug, Clone)]
pub struct SampleSpan {
    /// Of which hosts.
    pub hosts: BTreeSet<HostId>,
    /// Of which metrics.
    pub wants: Wants,
    /// From when, itself left out.
    pub after: TimeMicros,
    /// Until when, itself taken in.
    pub until: TimeMicros,
    /// At most so many; more is [`SourceError::TooMany`].
    pub samples_max: usize,
}

/// Where a reader of rows stands: rows are ordered by when they were stored, host and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// When they were stored, by the collector's clock.
    pub ingested_at: TimeMicros,
    /// Their host.
    pub host: HostId,
    /// Their own time.
    pub time: TimeMicros,
}

/// Which rows, and in which order.
#[derive(Debug, Clone)]
pub enum RowSpan {
    /// From `from` on, itself taken in, in the order of [`RowKey`].
    Stored {
        /// Where to begin.
        from: RowKey,
    },
    /// `from ≤ time < to` by the hosts' clocks, in the order of time and host.
    Made {
        /// From when.
        from: TimeMicros,
        /// Until when, itself left out.
        to: TimeMicros,
        /// Of which hosts; all, when none are named.
        hosts: Option<BTreeSet<HostId>>,
    },
}

/// Facts, as they are told and as they are stored.
#[async_trait]
pub trait FactSource: Send + Sync + 'static {
    /// Rows that become durable from now on.
    fn live(&self) -> Box<dyn LiveRows>;

    /// Whether [`live`](Self::live) tells of all rows: other collectors may put some into the same store.
    fn tells_all(&self) -> bool;

    /// Every host that may have facts, and its name where it is known.
    ///
    /// # Errors
    /// When they cannot be told now.
    async fn hosts(&self) -> Result<BTreeMap<HostId, Option<String>>, SourceError>;

    /// Samples of a span.
    ///
    /// # Errors
    /// [`SourceError::TooMany`] when there are more than asked for; otherwise when they cannot be read now.
    async fn samples(&self, span: SampleSpan) -> Result<Vec<Series>, SourceError>;

    /// The first `rows_max` rows of a span of `table`, with the columns of the table, `host_id` (text) and
    /// `ingested_at`; `metrics` with one row per sample; only of hosts within `scope`. Whether there are more is told
    /// beside them.
    ///
    /// # Errors
    /// When they cannot be read now.
    async fn rows(
        &self,
        table: &str,
        span: RowSpan,
        scope: &HostScope,
        rows_max: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError>;

    /// Known losses of `table` and `scope` that overlap a time, as rows of `gaps` in JSON; at most 10,000.
    ///
    /// # Errors
    /// When they cannot be read now.
    async fn gaps(
        &self,
        table: &str,
        from: TimeMicros,
        to: TimeMicros,
        scope: &HostScope,
    ) -> Result<Vec<serde_json::Value>, SourceError>;
}
