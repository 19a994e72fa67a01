//! Metrics of this room, by name in one place.

use metrics::{Unit, describe_counter};

/// Findings that came.
pub const FINDINGS_RECEIVED: &str = "fleetmend_agent_heal_findings_received_total";
/// Findings that were dropped, by `reason`: `queue_full`, `book_full`.
pub const FINDINGS_DROPPED: &str = "fleetmend_agent_heal_findings_dropped_total";
/// Proposals sent, by `remedy`.
pub const PROPOSALS_SENT: &str = "fleetmend_agent_heal_proposals_sent_total";
/// Ledger entries passed on.
pub const ENTRIES_SENT: &str = "fleetmend_agent_heal_ledger_entries_sent_total";
/// Connections to the healer that failed.
pub const CONNECTIONS_FAILED: &str = "fleetmend_agent_heal_connections_failed_total";
/// Trust bundles that the healer took.
pub const BUNDLES_CARRIED: &str = "fleetmend_agent_heal_trust_bundles_carried_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(FINDINGS_RECEIVED, Unit::Count, "findings that came");
    describe_counter!(
        FINDINGS_DROPPED,
        Unit::Count,
        "findings that were dropped, by reason"
    );
    describe_counter!(PROPOSALS_SENT, Unit::Count, "proposals sent, by remedy");
    describe_counter!(ENTRIES_SENT, Unit::Count, "ledger entries passed on");
    describe_counter!(
        CONNECTIONS_FAILED,
        Unit::Count,
        "connections to the healer that failed"
    );
    describe_counter!(BUNDLES_CARRIED, Unit::Count, "trust bundles that the healer took");
}

pub(crate) fn finding_received() {
    metrics::counter!(FINDINGS_RECEIVED).increment(1);
}

pub(crate) fn finding_dropped(reason: &'static str) {
    metrics::counter!(FINDINGS_DROPPED, "reason" => reason).increment(1);
}

pub(crate) fn proposal_sent(remedy: &'static str) {
    metrics::counter!(PROPOSALS_SENT, "remedy" => remedy).increment(1);
}

pub(crate) fn entry_sent() {
    metrics::counter!(ENTRIES_SENT).increment(1);
}

pub(crate) fn connection_failed() {
    metrics::counter!(CONNECTIONS_FAILED).increment(1);
}

pub(crate) fn bundles_carried(bundles: usize) {
    metrics::counter!(BUNDLES_CARRIED).increment(u64::try_from(bundles).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 4);
    }
}
