//! Metrics of the identity's keeper.

use fleetmend_event::TimeMicros;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// When this host's certificate ends, in seconds since 1970.
const CERT_NOT_AFTER: &str = "fleetmend_agent_stream_cert_not_after_seconds";
/// Attempts to renew or recover the certificate, by outcome.
const RENEWALS: &str = "fleetmend_agent_stream_cert_renewals_total";

/// Describes every metric to the recorder.
pub(super) fn describe() {
    describe_gauge!(
        CERT_NOT_AFTER,
        Unit::Seconds,
        "when this host's certificate ends, in seconds since 1970"
    );
    describe_counter!(
        RENEWALS,
        Unit::Count,
        "attempts to renew or recover the certificate, by outcome"
    );
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 have 51 bits")]
pub(super) fn cert_not_after(not_after: TimeMicros) {
    gauge!(CERT_NOT_AFTER).set(not_after.0 as f64 / 1e6);
}

pub(super) fn renewal(outcome: &'static str) {
    counter!(RENEWALS, "outcome" => outcome).increment(1);
}
