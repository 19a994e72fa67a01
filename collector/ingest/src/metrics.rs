//! Metrics of the carrier; every name stands here. Those of enrolment stand there.

use std::time::Duration;

use fleetmend_event::Lane;
use metrics::{counter, gauge, histogram};

/// A frame came in.
pub(crate) fn received(lane: Lane, rows: u32, bytes: usize) {
    counter!("fleetmend_collector_ingest_frames_received_total", "lane" => lane.as_str()).increment(1);
    counter!("fleetmend_collector_ingest_rows_received_total", "lane" => lane.as_str())
        .increment(rows.into());
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!("fleetmend_collector_ingest_received_bytes_total", "lane" => lane.as_str()).increment(bytes);
}

/// A frame was not stored as it came.
pub(crate) fn refused(reason: &'static str) {
    counter!("fleetmend_collector_ingest_frames_refused_total", "reason" => reason).increment(1);
}

/// How long the sink took.
pub(crate) fn committed(took: Duration) {
    histogram!("fleetmend_collector_ingest_commit_seconds").record(took.as_secs_f64());
}

/// A stream ended.
pub(crate) fn ended(reason: &'static str) {
    counter!("fleetmend_collector_ingest_streams_ended_total", "reason" => reason).increment(1);
}

/// Live streams.
pub(crate) fn connected(hosts: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge of at most some thousands")]
    gauge!("fleetmend_collector_ingest_connected_hosts").set(hosts as f64);
}

/// An order's result had nowhere to go.
pub(crate) fn result_dropped() {
    counter!("fleetmend_collector_ingest_order_results_dropped_total").increment(1);
}
