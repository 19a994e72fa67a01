//! The room's metrics; every name stands here and nowhere else.

use fleetmend_event::Lane;
use metrics::{counter, gauge};

/// A frame was handed to the connection.
pub(crate) fn sent(lane: Lane, bytes: usize) {
    counter!("fleetmend_agent_stream_frames_sent_total", "lane" => lane.as_str()).increment(1);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!("fleetmend_agent_stream_sent_bytes_total", "lane" => lane.as_str()).increment(bytes);
}

/// Frames were acknowledged.
pub(crate) fn acknowledged(frames: usize) {
    counter!("fleetmend_agent_stream_frames_acknowledged_total")
        .increment(u64::try_from(frames).unwrap_or(u64::MAX));
}

/// A session ended.
pub(crate) fn ended(reason: &'static str) {
    counter!("fleetmend_agent_stream_sessions_ended_total", "reason" => reason).increment(1);
}

/// Whether there is a session.
pub(crate) fn connected(connected: bool) {
    gauge!("fleetmend_agent_stream_connected_state").set(f64::from(u8::from(connected)));
}

/// An order came and was handed on, or was refused because too many wait.
pub(crate) fn order(outcome: &'static str) {
    counter!("fleetmend_agent_stream_orders_received_total", "outcome" => outcome).increment(1);
}
