//! The room's metrics; every name stands here and nowhere else.

use fleetmend_event::Lane;
use metrics::{counter, gauge, histogram};

/// Facts that were taken in.
pub(crate) fn received(lane: Lane, facts: u64) {
    counter!("fleetmend_agent_spool_facts_received_total", "lane" => lane.as_str()).increment(facts);
}

/// Rows that were lost, by reason.
pub(crate) fn dropped(lane: Lane, reason: &'static str, rows: u64) {
    counter!("fleetmend_agent_spool_rows_dropped_total", "lane" => lane.as_str(), "reason" => reason)
        .increment(rows);
}

/// Frames and bytes that were made durable.
pub(crate) fn written(lane: Lane, frames: u64, bytes: u64) {
    counter!("fleetmend_agent_spool_frames_written_total", "lane" => lane.as_str()).increment(frames);
    counter!("fleetmend_agent_spool_written_bytes_total", "lane" => lane.as_str()).increment(bytes);
}

/// How long an append with its sync took.
pub(crate) fn flush_took(seconds: f64) {
    histogram!("fleetmend_agent_spool_flush_seconds").record(seconds);
}

/// Bytes that a lane holds on disk.
pub(crate) fn held(lane: Lane, bytes: u64) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge; spools are far below 2^53 bytes"
    )]
    gauge!("fleetmend_agent_spool_held_bytes", "lane" => lane.as_str()).set(bytes as f64);
}

/// Whether the disk refused the last write.
pub(crate) fn disk_refuses(refuses: bool) {
    gauge!("fleetmend_agent_spool_disk_refuses_state").set(f64::from(u8::from(refuses)));
}
