//! What may fail.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::error::ErrorKind;

/// The address of the control database cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// It is no URL.
    #[error("is not of the form sqlite:///absolute/path or postgres://user@host:port/database: {0}")]
    Form(String),
    /// Another engine.
    #[error("names {0:?}; the control database lies in sqlite or postgres")]
    Engine(String),
    /// A secret where logs and process lists would show it.
    #[error(
        "holds a password; put it into a file that only the collector reads, and name that in password_file"
    )]
    Password,
    /// A parameter that is not known.
    #[error("has the parameter {0:?}; only sslmode is known (disable, verify-ca, verify-full)")]
    Parameter(String),
    /// Something is missing.
    #[error("says no {0}")]
    Missing(&'static str),
}

/// The control database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file that the connection needs cannot be used.
    #[error("cannot read {what} {path}")]
    File {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Nobody answers, or the connection broke. Whether a commit happened is not known.
    #[error(
        "the control database at {address} cannot be reached; is it running, and does it let this host in?"
    )]
    Unreachable {
        /// Which one.
        address: String,
        /// The driver's word.
        source: sqlx::Error,
    },
    /// No answer within the deadline. Whether a commit happened is not known.
    #[error("the control database at {address} did not answer within {} s", waited.as_secs_f64())]
    Late {
        /// Which one.
        address: String,
        /// The deadline.
        waited: Duration,
    },
    /// Somebody else's transaction stood in the way, again and again.
    #[error("other transactions stood in the way")]
    Conflict(#[source] sqlx::Error),
    /// The server ended the statement at its own deadline.
    #[error("a statement took too long; is the control database overloaded, or a transaction stuck?")]
    TooLong(#[source] sqlx::Error),
    /// The engine refused the statement.
    #[error("the control database refused")]
    Refused(#[source] sqlx::Error),
    /// A stored value is of another kind than asked for.
    #[error("column {column} holds no {wanted}")]
    Value {
        /// Name or place of the column.
        column: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A stored value is none of ours.
    #[error("a stored value is not {0}")]
    Stored(&'static str),
    /// A statement that has to give a row gave none.
    #[error("a row that has to be there is missing")]
    NoRow,
    /// The tables are of a newer program.
    #[error(
        "the tables of {room} are at step {found}, this program knows {known}: they were changed by a newer version; \
         run that one, or restore a backup from before it"
    )]
    Newer {
        /// Whose tables.
        room: &'static str,
        /// The step they are at.
        found: i64,
        /// The last step that is known here.
        known: i64,
    },
    /// A step is not what it was when it was applied.
    #[error(
        "step {step} of the tables of {room} is another one here than the one that was applied: this program was \
         built from changed sources; run a released version"
    )]
    Changed {
        /// Whose tables.
        room: &'static str,
        /// Which step.
        step: i64,
    },
    /// A step cannot be written for both engines.
    #[error("step {step} of the tables of {room} holds {word:?}, which is not of both engines")]
    Word {
        /// Whose tables.
        room: &'static str,
        /// Which step.
        step: i64,
        /// The word.
        word: String,
    },
    /// A lease is not ours any more.
    #[error("the lease {0:?} is held by another collector")]
    LeaseLost(String),
}

impl ControlError {
    /// Puts a driver's error where it belongs.
    pub(crate) fn of(source: sqlx::Error, address: &str) -> Self {
        let address = address.to_owned();
        match &source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::Protocol(_) => Self::Unreachable { address, source },
            sqlx::Error::Database(error) => match error.code().as_deref() {
                // Serialization failure, deadlock, lock not available; SQLite's busy and locked.
                Some("40001" | "40P01" | "55P03" | "5" | "6" | "517" | "261") => Self::Conflict(source),
                Some("57014") => Self::TooLong(source),
                // Connections refused or ended: operator's word, crash, no more slots, not the primary any more.
                Some("57P01" | "57P02" | "57P03" | "53300" | "25006") => {
                    Self::Unreachable { address, source }
                }
                Some(code) if code.starts_with("08") || code.starts_with("28") || code == "3D000" => {
                    Self::Unreachable { address, source }
                }
                _ => Self::Refused(source),
            },
            _ => Self::Refused(source),
        }
    }

    /// Whether asking again later may help: the database is away or busy.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Late { .. } | Self::Conflict(_) | Self::TooLong(_)
        )
    }

    /// Whether the database is away.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. })
    }

    /// Whether a row with this key is there already.
    pub fn is_unique_violation(&self) -> bool {
        let Self::Refused(sqlx::Error::Database(error)) = self else {
            return false;
        };
        error.kind() == ErrorKind::UniqueViolation
    }

    /// This error and its sources in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let word = error.to_string();
            // The driver repeats what it wraps.
            if !text.ends_with(&word) {
                text.push_str(": ");
                text.push_str(&word);
            }
            source = error.source();
        }
        text
    }
}
