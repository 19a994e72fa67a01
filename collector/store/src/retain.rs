//! Retention: whole files are deleted, the oldest first.
//!
//! A file is too old when its latest row was made longer ago than its table's days, by the store's clock
//! (`clock.rs`): a host's wild clock neither keeps rows for ever nor deletes them at once, and rows of a clock that
//! nobody knows count from their reception. A table that holds too many bytes loses its
//! oldest files until it does not. This is planned and no loss: it makes no gap row; the catalogue and the
//! counter of expired files tell of it. A file goes from disk when the last query that reads it lets go of it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleetmend_event::TimeMicros;
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
    let expired = expired(limits, inner.view.files(), TimeMicros::now());
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

/// Ids of the files to delete.
fn expired(config: &RetentionConfig, mut files: Vec<Arc<ParquetFile>>, now: TimeMicros) -> Vec<i64> {
    // Newest first: what still fits is kept.
    files.sort_by_key(|file| Reverse((file.true_to, file.id)));
    let mut expired = Vec::new();
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
                expired.push(file.id);
            }
        }
    }
    expired
}
