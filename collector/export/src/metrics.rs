//! Names of the room's metrics. The label `target` is a name of the configuration.

use metrics::{describe_counter, describe_gauge};

pub(crate) const RECEIVED: &str = "fleetmend_collector_export_received_total";
pub(crate) const SENT: &str = "fleetmend_collector_export_sent_total";
pub(crate) const DROPPED: &str = "fleetmend_collector_export_dropped_total";
pub(crate) const REQUESTS: &str = "fleetmend_collector_export_requests_total";
pub(crate) const BEHIND: &str = "fleetmend_collector_export_behind_seconds";
pub(crate) const SKIPPED: &str = "fleetmend_collector_export_skipped_seconds_total";
pub(crate) const CATCH_UPS: &str = "fleetmend_collector_export_catch_ups_total";
pub(crate) const FAILURES: &str = "fleetmend_collector_export_failures_total";

pub(crate) fn describe() {
    describe_counter!(
        RECEIVED,
        "samples and rows read for a target, after its filters, by target and signal"
    );
    describe_counter!(
        SENT,
        "samples and rows that a target accepted, by target and signal"
    );
    describe_counter!(
        DROPPED,
        "samples and rows that were not sent or not accepted, by target, signal and reason"
    );
    describe_counter!(REQUESTS, "requests to a target, by target and outcome");
    describe_gauge!(
        BEHIND,
        "age of the oldest that a target does not have yet, in seconds, by target and signal"
    );
    describe_counter!(
        SKIPPED,
        "span that was older than the catch-up bound and is not sent, summed over hosts or tables, by target"
    );
    describe_counter!(
        CATCH_UPS,
        "times that a target is fed from the store instead of live rows, by target and reason"
    );
    describe_counter!(
        FAILURES,
        "rounds that failed on this side and are done again, by target and what"
    );
}
