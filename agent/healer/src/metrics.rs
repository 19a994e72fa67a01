//! Metrics of the healer: in its log only (it has no listener), by name in one place.

use metrics::{Unit, describe_counter};

/// Proposals that came, by what was decided: `decision` is `act`, `observe`, `refuse`, `known` or `limited`.
pub const PROPOSALS: &str = "fleetmend_healer_proposals_total";
/// Transactions that ended, by `ending`.
pub const ENDINGS: &str = "fleetmend_healer_endings_total";
/// Ledger entries written.
pub const LEDGER_ENTRIES: &str = "fleetmend_healer_ledger_entries_total";
/// Connections that were closed by us, by `reason`: `peer`, `message`, `slow`, `idle`, `full`.
pub const CONNECTIONS_CLOSED: &str = "fleetmend_healer_connections_closed_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(PROPOSALS, Unit::Count, "proposals that came, by what was decided");
    describe_counter!(ENDINGS, Unit::Count, "transactions that ended, by ending");
    describe_counter!(LEDGER_ENTRIES, Unit::Count, "ledger entries written");
    describe_counter!(
        CONNECTIONS_CLOSED,
        Unit::Count,
        "connections that the healer closed, by reason"
    );
}

pub(crate) fn proposal(decision: &'static str) {
    metrics::counter!(PROPOSALS, "decision" => decision).increment(1);
}

pub(crate) fn ending(ending: fleetmend_event::remedy::Ending) {
    metrics::counter!(ENDINGS, "ending" => ending.as_str()).increment(1);
}

pub(crate) fn ledger_entry() {
    metrics::counter!(LEDGER_ENTRIES).increment(1);
}

pub(crate) fn connection_closed(reason: &'static str) {
    metrics::counter!(CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 4);
    }
}
