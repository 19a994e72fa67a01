//! Fetching: content of a repository becomes files, each under its name only once it was compared with its digest.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::error::{BackupError, io_error};
use super::manifest::{BLOCK_BYTES, Blob, DatabaseEntry, FileEntry, Manifest, safe_path};
use super::repository::Repository;
use super::{Progress, Watch};

/// Threads that decrypt, hash and write.
const THREADS: usize = 2;

/// Every Parquet file of a manifest.
pub(super) fn parquet_of(
    repository: &Repository,
    manifest: &Manifest,
) -> Result<Vec<FileEntry>, BackupError> {
    let mut all = Vec::new();
    for shard in &manifest.shards {
        let entries: Vec<FileEntry> = repository.read_list(&shard.list)?;
        for entry in entries {
            let unusable = |reason| BackupError::damaged(format!("list {}", shard.list.name), reason);
            entry.check().map_err(unusable)?;
            all.push(entry);
        }
    }
    Ok(all)
}

/// The blocks of a database, in order.
pub(super) fn blocks_of(repository: &Repository, database: &DatabaseEntry) -> Result<Vec<Blob>, BackupError> {
    let names: Vec<String> = repository.read_list(&database.blocks)?;
    let unusable = |reason: &str| BackupError::damaged(format!("database {}", database.name), reason);
    if names.len() as u64 != database.bytes.div_ceil(BLOCK_BYTES) {
        return Err(unusable("its list of blocks is not as long as it is"));
    }
    let mut left = database.bytes;
    let mut blobs = Vec::with_capacity(names.len());
    for name in names {
        super::manifest::check_name(&name).map_err(|reason| unusable(&reason))?;
        let bytes = left.min(BLOCK_BYTES);
        left = left.saturating_sub(bytes);
        blobs.push(Blob { name, bytes });
    }
    Ok(blobs)
}

/// Writes the content of `blobs`, one after the other, to `path`.
pub(super) fn fetch(
    repository: &Repository,
    blobs: &[Blob],
    path: &Path,
    mode: u32,
) -> Result<(), BackupError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io_error("make", &temporary))?;
    let written = blobs.iter().try_for_each(|blob| repository.read(blob, &mut file));
    let written = written.and_then(|()| file.sync_data().map_err(io_error("sync", &temporary)));
    if let Err(error) = written {
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    fs::rename(&temporary, path).map_err(io_error("name", path))
}

/// Writes small content to `path` in one step.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("make", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", path))
}

/// Makes a folder and those above it, for their owner only; the names of those that are new are durable.
pub(super) fn make_folder(path: &Path) -> Result<(), BackupError> {
    crate::recover::make_folder(path, 0o700).map_err(io_error("make", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync", path))
}

/// Fetches many files below `folder`, with several threads.
pub(super) fn fetch_all(
    repository: &Repository,
    entries: &[FileEntry],
    folder: &Path,
    total: u64,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let mut folders = std::collections::BTreeSet::from([folder.to_owned()]);
    let mut paths = std::collections::HashSet::with_capacity(entries.len());
    for entry in entries {
        let path =
            safe_path(&entry.path).map_err(|reason| BackupError::damaged("a list of files", reason))?;
        // Two threads would write to it at once, and what was compared would not be what is there.
        if !paths.insert(path.clone()) {
            let reason = format!("it names {} twice", path.display());
            return Err(BackupError::damaged("a list of files", reason));
        }
        folders.extend(folder.join(path).parent().map(Path::to_owned));
    }
    folders.iter().try_for_each(|folder| make_folder(folder))?;
    let work = |entry: &FileEntry| {
        let path = folder.join(&entry.path);
        fetch(repository, std::slice::from_ref(&entry.blob), &path, 0o600)?;
        Ok(entry.blob.bytes)
    };
    in_threads(entries, total, watch, &work)?;
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// Does `work` for every item with several threads, until one fails; it says how many bytes it dealt with.
pub(super) fn in_threads<T: Sync>(
    items: &[T],
    total: u64,
    watch: &dyn Watch,
    work: &(dyn Fn(&T) -> Result<u64, BackupError> + Sync),
) -> Result<(), BackupError> {
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<BackupError>> = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.lock().is_some() {
                return;
            }
            let outcome = if watch.is_cancelled() {
                Err(BackupError::Cancelled)
            } else {
                work(item)
            };
            match outcome {
                Ok(bytes) => {
                    let done = done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
                    watch.progress(Progress { done, total });
                }
                Err(error) => {
                    failed.lock().get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(run);
        }
        run();
    });
    failed.into_inner().map_or(Ok(()), Err)
}
