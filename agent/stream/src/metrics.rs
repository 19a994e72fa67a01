//! The room's metrics; every name stands here and nowhere else.

use fleetmend_event::Lane;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Frames handed to the connection, by lane.
const FRAMES_SENT: &str = "fleetmend_agent_stream_frames_sent_total";
/// Those among them that were relative to others, by lane.
const RELATIVE_FRAMES: &str = "fleetmend_agent_stream_relative_frames_total";
/// Bytes of those frames, by lane.
const SENT_BYTES: &str = "fleetmend_agent_stream_sent_bytes_total";
/// Frames that the collector made durable.
const FRAMES_ACKNOWLEDGED: &str = "fleetmend_agent_stream_frames_acknowledged_total";
/// Sessions that ended, by reason.
const SESSIONS_ENDED: &str = "fleetmend_agent_stream_sessions_ended_total";
/// Whether there is a session.
const CONNECTED: &str = "fleetmend_agent_stream_connected_state";
/// Bytes that were charged to the cap on what leaves the host.
const EGRESS_BYTES: &str = "fleetmend_agent_stream_egress_bytes_total";
/// The cap, in bytes per second; 0 without one.
const EGRESS_LIMIT: &str = "fleetmend_agent_stream_egress_limit_bytes_per_second";
/// Times that frames had to wait for the cap.
const EGRESS_HELD: &str = "fleetmend_agent_stream_egress_held_total";
/// Answers about the time, by what became of them.
const TIME_ANSWERS: &str = "fleetmend_agent_stream_time_answers_total";
/// Orders that came, by outcome.
const ORDERS_RECEIVED: &str = "fleetmend_agent_stream_orders_received_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(
        FRAMES_SENT,
        Unit::Count,
        "frames handed to the connection, by lane"
    );
    describe_counter!(SENT_BYTES, Unit::Bytes, "bytes of those frames as sent, by lane");
    describe_counter!(
        RELATIVE_FRAMES,
        Unit::Count,
        "frames that were sent relative to those before them, by lane"
    );
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
    describe_counter!(
        EGRESS_BYTES,
        Unit::Bytes,
        "bytes sent, with what HTTP/2 and TLS add to them by estimate: what the cap is charged with"
    );
    describe_gauge!(
        EGRESS_LIMIT,
        Unit::Bytes,
        "cap on bytes sent per second over the long run; 0 without one"
    );
    describe_counter!(
        EGRESS_HELD,
        Unit::Count,
        "times that frames of the events and metrics lanes had to wait for the cap"
    );
    describe_counter!(
        TIME_ANSWERS,
        Unit::Count,
        "answers of collectors about the time, by what became of them"
    );
    describe_counter!(ORDERS_RECEIVED, Unit::Count, "orders that came, by outcome");
}

/// A frame was handed to the connection.
pub(crate) fn sent(lane: Lane, bytes: usize) {
    counter!(FRAMES_SENT, "lane" => lane.as_str()).increment(1);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!(SENT_BYTES, "lane" => lane.as_str()).increment(bytes);
}

/// A frame was sent relative to another.
pub(crate) fn relative(lane: Lane) {
    counter!(RELATIVE_FRAMES, "lane" => lane.as_str()).increment(1);
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

/// Bytes were charged to the cap.
pub(crate) fn egress(bytes: u64) {
    counter!(EGRESS_BYTES).increment(bytes);
}

/// What the cap is.
#[expect(clippy::cast_precision_loss, reason = "a cap has far fewer than 2^52 bytes")]
pub(crate) fn egress_limit(bytes_per_s: Option<u64>) {
    gauge!(EGRESS_LIMIT).set(bytes_per_s.unwrap_or(0) as f64);
}

/// Frames wait for the cap.
pub(crate) fn egress_held() {
    counter!(EGRESS_HELD).increment(1);
}

/// A collector answered a question about the time, or said it unasked.
pub(crate) fn time_answer(outcome: &'static str) {
    counter!(TIME_ANSWERS, "outcome" => outcome).increment(1);
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
