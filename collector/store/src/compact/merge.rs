//! Small files of one table and day become one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::part::Part;
use super::{register, weave};
use crate::catalogue::{Change, FileRow};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::query::{Engine, Scope, failure};
use crate::shape::{SqlTable, sql_tables};
use crate::view::ParquetFile;

/// Files of one size class differ by less than this factor.
const CLASS_FACTOR: u64 = 8;
/// Files merged at once, so that one merge stays short.
const FILES_MAX: usize = 64;

/// Merges one set of files that is due, if any.
///
/// # Cancel safety
/// May be dropped: what was not registered is left as it was.
pub(crate) async fn merge(inner: &Arc<Inner>, engine: &Arc<Engine>) -> Result<(), MaintenanceError> {
    let Some(candidates) = due(inner) else {
        return Ok(());
    };
    let checker = inner.clone();
    let files = tokio::task::spawn_blocking(move || only_whole(&checker, candidates)).await?;
    let Some(first) = files.first() else { return Ok(()) };
    if files.len() < 2 {
        return Ok(());
    }
    let (table, day) = (first.table, first.day);
    let weaver = (inner.clone(), files.clone());
    let woven = tokio::task::spawn_blocking(move || write_woven(&weaver.0, table, day, &weaver.1));
    let written = match woven.await? {
        Ok(Woven::Written(added)) => Ok(added),
        Ok(Woven::Unsorted) => {
            let work = write_merged(inner.clone(), engine.clone(), table, day, files.clone());
            engine.on_threads(work).await?
        }
        Err(error) => Err(error),
    };
    let added = match written {
        Ok(added) => added,
        Err(error) => {
            if matches!(error, MaintenanceError::Merge(_) | MaintenanceError::Parquet(_)) {
                // They would fail at every turn, and nothing else would be merged any more.
                inner.unmergeable.lock().extend(files.iter().map(|file| file.id));
            }
            return Err(error);
        }
    };
    let ids: Vec<i64> = files.iter().map(|file| file.id).collect();
    drop(files);
    let change = Change {
        added: added.into_iter().collect(),
        removed: ids.clone(),
        ..Change::default()
    };
    let new = register(inner, &change).await?;
    let replaced = inner
        .view
        .replace(&HashSet::new(), &ids.into_iter().collect(), new);
    tracing::debug!(files = replaced.len(), "merged Parquet files");
    for file in replaced {
        file.doomed.store(true, Ordering::Release);
    }
    Ok(())
}

/// Files of one table, day and size class, when there are enough of them.
fn due(inner: &Inner) -> Option<Vec<Arc<ParquetFile>>> {
    let mut classes: BTreeMap<(usize, i64, u32), Vec<Arc<ParquetFile>>> = BTreeMap::new();
    let unmergeable = inner.unmergeable.lock();
    for file in inner.view.files() {
        if file.bytes < inner.config.merge_bytes_max && !unmergeable.contains(&file.id) {
            let class = file.bytes.max(1).ilog(CLASS_FACTOR);
            classes
                .entry((file.table, file.day, class))
                .or_default()
                .push(file);
        }
    }
    let mut due = classes
        .into_values()
        .find(|files| files.len() >= inner.config.merge_files_min)?;
    let is_metrics = |file: &Arc<ParquetFile>| sql_tables().get(file.table).is_some_and(SqlTable::is_metrics);
    let most = if due.iter().all(is_metrics) {
        FILES_MAX
    } else {
        weave::FILES_MAX
    };
    due.truncate(most);
    Some(due)
}

/// Damage must not be written anew as if it were whole: every file is checked against its digest first. A file that
/// cannot be read now is left out, and in its place.
fn only_whole(inner: &Arc<Inner>, files: Vec<Arc<ParquetFile>>) -> Vec<Arc<ParquetFile>> {
    let whole = |file: &Arc<ParquetFile>| match file.deep_fault() {
        Ok(None) => true,
        Ok(Some(reason)) => {
            inner.set_aside(file, &reason);
            false
        }
        Err(error) => {
            tracing::warn!(path = %file.path.display(), %error, "cannot read a file that is due to be merged");
            false
        }
    };
    files.into_iter().filter(whole).collect()
}

/// What became of files that were to be read side by side.
enum Woven {
    /// They are one file; none when they hold no rows.
    Written(Option<FileRow>),
    /// They are not sorted as they would have to be.
    Unsorted,
}

fn write_woven(
    inner: &Inner,
    index: usize,
    day: i64,
    files: &[Arc<ParquetFile>],
) -> Result<Woven, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(Woven::Written(None));
    };
    if table.is_metrics() {
        return Ok(Woven::Unsorted);
    }
    let Some(readers) = weave::open(table, files, inner.config.query.memory_bytes_max)? else {
        return Ok(Woven::Unsorted);
    };
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day)?;
    let written = weave::weave(table, readers, &mut part)?;
    check_rows(table, files, written)?;
    part.finish().map(Woven::Written)
}

fn check_rows(table: &SqlTable, files: &[Arc<ParquetFile>], found: u64) -> Result<(), MaintenanceError> {
    let wanted: u64 = files.iter().map(|file| file.rows).sum();
    if found == wanted {
        return Ok(());
    }
    Err(MaintenanceError::Rows {
        table: table.info.name,
        wanted,
        found,
    })
}

async fn write_merged(
    inner: Arc<Inner>,
    engine: Arc<Engine>,
    index: usize,
    day: i64,
    files: Vec<Arc<ParquetFile>>,
) -> Result<Option<FileRow>, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(None);
    };
    let memory = inner.config.query.memory_bytes_max;
    let context = engine.session(Scope::of_files(&inner, index, files.clone()), memory)?;
    let query = format!(
        "SELECT * FROM {} ORDER BY {}",
        table.info.name,
        table.sort.join(", ")
    );
    let frame = context
        .sql(&query)
        .await
        .map_err(|error| failure(&error, memory))?;
    let mut stream = frame
        .execute_stream()
        .await
        .map_err(|error| failure(&error, memory))?;
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day)?;
    let mut written = 0_u64;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| failure(&error, memory))?;
        written = written.saturating_add(batch.num_rows() as u64);
        part.write(&batch)?;
    }
    check_rows(table, &files, written)?;
    part.finish()
}
