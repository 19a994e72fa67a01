//! Select: the samples of series, without SQL.
//!
//! It reads what `SELECT … FROM metrics` reads, hot frames and files, but series by series and only those that are
//! wanted: this is what PromQL, exports and charts stand on. Files are read on the query engine's threads that may
//! block, in turn with its queries.
//!
//! A series is a name, a unit, labels and a host. Its samples come in rising time; of several of one time the one
//! that the store took later wins. NaN is a sample that could not be taken.
//!
//! # Limits
//! More series or samples than the caller allows are an error, found before memory is taken for them. What a caller
//! no longer waits for ends within one row group or one frame.

mod deadline;
mod gather;
mod merge;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, Table, TimeMicros};

use crate::error::QueryError;
use crate::gaps::{Gaps, HostGap, Reach};
use crate::inner::Inner;
use crate::own::OWN_HOST;
use crate::query::{QueryClass, QueryLimits};
use crate::shape::table_index;
use crate::store::Store;
pub(crate) use deadline::Deadline;
pub(crate) use gather::{Gather, is_damaged};
pub(crate) use merge::{Piece, merge};

/// Decides whether a series is wanted, beyond its name and host.
pub type KeepSeries = Arc<dyn Fn(&SeriesKey) -> bool + Send + Sync>;

/// What a series is told by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// OpenTelemetry name.
    pub name: String,
    /// Attributes as a JSON object with sorted keys and text values.
    pub labels: String,
    /// Host.
    pub host: HostId,
    /// Unit in UCUM.
    pub unit: String,
}

/// Which series, and which of their samples.
#[derive(Clone)]
pub struct SeriesSelect {
    /// Only metrics of these names.
    pub names: Option<BTreeSet<String>>,
    /// Only series of these hosts.
    pub hosts: Option<BTreeSet<HostId>>,
    /// Only series that it says yes to. It is asked often; it must be quick.
    pub keep: Option<KeepSeries>,
    /// Samples later than this.
    pub after: TimeMicros,
    /// Samples up to and at this.
    pub until: TimeMicros,
    /// More samples than this are an error.
    pub samples_max: usize,
    /// More series than this are an error.
    pub series_max: usize,
    /// Time it may take, waiting for a turn included; the store's configuration caps it.
    pub timeout: Duration,
    /// Whose turns it takes.
    pub class: QueryClass,
}

impl SeriesSelect {
    /// Every series, with its samples in `(after, until]`.
    pub fn between(after: TimeMicros, until: TimeMicros) -> Self {
        Self {
            names: None,
            hosts: None,
            keep: None,
            after,
            until,
            samples_max: 50_000_000,
            series_max: 1_000_000,
            timeout: QueryLimits::default().timeout,
            class: QueryClass::User,
        }
    }

    /// Whether a series is wanted by its name and host.
    pub(crate) fn wants(&self, name: &str, host: HostId) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
            && self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&host))
    }

    /// Whether a series is wanted by all it is told by.
    pub(crate) fn keeps(&self, key: &SeriesKey) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep(key))
    }

    /// What its reading may take.
    pub(crate) fn limits(&self) -> QueryLimits {
        QueryLimits {
            timeout: self.timeout,
            class: self.class,
            ..QueryLimits::default()
        }
    }

    /// The losses at hand that an answer tells of.
    pub(crate) fn gaps_of(&self, gaps: &Gaps) -> Vec<HostGap> {
        gaps.touching(&[self.reach()], Vec::new(), |held| self.is_told_of(held))
    }

    fn reach(&self) -> Reach {
        let (from, to) = self.span();
        Reach {
            table: MetricChunk::NAME,
            from: TimeMicros(from),
            to: TimeMicros(to),
        }
    }

    fn is_told_of(&self, held: &HostGap) -> bool {
        let hosts = self.hosts.as_ref();
        let of_host = hosts.is_none_or(|hosts| held.host_id == OWN_HOST || hosts.contains(&held.host_id));
        of_host && (held.gap.table == MetricChunk::NAME || held.gap.lane == MetricChunk::LANE)
    }

    /// First and last time that is wanted, in microseconds.
    pub(crate) fn span(&self) -> (i64, i64) {
        (self.after.0.saturating_add(1), self.until.0)
    }
}

impl fmt::Debug for SeriesSelect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SeriesSelect")
            .field("names", &self.names)
            .field("hosts", &self.hosts)
            .field("after", &self.after)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// One series with its samples of the time asked for.
#[derive(Debug, Clone)]
pub struct StoredSeries {
    /// Which it is.
    pub key: Arc<SeriesKey>,
    /// Times by the host's clock, rising, none twice.
    pub times: Vec<TimeMicros>,
    /// One for each time.
    pub values: Vec<f64>,
}

/// What [`Store::select`] gives back.
#[derive(Debug, Clone, Default)]
pub struct SeriesAnswer {
    /// Series that have samples in the time asked for, sorted by key.
    pub series: Vec<StoredSeries>,
    /// Losses of metrics of the hosts asked for that touch that time, the newest first; at most 100.
    pub gaps: Vec<HostGap>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Series with their samples.
    Samples,
    /// Series alone.
    Keys,
}

impl Store {
    /// The samples of series.
    ///
    /// # Errors
    /// [`QueryError`] says which limit was met, or what could not be read.
    ///
    /// # Cancel safety
    /// May be dropped; the reading is then stopped.
    pub async fn select(&self, select: SeriesSelect) -> Result<SeriesAnswer, QueryError> {
        let inner = self.inner.clone();
        let gathered = self.gather(select.clone(), Wish::Samples, Gather::into_series);
        let series = gathered.await?;
        Ok(SeriesAnswer {
            series,
            gaps: gaps(&inner, &select),
        })
    }

    /// The series that have samples in the time asked for, sorted. Of a file that holds chunks, what the chunks'
    /// spans say is taken for that.
    ///
    /// # Errors
    /// As [`Store::select`].
    ///
    /// # Cancel safety
    /// As [`Store::select`].
    pub async fn series_keys(&self, select: SeriesSelect) -> Result<Vec<SeriesKey>, QueryError> {
        self.gather(select, Wish::Keys, Gather::into_keys).await
    }

    async fn gather<T: Send + 'static>(
        &self,
        select: SeriesSelect,
        wish: Wish,
        finish: fn(Gather) -> Vec<T>,
    ) -> Result<Vec<T>, QueryError> {
        let index = table_index(MetricChunk::ID).ok_or(QueryError::Closed)?;
        let inner = self.inner.clone();
        let limits = select.limits();
        let work = move |deadline: &Deadline| gather::all(&inner, index, &select, wish, deadline).map(finish);
        self.engine.blocking(limits, work).await
    }
}

fn gaps(inner: &Inner, select: &SeriesSelect) -> Vec<HostGap> {
    inner.gaps_of_hosts(&[select.reach()], |held| select.is_told_of(held))
}
