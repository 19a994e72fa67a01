//! Metrics of the carrier; every name stands here. Those of enrolment stand there.

use std::time::Duration;

use fleetmend_event::Lane;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Frames that came in, by lane.
const FRAMES_RECEIVED: &str = "fleetmend_collector_ingest_frames_received_total";
/// Rows that came in, by lane.
const ROWS_RECEIVED: &str = "fleetmend_collector_ingest_rows_received_total";
/// Bytes of frames that came in, relative ones made whole, by lane.
const RECEIVED_BYTES: &str = "fleetmend_collector_ingest_received_bytes_total";
/// Frames and messages that were not taken as they came, by reason.
const FRAMES_REFUSED: &str = "fleetmend_collector_ingest_frames_refused_total";
/// Seconds that the sink took for one message.
const COMMIT_SECONDS: &str = "fleetmend_collector_ingest_commit_seconds";
/// Streams that ended, by reason.
const STREAMS_ENDED: &str = "fleetmend_collector_ingest_streams_ended_total";
/// Hosts with a live stream.
const CONNECTED_HOSTS: &str = "fleetmend_collector_ingest_connected_hosts";
/// Seconds by which the clocks of hosts differ from the collector's, at each heartbeat.
const CLOCK_OFFSET_SECONDS: &str = "fleetmend_collector_ingest_clock_offset_seconds";
/// Results of orders that had nowhere to go.
const ORDER_RESULTS_DROPPED: &str = "fleetmend_collector_ingest_order_results_dropped_total";

/// Relative frames that were made whole.
const RELATIVE_FRAMES: &str = "fleetmend_collector_ingest_relative_frames_total";
/// Bytes that they were shorter than the frames they were made into.
const RELATIVE_SAVED_BYTES: &str = "fleetmend_collector_ingest_relative_saved_bytes_total";
/// Bytes of bodies that are kept to read relative frames.
const BASES_BYTES: &str = "fleetmend_collector_ingest_bases_bytes";
/// Bytes of messages that are being received or stored.
const IN_FLIGHT_BYTES: &str = "fleetmend_collector_ingest_in_flight_bytes";
/// Times that a host was over its quota and was held or sent away, by reason.
const HOSTS_HELD: &str = "fleetmend_collector_ingest_hosts_held_total";
/// Streams that found no place, by reason.
const STREAMS_REFUSED: &str = "fleetmend_collector_ingest_streams_refused_total";
/// Connections that were closed because there were too many of their kind or nobody called, by reason.
const CONNECTIONS_REFUSED: &str = "fleetmend_collector_ingest_connections_refused_total";

/// Describes every metric of the carrier to the recorder.
pub(crate) fn describe() {
    describe_counter!(FRAMES_RECEIVED, Unit::Count, "frames that came in, by lane");
    describe_counter!(ROWS_RECEIVED, Unit::Count, "rows that came in, by lane");
    describe_counter!(
        RECEIVED_BYTES,
        Unit::Bytes,
        "bytes of frames that came in, relative ones made whole, by lane"
    );
    describe_counter!(
        FRAMES_REFUSED,
        Unit::Count,
        "frames and messages not taken as they came, by reason"
    );
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "until the frames of one message were durable"
    );
    describe_counter!(STREAMS_ENDED, Unit::Count, "streams that ended, by reason");
    describe_gauge!(CONNECTED_HOSTS, Unit::Count, "hosts with a live stream");
    describe_counter!(
        RELATIVE_FRAMES,
        Unit::Count,
        "relative frames that were made whole"
    );
    describe_counter!(
        RELATIVE_SAVED_BYTES,
        Unit::Bytes,
        "bytes that relative frames were shorter on the way than whole"
    );
    describe_gauge!(
        BASES_BYTES,
        Unit::Bytes,
        "bytes of bodies that are kept to read relative frames"
    );
    describe_gauge!(
        IN_FLIGHT_BYTES,
        Unit::Bytes,
        "bytes of messages that are being received or stored"
    );
    describe_counter!(
        HOSTS_HELD,
        Unit::Count,
        "times that a host over its quota was held or sent away, by reason"
    );
    describe_counter!(
        STREAMS_REFUSED,
        Unit::Count,
        "streams that found no place, by reason"
    );
    describe_counter!(
        CONNECTIONS_REFUSED,
        Unit::Count,
        "connections closed because there were too many of their kind or nobody called, by reason"
    );
    describe_histogram!(
        CLOCK_OFFSET_SECONDS,
        Unit::Seconds,
        "by how much the clocks of hosts are wrong, either way, at each heartbeat"
    );
    describe_counter!(
        ORDER_RESULTS_DROPPED,
        Unit::Count,
        "results of orders that had nowhere to go"
    );
}

/// A frame came in.
pub(crate) fn received(lane: Lane, rows: u32, bytes: usize) {
    counter!(FRAMES_RECEIVED, "lane" => lane.as_str()).increment(1);
    counter!(ROWS_RECEIVED, "lane" => lane.as_str()).increment(rows.into());
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!(RECEIVED_BYTES, "lane" => lane.as_str()).increment(bytes);
}

/// A frame was not stored as it came.
pub(crate) fn refused(reason: &'static str) {
    counter!(FRAMES_REFUSED, "reason" => reason).increment(1);
}

/// How long the sink took.
pub(crate) fn committed(took: Duration) {
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
}

/// A stream ended.
pub(crate) fn ended(reason: &'static str) {
    counter!(STREAMS_ENDED, "reason" => reason).increment(1);
}

/// Live streams.
pub(crate) fn connected(hosts: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge of at most some thousands")]
    gauge!(CONNECTED_HOSTS).set(hosts as f64);
}

/// A relative frame was made whole, and is so much longer.
pub(crate) fn restored(saved: usize) {
    counter!(RELATIVE_FRAMES).increment(1);
    counter!(RELATIVE_SAVED_BYTES).increment(u64::try_from(saved).unwrap_or(u64::MAX));
}

/// Bytes that are kept for relative frames.
pub(crate) fn bases(bytes: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge of some megabytes")]
    gauge!(BASES_BYTES).set(bytes as f64);
}

/// Bytes that have room.
pub(crate) fn in_flight(bytes: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge of some megabytes")]
    gauge!(IN_FLIGHT_BYTES).set(bytes as f64);
}

/// A host was over its quota.
pub(crate) fn held(reason: &'static str) {
    counter!(HOSTS_HELD, "reason" => reason).increment(1);
}

/// A stream found no place.
pub(crate) fn stream_refused(reason: &'static str) {
    counter!(STREAMS_REFUSED, "reason" => reason).increment(1);
}

/// A connection was closed.
pub(crate) fn connection_refused(reason: &'static str) {
    counter!(CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

/// By how much the clock of a host is ahead, in microseconds.
pub(crate) fn clock_ahead(micros: i64) {
    histogram!(CLOCK_OFFSET_SECONDS).record(Duration::from_micros(micros.unsigned_abs()).as_secs_f64());
}

/// An order's result had nowhere to go.
pub(crate) fn result_dropped() {
    counter!(ORDER_RESULTS_DROPPED).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        for source in [include_str!("metrics.rs"), include_str!("enrol/metrics.rs")] {
            fleetmend_testkit::metric::assert_described_and_recorded(source, 5);
        }
    }
}
