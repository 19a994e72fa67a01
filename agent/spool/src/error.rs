//! What may fail, and with what.

use std::io;
use std::path::PathBuf;

/// The spool could not be opened. Damage inside it is no reason: that is repaired and reported.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something in the folder could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("spool {} is in use by another process", path.display())]
    Locked {
        /// The spool.
        path: PathBuf,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Frames could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("could not read spool segment {}", path.display())]
    Io {
        /// The segment.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The reading task was cancelled, as it is when the process ends.
    #[error("reading was cancelled")]
    Cancelled,
}
