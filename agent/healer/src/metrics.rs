//! Metrics of the healer: in its log only (it has no listener), by name in one place.

/// Proposals that came, by what was decided: `decision` is `act`, `observe`, `refuse`, `known` or `limited`.
pub const PROPOSALS: &str = "fleetmend_healer_proposals_total";
/// Transactions that ended, by `ending`.
pub const ENDINGS: &str = "fleetmend_healer_endings_total";
/// Ledger entries written.
pub const LEDGER_ENTRIES: &str = "fleetmend_healer_ledger_entries_total";
/// Connections that were closed by us, by `reason`: `peer`, `message`, `slow`, `idle`, `full`.
pub const CONNECTIONS_CLOSED: &str = "fleetmend_healer_connections_closed_total";

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
