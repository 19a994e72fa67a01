//! Staging: hard links to the Parquet files that a backup is about to copy, so that merges and retention can delete
//! them meanwhile.
//!
//! They stand in a folder of their own in the store's folder, locked while the backup runs. Whoever finds one that
//! nobody locks, as after a kill, deletes it: the next backup does, and the store when it is opened.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::{BackupError, io_error};

const FOLDER: &str = "staging";

/// Links that go when this is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    lock: Option<File>,
    next: u64,
}

/// A file that stays readable.
#[derive(Debug)]
pub(super) enum Staged {
    /// Through this name.
    At(PathBuf),
    /// It was gone already.
    Gone,
}

impl Staging {
    /// Makes the folder for one backup of the store in `store`.
    pub(super) fn begin(store: &Path) -> Result<Self, BackupError> {
        sweep(store);
        let folder = store.join(FOLDER).join(uuid::Uuid::new_v4().simple().to_string());
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&folder);
        match made.and_then(|()| File::open(&folder)) {
            Ok(lock) => {
                flock(&lock, FlockOperation::NonBlockingLockExclusive)
                    .map_err(|error| io_error("lock", &folder)(error.into()))?;
                Ok(Self {
                    folder,
                    lock: Some(lock),
                    next: 0,
                })
            }
            // A store that nobody can write to does not change either.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(Self {
                folder,
                lock: None,
                next: 0,
            }),
            Err(error) => Err(io_error("make", &folder)(error)),
        }
    }

    /// Keeps the file at `path`.
    pub(super) fn keep(&mut self, path: &Path) -> Result<Staged, BackupError> {
        if self.lock.is_none() {
            return Ok(if path.exists() {
                Staged::At(path.to_owned())
            } else {
                Staged::Gone
            });
        }
        self.next = self.next.saturating_add(1);
        let link = self.folder.join(self.next.to_string());
        match fs::hard_link(path, &link) {
            Ok(()) => Ok(Staged::At(link)),
            // Only when it is the file that is not there, and not the folder, which another one may have swept.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.folder.is_dir() => Ok(Staged::Gone),
            Err(error) => Err(io_error("link", path)(error)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "links of a backup stay until the next one");
        }
    }
}

/// Deletes what backups left that did not end.
pub(crate) fn sweep(store: &Path) {
    let Ok(entries) = fs::read_dir(store.join(FOLDER)) else {
        return;
    };
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        let Ok(folder) = File::open(&path) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(folder = %path.display(), %error, "cannot delete what an interrupted backup left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_was_swept_is_no_file_that_is_gone() {
        let store = tempfile::tempdir().unwrap();
        let file = store.path().join("1.parquet");
        fs::write(&file, "rows").unwrap();
        let mut staging = Staging::begin(store.path()).unwrap();
        assert!(matches!(staging.keep(&file).unwrap(), Staged::At(_)));
        let gone = staging.keep(&store.path().join("2.parquet"));
        assert!(matches!(gone.unwrap(), Staged::Gone));
        fs::remove_dir_all(&staging.folder).unwrap();
        let error = staging.keep(&file).unwrap_err();
        assert!(error.to_string().contains("cannot link"), "{error}");
    }
}
