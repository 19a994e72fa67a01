//! Manifests: what one backup holds.
//!
//! JSON, sealed as `manifests/<sequence>`. Unknown fields are ignored, missing ones of later versions are empty; a
//! change that an older program must not overlook raises `format`. Everything that becomes a path or a size is
//! checked by [`Manifest::check`] before it is used.

use std::path::{Component, Path, PathBuf};

use fleetmend_event::TimeMicros;
use serde::{Deserialize, Serialize};

use super::error::BackupError;

/// Version of what is written.
pub(super) const FORMAT: u32 = 1;
/// Bytes that a manifest or a list may have: a line for each of a few hundred thousand files.
pub(super) const LIST_BYTES_MAX: u64 = 64 << 20;
/// Bytes that a database may have.
pub(super) const DATABASE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of a block of a database.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Bytes that a chunk of a segment or a plain file may have.
pub(super) const CHUNK_BYTES_MAX: u64 = 1 << 30;
/// Name of the catalogue among the databases.
pub(super) const CATALOGUE: &str = "catalogue";

/// An object and the length of its content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// The manifest before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) sequence: u64,
    /// SHA-256 of its file, in hex.
    pub(super) digest: String,
}

/// The Parquet files of one table and day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shard {
    pub(super) table: String,
    pub(super) day: i64,
    pub(super) files: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// When the latest of their rows was taken.
    pub(super) newest: TimeMicros,
    /// A list of [`FileEntry`].
    pub(super) list: Blob,
}

/// One Parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Within the folder of Parquet files.
    pub(super) path: String,
    #[serde(flatten)]
    pub(super) blob: Blob,
}

/// A segment, as far as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentEntry {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// When the first and the last of its entries were taken.
    pub(super) oldest: TimeMicros,
    pub(super) newest: TimeMicros,
    pub(super) chunks: Vec<Blob>,
    /// Tells an unchanged file without reading it: length, inode and time of change.
    #[serde(default)]
    pub(super) seen: (u64, u64, i64),
}

/// A database, cut into blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DatabaseEntry {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// A list of names, one for each [`BLOCK_BYTES`].
    pub(super) blocks: Blob,
}

/// Another file of the collector, such as a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlainEntry {
    pub(super) path: String,
    pub(super) mode: u32,
    #[serde(flatten)]
    pub(super) blob: Blob,
}

/// What should have been in the backup and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// The repository it belongs to.
    pub(super) repository: String,
    /// Its number.
    pub sequence: u64,
    /// Its moment: what was acknowledged before is in it.
    pub time: TimeMicros,
    /// When it was finished.
    pub finished: TimeMicros,
    /// The life of the store, in hex.
    pub store_epoch: String,
    /// Version of the program that made it.
    pub program: String,
    pub(super) previous: Option<Link>,
    pub(super) shards: Vec<Shard>,
    pub(super) segments: Vec<SegmentEntry>,
    /// Segments that were compacted since the backup before: for moments between the two.
    #[serde(default)]
    pub(super) kept: Vec<SegmentEntry>,
    /// Whether none is missing there.
    #[serde(default)]
    pub(super) kept_whole: bool,
    /// The newest segment whose rows stand in the Parquet files; those of every segment before it do too.
    #[serde(default)]
    pub(super) compacted_to: u64,
    pub(super) databases: Vec<DatabaseEntry>,
    #[serde(default)]
    pub(super) files: Vec<PlainEntry>,
    /// What could not be backed up.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Bytes that this backup added to the repository.
    #[serde(default)]
    pub bytes_added: u64,
}

impl Manifest {
    /// Bytes of the content that a restore writes.
    pub fn bytes(&self) -> u64 {
        let parts = self.shards.iter().map(|shard| shard.bytes);
        let parts = parts
            .chain(self.segments.iter().map(|segment| segment.bytes))
            .chain(self.databases.iter().map(|database| database.bytes))
            .chain(self.files.iter().map(|file| file.blob.bytes));
        parts.fold(0, u64::saturating_add)
    }

    /// Rows in its Parquet files.
    pub fn rows_compacted(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.rows)
            .fold(0, u64::saturating_add)
    }

    /// Parquet files.
    pub fn parquet_files(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.files)
            .fold(0, u64::saturating_add)
    }

    /// When the latest row was taken that stands in a Parquet file.
    pub(super) fn newest_compacted(&self) -> Option<TimeMicros> {
        self.shards.iter().map(|shard| shard.newest).max()
    }

    /// Whether this and the backup `before` together hold every segment that was written between them.
    pub(super) fn continues(&self, before: &Self) -> bool {
        let follows = self.previous.as_ref().map(|link| link.sequence);
        self.kept_whole && follows == Some(before.sequence) && self.store_epoch == before.store_epoch
    }

    /// Whether anything in it could do harm, or is not of manifest `sequence` of `repository`.
    pub(super) fn check(&self, sequence: u64, repository: &str) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "it has format {}, this program reads {FORMAT}",
                self.format
            ));
        }
        if self.sequence != sequence {
            return Err(format!(
                "it is manifest {} in the place of {sequence}",
                self.sequence
            ));
        }
        if self.repository != repository {
            return Err("it is of another repository".to_owned());
        }
        if self
            .previous
            .as_ref()
            .is_some_and(|link| link.sequence >= sequence)
        {
            return Err("it follows a later one".to_owned());
        }
        self.shards
            .iter()
            .try_for_each(|shard| shard.list.check(LIST_BYTES_MAX))?;
        let segments = self.segments.iter().chain(&self.kept);
        segments.into_iter().try_for_each(SegmentEntry::check)?;
        for database in &self.databases {
            database.blocks.check(LIST_BYTES_MAX)?;
            if database.bytes > DATABASE_BYTES_MAX {
                return Err(format!(
                    "database {} claims {} bytes",
                    database.name, database.bytes
                ));
            }
        }
        for file in &self.files {
            file.blob.check(CHUNK_BYTES_MAX)?;
            safe_path(&file.path)?;
        }
        Ok(())
    }
}

impl SegmentEntry {
    fn check(&self) -> Result<(), String> {
        let check = |chunk: &Blob| chunk.check(CHUNK_BYTES_MAX);
        self.chunks.iter().try_for_each(check)?;
        let bytes = self.chunks.iter().map(|chunk| chunk.bytes);
        let bytes = bytes.fold(0, u64::saturating_add);
        if bytes != self.bytes || bytes > CHUNK_BYTES_MAX {
            return Err(format!("segment {} is not as long as its chunks", self.number));
        }
        Ok(())
    }
}

impl FileEntry {
    pub(super) fn check(&self) -> Result<(), String> {
        self.blob.check(u64::MAX)?;
        safe_path(&self.path).map(|_| ())
    }
}

impl Blob {
    fn check(&self, most: u64) -> Result<(), String> {
        check_name(&self.name)?;
        if self.bytes > most {
            return Err(format!("object {} claims {} bytes", self.name, self.bytes));
        }
        Ok(())
    }
}

/// Whether this can be the name of an object.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let hex = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    hex.then_some(())
        .ok_or_else(|| "it names an object by something else than 64 hex digits".to_owned())
}

/// The path, when it stays below the folder that it is put in.
pub(super) fn safe_path(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    if path.as_os_str().is_empty() || !path.components().all(plain) || path.as_os_str().len() > 1024 {
        return Err(format!("it names the path {}", path.display()));
    }
    Ok(path.to_owned())
}

/// Reads what was written as JSON into the object `what`.
pub(super) fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|error| BackupError::damaged(what, error.to_string()))
}
