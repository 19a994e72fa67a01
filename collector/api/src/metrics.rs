//! Names of the room's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const REQUESTS: &str = "fleetmend_collector_api_requests_total";
pub(crate) const DURATION: &str = "fleetmend_collector_api_request_duration_seconds";
pub(crate) const CONNECTIONS: &str = "fleetmend_collector_api_connections";
pub(crate) const REFUSED: &str = "fleetmend_collector_api_requests_refused_total";
pub(crate) const LOGINS: &str = "fleetmend_collector_api_logins_total";
pub(crate) const FORGOTTEN: &str = "fleetmend_collector_api_limits_forgotten_total";
pub(crate) const AUDIT_SUPPRESSED: &str = "fleetmend_collector_api_audit_rows_suppressed_total";
pub(crate) const LIVE_STREAMS: &str = "fleetmend_collector_api_live_streams";
pub(crate) const LIVE_SKIPPED: &str = "fleetmend_collector_api_live_batches_dropped_total";
/// When the certificate of the API's listener ends, in seconds since 1970.
pub(crate) const CERT_NOT_AFTER: &str = "fleetmend_collector_api_cert_not_after_seconds";

pub(crate) fn describe() {
    describe_counter!(REQUESTS, "requests answered, by route and status");
    describe_histogram!(DURATION, Unit::Seconds, "time to the head of an answer, by route");
    describe_gauge!(CONNECTIONS, "connections open");
    describe_counter!(REFUSED, "requests refused before their handler, by reason");
    describe_counter!(LOGINS, "logins, by outcome");
    describe_counter!(
        FORGOTTEN,
        "entries of the limits' maps dropped because the maps were full"
    );
    describe_counter!(
        AUDIT_SUPPRESSED,
        "refusals left out of the audit trail because a minute had too many"
    );
    describe_gauge!(LIVE_STREAMS, "live streams open");
    describe_counter!(LIVE_SKIPPED, "batches that a slow live stream skipped");
    describe_gauge!(
        CERT_NOT_AFTER,
        Unit::Seconds,
        "when the certificate of the API's listener ends, in seconds since 1970"
    );
}

/// Shows when the listener's certificate ends.
#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 have 51 bits")]
pub(crate) fn cert_not_after(end: fleetmend_event::TimeMicros) {
    metrics::gauge!(CERT_NOT_AFTER).set(end.0 as f64 / 1e6);
}
