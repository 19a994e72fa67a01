//! Metrics of the host-anomaly model.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Seconds one inference took (histogram).
pub(crate) const INFERENCE_SECONDS: &str = "fleetmend_agent_detect_inference_seconds";
/// Windows that were scored.
pub(crate) const WINDOWS_TOTAL: &str = "fleetmend_agent_detect_windows_total";
/// Windows rarer than the configured alerts per host-day.
pub(crate) const UNUSUAL_WINDOWS_TOTAL: &str = "fleetmend_agent_detect_unusual_windows_total";
/// Windows left out of learning.
pub(crate) const EXCLUDED_WINDOWS_TOTAL: &str = "fleetmend_agent_detect_excluded_windows_total";
/// Fits of the model's parameters.
pub(crate) const FITS_TOTAL: &str = "fleetmend_agent_detect_fits_total";
/// Regimes that were accepted as normal.
pub(crate) const REGIMES_TOTAL: &str = "fleetmend_agent_detect_regimes_total";
/// Vectors dropped because the model's queue was full, or its answers' queue.
pub(crate) const VECTORS_DROPPED_TOTAL: &str = "fleetmend_agent_detect_vectors_dropped_total";
/// Windows whose inference failed.
pub(crate) const INFERENCE_ERRORS_TOTAL: &str = "fleetmend_agent_detect_inference_errors_total";
/// Features without a value in the last window (gauge).
pub(crate) const MISSING_FEATURES: &str = "fleetmend_agent_detect_missing_features";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_histogram!(INFERENCE_SECONDS, Unit::Seconds, "one inference");
    describe_counter!(WINDOWS_TOTAL, Unit::Count, "windows that were scored");
    describe_counter!(
        UNUSUAL_WINDOWS_TOTAL,
        Unit::Count,
        "windows rarer than the configured alerts a day"
    );
    describe_counter!(
        EXCLUDED_WINDOWS_TOTAL,
        Unit::Count,
        "windows left out of learning"
    );
    describe_counter!(FITS_TOTAL, Unit::Count, "fits of the model's parameters");
    describe_counter!(REGIMES_TOTAL, Unit::Count, "regimes accepted as normal");
    describe_counter!(
        VECTORS_DROPPED_TOTAL,
        Unit::Count,
        "vectors and answers dropped, by reason"
    );
    describe_counter!(
        INFERENCE_ERRORS_TOTAL,
        Unit::Count,
        "windows whose inference failed"
    );
    describe_gauge!(
        MISSING_FEATURES,
        Unit::Count,
        "features without a value in the last window"
    );
}

pub(super) fn inferred(took: Duration, missing: usize) {
    histogram!(INFERENCE_SECONDS).record(took.as_secs_f64());
    counter!(WINDOWS_TOTAL).increment(1);
    gauge!(MISSING_FEATURES).set(missing as f64);
}

pub(super) fn unusual() {
    counter!(UNUSUAL_WINDOWS_TOTAL).increment(1);
}

pub(super) fn excluded() {
    counter!(EXCLUDED_WINDOWS_TOTAL).increment(1);
}

pub(super) fn fitted() {
    counter!(FITS_TOTAL).increment(1);
}

pub(super) fn regime_accepted() {
    counter!(REGIMES_TOTAL).increment(1);
}

pub(super) fn dropped(queue: &'static str) {
    counter!(VECTORS_DROPPED_TOTAL, "reason" => queue).increment(1);
}

pub(super) fn failed() {
    counter!(INFERENCE_ERRORS_TOTAL).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 3);
    }
}
