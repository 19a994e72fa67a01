//! Names of the room's metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const FAILURES: &str = "fleetmend_collector_control_failures_total";
const AWAY: &str = "fleetmend_collector_control_away";
const LEASES_LOST: &str = "fleetmend_collector_control_leases_lost_total";
const LEASES_HELD: &str = "fleetmend_collector_control_leases_held";

/// Names and units, for whoever reads them.
pub(crate) fn describe() {
    describe_counter!(FAILURES, Unit::Count, "statements that failed, by reason");
    describe_gauge!(
        AWAY,
        Unit::Count,
        "1 while the control database cannot be reached"
    );
    describe_counter!(
        LEASES_LOST,
        Unit::Count,
        "leases that could not be renewed in time or went to another collector"
    );
    describe_gauge!(LEASES_HELD, Unit::Count, "named leases that this collector holds");
}

pub(crate) fn failed(reason: &'static str) {
    counter!(FAILURES, "reason" => reason).increment(1);
}

pub(crate) fn away(is_away: bool) {
    gauge!(AWAY).set(if is_away { 1.0 } else { 0.0 });
}

pub(crate) fn lease_lost() {
    counter!(LEASES_LOST).increment(1);
    gauge!(LEASES_HELD).decrement(1.0);
}

pub(crate) fn lease_taken() {
    gauge!(LEASES_HELD).increment(1.0);
}

pub(crate) fn lease_given_up() {
    gauge!(LEASES_HELD).decrement(1.0);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 4);
    }
}
