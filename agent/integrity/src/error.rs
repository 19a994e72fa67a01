//! What can go wrong in this room.

use std::path::PathBuf;

use thiserror::Error;

/// The baseline or the list of changed files could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system refused to read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The system refused to write.
    #[error("write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// What is there is not what was written.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
}

/// A request could not be done.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Nothing is known of the path.
    #[error("{} does not differ from the baseline: `fleetmend-agent integrity list` shows what does", .0.display())]
    NotChanged(PathBuf),
    /// The file cannot be read now.
    #[error("{} cannot be read now", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The room has ended, or has too much to do.
    #[error("the file integrity watch does not answer: {0}")]
    Busy(&'static str),
}
