//! Metrics of this room, by name in one place.

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
