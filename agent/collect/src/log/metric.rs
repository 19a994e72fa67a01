//! Metrics of the log readers.

use metrics::{Unit, counter, describe_counter};

/// Lines read, by source.
const LINES_READ: &str = "fleetmend_agent_collect_log_lines_total";
/// Lines that were not stored, by reason.
const LINES_DROPPED: &str = "fleetmend_agent_collect_log_lines_dropped_total";
/// Authentication events, by outcome.
const AUTH_EVENTS: &str = "fleetmend_agent_collect_auth_events_total";
/// Lines that claim an authentication which their sender cannot tell of.
const FORGED: &str = "fleetmend_agent_collect_log_lines_forged_total";
/// Entries of the journal that are damaged.
const DAMAGED: &str = "fleetmend_agent_collect_journal_entries_damaged_total";
/// Templates that made room for others.
const TEMPLATES_EVICTED: &str = "fleetmend_agent_collect_log_templates_evicted_total";
/// Lines of access logs, by what became of them.
const ACCESS_LINES: &str = "fleetmend_agent_collect_access_lines_total";
/// Lines of access logs that have no known form.
const ACCESS_UNPARSED: &str = "fleetmend_agent_collect_access_lines_unparsed_total";

/// Describes every metric to the recorder.
pub(super) fn describe() {
    describe_counter!(LINES_READ, Unit::Count, "lines of logs that were read, by source");
    describe_counter!(
        LINES_DROPPED,
        Unit::Count,
        "lines of logs that were not stored, by reason"
    );
    describe_counter!(
        AUTH_EVENTS,
        Unit::Count,
        "authentication events read from logs, by outcome"
    );
    describe_counter!(
        FORGED,
        Unit::Count,
        "lines that claim an authentication which their sender cannot tell of"
    );
    describe_counter!(DAMAGED, Unit::Count, "entries of the journal that are damaged");
    describe_counter!(
        TEMPLATES_EVICTED,
        Unit::Count,
        "templates that made room for others"
    );
    describe_counter!(
        ACCESS_LINES,
        Unit::Count,
        "lines of access logs: told to rules, or why not"
    );
    describe_counter!(
        ACCESS_UNPARSED,
        Unit::Count,
        "lines of access logs that have no known form and are told whole"
    );
}

pub(super) fn access(outcome: &'static str) {
    counter!(ACCESS_LINES, "outcome" => outcome).increment(1);
}

pub(super) fn access_unparsed() {
    counter!(ACCESS_UNPARSED).increment(1);
}

pub(super) fn read(source: &'static str) {
    counter!(LINES_READ, "source" => source).increment(1);
}

pub(super) fn dropped(reason: &'static str, count: u64) {
    counter!(LINES_DROPPED, "reason" => reason).increment(count);
}

pub(super) fn auth_event(outcome: &'static str) {
    counter!(AUTH_EVENTS, "outcome" => outcome).increment(1);
}

pub(super) fn forged() {
    counter!(FORGED).increment(1);
}

pub(super) fn damaged(count: u64) {
    counter!(DAMAGED).increment(count);
}

pub(super) fn templates_evicted(count: u64) {
    counter!(TEMPLATES_EVICTED).increment(count);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metric.rs"), 8);
    }
}
