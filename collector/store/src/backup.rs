//! Backup: a store, and what belongs to its collector, in a folder of immutable objects. This text is the
//! specification of that folder, the *repository*; its version is 1.
//!
//! # What is in a repository
//! | path | what |
//! |---|---|
//! | `repository.json` | `{"format":1,"id":…,"key_id":…}`; `key_id` is null where nothing is encrypted |
//! | `objects/ab/ab…` | objects, named by 64 hex digits, the first two of them the folder |
//! | `manifests/` and 20 digits | one manifest per backup, numbered from 1 without a hole but for what was pruned |
//! | `pruned` | which manifests were deleted, as runs, so that the chain can be followed across them |
//! | `tmp/` | what is being written; whoever holds `LOCK` deletes what is left there |
//! | `LOCK`, `READERS` | locked by who writes; locked shared by who reads, and alone by who deletes |
//!
//! An object's content has a SHA-256. Without a key its name is that; with one it is an HMAC-SHA256 of it, so that
//! names do not tell who holds the same content. Equal content is one object: a backup writes what is new. A Parquet
//! file is one object, a segment a row of chunks that end between entries, a database a row of blocks of
//! 64 KiB. A list of such parts is an object itself where it may be long.
//!
//! Objects, manifests and `pruned` are *sealed* alike (`seal.rs`): a head, then the content, compressed where that
//! helps and encrypted where there is a key.
//!
//! A manifest (`manifest.rs`) is JSON. It says from which store and moment it is, names every object, and carries the
//! SHA-256 of the file of the manifest before it. Whoever changes, exchanges or replays a manifest breaks that chain;
//! without a key this shows only to who knows the newest digest from elsewhere.
//!
//! # Invariants
//! - A manifest is written last, atomically, after all it names is synced. A backup that was interrupted leaves
//!   objects that nobody names. Pruning deletes manifests first and objects later.
//! - A backup's moment is when it began: every row acknowledged before is in it, and each row once.
//! - Nothing is stopped or locked in the store. What stands in the store's folder is known to `source.rs` alone.
//! - What is restored was compared with its digest before it got its name. A store is not opened while its restore is
//!   unfinished. A restored store has a new epoch, the marks of its moment, and a gap row from that moment on.
//! - A repository's content is not trusted: names are checked before they become paths, and sizes bound what is
//!   written and held.
//!
//! # Limits of today
//! A database is held in memory while it is copied, and may have 1 GiB. Objects are compared with their names when
//! they are read, not at every backup: one that is damaged is not written again. Any moment between two backups can be
//! restored as long as both and all between them are there and the store could keep its compacted segments for them
//! (`kept.rs`), and otherwise that of the backup before; a control database is always that of the backup before. Agents
//! are not told what is backed up: they keep acknowledged records for the time that they are configured to.

mod copy;
mod cut;
mod error;
mod fetch;
mod kept;
mod key;
mod manifest;
mod plan;
mod prune;
mod repository;
mod restore;
mod seal;
mod source;
mod staging;
mod verify;

pub use copy::{Made, back_up};
pub use error::BackupError;
pub(crate) use kept::put_away;
pub use key::BackupKey;
pub use manifest::{Manifest, Missing};
pub use plan::{Plan, plan};
pub use prune::{Keep, Pruned, prune};
pub use repository::{Listed, Repository};
pub(crate) use restore::refuse_unfinished;
pub use restore::{RestoreTarget, Restored, restore};
pub use source::Source;
pub(crate) use staging::sweep;
pub use verify::{Verified, VerifyExtent, verify};

/// How far something is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Bytes dealt with.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
}

/// Who is told how far something is, and says whether to go on.
pub trait Watch: Sync {
    /// Called between objects.
    fn progress(&self, progress: Progress);
    /// Whether to stop.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn progress(&self, _: Progress) {}
}

#[cfg(test)]
mod tests;
