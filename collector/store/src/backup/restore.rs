//! Restoring: the state of a moment into an empty folder. Which backup and which segments make it up is the plan's
//! (`plan.rs`).
//!
//! A file `RESTORING` stands in the store's folder from before the first byte until after the last; no store is
//! opened beside it, and a restore that finds it begins anew. What was in the way is renamed before, never deleted.
//!
//! What agents still hold they send again, for the marks are those of the moment and the store's epoch is new. What
//! they do not hold shows as gaps when they go on with later numbers; until then the time from the moment to the
//! restore is a gap row of the collector itself, of stage `restore`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Fact, Frame, Lane, Sequence, TimeMicros};
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use super::Watch;
use super::copy::RESTORED_NOTE;
use super::cut::bytes_until;
use super::error::{BackupError, io_error};
use super::fetch::{blocks_of, fetch, fetch_all, make_folder, parquet_of, sync_folder, write};
use super::manifest::{CATALOGUE, Manifest, SegmentEntry, safe_path};
use super::plan::Plan;
use super::repository::Repository;
use super::source::layout;
use crate::catalogue::Catalogue;
use crate::clock::ClockAhead;
use crate::error::OpenError;
use crate::own::{OWN_HOST, new_own_epoch, own_frames};
use crate::segment::{file_name, header_of, put_entry};

const MARKER: &str = "RESTORING";
/// Bytes that have to be free beyond what is written: catalogue and first segments.
const SPARE_BYTES: u64 = 64 << 20;
/// A database of SQLite and what belongs to it, by what follows its name.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Where it goes.
#[derive(Debug, Clone, Default)]
pub struct RestoreTarget {
    /// Folder of the store.
    pub store: PathBuf,
    /// Databases by their names in the backup; others are left out.
    pub databases: Vec<(String, PathBuf)>,
    /// Folder of the other files; without one they are left out.
    pub files: Option<PathBuf>,
    /// Rename what is in the way, instead of refusing.
    pub displace: bool,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// Parquet files.
    pub parquet_files: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes written.
    pub bytes: u64,
    /// What was renamed to make way.
    pub displaced: Vec<PathBuf>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Restores what `plan` says. Blocks for as long as that takes.
///
/// # Errors
/// [`BackupError`]; what is in the target then is no store that opens, and the next restore begins anew.
pub fn restore(
    repository: &Repository,
    plan: &Plan,
    target: &RestoreTarget,
    runtime: &Handle,
    watch: &dyn Watch,
) -> Result<Restored, BackupError> {
    let started = Instant::now();
    let manifest = &plan.manifest;
    let entries = parquet_of(repository, manifest)?;
    let total = entries
        .iter()
        .fold(0_u64, |sum, entry| sum.saturating_add(entry.blob.bytes));
    let displaced = clear_the_way(target, plan.bytes())?;
    make_folder(&target.store)?;
    let (_lock, store) = (lock(&target.store)?, layout(&target.store));
    let marker = target.store.join(MARKER);
    write(
        &marker,
        format!("manifest {} of {}\n", manifest.sequence, repository.id()).as_bytes(),
    )?;
    sync_folder(&target.store)?;
    for folder in [
        store.segments_folder(),
        store.parquet_folder(),
        store.aside_folder(),
        store.spill_folder(),
    ] {
        make_folder(&folder)?;
    }
    fetch_all(repository, &entries, &store.parquet_folder(), total, watch)?;
    let segments = segments(repository, plan, &store.segments_folder())?;
    database(repository, manifest, CATALOGUE, &store.catalogue_file())?;
    let next = runtime.block_on(renew(&store.catalogue_file()));
    let next = next.map_err(|source| BackupError::Catalogue {
        path: target.store.clone(),
        source,
    })?;
    let number = next
        .max(segments.iter().copied().max().unwrap_or(0))
        .saturating_add(1);
    tell_gap(&store.segments_folder(), number, plan)?;
    sync_folder(&store.segments_folder())?;
    databases(repository, manifest, target)?;
    if let Some(folder) = &target.files {
        files(repository, manifest, folder)?;
    }
    let note = format!(
        "{}\n{} at {}\n",
        repository.id(),
        manifest.sequence,
        plan.lands_at
    );
    write(&target.store.join(RESTORED_NOTE), note.as_bytes())?;
    sync_folder(&target.store)?;
    fs::remove_file(&marker).map_err(io_error("delete", &marker))?;
    sync_folder(&target.store)?;
    Ok(Restored {
        parquet_files: entries.len() as u64,
        segments: segments.len() as u64,
        bytes: plan.bytes(),
        displaced,
        elapsed: started.elapsed(),
    })
}

/// Whether a restore into this folder did not end.
pub(crate) fn refuse_unfinished(store: &Path) -> Result<(), OpenError> {
    if store.join(MARKER).exists() {
        return Err(OpenError::Unfinished {
            path: store.to_owned(),
        });
    }
    Ok(())
}

/// Refuses or renames what stands where something is to be written, once it is known that there is room.
fn clear_the_way(target: &RestoreTarget, bytes: u64) -> Result<Vec<PathBuf>, BackupError> {
    let unfinished = target.store.join(MARKER).exists();
    let mut in_the_way = Vec::new();
    if unfinished {
        let _lock = lock(&target.store)?;
        empty(&target.store)?;
    } else if is_filled(&target.store)? {
        drop(lock(&target.store)?);
        in_the_way.push(target.store.clone());
    }
    // What a restore that did not end wrote beside the store may be written again.
    for (_, path) in target.databases.iter().filter(|_| !unfinished) {
        let all = BESIDE.map(|suffix| beside(path, suffix));
        in_the_way.extend(all.into_iter().filter(|path| path.exists()));
    }
    if let Some(folder) = target.files.as_ref().filter(|_| !unfinished)
        && is_filled(folder)?
    {
        in_the_way.push(folder.clone());
    }
    if let (Some(path), false) = (in_the_way.first(), target.displace) {
        return Err(BackupError::TargetInUse { path: path.clone() });
    }
    check_space(&target.store, bytes)?;
    displace(in_the_way)
}

/// Renames all of them or, when one cannot be, none.
fn displace(in_the_way: Vec<PathBuf>) -> Result<Vec<PathBuf>, BackupError> {
    let stamp = TimeMicros::now().0;
    let mut done: Vec<(PathBuf, PathBuf)> = Vec::with_capacity(in_the_way.len());
    for path in in_the_way {
        let to = beside(&path, &format!(".before-restore-{stamp}"));
        if let Err(error) = fs::rename(&path, &to) {
            for (path, to) in done.iter().rev() {
                fs::rename(to, path).map_err(io_error("rename back to", path))?;
            }
            return Err(match error.kind() {
                // A file system is mounted there.
                ErrorKind::ResourceBusy => BackupError::TargetInUse { path },
                _ => io_error("rename", &path)(error),
            });
        }
        done.push((path, to));
    }
    Ok(done.into_iter().map(|(_, to)| to).collect())
}

/// The path with something after its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn delete(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("delete", path)(error)),
        _ => Ok(()),
    }
}

fn is_filled(folder: &Path) -> Result<bool, BackupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("list", folder)(error)),
    };
    let mut names = entries.map_while(Result::ok).map(|entry| entry.file_name());
    Ok(names.any(|name| name != "lost+found" && name != "LOCK"))
}

/// Deletes what a restore that did not end left, its marker last.
fn empty(store: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(store).map_err(io_error("list", store))? {
        let path = entry.map_err(io_error("list", store))?.path();
        let name = path.file_name().unwrap_or_default();
        if name == MARKER || name == "LOCK" || name == "lost+found" {
            continue;
        }
        let deleted = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        deleted.map_err(io_error("delete", &path))?;
    }
    Ok(())
}

/// Takes the lock that a running store holds.
fn lock(store: &Path) -> Result<File, BackupError> {
    let path = store.join("LOCK");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BackupError::TargetLocked {
            path: store.to_owned(),
        }),
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

/// Before the folder is made, and before anything is moved out of its way.
fn check_space(target: &Path, bytes: u64) -> Result<(), BackupError> {
    let there = target.ancestors().find(|folder| folder.is_dir());
    let folder = there.unwrap_or(target);
    let stat = rustix::fs::statvfs(folder).map_err(|error| io_error("inspect", folder)(error.into()))?;
    let (free, needed) = (
        stat.f_bavail.saturating_mul(stat.f_frsize),
        bytes.saturating_add(SPARE_BYTES),
    );
    if free < needed {
        return Err(BackupError::Space {
            path: folder.to_owned(),
            free,
            needed,
        });
    }
    Ok(())
}

/// Writes the segments, as far as the plan wants them; their numbers.
fn segments(repository: &Repository, plan: &Plan, folder: &Path) -> Result<Vec<u64>, BackupError> {
    let all = &plan.segments;
    let last = match plan.until {
        None => all.len(),
        Some(until) => all
            .iter()
            .rposition(|segment| segment.oldest <= until)
            .map_or(0, |last| last.saturating_add(1)),
    };
    let mut numbers = Vec::with_capacity(last);
    for (segment, index) in all.iter().take(last).zip(1_usize..) {
        let path = folder.join(file_name(segment.number));
        match plan.until.filter(|_| index == last) {
            None => fetch(repository, &segment.chunks, &path, 0o600)?,
            Some(until) => fetch_cut(repository, segment, until, &path)?,
        }
        numbers.push(segment.number);
    }
    Ok(numbers)
}

fn fetch_cut(
    repository: &Repository,
    segment: &SegmentEntry,
    until: TimeMicros,
    path: &Path,
) -> Result<(), BackupError> {
    let mut bytes = Vec::new();
    for chunk in &segment.chunks {
        repository.read(chunk, &mut bytes)?;
    }
    let bytes = Bytes::from(bytes);
    let kept = bytes_until(&bytes, until);
    write(path, bytes.get(..kept).unwrap_or_default())
}

/// The databases beside the store.
fn databases(
    repository: &Repository,
    manifest: &Manifest,
    target: &RestoreTarget,
) -> Result<(), BackupError> {
    let held = |name: &String| manifest.databases.iter().any(|database| database.name == *name);
    for (name, path) in target.databases.iter().filter(|(name, _)| held(name)) {
        // Of a restore that did not end, or written since: SQLite would apply them to what is restored.
        for suffix in BESIDE.iter().filter(|suffix| !suffix.is_empty()) {
            delete(&beside(path, suffix))?;
        }
        database(repository, manifest, name, path)?;
        path.parent().map_or(Ok(()), sync_folder)?;
    }
    Ok(())
}

fn database(
    repository: &Repository,
    manifest: &Manifest,
    name: &str,
    path: &Path,
) -> Result<(), BackupError> {
    let entry = manifest.databases.iter().find(|database| database.name == name);
    let entry = entry.ok_or_else(|| {
        BackupError::damaged(
            format!("manifest {}", manifest.sequence),
            format!("it holds no {name}"),
        )
    })?;
    path.parent().map_or(Ok(()), make_folder)?;
    fetch(repository, &blocks_of(repository, entry)?, path, 0o600)
}

fn files(repository: &Repository, manifest: &Manifest, folder: &Path) -> Result<(), BackupError> {
    for file in &manifest.files {
        let path = safe_path(&file.path).map_err(|reason| BackupError::damaged("a list of files", reason))?;
        let path = folder.join(path);
        path.parent().map_or(Ok(()), make_folder)?;
        fetch(
            repository,
            std::slice::from_ref(&file.blob),
            &path,
            file.mode & 0o777,
        )?;
        path.parent().map_or(Ok(()), sync_folder)?;
    }
    Ok(())
}

/// Gives the restored catalogue an epoch of its own; the highest number of a segment that it knows.
async fn renew(path: &Path) -> Result<u64, crate::error::CatalogueError> {
    let (catalogue, _) = Catalogue::open(path).await?;
    catalogue.renew_epoch().await?;
    let compacted = catalogue.compacted_segments().await?;
    catalogue.close().await;
    Ok(compacted.into_iter().max().unwrap_or(0))
}

/// Writes a segment with the gap row of the restore.
fn tell_gap(folder: &Path, number: u64, plan: &Plan) -> Result<(), BackupError> {
    let now = TimeMicros::now();
    let gap = Gap {
        time: now,
        table: "*".to_owned(),
        lane: Lane::Critical,
        from_time: plan.lands_at.min(now),
        to_time: now,
        count: 0,
        exactness: Exactness::AtLeast,
        stage: GapStage::Restore,
        reason: format!(
            "restored to {} from backup {}",
            plan.lands_at, plan.manifest.sequence
        ),
    };
    let path = folder.join(file_name(number));
    let unsayable = |error: crate::CommitError| io_error("write", &path)(io::Error::other(error));
    let frames = own_frames(new_own_epoch(), vec![Fact::from(gap)]).map_err(unsayable)?;
    let mut bytes = header_of(&path);
    for (frame, sequence) in frames.into_iter().zip(1_u64..) {
        let mut id = frame.template.id;
        id.sequence = Sequence(sequence);
        let encoded = Frame { id, ..frame.template }.encode();
        put_entry(&mut bytes, OWN_HOST, (now, ClockAhead::NONE), &encoded);
    }
    write(&path, &bytes)
}
