//! Select: the samples of series, without SQL.
//!
//! It reads what `SELECT … FROM metrics` reads, hot frames and files, but series by series and only those that are
//! wanted: this is what PromQL, exports and charts stand on. Files are read on the query engine's threads that may
//! block, in turn with its queries.
//!
//! A series is a name, a unit, labels and a host. Its samples come in rising time; of several of one time the one
//! that the store took later wins. NaN is a sample that could not be taken.
//!
//! Raw samples are kept for a month or so, their tiers for longer: a selection says with its [`Resolution`] whether it can
//! make use of windows (`coarse.rs`). A store in memory or in ClickHouse has no tiers, keeps samples for as long as is
//! wanted, and answers with these, whatever the resolution.
//!
//! # Limits
//! More series or samples than the caller allows are an error, found before memory is taken for them. What a caller
//! no longer waits for ends within one row group or one frame.

mod coarse;
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
use crate::tier::{TIERS, Window};
pub(crate) use coarse::tiers_of;
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

/// How fine the answer to a selection has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resolution {
    /// Samples, and nothing where they are gone.
    #[default]
    Samples,
    /// Samples; where they are gone, windows of the finest tier that has them.
    Finest,
    /// Windows of the coarsest tier whose windows are not longer than this, and samples where it has none yet; where it has
    /// none any more, windows of a coarser one. As [`Resolution::Finest`] where every tier's are longer. Samples that came late are
    /// seen when their day was made anew ([`StoreConfig::tier_interval_s`](crate::StoreConfig::tier_interval_s)).
    Windows {
        /// In microseconds.
        longest_us: i64,
    },
}

impl Resolution {
    /// Windows that are not longer than this, where there are such.
    pub fn windows(longest_us: i64) -> Option<Self> {
        let some = TIERS.iter().any(|tier| tier.window_micros <= longest_us);
        some.then_some(Self::Windows { longest_us })
    }
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
    /// How fine they have to be. Of [`Store::series_keys`] only samples tell.
    pub resolution: Resolution,
    /// More samples than this are an error; a window counts as eight, for it takes as many bytes.
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
            resolution: Resolution::default(),
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
            .field("resolution", &self.resolution)
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
    /// What stands for samples that are not given, rising; no sample lies in one, and no two overlap. Of these
    /// the first and the last may reach beyond the time asked for.
    pub windows: Vec<SeriesWindow>,
}

/// The samples of a series from `start` to before `start + length_us`, summed up. Samples that could not be taken are not
/// among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesWindow {
    /// When it begins, by the host's clock.
    pub start: TimeMicros,
    /// How long it is.
    pub length_us: i64,
    /// Samples, at least one.
    pub count: u64,
    /// Sum of their values.
    pub sum: f64,
    /// The least value.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Time and value of the first sample.
    pub first: (TimeMicros, f64),
    /// Of the last one.
    pub last: (TimeMicros, f64),
    /// How much a counter grew from the first sample to the last, resets taken back.
    pub growth: f64,
    /// How often it was reset between these.
    pub resets: u64,
}

impl SeriesWindow {
    /// A window as a tier has it; `before` is the one before it of that tier.
    pub(crate) fn of(window: &Window, before: Option<&Window>, length_us: i64) -> Self {
        let (growth, resets) = window.growth(before, length_us);
        Self {
            start: TimeMicros(window.start),
            length_us,
            count: u64::try_from(window.count).unwrap_or(0),
            sum: window.sum,
            min: window.min,
            max: window.max,
            first: (TimeMicros(window.first.0), window.first.1),
            last: (TimeMicros(window.last.0), window.last.1),
            growth,
            resets: u64::try_from(resets).unwrap_or(0),
        }
    }

    /// When it is over.
    pub fn end(&self) -> TimeMicros {
        self.start.plus_micros(self.length_us)
    }
}

/// Where windows stand for samples in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierSpan {
    /// Length of a window.
    pub window_us: i64,
    /// Beginning of the first one.
    pub from: TimeMicros,
    /// End of the last one. Between the two other series may have samples.
    pub to: TimeMicros,
}

/// What [`Store::select`] gives back.
#[derive(Debug, Clone, Default)]
pub struct SeriesAnswer {
    /// Series that have samples or windows in the time asked for, sorted by key.
    pub series: Vec<StoredSeries>,
    /// Losses of metrics of the hosts asked for that touch that time, the newest first; at most 100.
    pub gaps: Vec<HostGap>,
    /// Where its series have windows, the shortest first.
    pub tiers: Vec<TierSpan>,
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
            tiers: tiers_of(&series),
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
