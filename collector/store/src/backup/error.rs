//! What can go wrong with backups.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::CatalogueError;

/// A backup, a restore or a check could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder could not be used.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder that holds something else.
    #[error("{path} is no repository of backups and not empty: name another folder")]
    NoRepository {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing at all.
    #[error(
        "there is no repository of backups in {path}: mount it, or make an empty folder there for a new one"
    )]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// A repository of another version.
    #[error("the repository has format {found}; this program reads format 1: upgrade it")]
    Format {
        /// Its version.
        found: u64,
    },
    /// The file of the key may be read by others.
    #[error("the key file {path} has mode {mode:o}: others may read it; chmod it to 0600")]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file of the key does not hold one.
    #[error("{path} holds no key: 32 bytes, or 64 hex digits, are wanted")]
    KeyShape {
        /// The file.
        path: PathBuf,
    },
    /// The repository is encrypted with another key, or with none, or no key was given.
    #[error("the repository is {wanted}, but {given}")]
    WrongKey {
        /// How it is.
        wanted: String,
        /// What was given.
        given: String,
    },
    /// Somebody else writes to the repository.
    #[error("another process is writing to the repository {path}: wait for it, or look for one that hangs")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// What was stored is not what is there.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which object or manifest.
        what: String,
        /// How that shows.
        reason: String,
    },
    /// The newest backup is of another store.
    #[error(
        "the repository holds backups of another store ({found}, this one is {epoch}): name another folder, or pass --adopt to go on with this store"
    )]
    OtherStore {
        /// Epoch of the newest backup.
        found: String,
        /// Epoch of the store.
        epoch: String,
    },
    /// The store changed faster than it could be looked at.
    #[error("the store changed {attempts} times while its files were listed; try again")]
    Restless {
        /// How often it was tried.
        attempts: u32,
    },
    /// A catalogue that cannot be read.
    #[error("cannot read the catalogue of {path}")]
    Catalogue {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: CatalogueError,
    },
    /// A database that cannot be copied.
    #[error("cannot copy the database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A database that is too large to be held in memory.
    #[error("the database {path} has {bytes} bytes; at most {most} can be backed up")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// There is something where a restore would write.
    #[error(
        "{path} is not empty: stop the collector and restore with --force, which renames it, or to another folder"
    )]
    TargetInUse {
        /// The folder or file.
        path: PathBuf,
    },
    /// A collector runs on the target.
    #[error("{path} is in use by a running collector: stop it first")]
    TargetLocked {
        /// The folder.
        path: PathBuf,
    },
    /// The disk of the target is too small.
    #[error("{path} has {free} bytes free and the restore needs {needed}: make room or name another folder")]
    Space {
        /// The folder.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// No backup reaches so far back.
    #[error("no backup holds the state of {wanted}: the oldest is of {oldest}")]
    TooEarly {
        /// The moment asked for.
        wanted: String,
        /// The oldest moment there is.
        oldest: String,
    },
    /// A repository without a backup.
    #[error("the repository {path} holds no backup yet")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// It was told to stop.
    #[error("stopped before the end; nothing that was there is changed")]
    Cancelled,
}

impl BackupError {
    pub(super) fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// Whether it says that what is stored is not what was stored.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// What an operation on a file could not do.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}
