//! What a query gives.

use crate::annotations::Annotations;
use crate::labels::Labels;
use crate::source::{SeriesSamples, SourceGap};

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Purely what Prometheus would compute from the same samples.
    pub data: Data,
    /// Infos and warnings, those of gaps among the infos.
    pub annotations: Annotations,
    /// Losses that overlap what was read: whoever decides by the answer treats it as unknown.
    pub gaps: Vec<SourceGap>,
    /// How many samples were read.
    pub samples_read: usize,
}

/// Values by the kind of the result.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A number.
    Scalar {
        /// Milliseconds since 1970.
        time_ms: i64,
        /// Its value.
        value: f64,
    },
    /// A string.
    Text {
        /// Milliseconds since 1970.
        time_ms: i64,
        /// Its value.
        value: String,
    },
    /// Of an instant query, in the order of the query's last `sort` or `topk`.
    Vector(Vec<Sample>),
    /// Of a range query, or a range asked for at one time; sorted by labels.
    Matrix(Vec<SeriesSamples>),
}

/// A value of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Whose.
    pub labels: Labels,
    /// Milliseconds since 1970: the time of the query.
    pub time_ms: i64,
    /// Its value.
    pub value: f64,
}
