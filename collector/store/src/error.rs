//! What can go wrong, one type per operation.

use std::path::PathBuf;
use std::time::Duration;

use fleetmend_event::RecordId;
use fleetmend_event::batch::BatchError;

use crate::chunk::{CodecError, FileError};

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A configuration that cannot work.
    #[error("store configuration: {key} {reason}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder or file could not be made or read.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by another process")]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// A restore into the folder did not end.
    #[error("store {path} is half restored: run the restore again, or empty the folder")]
    Unfinished {
        /// The store's folder.
        path: PathBuf,
    },
    /// The catalogue could not be opened or read.
    #[error("cannot open the catalogue of the store")]
    Catalogue(#[from] CatalogueError),
    /// The note that says which store it is cannot be read.
    #[error(
        "{path} does not say which store this is: move it away, and the next start takes the catalogue's word"
    )]
    Identity {
        /// The note.
        path: PathBuf,
    },
    /// The query engine could not be set up.
    #[error("cannot set up the query engine: {0}")]
    Engine(String),
}

/// Frames were not stored. Unless said otherwise none of the call's frames was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A number was skipped: the sender has to go on after `expected`'s predecessor.
    #[error("record {found} of lane {} came where {expected} was expected", .id.lane)]
    OutOfOrder {
        /// The record that came.
        id: RecordId,
        /// Number that was expected.
        expected: u64,
        /// Number that came.
        found: u64,
    },
    /// Another record with this identity is stored already.
    #[error("record {} of lane {} differs from the one stored under the same number", .id.sequence, .id.lane)]
    Conflict {
        /// The identity both claim.
        id: RecordId,
    },
    /// The host id or the epoch is reserved for the store's own facts.
    #[error("host id or epoch is reserved")]
    Reserved,
    /// More than the store takes at once; try again later.
    #[error("store is busy: {waited:?} were not enough to store the records")]
    Busy {
        /// How long the call waited. The records may become durable yet: sending again stores them once.
        waited: Duration,
    },
    /// The disk does not take records now; try again later.
    #[error("store is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The records are of a newer version; taken now they could not be read.
    #[error("records need dictionary {dictionary}, which this version does not have: upgrade the collector")]
    Newer {
        /// Number of the dictionary.
        dictionary: u32,
    },
    /// The store has ended.
    #[error("store is closed")]
    Closed,
    /// The store's own rows could not be encoded.
    #[error("cannot encode rows of the store: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
}

impl CommitError {
    /// Whether the same frames may be accepted later without anyone's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable { .. } | Self::Closed)
    }
}

/// A query was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text is no query this store understands; the message is the engine's, with what to do next.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The statement would change something; only queries are answered.
    #[error("only queries are answered: {reason}")]
    Refused {
        /// Why it counts as a change.
        reason: String,
    },
    /// The time ran out.
    #[error("query took longer than {timeout:?}; narrow its time range")]
    Timeout {
        /// How long it was allowed to take.
        timeout: Duration,
    },
    /// The memory was not enough.
    #[error("query needs more memory than the {bytes_max} bytes allowed; narrow it")]
    Memory {
        /// How much it was allowed to take.
        bytes_max: usize,
    },
    /// There is more than the caller allows.
    #[error("query reads more than the {most} {what} allowed; narrow it")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        most: usize,
    },
    /// Too many queries run already.
    #[error("too many queries run at once")]
    Busy,
    /// Somebody cancelled it.
    #[error("query was cancelled")]
    Cancelled,
    /// A fault of the store.
    #[error("query failed: {reason}")]
    Failed {
        /// The engine's reason.
        reason: String,
    },
    /// The store has ended.
    #[error("store is closed")]
    Closed,
}

/// The catalogue refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A newer program changed it: this one could not say what is live.
    #[error(
        "catalogue {path} was written by a newer collector (migration {version} is not known here): install that version, or restore a backup made before the upgrade"
    )]
    Newer {
        /// The catalogue.
        path: PathBuf,
        /// The first migration that is not known.
        version: i64,
    },
    /// It is damaged, so is its copy, and not every file says what the catalogue said of it.
    #[error(
        "catalogue {path} is damaged ({fault}) and has no whole copy{}: restore it from a backup with `fleetmend-collector restore`; without one, move `catalogue*` out of the store's folder: the next start makes it anew from the Parquet files and sets those aside that do not say enough of themselves",
        of_which(.unknown)
    )]
    Damaged {
        /// The catalogue.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// How many files it cannot be made anew from, and one of them with what is wrong with it.
        unknown: Option<(usize, String)>,
    },
    /// A file of it could not be moved or read.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its migrations could not be applied.
    #[error("cannot migrate the catalogue")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("cannot {action} in the catalogue")]
    Sql {
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// It holds what it cannot.
    #[error("catalogue holds {what} that is not valid")]
    Invalid {
        /// What.
        what: &'static str,
    },
}

fn of_which(unknown: &Option<(usize, String)>) -> String {
    unknown.as_ref().map_or_else(String::new, |(files, one)| {
        format!(", and {files} Parquet files do not say enough of themselves to make it anew, as {one}")
    })
}

/// A step of maintenance failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// A file could not be read, written or moved.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Arrow refused rows.
    #[error("cannot arrange rows for a Parquet file")]
    Arrow(#[from] arrow::error::ArrowError),
    /// Parquet could not be written.
    #[error("cannot write a Parquet file")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Samples could not be written as chunks, or read from them.
    #[error("cannot make chunks of samples")]
    Chunk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A frame could not be read again.
    #[error("cannot read a stored frame again")]
    Frame(#[from] ReadError),
    /// The catalogue refused.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The query engine failed while files were merged.
    #[error("cannot merge Parquet files")]
    Merge(#[from] QueryError),
    /// The writer did not take a command.
    #[error("writer does not answer")]
    Writer(#[from] CommitError),
    /// A merge did not read what its files hold.
    #[error("merge of table {table} read {found} rows where its files hold {wanted}")]
    Rows {
        /// The table.
        table: &'static str,
        /// Rows in the files.
        wanted: u64,
        /// Rows that were read.
        found: u64,
    },
    /// A blocking thread was cancelled or panicked.
    #[error("a blocking step did not finish")]
    Blocking(#[from] tokio::task::JoinError),
}

impl From<FileError> for MaintenanceError {
    fn from(error: FileError) -> Self {
        Self::Chunk(Box::new(error))
    }
}

impl From<CodecError> for MaintenanceError {
    fn from(error: CodecError) -> Self {
        Self::Chunk(Box::new(error))
    }
}

/// A stored frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read a frame of segment {segment}")]
    Io {
        /// Number of the segment.
        segment: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no frame any more.
    #[error("frame of segment {segment} at {offset} is damaged")]
    Frame {
        /// Number of the segment.
        segment: u64,
        /// Where it begins.
        offset: u64,
        /// Why.
        #[source]
        source: fleetmend_event::FrameError,
    },
    /// The rows do not decode.
    #[error("rows of a frame cannot be decoded")]
    Batch(#[from] BatchError),
    /// The rows do not fit the table.
    #[error("rows of a frame do not fit table {table}: {reason}")]
    Shape {
        /// The table.
        table: &'static str,
        /// Why.
        reason: String,
    },
}
