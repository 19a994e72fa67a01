//! Metrics of this room.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Events about watched files that came, by source.
const EVENTS_RECEIVED: &str = "fleetmend_agent_integrity_events_received_total";
/// Events that were dropped, by reason.
const EVENTS_DROPPED: &str = "fleetmend_agent_integrity_events_dropped_total";
/// Events about another file of the same path: of another root or mount namespace.
const EVENTS_FOREIGN: &str = "fleetmend_agent_integrity_events_foreign_total";
/// Changes, by verdict.
const CHANGES: &str = "fleetmend_agent_integrity_changes_total";
/// Rows that were not sent, by reason.
const ROWS_DROPPED: &str = "fleetmend_agent_integrity_rows_dropped_total";
/// Files that are watched.
const FILES_WATCHED: &str = "fleetmend_agent_integrity_watched_files";
/// Files that differ from the baseline.
const FILES_CHANGED: &str = "fleetmend_agent_integrity_changed_files";
/// Files that the limit left out in the last scan.
const FILES_LEFT_OUT: &str = "fleetmend_agent_integrity_left_out_files";
/// Bytes read to hash files.
const BYTES_HASHED: &str = "fleetmend_agent_integrity_hashed_bytes_total";
/// Files and folders that scans looked at.
const FILES_SCANNED: &str = "fleetmend_agent_integrity_scanned_files_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(
        EVENTS_RECEIVED,
        Unit::Count,
        "events about watched files, by source"
    );
    describe_counter!(EVENTS_DROPPED, Unit::Count, "events that were dropped, by reason");
    describe_counter!(
        EVENTS_FOREIGN,
        Unit::Count,
        "events about another file of the same path"
    );
    describe_counter!(CHANGES, Unit::Count, "changes of watched files, by verdict");
    describe_counter!(ROWS_DROPPED, Unit::Count, "rows that were not sent, by reason");
    describe_gauge!(FILES_WATCHED, Unit::Count, "files that are watched");
    describe_gauge!(FILES_CHANGED, Unit::Count, "files that differ from the baseline");
    describe_gauge!(FILES_LEFT_OUT, Unit::Count, "files that the limit left out");
    describe_counter!(BYTES_HASHED, Unit::Bytes, "bytes read to hash files");
    describe_counter!(
        FILES_SCANNED,
        Unit::Count,
        "files and folders that scans looked at"
    );
}

pub(crate) fn event_received(source: &'static str) {
    counter!(EVENTS_RECEIVED, "source" => source).increment(1);
}

pub(crate) fn event_dropped(reason: &'static str) {
    counter!(EVENTS_DROPPED, "reason" => reason).increment(1);
}

pub(crate) fn event_foreign() {
    counter!(EVENTS_FOREIGN).increment(1);
}

pub(crate) fn change(verdict: &'static str) {
    counter!(CHANGES, "verdict" => verdict).increment(1);
}

pub(crate) fn row_dropped(reason: &'static str) {
    counter!(ROWS_DROPPED, "reason" => reason).increment(1);
}

pub(crate) fn files(watched: usize, changed: usize, left_out: u64) {
    gauge!(FILES_WATCHED).set(watched as f64);
    gauge!(FILES_CHANGED).set(changed as f64);
    gauge!(FILES_LEFT_OUT).set(left_out as f64);
}

pub(crate) fn hashed(bytes: u64) {
    counter!(BYTES_HASHED).increment(bytes);
}

pub(crate) fn scanned(files: u64) {
    counter!(FILES_SCANNED).increment(files);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 9);
    }
}
