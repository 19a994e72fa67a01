//! Limits of a query.

use std::time::Duration;

/// What one query may cost. Each limit that is reached ends the query with a message that names it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Points per series of a range query, as in Prometheus.
    pub steps_max: usize,
    /// Samples read from the source, and values held at a time while evaluating.
    pub samples_max: usize,
    /// Series of one selector, or of one intermediate result.
    pub series_max: usize,
    /// From the beginning of parsing to the end of evaluation.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_max: 11_000,
            // 400 MB at 8 bytes a value; Prometheus has the same number at 16.
            samples_max: 50_000_000,
            series_max: 200_000,
            timeout: Duration::from_secs(120),
        }
    }
}

/// When `__name__` goes from a result that is no longer the metric itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRemoval {
    /// At once: the default of Prometheus.
    #[default]
    Immediate,
    /// At the end of the query: Prometheus with `promql-delayed-name-removal`, and its own test scripts.
    Delayed,
}

/// How queries are evaluated.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a query may cost.
    pub limits: Limits,
    /// How long a sample stands for its series.
    pub lookback: Duration,
    /// The step of a subquery that names none: the interval of rule evaluation.
    pub subquery_step: Duration,
    /// When metric names go.
    pub name_removal: NameRemoval,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            lookback: Duration::from_secs(5 * 60),
            subquery_step: Duration::from_secs(60),
            name_removal: NameRemoval::default(),
        }
    }
}

impl Options {
    /// What is wrong with the options, if anything.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let limits = &self.limits;
        for (name, value) in [
            ("steps_max", limits.steps_max),
            ("samples_max", limits.samples_max),
            ("series_max", limits.series_max),
        ] {
            if value == 0 {
                faults.push(format!("{name} must not be 0"));
            }
        }
        for (name, value) in [
            ("timeout", limits.timeout),
            ("lookback", self.lookback),
            ("subquery_step", self.subquery_step),
        ] {
            if value < Duration::from_millis(1) {
                faults.push(format!("{name} must be at least 1 ms"));
            }
        }
        faults
    }
}
