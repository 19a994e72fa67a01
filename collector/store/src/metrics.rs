//! Names of the store's metrics, in one place.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Frames made durable.
pub(crate) const FRAMES: &str = "fleetmend_collector_store_frames_total";
/// Rows made durable; a metric sample is a row.
pub(crate) const ROWS: &str = "fleetmend_collector_store_rows_total";
/// Frames that were stored already, by identity.
pub(crate) const DUPLICATES: &str = "fleetmend_collector_store_duplicate_frames_total";
/// Commits refused, by reason.
pub(crate) const REFUSED: &str = "fleetmend_collector_store_refused_commits_total";
/// Frames whose rows could not be read and that were stored as a gap.
pub(crate) const UNREADABLE: &str = "fleetmend_collector_store_unreadable_frames_total";
/// Samples of series beyond what a host may have.
pub(crate) const REFUSED_SAMPLES: &str = "fleetmend_collector_store_refused_samples_total";
/// Durable frames that were too large to tell subscribers of.
pub(crate) const UNTOLD: &str = "fleetmend_collector_store_untold_frames_total";
/// Gap rows that hold a word this build does not know.
pub(crate) const UNKNOWN_GAPS: &str = "fleetmend_collector_store_unknown_gaps_total";
/// Epochs forgotten because their host came with too many.
pub(crate) const FORGOTTEN_EPOCHS: &str = "fleetmend_collector_store_forgotten_epochs_total";
/// Seconds from the first frame of a group to its fsync.
pub(crate) const GROUP_SECONDS: &str = "fleetmend_collector_store_group_commit_seconds";
/// Seconds from the making of a frame's latest row to its reception, by the store's clock.
pub(crate) const LATE_SECONDS: &str = "fleetmend_collector_store_late_seconds";
/// Bytes written to segments.
pub(crate) const SEGMENT_BYTES: &str = "fleetmend_collector_store_segment_bytes_total";
/// Rows written to Parquet files.
pub(crate) const COMPACTED_ROWS: &str = "fleetmend_collector_store_compacted_rows_total";
/// Seconds of one compaction.
pub(crate) const COMPACTION_SECONDS: &str = "fleetmend_collector_store_compaction_seconds";
/// Steps of maintenance that failed, by step.
pub(crate) const MAINTENANCE_FAILURES: &str = "fleetmend_collector_store_maintenance_failures_total";
/// Parquet files deleted because of their age or size.
pub(crate) const EXPIRED_FILES: &str = "fleetmend_collector_store_expired_files_total";
/// Files set aside because they are damaged.
pub(crate) const DAMAGED_FILES: &str = "fleetmend_collector_store_damaged_files_total";
/// Queries by outcome.
pub(crate) const QUERIES: &str = "fleetmend_collector_store_queries_total";
/// Seconds of one query.
pub(crate) const QUERY_SECONDS: &str = "fleetmend_collector_store_query_seconds";
/// Frames not compacted yet.
pub(crate) const HOT_FRAMES: &str = "fleetmend_collector_store_hot_frames_count";
/// Bytes of Parquet files.
pub(crate) const PARQUET_BYTES: &str = "fleetmend_collector_store_parquet_bytes";

/// Free bytes of the file system that the store lies on.
pub(crate) const DISK_FREE_BYTES: &str = "fleetmend_collector_store_disk_free_bytes";
/// Seconds until that file system is full, at the growth of the last hours; infinite while it does not grow.
pub(crate) const DISK_FULL_IN_SECONDS: &str = "fleetmend_collector_store_disk_full_in_seconds";
/// Rows that came with a column which this build does not know, by table.
pub(crate) const UNKNOWN_COLUMNS: &str = "fleetmend_collector_store_unknown_column_rows_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_gauge!(
        DISK_FREE_BYTES,
        Unit::Bytes,
        "free bytes of the store's file system"
    );
    describe_gauge!(
        DISK_FULL_IN_SECONDS,
        Unit::Seconds,
        "until the store's file system is full, at the growth of the last hours"
    );
    describe_counter!(
        UNKNOWN_COLUMNS,
        Unit::Count,
        "rows with a column that this build does not know, by table"
    );
    describe_counter!(FRAMES, Unit::Count, "frames made durable");
    describe_counter!(ROWS, Unit::Count, "rows made durable; a metric sample is a row");
    describe_counter!(DUPLICATES, Unit::Count, "frames that were stored already");
    describe_counter!(REFUSED, Unit::Count, "commits refused, by reason");
    describe_counter!(
        UNREADABLE,
        Unit::Count,
        "frames whose rows could not be read, stored as a gap"
    );
    describe_counter!(
        REFUSED_SAMPLES,
        Unit::Count,
        "samples of series beyond what a host may have"
    );
    describe_counter!(
        UNTOLD,
        Unit::Count,
        "durable frames too large to tell subscribers of"
    );
    describe_counter!(
        UNKNOWN_GAPS,
        Unit::Count,
        "gap rows with a word that this build does not know; no answer names them"
    );
    describe_counter!(
        FORGOTTEN_EPOCHS,
        Unit::Count,
        "epochs forgotten because their host came with too many"
    );
    describe_histogram!(
        GROUP_SECONDS,
        Unit::Seconds,
        "from the first frame of a group to its fsync"
    );
    describe_histogram!(
        LATE_SECONDS,
        Unit::Seconds,
        "from the making of a frame's latest row to its reception"
    );
    describe_counter!(SEGMENT_BYTES, Unit::Bytes, "bytes written to segments");
    describe_counter!(COMPACTED_ROWS, Unit::Count, "rows written to Parquet files");
    describe_histogram!(COMPACTION_SECONDS, Unit::Seconds, "one compaction");
    describe_counter!(
        MAINTENANCE_FAILURES,
        Unit::Count,
        "steps of maintenance that failed, by step"
    );
    describe_counter!(
        EXPIRED_FILES,
        Unit::Count,
        "Parquet files deleted because of age or size"
    );
    describe_counter!(
        DAMAGED_FILES,
        Unit::Count,
        "files set aside because they are damaged"
    );
    describe_counter!(QUERIES, Unit::Count, "queries, by outcome");
    describe_histogram!(QUERY_SECONDS, Unit::Seconds, "one query");
    describe_gauge!(HOT_FRAMES, Unit::Count, "frames not compacted yet");
    describe_gauge!(PARQUET_BYTES, Unit::Bytes, "bytes of Parquet files");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_metric_is_described_and_recorded() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let own = std::fs::read_to_string(source.join("metrics.rs")).unwrap();
        let dense: String = own.split_whitespace().collect();
        let mut others = String::new();
        read_all(&source, &mut others);
        let names = own
            .lines()
            .filter_map(|line| line.strip_prefix("pub(crate) const ")?.split_once(':'));
        let names: Vec<&str> = names.map(|(name, _)| name).collect();
        assert!(names.len() > 10);
        for name in names {
            assert!(
                dense.contains(&format!("!({name},Unit::")),
                "{name} is not described"
            );
            assert!(
                others.contains(&format!("names::{name}")),
                "{name} is never recorded"
            );
        }
    }

    fn read_all(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
