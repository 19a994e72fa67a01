//! Metrics of enrolment.

use fleetmend_event::TimeMicros;
use metrics::{Unit, describe_counter, describe_gauge};

/// Hosts enrolled, again included.
const ENROLLED: &str = "fleetmend_collector_ingest_enrolled_hosts_total";
/// Certificates renewed.
const RENEWED: &str = "fleetmend_collector_ingest_renewed_certificates_total";
/// Requests for a certificate that were refused, by reason.
const REFUSED: &str = "fleetmend_collector_ingest_refused_requests_total";
/// Audit rows written.
const AUDITED: &str = "fleetmend_collector_ingest_audit_rows_total";
/// Audit rows left out because their source or the whole listener had too many.
const SUPPRESSED: &str = "fleetmend_collector_ingest_audit_suppressed_rows_total";

/// Sightings of two agents of one host that had no place to wait in.
const ALARMS_DROPPED: &str = "fleetmend_collector_ingest_dropped_alarms_total";

/// When the collector's certificates end, in seconds since 1970: `own` is the one its listeners show, `issuing`
/// the one above it and above every host's, `root` the fleet root's; of two the one that ends first.
const CERT_NOT_AFTER: &str = "fleetmend_collector_ingest_cert_not_after_seconds";

/// Describes every metric of enrolment to the recorder.
pub(super) fn describe() {
    describe_counter!(ENROLLED, Unit::Count, "hosts enrolled, again included");
    describe_counter!(RENEWED, Unit::Count, "certificates renewed");
    describe_counter!(
        REFUSED,
        Unit::Count,
        "requests for a certificate that were refused, by reason"
    );
    describe_counter!(AUDITED, Unit::Count, "audit rows written");
    describe_counter!(
        SUPPRESSED,
        Unit::Count,
        "audit rows left out because there were too many"
    );
    describe_counter!(
        ALARMS_DROPPED,
        Unit::Count,
        "sightings of two agents of one host that had no place to wait in"
    );
    describe_gauge!(
        CERT_NOT_AFTER,
        Unit::Seconds,
        "when the collector's certificates end, in seconds since 1970, by certificate"
    );
}

pub(super) fn enrolled() {
    metrics::counter!(ENROLLED).increment(1);
}

pub(super) fn renewed() {
    metrics::counter!(RENEWED).increment(1);
}

pub(super) fn refused(reason: &'static str) {
    metrics::counter!(REFUSED, "reason" => reason).increment(1);
}

pub(super) fn audited() {
    metrics::counter!(AUDITED).increment(1);
}

pub(super) fn suppressed() {
    metrics::counter!(SUPPRESSED).increment(1);
}

pub(super) fn alarm_dropped() {
    metrics::counter!(ALARMS_DROPPED).increment(1);
}

pub(super) fn cert_not_after(certificate: &'static str, not_after: TimeMicros) {
    metrics::gauge!(CERT_NOT_AFTER, "certificate" => certificate).set(seconds(not_after));
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 have 51 bits")]
fn seconds(time: TimeMicros) -> f64 {
    time.0 as f64 / 1e6
}
