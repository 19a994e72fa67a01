//! Metric samples, one row per series and batch.

use super::table;
use crate::{Lane, TimeMicros};

table! {
    /// The samples of one series over one batch. On the wire a series' name is said once per batch; SQL shows
    /// the table `metrics` with one row per sample: `time, name, unit, labels, value`.
    ///
    /// Sample `i` was taken at `start_time + i × step_ms` when `step_ms` > 0, otherwise at
    /// `start_time + offset_ms[i]`. A NaN value is a sample that could not be taken.
    pub struct MetricChunk("metrics", id 1, version 1, Lane::Metrics) {
        /// OpenTelemetry name, such as `system.cpu.utilization`.
        name: String,
        /// Unit in UCUM, as OpenTelemetry gives it: `1`, `By`, `s`, `{process}`.
        unit: String,
        /// Attributes as a JSON object with sorted keys and text values: `{"cpu.mode":"user"}`.
        labels: String,
        /// When the first sample was taken.
        start_time: TimeMicros,
        /// Milliseconds from sample to sample; 0 when the samples are irregular.
        step_ms: u32,
        /// Milliseconds from `start_time` to each sample; empty when the samples are regular.
        offset_ms: Vec<u32>,
        /// The samples.
        value: Vec<f64>,
    }
}
