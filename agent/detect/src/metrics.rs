//! Metrics of this room.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Facts looked at, by table.
const FACTS: &str = "fleetmend_agent_detect_facts_total";
/// Finding rows raised, by kind.
const FINDINGS: &str = "fleetmend_agent_detect_findings_total";
/// Findings that hold at present.
const FINDINGS_OPEN: &str = "fleetmend_agent_detect_findings_open";
/// Findings forgotten because too many were open.
const FINDINGS_EVICTED: &str = "fleetmend_agent_detect_findings_evicted_total";
/// Accounts, addresses, programs and templates forgotten because too many were remembered.
const REMEMBERED_EVICTED: &str = "fleetmend_agent_detect_remembered_evicted_total";
/// Sigma rules, by state.
const SIGMA_RULES: &str = "fleetmend_agent_detect_sigma_rules";
/// Times that the Sigma rules were read anew.
const SIGMA_RELOADS: &str = "fleetmend_agent_detect_sigma_reloads_total";
/// Groups and matches that correlation rules forgot because there were too many.
const CORRELATION_EVICTED: &str = "fleetmend_agent_detect_correlation_evicted_total";

/// What detectors over several facts forgot because a map was full, by map.
const BEHAVIOUR_FORGOTTEN: &str = "fleetmend_agent_detect_behaviour_forgotten_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(FACTS, Unit::Count, "facts looked at, by table");
    describe_counter!(FINDINGS, Unit::Count, "rows of findings, by kind");
    describe_gauge!(FINDINGS_OPEN, Unit::Count, "findings that hold");
    describe_counter!(
        FINDINGS_EVICTED,
        Unit::Count,
        "findings given up because too many were open"
    );
    describe_counter!(
        REMEMBERED_EVICTED,
        Unit::Count,
        "accounts, addresses, programs and templates forgotten because too many were remembered"
    );
    describe_gauge!(SIGMA_RULES, Unit::Count, "Sigma rules, by state");
    describe_counter!(
        BEHAVIOUR_FORGOTTEN,
        Unit::Count,
        "entries that detectors over several facts forgot because a map was full, by map"
    );
    describe_counter!(
        SIGMA_RELOADS,
        Unit::Count,
        "times that the Sigma rules were read anew, by result"
    );
    describe_counter!(
        CORRELATION_EVICTED,
        Unit::Count,
        "groups and matches that correlation rules forgot because there were too many"
    );
    crate::anomaly::metrics::describe();
}

pub(crate) fn facts(table: &'static str, facts: u64) {
    counter!(FACTS, "table" => table).increment(facts);
}

pub(crate) fn finding(kind: &'static str) {
    counter!(FINDINGS, "kind" => kind).increment(1);
}

pub(crate) fn findings_open(count: usize) {
    gauge!(FINDINGS_OPEN).set(count as f64);
}

pub(crate) fn finding_evicted() {
    counter!(FINDINGS_EVICTED).increment(1);
}

pub(crate) fn remembered_evicted(count: u64) {
    counter!(REMEMBERED_EVICTED).increment(count);
}

pub(crate) fn sigma_rules(state: &'static str, count: usize) {
    gauge!(SIGMA_RULES, "state" => state).set(count as f64);
}

pub(crate) fn behaviour_forgotten(map: &'static str, count: usize) {
    counter!(BEHAVIOUR_FORGOTTEN, "map" => map).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

pub(crate) fn sigma_reload(result: &'static str) {
    counter!(SIGMA_RELOADS, "result" => result).increment(1);
}

pub(crate) fn correlation_evicted(what: &'static str, count: usize) {
    counter!(CORRELATION_EVICTED, "what" => what).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 3);
    }
}
