//! Small files of one table and day become one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::part::Part;
use super::register;
use crate::catalogue::{Change, FileRow};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::query::{Engine, Scope, failure};
use crate::shape::sql_tables;
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
    let work = write_merged(inner.clone(), engine.clone(), table, day, files.clone());
    let added = match engine.on_threads(work).await? {
        Ok(added) => added,
        Err(error) => {
            if matches!(error, MaintenanceError::Merge(_)) {
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
    due.truncate(FILES_MAX);
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
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let memory = inner.config.query.memory_bytes_max;
    let context = engine.session(Scope::of_files(&inner, index, files), memory)?;
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
    if written != rows {
        return Err(MaintenanceError::Rows {
            table: table.info.name,
            wanted: rows,
            found: written,
        });
    }
    part.finish()
}
