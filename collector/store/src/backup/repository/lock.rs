//! Who may write, read and delete.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use rustix::fs::{FlockOperation, flock};

use super::Repository;
use crate::backup::error::{BackupError, io_error};

/// Held by the one who writes.
#[derive(Debug)]
pub(in crate::backup) struct WriteLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Held by those who read objects, or by the one who deletes them.
#[derive(Debug)]
pub(in crate::backup) struct ReadLock(#[expect(dead_code, reason = "held for its lock")] Option<File>);

impl Repository {
    /// Takes the right to write, and deletes what another one left half-written.
    pub(in crate::backup) fn lock(&self) -> Result<WriteLock, BackupError> {
        let lock = self.open_lock("LOCK")?;
        // Whoever only reads finds it then, and need not be able to make it.
        self.open_lock("READERS")?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(BackupError::Busy {
                    path: self.folder.clone(),
                });
            }
            Err(error) => return Err(io_error("lock", &self.folder.join("LOCK"))(error.into())),
        }
        let folder = self.folder.join("tmp");
        // Whoever copied the repository may have left an empty folder out.
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&folder).map_err(io_error("make", &folder))?;
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let path = entry.map_err(io_error("list", &folder))?.path();
            fs::remove_file(&path).map_err(io_error("delete", &path))?;
        }
        Ok(WriteLock(lock))
    }

    /// Keeps objects from being deleted while they are read. Where there is no file to lock nobody writes, or it was
    /// mounted so that nothing can be locked.
    pub(in crate::backup) fn lock_shared(&self) -> ReadLock {
        let lock = File::open(self.folder.join("READERS")).ok();
        ReadLock(lock.filter(|lock| flock(lock, FlockOperation::LockShared).is_ok()))
    }

    /// The right to delete objects; `None` while somebody reads.
    pub(in crate::backup) fn lock_to_delete(&self) -> Result<Option<ReadLock>, BackupError> {
        let lock = self.open_lock("READERS")?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(ReadLock(Some(lock)))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io_error("lock", &self.folder.join("READERS"))(error.into())),
        }
    }

    fn open_lock(&self, name: &str) -> Result<File, BackupError> {
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).map_err(io_error("open", &path))
    }
}
