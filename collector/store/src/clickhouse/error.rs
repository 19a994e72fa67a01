//! What ClickHouse refuses, and what stands in the way to it.

use std::time::Duration;

/// A statement was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nobody answered, or the connection broke.
    #[error("cannot {action}: ClickHouse at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        action: &'static str,
        endpoint: String,
        reason: String,
    },
    /// It took too long.
    #[error("cannot {action}: ClickHouse at {endpoint} did not answer within {waited:?}")]
    Late {
        action: &'static str,
        endpoint: String,
        waited: Duration,
    },
    /// It answered with an error; the text is its own.
    #[error("cannot {action}: ClickHouse answered {status}{}: {reason}", code.map_or_else(String::new, |code| format!(", code {code}")))]
    Refused {
        action: &'static str,
        status: u16,
        /// Its number of the error, where it gave one.
        code: Option<u32>,
        reason: String,
    },
    /// What it sent is not what was asked for.
    #[error("cannot {action}: ClickHouse sent what cannot be read: {reason}")]
    Garbled { action: &'static str, reason: String },
    /// More rows at once than are taken.
    #[error("cannot read rows: ClickHouse sent more than {most} bytes at once; ask for less")]
    TooMuch { most: usize },
    /// A file of the configuration cannot be used.
    #[error("cannot use {what} {path}: {reason}")]
    File {
        what: &'static str,
        path: String,
        reason: String,
    },
    /// A user whose name cannot be sent.
    #[error("store.clickhouse.user {user:?} has control characters, which no user's name has")]
    User { user: String },
    /// The tables are of a newer collector.
    #[error(
        "the tables in ClickHouse are of version {found}, this collector knows {known}: upgrade the collector"
    )]
    Newer { found: u32, known: u32 },
}

/// Too much memory for a query, by its number in ClickHouse.
pub(super) const MEMORY_LIMIT_EXCEEDED: u32 = 241;
