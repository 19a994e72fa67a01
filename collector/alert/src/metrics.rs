//! Names of the room's metrics.

use metrics::{describe_counter, describe_gauge};

pub(crate) const ROWS: &str = "fleetmend_collector_alert_rows_total";
pub(crate) const UNREADABLE: &str = "fleetmend_collector_alert_rows_unreadable_total";
pub(crate) const IGNORED: &str = "fleetmend_collector_alert_rows_ignored_total";
pub(crate) const LEFT_OUT: &str = "fleetmend_collector_alert_alerts_left_out_total";
pub(crate) const TRANSITIONS: &str = "fleetmend_collector_alert_transitions_total";
pub(crate) const UNKNOWN: &str = "fleetmend_collector_alert_unknown_total";
pub(crate) const DELIVERIES: &str = "fleetmend_collector_alert_deliveries_total";
pub(crate) const WAITING: &str = "fleetmend_collector_alert_deliveries_waiting";
pub(crate) const FAILURES: &str = "fleetmend_collector_alert_evaluations_failed_total";

/// Samples that recording rules gave.
pub(crate) const RECORDED: &str = "fleetmend_collector_alert_recorded_samples_total";
/// Those among them that differ from what was recorded before, because samples came late.
pub(crate) const RECORDED_AGAIN: &str = "fleetmend_collector_alert_recorded_samples_again_total";
pub(crate) const RECORD_FAILURES: &str = "fleetmend_collector_alert_recordings_failed_total";

pub(crate) fn describe() {
    describe_counter!(RECORDED, "samples that recording rules gave");
    describe_counter!(RECORDED_AGAIN, "samples recorded anew because others came late");
    describe_counter!(
        RECORD_FAILURES,
        "evaluations of recording rules that gave nothing"
    );
    describe_counter!(ROWS, "rows of findings and actions that were read, by table");
    describe_counter!(
        UNREADABLE,
        "rows passed over because they hold what this version does not know, by table"
    );
    describe_counter!(IGNORED, "findings that reached no rule, by reason");
    describe_counter!(
        LEFT_OUT,
        "alerts not begun because their host had begun too many that minute"
    );
    describe_counter!(TRANSITIONS, "alerts that came into a state, by state");
    describe_counter!(
        UNKNOWN,
        "conditions on metrics that could not be judged, by reason"
    );
    describe_counter!(DELIVERIES, "attempts to deliver a message, by outcome");
    describe_gauge!(WAITING, "messages that wait to be accepted");
    describe_counter!(FAILURES, "rounds that failed and are done again");
}
