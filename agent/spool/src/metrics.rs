//! The room's metrics; every name stands here and nowhere else.

use fleetmend_event::Lane;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Facts taken in, by lane.
const FACTS_RECEIVED: &str = "fleetmend_agent_spool_facts_received_total";
/// Rows lost, by lane and reason; each loss is a gap row.
const ROWS_DROPPED: &str = "fleetmend_agent_spool_rows_dropped_total";
/// Bytes of raw samples that were thinned.
const THINNED_RAW_BYTES: &str = "fleetmend_agent_spool_thinned_raw_bytes_total";
/// Bytes of what was made of them.
const THINNED_AGGREGATE_BYTES: &str = "fleetmend_agent_spool_thinned_aggregate_bytes_total";
/// Frames made durable, by lane.
const FRAMES_WRITTEN: &str = "fleetmend_agent_spool_frames_written_total";
/// Bytes made durable, by lane.
const WRITTEN_BYTES: &str = "fleetmend_agent_spool_written_bytes_total";
/// One append with its sync.
const FLUSH_SECONDS: &str = "fleetmend_agent_spool_flush_seconds";
/// Bytes that a lane holds on disk.
const HELD_BYTES: &str = "fleetmend_agent_spool_held_bytes";
/// 1 while the disk refuses writes, else 0.
const DISK_REFUSES: &str = "fleetmend_agent_spool_disk_refuses_state";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(FACTS_RECEIVED, Unit::Count, "facts taken in, by lane");
    describe_counter!(
        ROWS_DROPPED,
        Unit::Count,
        "rows lost, by lane and reason; each loss is a gap row"
    );
    describe_counter!(
        THINNED_RAW_BYTES,
        Unit::Bytes,
        "bytes of raw samples that were thinned"
    );
    describe_counter!(
        THINNED_AGGREGATE_BYTES,
        Unit::Bytes,
        "bytes of the aggregates that thinning made"
    );
    describe_counter!(FRAMES_WRITTEN, Unit::Count, "frames made durable, by lane");
    describe_counter!(WRITTEN_BYTES, Unit::Bytes, "bytes made durable, by lane");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "one append with its sync");
    describe_gauge!(HELD_BYTES, Unit::Bytes, "bytes that a lane holds on disk");
    describe_gauge!(
        DISK_REFUSES,
        Unit::Count,
        "1 while the disk refuses writes, else 0"
    );
}

/// Facts that were taken in.
pub(crate) fn received(lane: Lane, facts: u64) {
    counter!(FACTS_RECEIVED, "lane" => lane.as_str()).increment(facts);
}

/// Rows that were lost, by reason.
pub(crate) fn dropped(lane: Lane, reason: &'static str, rows: u64) {
    counter!(ROWS_DROPPED, "lane" => lane.as_str(), "reason" => reason).increment(rows);
}

/// Raw samples became aggregates.
pub(crate) fn thinned(raw_bytes: u64, aggregate_bytes: u64) {
    counter!(THINNED_RAW_BYTES).increment(raw_bytes);
    counter!(THINNED_AGGREGATE_BYTES).increment(aggregate_bytes);
}

/// Frames and bytes that were made durable.
pub(crate) fn written(lane: Lane, frames: u64, bytes: u64) {
    counter!(FRAMES_WRITTEN, "lane" => lane.as_str()).increment(frames);
    counter!(WRITTEN_BYTES, "lane" => lane.as_str()).increment(bytes);
}

/// How long an append with its sync took.
pub(crate) fn flush_took(seconds: f64) {
    histogram!(FLUSH_SECONDS).record(seconds);
}

/// Bytes that a lane holds on disk.
pub(crate) fn held(lane: Lane, bytes: u64) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge; spools are far below 2^53 bytes"
    )]
    gauge!(HELD_BYTES, "lane" => lane.as_str()).set(bytes as f64);
}

/// Whether the disk refused the last write.
pub(crate) fn disk_refuses(refuses: bool) {
    gauge!(DISK_REFUSES).set(f64::from(u8::from(refuses)));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 3);
    }
}
