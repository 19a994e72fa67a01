//! The room's metrics; every name stands here and nowhere else.

use fleetmend_event::Lane;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Frames handed to the connection, by lane.
const FRAMES_SENT: &str = "fleetmend_agent_stream_frames_sent_total";
/// Bytes of those frames, by lane.
const SENT_BYTES: &str = "fleetmend_agent_stream_sent_bytes_total";
/// Frames that the collector made durable.
const FRAMES_ACKNOWLEDGED: &str = "fleetmend_agent_stream_frames_acknowledged_total";
/// Sessions that ended, by reason.
const SESSIONS_ENDED: &str = "fleetmend_agent_stream_sessions_ended_total";
/// Whether there is a session.
const CONNECTED: &str = "fleetmend_agent_stream_connected_state";
/// Orders that came, by outcome.
const ORDERS_RECEIVED: &str = "fleetmend_agent_stream_orders_received_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(
        FRAMES_SENT,
        Unit::Count,
        "frames handed to the connection, by lane"
    );
    describe_counter!(SENT_BYTES, Unit::Bytes, "bytes of those frames, by lane");
    describe_counter!(
        FRAMES_ACKNOWLEDGED,
        Unit::Count,
        "frames that the collector made durable"
    );
    describe_counter!(SESSIONS_ENDED, Unit::Count, "sessions that ended, by reason");
    describe_gauge!(
        CONNECTED,
        Unit::Count,
        "1 while there is a session with a collector, else 0"
    );
    describe_counter!(ORDERS_RECEIVED, Unit::Count, "orders that came, by outcome");
}

/// A frame was handed to the connection.
pub(crate) fn sent(lane: Lane, bytes: usize) {
    counter!(FRAMES_SENT, "lane" => lane.as_str()).increment(1);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!(SENT_BYTES, "lane" => lane.as_str()).increment(bytes);
}

/// Frames were acknowledged.
pub(crate) fn acknowledged(frames: usize) {
    counter!(FRAMES_ACKNOWLEDGED).increment(u64::try_from(frames).unwrap_or(u64::MAX));
}

/// A session ended.
pub(crate) fn ended(reason: &'static str) {
    counter!(SESSIONS_ENDED, "reason" => reason).increment(1);
}

/// Whether there is a session.
pub(crate) fn connected(connected: bool) {
    gauge!(CONNECTED).set(f64::from(u8::from(connected)));
}

/// An order came and was handed on, or was refused because too many wait.
pub(crate) fn order(outcome: &'static str) {
    counter!(ORDERS_RECEIVED, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 3);
    }
}
