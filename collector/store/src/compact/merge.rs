//! Small files of one table and day become one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use parquet::errors::ParquetError;

use super::due::due;
use super::part::{ChunkPart, Part};
use super::{clear_unregistered, register, weave};
use crate::catalogue::{Change, FileRow};
use crate::chunk::{Source, merge as merge_sources};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::label::{Label, Origins};
use crate::query::{Engine, Scope, failure};
use crate::select::Deadline;
use crate::shape::{SqlTable, sql_tables};
use crate::view::ParquetFile;

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
    clear_unregistered(inner).await?;
    let checker = inner.clone();
    let check = move |deadline: &Deadline| only_whole(&checker, candidates, deadline);
    let (files, origins) = inner.steps.run(check).await??;
    let Some(first) = files.first() else { return Ok(()) };
    if files.len() < 2 {
        return Ok(());
    }
    let (place, origins) = ((first.table, first.day), Arc::new(origins));
    let worker = (inner.clone(), files.clone(), origins.clone());
    let written = if is_metrics(first) {
        let merge = move |deadline: &Deadline| merge_chunks(&worker.0, place, &worker.1, &worker.2, deadline);
        inner.steps.run(merge).await?
    } else {
        let weave = move |deadline: &Deadline| write_woven(&worker.0, place, &worker.1, &worker.2, deadline);
        match inner.steps.run(weave).await? {
            Ok(Woven::Written(added)) => Ok(added),
            Ok(Woven::Unsorted) => {
                let work = write_merged(inner.clone(), engine.clone(), place, files.clone(), origins);
                engine.on_threads(work).await?
            }
            Err(error) => Err(error),
        }
    };
    let added = match written {
        Ok(added) => added,
        Err(error) => {
            if is_lasting(&error) {
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

fn is_metrics(file: &ParquetFile) -> bool {
    sql_tables().get(file.table).is_some_and(SqlTable::is_metrics)
}

/// Whether files that could not be merged would not be at the next turn either.
fn is_lasting(error: &MaintenanceError) -> bool {
    use MaintenanceError::{Arrow, Chunk, Frame, Merge, Parquet, Rows};
    match error {
        // The disk says so, which may be full now.
        Parquet(ParquetError::External(cause)) if cause.is::<std::io::Error>() => false,
        Merge(_) | Parquet(_) | Chunk(_) | Arrow(_) | Frame(_) | Rows { .. } => true,
        _ => false,
    }
}

/// Damage must not be written anew as if it were whole: every file is checked against its digest first. A file that
/// cannot be read now is left out, and in its place.
fn only_whole(
    inner: &Arc<Inner>,
    mut files: Vec<Arc<ParquetFile>>,
    deadline: &Deadline,
) -> Result<(Vec<Arc<ParquetFile>>, Origins), MaintenanceError> {
    files.retain(|file| match file.deep_fault_until(deadline) {
        Ok(None) => true,
        Ok(Some(reason)) => {
            inner.set_aside(file, &reason);
            false
        }
        Err(error) => {
            tracing::warn!(path = %file.path.display(), %error, "cannot read a file that is due to be merged");
            false
        }
    });
    deadline.check()?;
    let label = |file: &Arc<ParquetFile>| {
        let open = inner.footers.open(file).ok()?;
        Label::of(open.metadata()).unwrap_or_else(|error| {
            // Its rows are whole: it is merged as a file of before is.
            tracing::warn!(path = %file.path.display(), %error, "cannot read the label of a Parquet file");
            None
        })
    };
    let inputs = files.iter().map(|file| (file.path.as_path(), label(file)));
    let origins = Origins::merged(inner.store_id, inputs);
    Ok((files, origins))
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
    (index, day): (usize, i64),
    files: &[Arc<ParquetFile>],
    origins: &Arc<Origins>,
    deadline: &Deadline,
) -> Result<Woven, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(Woven::Written(None));
    };
    let Some(readers) = weave::open(table, files, inner.config.query.memory_bytes_max)? else {
        return Ok(Woven::Unsorted);
    };
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day, origins)?;
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
    (index, day): (usize, i64),
    files: Vec<Arc<ParquetFile>>,
    origins: Arc<Origins>,
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
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day, &origins)?;
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
    (index, day): (usize, i64),
    files: &[Arc<ParquetFile>],
    origins: &Arc<Origins>,
    deadline: &Deadline,
) -> Result<Option<FileRow>, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(None);
    };
    let open = |file: &Arc<ParquetFile>| Source::of(inner.footers.open(file)?);
    let sources = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut part = ChunkPart::begin(&inner.config.parquet_folder(), table, day, origins)?;
    merge_sources::<MaintenanceError>(sources, |chunk| {
        deadline.check()?;
        part.push(&chunk)
    })?;
    check_rows(table, files, part.samples())?;
    part.finish()
}
