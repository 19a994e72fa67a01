//! Retention: whole files are deleted, the oldest first.
//!
//! A file is too old when its latest row was made longer ago than its table's days, by the store's clock
//! (`clock.rs`): a host's wild clock neither keeps rows for ever nor deletes them at once, and rows of a clock that
//! nobody knows count from their reception. A table that holds too many bytes loses its
//! oldest files until it does not, and so does a lane; where all together hold too many, metrics go before events and
//! events before critical facts. This is planned and no loss: it makes no gap row; the catalogue and the
//! counter of expired files tell of it. A file goes from disk when the last query that reads it lets go of it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleetmend_event::{Lane, TimeMicros};
use metrics::counter;

use crate::config::RetentionConfig;
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::metrics as names;
use crate::shape::sql_tables;
use crate::view::ParquetFile;

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

/// Deletes what is too old or too much by `limits`.
///
/// # Cancel safety
/// May be dropped: files that the catalogue has forgotten are deleted at the next start.
pub(crate) async fn retain(inner: &Arc<Inner>, limits: &RetentionConfig) -> Result<(), MaintenanceError> {
    let files = inner.view.files().iter().map(Held::of).collect();
    let expired = expired(limits, files, TimeMicros::now());
    if expired.is_empty() {
        return Ok(());
    }
    inner.catalogue.forget_files(&expired).await?;
    let expired: HashSet<i64> = expired.into_iter().collect();
    for file in inner.view.replace(&HashSet::new(), &expired, Vec::new()) {
        tracing::info!(path = %file.path.display(), rows = file.rows, "Parquet file expired");
        counter!(names::EXPIRED_FILES).increment(1);
        file.doomed.store(true, Ordering::Release);
    }
    Ok(())
}

/// What retention looks at of a file.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: i64,
    table: usize,
    true_to: TimeMicros,
    bytes: u64,
}

impl Held {
    fn of(file: &Arc<ParquetFile>) -> Self {
        Self {
            id: file.id,
            table: file.table,
            true_to: file.true_to,
            bytes: file.bytes,
        }
    }

    fn lane(&self) -> Option<Lane> {
        sql_tables().get(self.table).map(|table| table.info.lane)
    }
}

/// Ids of the files to delete.
fn expired(config: &RetentionConfig, mut files: Vec<Held>, now: TimeMicros) -> Vec<i64> {
    // Newest first: what still fits is kept.
    files.sort_by_key(|file| Reverse((file.true_to, file.id)));
    let mut expired = HashSet::new();
    for (table, index) in sql_tables().iter().zip(0_usize..) {
        let own = config.tables.get(table.info.name);
        let days = own.and_then(|own| own.age_days).or(table.kept_days);
        let days = days.unwrap_or(config.age_days);
        let bytes_max = own
            .and_then(|own| own.bytes_max)
            .unwrap_or(config.table_bytes_max);
        let oldest = now.plus_micros(i64::from(days).saturating_mul(DAY_MICROS).saturating_neg());
        let mut bytes = 0_u64;
        for file in files.iter().filter(|file| file.table == index) {
            bytes = bytes.saturating_add(file.bytes);
            if file.true_to < oldest || bytes > bytes_max {
                expired.insert(file.id);
            }
        }
    }
    files.retain(|file| !expired.contains(&file.id));
    expired.extend(too_much(config, &files));
    expired.into_iter().collect()
}

/// Of files that no other limit takes, the newest first, those that a lane or all lanes together have no room for.
fn too_much(config: &RetentionConfig, files: &[Held]) -> Vec<i64> {
    let total_max = match config.total_bytes_max {
        0 => u64::MAX,
        bytes => bytes,
    };
    let mut gone = Vec::new();
    let mut total = 0_u64;
    // What is shed first is counted last, so that it finds the room taken.
    for lane in [Lane::Critical, Lane::Events, Lane::Metrics] {
        let lane_max = config.lanes.get(&lane).copied().unwrap_or(u64::MAX);
        let (mut bytes, mut full) = (0_u64, false);
        for file in files.iter().filter(|file| file.lane() == Some(lane)) {
            // Once a file does not fit, no older one is kept in its place.
            full |=
                bytes.saturating_add(file.bytes) > lane_max || total.saturating_add(file.bytes) > total_max;
            if full {
                gone.push(file.id);
            } else {
                bytes = bytes.saturating_add(file.bytes);
                total = total.saturating_add(file.bytes);
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableRetention;
    use crate::shape::table_index_by_name;

    const NOW: TimeMicros = TimeMicros(1_767_225_600_000_000);

    /// A file of 100 bytes whose latest row is so many hours old.
    fn file(id: i64, table: &str, hours: i64) -> Held {
        Held {
            id,
            table: table_index_by_name(table).unwrap(),
            true_to: NOW.plus_micros(-hours * 3_600_000_000),
            bytes: 100,
        }
    }

    fn left(config: &RetentionConfig, files: &[Held]) -> Vec<i64> {
        let gone = expired(config, files.to_vec(), NOW);
        let kept = files.iter().map(|file| file.id);
        kept.filter(|id| !gone.contains(id)).collect()
    }

    #[test]
    fn metrics_go_before_events_and_events_before_critical_facts() {
        let files = [
            file(1, "findings", 30),
            file(2, "findings", 1),
            file(3, "process_events", 20),
            file(4, "units", 2),
            file(5, "metrics", 9),
            file(6, "metrics", 0),
        ];
        let within = |total_bytes_max| RetentionConfig {
            total_bytes_max,
            ..RetentionConfig::default()
        };
        assert_eq!(left(&within(0), &files), [1, 2, 3, 4, 5, 6]);
        assert_eq!(left(&within(599), &files), [1, 2, 3, 4, 6]);
        assert_eq!(left(&within(400), &files), [1, 2, 3, 4]);
        assert_eq!(left(&within(300), &files), [1, 2, 4]);
        assert_eq!(left(&within(100), &files), [2]);
    }

    #[test]
    fn lane_table_and_age_have_limits_of_their_own() {
        let files = [
            file(1, "process_events", 3),
            file(2, "units", 2),
            file(3, "units", 1),
            file(4, "metrics", 31 * 24),
            file(5, "metrics", 0),
        ];
        let lanes = RetentionConfig {
            lanes: [(Lane::Events, 200)].into(),
            ..RetentionConfig::default()
        };
        assert_eq!(left(&lanes, &files), [2, 3, 5]);
        let table = TableRetention {
            age_days: None,
            bytes_max: Some(100),
        };
        let tables = RetentionConfig {
            tables: [("units".to_owned(), table)].into(),
            ..RetentionConfig::default()
        };
        assert_eq!(left(&tables, &files), [1, 3, 5]);
    }
}
