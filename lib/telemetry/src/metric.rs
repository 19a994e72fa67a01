use metrics::{describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{MetricsError, process};

/// From 100 µs to 30 s: from one inference to the deadline of a verification.
const SECONDS_BUCKETS: [f64; 15] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];
/// From a small frame to a sealed segment.
const BYTES_BUCKETS: [f64; 7] = [
    1024.0,
    8192.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
    134_217_728.0,
];

/// Shows the metrics of this process; clones are the same.
#[derive(Clone)]
pub struct MetricsHandle {
    recorder: PrometheusHandle,
}

/// Installs the recorder of the whole process. Histograms named `…_seconds` and `…_bytes` have fixed buckets.
///
/// # Errors
/// A second call.
pub fn install_metrics() -> Result<MetricsHandle, MetricsError> {
    let recorder = builder()?.install_recorder()?;
    process::describe();
    Ok(MetricsHandle { recorder })
}

pub(crate) fn builder() -> Result<PrometheusBuilder, MetricsError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)?)
}

impl MetricsHandle {
    #[cfg(test)]
    pub(crate) fn of(recorder: PrometheusHandle) -> Self {
        Self { recorder }
    }

    /// Everything in the Prometheus text format, with fresh figures of the process itself.
    pub fn render(&self) -> String {
        process::record();
        self.recorder.render()
    }

    /// Moves what histograms buffered into their buckets; [`admin::serve`](crate::admin::serve) does it regularly.
    pub fn upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Publishes `fleetmend_build_info`, always 1, with what runs.
    pub fn build_info(&self, component: &'static str, version: &'static str) {
        describe_gauge!(
            "fleetmend_build_info",
            "always 1; which component of which version runs"
        );
        gauge!("fleetmend_build_info", "component" => component, "version" => version).set(1.0);
    }
}
