//! Names of the metrics of backups, in one place.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Seconds since the moment of the newest backup.
pub(super) const AGE: &str = "fleetmend_collector_backup_age_seconds";
/// Backups made.
pub(super) const MADE: &str = "fleetmend_collector_backup_made_total";
/// Backups that failed.
pub(super) const FAILED: &str = "fleetmend_collector_backup_failed_total";
/// Seconds of one backup.
pub(super) const SECONDS: &str = "fleetmend_collector_backup_seconds";
/// Bytes added to the repository.
pub(super) const BYTES: &str = "fleetmend_collector_backup_added_bytes_total";
/// Files that the newest backup lacks.
pub(super) const MISSING: &str = "fleetmend_collector_backup_missing_files_count";
/// Backups deleted because newer ones are kept.
pub(super) const PRUNED: &str = "fleetmend_collector_backup_pruned_total";

/// Describes every metric to the recorder.
pub(super) fn describe() {
    describe_gauge!(AGE, Unit::Seconds, "since the moment of the newest backup");
    describe_counter!(MADE, Unit::Count, "backups made");
    describe_counter!(FAILED, Unit::Count, "backups that failed");
    describe_histogram!(SECONDS, Unit::Seconds, "of one backup");
    describe_counter!(BYTES, Unit::Bytes, "added to the repository");
    describe_gauge!(MISSING, Unit::Count, "files that the newest backup lacks");
    describe_counter!(PRUNED, Unit::Count, "backups deleted because newer ones are kept");
}
