//! Small files of one table and day become one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;

use super::due::due;
use super::part::{ChunkPart, Part};
use super::{register, weave};
use crate::catalogue::{Change, FileRow};
use crate::chunk::{Source, merge as merge_sources};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::query::{Engine, Scope, failure};
use crate::select::Deadline;
use crate::shape::{SqlTable, sql_tables};
use crate::view::ParquetFile;

/// A merge of chunks may take so long. It ends before when nobody waits for it any more.
const MERGE_TIME_MAX: Duration = Duration::from_hours(6);

/// Merges one set of files that is due, if any.
///
/// # Cancel safety
/// May be dropped: what was not registered is left as it was.
pub(crate) async fn merge(inner: &Arc<Inner>, engine: &Arc<Engine>) -> Result<(), MaintenanceError> {
    let candidates = {
        let unmergeable = inner.unmergeable.lock();
        let mut files = inner.view.files();
        files.retain(|file| !unmergeable.contains(&file.id));
        due(&inner.config, files)
    };
    let Some(candidates) = candidates else {
        return Ok(());
    };
    let checker = inner.clone();
    let files = tokio::task::spawn_blocking(move || only_whole(&checker, candidates)).await?;
    let Some(first) = files.first() else { return Ok(()) };
    if files.len() < 2 {
        return Ok(());
    }
    let (table, day) = (first.table, first.day);
    let written = if sql_tables().get(table).is_some_and(SqlTable::is_metrics) {
        let (deadline, _guard) = Deadline::after(MERGE_TIME_MAX, MERGE_TIME_MAX);
        let (inner, files) = (inner.clone(), files.clone());
        tokio::task::spawn_blocking(move || merge_chunks(&inner, table, day, &files, &deadline)).await?
    } else {
        let (deadline, _guard) = Deadline::after(MERGE_TIME_MAX, MERGE_TIME_MAX);
        let weaver = (inner.clone(), files.clone());
        let woven =
            tokio::task::spawn_blocking(move || write_woven(&weaver.0, table, day, &weaver.1, &deadline));
        match woven.await? {
            Ok(Woven::Written(added)) => Ok(added),
            Ok(Woven::Unsorted) => {
                let work = write_merged(inner.clone(), engine.clone(), table, day, files.clone());
                engine.on_threads(work).await?
            }
            Err(error) => Err(error),
        }
    };
    let added = match written {
        Ok(added) => added,
        Err(error) => {
            if matches!(
                error,
                MaintenanceError::Merge(_) | MaintenanceError::Parquet(_) | MaintenanceError::Chunk(_)
            ) {
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
    deadline: &Deadline,
) -> Result<Woven, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(Woven::Written(None));
    };
    let Some(readers) = weave::open(table, files, inner.config.query.memory_bytes_max)? else {
        return Ok(Woven::Unsorted);
    };
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day)?;
    let written = weave::weave(table, readers, &mut part, deadline)?;
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

/// Files of metrics, of either layout, become one of chunks. Blocks.
fn merge_chunks(
    inner: &Inner,
    index: usize,
    day: i64,
    files: &[Arc<ParquetFile>],
    deadline: &Deadline,
) -> Result<Option<FileRow>, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(None);
    };
    let open = |file: &Arc<ParquetFile>| Source::of(inner.footers.open(file)?);
    let sources = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut part = ChunkPart::begin(&inner.config.parquet_folder(), table, day)?;
    merge_sources::<MaintenanceError>(sources, |chunk| {
        deadline.check()?;
        part.push(&chunk)
    })?;
    let merged = part.finish()?;
    check_rows(table, files, merged.as_ref().map_or(0, |row| row.rows))?;
    Ok(merged)
}
