//! What may fail.

use std::path::PathBuf;

/// Export cannot be set up or go on.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A target cannot be used as configured.
    #[error("export target {name:?}: {reason}")]
    Target {
        /// Its name.
        name: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The control database refused.
    #[error("cannot {attempt} in the state of export")]
    Database {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// The engine's word.
        source: fleetmend_control::ControlError,
    },
    /// The facts cannot be read.
    #[error("cannot read facts to export")]
    Source(#[from] SourceError),
}

impl ExportError {
    pub(crate) fn database(
        attempt: &'static str,
    ) -> impl FnOnce(fleetmend_control::ControlError) -> ExportError {
        move |source| ExportError::Database { attempt, source }
    }
}

/// Facts could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is more in the span than was allowed: ask for less of it.
    #[error("the span holds more than {0} rows")]
    TooMany(usize),
    /// It does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// It answered in another shape than its tables have.
    #[error("rows of {table} cannot be read: {reason}")]
    Shape {
        /// The table.
        table: String,
        /// What is wrong.
        reason: String,
    },
}

/// Facts could not be written as Parquet.
#[derive(Debug, thiserror::Error)]
pub enum ParquetError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Request(String),
    /// The facts cannot be read.
    #[error("cannot read {table}")]
    Source {
        /// The table.
        table: String,
        /// Why.
        source: SourceError,
    },
    /// One moment holds more rows than one step may.
    #[error("{table} holds more than {rows_max} rows at {at}; raise store.query.rows_max")]
    Moment {
        /// The table.
        table: String,
        /// The bound.
        rows_max: usize,
        /// The moment.
        at: fleetmend_event::TimeMicros,
    },
    /// A file could not be written.
    #[error("cannot {attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The rows could not be encoded.
    #[error("cannot encode rows of {table} as Parquet")]
    Encode {
        /// The table.
        table: String,
        /// The encoder's word.
        source: parquet::errors::ParquetError,
    },
    /// Whoever wanted it has gone.
    #[error("the reader went away")]
    Gone,
}
