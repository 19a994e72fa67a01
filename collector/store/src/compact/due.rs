//! Which files are merged next.
//!
//! Files of a table and day belong to classes by their size; when a class has [`StoreConfig::merge_files_min`] of
//! them, they become one of a higher class. So a day of 2.6 G samples, which comes in files of some two million, is
//! written three times more and ends as a handful of files. What is left over when nothing new came to a day for
//! [`StoreConfig::merge_quiet_s`] becomes one file, unless the largest of it is more than all others together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::weave;
use crate::config::StoreConfig;
use crate::shape::{SqlTable, sql_tables};
use crate::view::ParquetFile;

/// Files of one class differ by less than this factor.
const CLASS_FACTOR: u64 = 8;
/// Files merged at once, so that one merge stays short and opens few files.
const FILES_MAX: usize = 64;

/// Files of one table and day that are to be merged, when there are any.
pub(super) fn due(config: &StoreConfig, files: Vec<Arc<ParquetFile>>) -> Option<Vec<Arc<ParquetFile>>> {
    let mut days: BTreeMap<(usize, i64), Vec<Arc<ParquetFile>>> = BTreeMap::new();
    for file in files {
        if !is_tier(&file) && size(&file) < size_max(config, &file) {
            days.entry((file.table, file.day)).or_default().push(file);
        }
    }
    let of_class = days.values().find_map(|files| full_class(config, files));
    let mut due = of_class.or_else(|| days.into_values().find_map(|files| left_over(config, files)))?;
    due.truncate(if due.iter().all(|file| is_metrics(file)) {
        FILES_MAX
    } else {
        weave::FILES_MAX
    });
    Some(due)
}

/// Samples of a file of metrics, bytes of any other.
fn size(file: &ParquetFile) -> u64 {
    if is_metrics(file) { file.rows } else { file.bytes }
}

fn size_max(config: &StoreConfig, file: &ParquetFile) -> u64 {
    if is_metrics(file) {
        config.merge_samples_max
    } else {
        config.merge_bytes_max
    }
}

/// The files of a day's tiers are made anew, and never merged.
fn is_tier(file: &ParquetFile) -> bool {
    sql_tables()
        .get(file.table)
        .is_some_and(|table| table.kept_days.is_some())
}

fn is_metrics(file: &ParquetFile) -> bool {
    sql_tables().get(file.table).is_some_and(SqlTable::is_metrics)
}

fn full_class(config: &StoreConfig, files: &[Arc<ParquetFile>]) -> Option<Vec<Arc<ParquetFile>>> {
    let mut classes: BTreeMap<u32, Vec<Arc<ParquetFile>>> = BTreeMap::new();
    for file in files {
        classes
            .entry(size(file).max(1).ilog(CLASS_FACTOR))
            .or_default()
            .push(file.clone());
    }
    classes
        .into_values()
        .find(|files| files.len() >= config.merge_files_min)
}

fn left_over(config: &StoreConfig, mut files: Vec<Arc<ParquetFile>>) -> Option<Vec<Arc<ParquetFile>>> {
    let quiet = Duration::from_secs(config.merge_quiet_s);
    let now = Instant::now();
    if files
        .iter()
        .any(|file| now.saturating_duration_since(file.added) < quiet)
    {
        return None;
    }
    // The smallest first: as many as fit are merged, and no large file is written anew for a few small ones.
    files.sort_by_key(|file| size(file));
    files.truncate(FILES_MAX);
    while let Some((largest, others)) = files.split_last() {
        let sum = others.iter().map(|file| size(file)).fold(0, u64::saturating_add);
        if others.is_empty() {
            return None;
        }
        if size(largest) <= sum.saturating_mul(2) {
            return Some(files);
        }
        files.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;

    use fleetmend_event::table::MetricChunk;
    use fleetmend_event::{Table, TimeMicros};

    use super::*;
    use crate::shape::table_index;

    fn file(id: i64, day: i64, rows: u64) -> Arc<ParquetFile> {
        Arc::new(ParquetFile {
            id,
            path: PathBuf::new(),
            table: table_index(MetricChunk::ID).unwrap(),
            day,
            from: TimeMicros(0),
            to: TimeMicros(0),
            true_from: TimeMicros(0),
            true_to: TimeMicros(0),
            rows,
            chunks: None,
            added: Instant::now(),
            bytes: rows / 2,
            digest: String::new(),
            doomed: AtomicBool::new(false),
        })
    }

    /// Adds files of `each` samples and merges whenever it is due; gives how often a sample was written, and the files.
    fn grow(config: &StoreConfig, each: u64, count: i64) -> (f64, Vec<u64>) {
        let mut files: Vec<Arc<ParquetFile>> = Vec::new();
        let mut written = 0;
        let mut id = 0;
        for _ in 0..count {
            id += 1;
            files.push(file(id, 1, each));
            written += each;
            while let Some(merged) = due(config, files.clone()) {
                let rows = merged.iter().map(|file| file.rows).sum();
                files.retain(|file| !merged.iter().any(|other| other.id == file.id));
                id += 1;
                files.push(file(id, 1, rows));
                written += rows;
            }
        }
        let total = each as f64 * count as f64;
        (
            written as f64 / total,
            files.iter().map(|file| file.rows).collect(),
        )
    }

    #[test]
    fn a_day_of_a_hundred_hosts_is_written_four_times_and_ends_as_a_handful_of_files() {
        let config = StoreConfig::default();
        let (times, files) = grow(&config, 1_800_000, 1_440);
        assert!(times <= 4.0, "each sample is written {times} times");
        let large = files
            .iter()
            .filter(|rows| **rows >= config.merge_samples_max)
            .count();
        assert!((1..=8).contains(&large), "{files:?}");
        assert!(files.len() <= large + 3 * config.merge_files_min, "{files:?}");
    }

    #[test]
    fn what_is_left_of_a_quiet_day_becomes_one_file_but_no_large_file_is_written_anew() {
        let config = StoreConfig {
            merge_quiet_s: 0,
            ..StoreConfig::default()
        };
        let ids = |files: Option<Vec<Arc<ParquetFile>>>| -> Vec<i64> {
            files.unwrap_or_default().iter().map(|file| file.id).collect()
        };
        assert_eq!(
            ids(due(&config, vec![file(1, 1, 1_000), file(2, 2, 1_000)])),
            [0; 0]
        );
        assert_eq!(
            ids(due(
                &config,
                vec![file(1, 1, 1_000), file(2, 1, 900), file(3, 2, 1)]
            )),
            [2, 1]
        );
        let lopsided = vec![file(1, 1, 1_000_000), file(2, 1, 10), file(3, 1, 9)];
        assert_eq!(ids(due(&config, lopsided)), [3, 2]);
        let busy = StoreConfig::default();
        assert_eq!(ids(due(&busy, vec![file(1, 1, 10), file(2, 1, 10)])), [0; 0]);
    }
}
