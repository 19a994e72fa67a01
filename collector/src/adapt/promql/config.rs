//! What an operator may set for PromQL.

use std::time::Duration;

use collector_promql::{Limits, NameRemoval, Options};
use fleetmend_config::{Faults, HumanDuration, Validate};
use serde::Deserialize;

/// Limits of queries in PromQL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PromqlConfig {
    /// Queries of users that run at once; more wait for their turn.
    pub(crate) concurrent_max: usize,
    /// Samples that one query may read, and values it may hold.
    pub(crate) samples_max: usize,
    /// Series that one selector may give.
    pub(crate) series_max: usize,
    /// Longest time of one query, waiting for its turn included.
    pub(crate) timeout: HumanDuration,
    /// How long a sample stands for its series.
    pub(crate) lookback: HumanDuration,
    /// The step of a subquery that names none.
    pub(crate) subquery_step: HumanDuration,
}

impl Default for PromqlConfig {
    fn default() -> Self {
        Self {
            concurrent_max: 4,
            // About 320 MB for each of the queries that run at once, at its worst.
            samples_max: 8_000_000,
            series_max: 100_000,
            timeout: HumanDuration::from_secs(30),
            lookback: HumanDuration::from_secs(300),
            subquery_step: HumanDuration::from_secs(60),
        }
    }
}

/// The listener gives up on an answer after a minute.
const TIMEOUT_MAX: Duration = Duration::from_secs(55);

impl PromqlConfig {
    /// As the evaluator takes them.
    pub(crate) fn options(&self) -> Options {
        Options {
            limits: Limits {
                samples_max: self.samples_max,
                series_max: self.series_max,
                timeout: self.timeout.get(),
                ..Limits::default()
            },
            lookback: self.lookback.get(),
            subquery_step: self.subquery_step.get(),
            name_removal: NameRemoval::Immediate,
        }
    }
}

impl Validate for PromqlConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        for (key, value) in [
            ("concurrent_max", self.concurrent_max),
            ("samples_max", self.samples_max),
            ("series_max", self.series_max),
        ] {
            faults.require(value > 0, key, "has to be at least 1");
        }
        for (key, value) in [("lookback", self.lookback), ("subquery_step", self.subquery_step)] {
            faults.require(value.get().as_millis() > 0, key, "has to be at least 1ms");
        }
        let timeout = self.timeout.get();
        faults.require(
            timeout.as_millis() > 0 && timeout <= TIMEOUT_MAX,
            "timeout",
            "has to be 1ms to 55s",
        );
    }
}
