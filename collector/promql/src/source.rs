//! What the evaluator needs from whoever holds the samples.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::SourceError;
use crate::labels::Labels;
use crate::matcher::LabelMatcher;

/// A request for series.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// All must match; at least one of them does not match the empty string.
    pub matchers: Vec<LabelMatcher>,
    /// Samples later than this, in milliseconds since 1970.
    pub after_ms: i64,
    /// Samples up to and at this.
    pub until_ms: i64,
    /// How long a window may be that stands for samples which are too many to be given, or 0.
    pub longest_ms: i64,
    /// More than these samples must not be returned: [`SourceError::TooMuch`] instead. A window counts as eight.
    pub samples_max: usize,
    /// Likewise for series.
    pub series_max: usize,
}

/// One series with its samples of the time asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesSamples {
    /// Unique within one answer.
    pub labels: Labels,
    /// Milliseconds since 1970, rising.
    pub times_ms: Vec<i64>,
    /// One for each time. The bits [`STALE_BITS`] say that the series ended here.
    pub values: Vec<f64>,
    /// When what each sample counts began, where the source knows such times: one for each sample, 0 where it does not
    /// know. Else empty.
    pub starts_ms: Vec<i64>,
}

/// What is known of the samples of a series over a time, where they themselves are gone or too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesWindow {
    /// Time and value of the first sample, in milliseconds since 1970.
    pub first: (i64, f64),
    /// Of the last one.
    pub last: (i64, f64),
    /// How many there are, at least one; staleness markers are not among them.
    pub count: u64,
    /// Sum of their values.
    pub sum: f64,
    /// The least value.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How much a counter grew from the first to the last, resets taken back.
    pub growth: f64,
    /// How often it was reset between these.
    pub resets: u64,
}

/// Windows by the labels of their series.
pub type Windows = BTreeMap<Labels, Vec<SeriesWindow>>;

/// A time for which samples of some series selected are known to be missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceGap {
    /// First millisecond that may be missing.
    pub from_ms: i64,
    /// Last one.
    pub to_ms: i64,
    /// Labels that all series concerned have; none where it may be any.
    pub labels: Labels,
    /// Whose samples, how many and why, for a person.
    pub text: String,
}

/// What a source answers.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// In any order. Series without samples may be left out.
    pub series: Vec<SeriesSamples>,
    /// Losses that overlap the time asked for. They never change a value.
    pub gaps: Vec<SourceGap>,
    /// Windows of series that are not given all their samples, rising and apart from each other; no sample lies in one but
    /// its first and its last, which are given like samples. Those at the ends may reach beyond the time asked for.
    pub windows: Windows,
    /// What a person should know of them.
    pub notes: Vec<String>,
}

/// The value that marks the end of a series: a NaN that arithmetic cannot make.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Who holds series. The evaluator asks once for each selector of a query, before it computes anything.
#[async_trait]
pub trait SeriesSource: Send + Sync {
    /// The series that match, with their samples in `(after_ms, until_ms]`.
    ///
    /// # Cancel safety
    /// The future is dropped when the query is given up; it must leave nothing half-done.
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError>;
}
