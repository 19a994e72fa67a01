//! Why a folder cannot be looked at.

use std::io;
use std::path::{Path, PathBuf};

/// A folder cannot be looked at as a spool.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is not there.
    #[error(
        "there is no spool at {}: the agent has not run yet, or its spool is somewhere else (key spool.folder of its configuration)",
        folder.display()
    )]
    Absent {
        /// The folder.
        folder: PathBuf,
    },
    /// The system does not let us.
    #[error("{} may not be read by this user: run this as root, or as the user that the agent runs as", path.display())]
    Denied {
        /// What.
        path: PathBuf,
    },
    /// It is a file or a device.
    #[error("{} is not a folder: name the folder of the spool, not a file in it", folder.display())]
    NotAFolder {
        /// What was named.
        folder: PathBuf,
    },
    /// It is a folder of something else.
    #[error(
        "{} is not a spool: it has no lock file and no epoch (a folder such as 00000001-018f2b6e-…); it holds {holds}",
        folder.display()
    )]
    NotASpool {
        /// The folder.
        folder: PathBuf,
        /// What is in it instead, in words.
        holds: String,
    },
    /// Something else stands in the way.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl InspectError {
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            io::ErrorKind::NotFound => Self::Absent { folder: path },
            io::ErrorKind::NotADirectory => Self::NotAFolder { folder: path },
            _ => Self::Io { action, path, source },
        }
    }
}
