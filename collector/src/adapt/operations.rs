//! The process itself, as the API shows it.

use collector_api::Operations;
use fleetmend_telemetry::{MetricsHandle, Readiness, State};

/// Readiness and metrics.
pub(crate) struct OperationsAdapter {
    /// Metrics of every room.
    pub(crate) metrics: MetricsHandle,
    /// Conditions of every room.
    pub(crate) readiness: Readiness,
}

impl Operations for OperationsAdapter {
    fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        let conditions = self.readiness.conditions().into_iter();
        conditions
            .map(|(name, state)| match state {
                State::Ready => (name, None),
                State::NotReady(reason) => (name, Some(reason)),
            })
            .collect()
    }

    fn metrics_text(&self) -> String {
        self.metrics.render()
    }
}
