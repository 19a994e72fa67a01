//! Functions, as formulas over plain values.
//!
//! Sources: the Prometheus documentation of its functions, and its engine's rules for extrapolation
//! (<https://prometheus.io/docs/prometheus/latest/querying/functions/>).

pub(crate) mod bucket;
pub(crate) mod coarse;
pub(crate) mod date;
pub(crate) mod extended;
pub(crate) mod math;
pub(crate) mod natural;
pub(crate) mod over_time;
pub(crate) mod rate;
pub(crate) mod trend;
pub(crate) mod window;

use crate::error::QueryError;
use crate::eval::Window;

/// A function of what a range holds at one step.
#[derive(Clone, Copy)]
pub(crate) struct WindowFunction {
    /// Nothing where the window is too small.
    pub(crate) compute: fn(&Window<'_>) -> Result<Option<f64>, QueryError>,
    /// The result is still the metric itself.
    pub(crate) keeps_name: bool,
}

/// Functions that give one number a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScalarSource {
    Pi,
    Time,
    Start,
    End,
    Step,
    Range,
    MinOf,
    MaxOf,
    Scalar,
}

impl ScalarSource {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pi" => Self::Pi,
            "time" => Self::Time,
            "start" => Self::Start,
            "end" => Self::End,
            "step" => Self::Step,
            "range" => Self::Range,
            "min_of" => Self::MinOf,
            "max_of" => Self::MaxOf,
            "scalar" => Self::Scalar,
            _ => return None,
        })
    }
}
