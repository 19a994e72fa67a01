//! Compaction: sealed segments become Parquet files, small Parquet files become larger ones.
//!
//! The rows of sealed segments, oldest first, are sorted and written as Parquet files per table and day: metrics as
//! chunks of series (`chunk.rs`), everything else as rows by host and time (`packing.rs`). A file is written under another
//! name, synced and renamed; then one transaction registers all files of the step with the marks of its segments,
//! queries see the files instead of the frames, and the segments are deleted. A step that fails leaves no file behind,
//! or a full disk would never be less full: what it wrote is deleted (`compact/fresh.rs`).
//!
//! A frame belongs to the day of its earliest time by the store's clock (`clock.rs`), but to no day further before
//! its reception than a week: late hosts make at most eight files, and a file's whole span stands in the catalogue.
//! Memory does not depend on how far rows were compressed: what decodes to more than [`SLICE_BYTES_MAX`] makes
//! several files of one table and day, each sorted for itself, and at most one slice is in memory, with its
//! copy while it is sorted.
//!
//! Files of one table and day are merged when enough of them have about the same size, so that a row is rewritten
//! a few times only (`compact/due.rs`). Metrics are read side by side and their chunks joined; other files that are
//! sorted as their table is are read side by side too, the rest through the query engine, which spills to disk when it
//! must.

mod due;
mod fresh;
mod merge;
mod packing;
mod part;
mod rows;
mod weave;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, Mark, Sequence, Table as _, TimeMicros};
use metrics::{counter, histogram};

use crate::catalogue::{Change, FileRow};
use crate::error::MaintenanceError;
use crate::inner::{Inner, SegmentState};
use crate::label::Origins;
use crate::mark::StreamKey;
use crate::metrics as names;
use crate::select::Deadline;
use crate::tier::days;
use crate::view::{HotFrame, ParquetFile};
use fresh::Fresh;
pub(crate) use merge::merge;
#[cfg(test)]
pub(crate) use packing::GROUP_BYTES_MAX;
pub(crate) use part::Part;

/// Decoded bytes of the frames that are sorted into one file, by [`crate::shape::Rows::bytes`]. A query that reads a
/// file decodes it in parts that may be as large.
const SLICE_BYTES_MAX: u64 = 32 << 20;

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

/// Compacts every sealed segment.
///
/// # Cancel safety
/// May be dropped: what was not registered is written again, its files are deleted at the next start.
pub(crate) async fn compact(inner: &Arc<Inner>) -> Result<(), MaintenanceError> {
    while let Some(segments) = next_step(inner) {
        clear_unregistered(inner).await?;
        let started = Instant::now();
        let numbers: HashSet<u64> = segments.keys().copied().collect();
        let frames = inner.view.hot_of(&numbers);
        let marks = marks_of(inner, &segments);
        let marks = marks.into_iter().map(|(host, mark, _)| (host, mark));
        let origins = Arc::new(Origins::compacted(inner.store_id, numbers.iter().copied(), marks));
        let writer = inner.clone();
        let write = move |deadline: &Deadline| write_tables(&writer, frames, &origins, deadline);
        let fresh = inner.steps.run(write).await??;
        // The gap of a frame that could not be read must outlive the segment that the frame stood in.
        inner.settle_set_aside().await?;
        let rows: u64 = fresh.rows().iter().map(|file| file.rows).sum();
        let dirty = dirty_days(fresh.rows());
        let change = Change {
            added: fresh.into_rows(),
            dirty,
            segments: numbers.iter().copied().collect(),
            marks: marks_of(inner, &segments),
            ..Change::default()
        };
        let settling = inner.settling.lock().await;
        let files = register(inner, &change).await?;
        inner.view.replace(&numbers, &HashSet::new(), files);
        drop(settling);
        drop_segments(inner, segments).await?;
        counter!(names::COMPACTED_ROWS).increment(rows);
        histogram!(names::COMPACTION_SECONDS).record(started.elapsed().as_secs_f64());
        tracing::debug!(segments = numbers.len(), rows, "compacted");
    }
    Ok(())
}

/// The oldest sealed segments, at most about one full segment's bytes of them. Always from the oldest on: a
/// segment may be left out at recovery only when all before it are.
fn next_step(inner: &Inner) -> Option<BTreeMap<u64, SegmentState>> {
    let mut step = BTreeMap::new();
    let mut bytes = 0_u64;
    for (number, segment) in inner.segments.lock().iter() {
        bytes = bytes.saturating_add(segment.bytes);
        if !segment.sealed || (!step.is_empty() && bytes > inner.config.segment_bytes_max) {
            break;
        }
        step.insert(*number, segment.clone());
    }
    (!step.is_empty()).then_some(step)
}

fn marks_of(inner: &Inner, segments: &BTreeMap<u64, SegmentState>) -> Vec<(HostId, Mark, TimeMicros)> {
    let mut highest: HashMap<StreamKey, u64> = HashMap::new();
    for (key, number) in segments.values().flat_map(|segment| &segment.marks) {
        let held = highest.entry(*key).or_default();
        *held = (*held).max(*number);
    }
    // A stream that was forgotten meanwhile is not remembered again.
    let row = |((host, epoch, lane), number): (StreamKey, u64)| {
        let seen_at = inner.last_seen((host, epoch, lane))?;
        let mark = Mark {
            epoch,
            lane,
            sequence: Sequence(number),
        };
        Some((host, mark, seen_at))
    };
    highest.into_iter().filter_map(row).collect()
}

/// Days of which samples came.
fn dirty_days(added: &[FileRow]) -> BTreeSet<i64> {
    let metrics = added.iter().filter(|file| file.table == MetricChunk::NAME);
    metrics.flat_map(|file| days(file.from.0, file.to.0)).collect()
}

/// Registers a change; returns the added files as the view holds them.
pub(crate) async fn register(
    inner: &Arc<Inner>,
    change: &Change,
) -> Result<Vec<Arc<ParquetFile>>, MaintenanceError> {
    let folder = inner.config.parquet_folder();
    let ids = match inner.catalogue.apply(change).await {
        Ok(ids) => ids,
        Err(error) => {
            // Whether they are registered only the disk knows now.
            let paths = change.added.iter().map(|file| file.path.clone());
            inner.unregistered.lock().extend(paths);
            return Err(error.into());
        }
    };
    let named = change
        .added
        .iter()
        .zip(ids)
        .map(|(file, id)| FileRow { id, ..file.clone() });
    Ok(named
        .filter_map(|row| ParquetFile::of_row(&folder, row))
        .map(Arc::new)
        .collect())
}

/// Deletes the files that could not be registered before; until that is done nothing else is written, so that they
/// are never more than those of one step.
pub(crate) async fn clear_unregistered(inner: &Arc<Inner>) -> Result<(), MaintenanceError> {
    let paths = inner.unregistered.lock().clone();
    if paths.is_empty() {
        return Ok(());
    }
    // What a transaction that failed left in the catalogue's log is overwritten by one that succeeds.
    inner.catalogue.touch().await?;
    let registered: HashSet<String> = inner
        .catalogue
        .files()
        .await?
        .into_iter()
        .map(|row| row.path)
        .collect();
    let folder = inner.config.parquet_folder();
    for path in paths.iter().filter(|path| !registered.contains(*path)) {
        let path = folder.join(path);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(MaintenanceError::Io {
                    action: "delete",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    inner.unregistered.lock().retain(|path| !paths.contains(path));
    Ok(())
}

async fn drop_segments(
    inner: &Arc<Inner>,
    segments: BTreeMap<u64, SegmentState>,
) -> Result<(), MaintenanceError> {
    let numbers: Vec<u64> = segments.keys().copied().collect();
    inner
        .segments
        .lock()
        .retain(|number, _| !segments.contains_key(number));
    let paths: Vec<PathBuf> = segments.into_values().map(|segment| segment.path).collect();
    let writer = inner.clone();
    let deleted = tokio::task::spawn_blocking(move || {
        paths.into_iter().try_for_each(|path| {
            crate::backup::put_away(&writer.config, &path).map_err(|source| MaintenanceError::Io {
                action: "delete",
                path,
                source,
            })
        })
    });
    deleted.await??;
    inner.catalogue.forget_segments(&numbers).await?;
    Ok(())
}

/// Writes the files of every table and day.
fn write_tables(
    inner: &Arc<Inner>,
    tables: Vec<Vec<Arc<HotFrame>>>,
    origins: &Arc<Origins>,
    deadline: &Deadline,
) -> Result<Fresh, MaintenanceError> {
    let mut fresh = Fresh::new(inner.config.parquet_folder());
    for (frames, table) in tables.into_iter().zip(0_usize..) {
        let mut days: BTreeMap<i64, Vec<Arc<HotFrame>>> = BTreeMap::new();
        for frame in frames {
            days.entry(day_of(&frame)).or_default().push(frame);
        }
        for (day, frames) in days {
            for slice in slices(&frames) {
                fresh.extend(rows::write_frames(inner, (table, day), slice, origins, deadline)?);
            }
        }
    }
    // Whoever went away meanwhile does not register them.
    deadline.check()?;
    Ok(fresh)
}

/// The frames in their order, cut so that each slice decodes to at most [`SLICE_BYTES_MAX`], or is one frame.
fn slices(frames: &[Arc<HotFrame>]) -> Vec<&[Arc<HotFrame>]> {
    let mut bytes = 0_u64;
    let fits = |one: &Arc<HotFrame>, next: &Arc<HotFrame>| {
        bytes = bytes.saturating_add(one.bytes);
        let fits = bytes.saturating_add(next.bytes) <= SLICE_BYTES_MAX;
        if !fits {
            bytes = 0;
        }
        fits
    };
    frames.chunk_by(fits).collect()
}

fn day_of(frame: &HotFrame) -> i64 {
    let received = frame.ingested_at.0.div_euclid(DAY_MICROS);
    let day = frame.true_from().0.div_euclid(DAY_MICROS);
    day.clamp(received.saturating_sub(7), received)
}
