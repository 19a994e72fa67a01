//! What may fail before a request is answered.

use std::net::SocketAddr;
use std::path::PathBuf;

use fleetmend_control::ControlError;

use crate::config::ConfigFault;

/// The API's own state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The control database refused.
    #[error("cannot {attempt} in the API's state")]
    Database {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// The engine's word.
        source: ControlError,
    },
    /// A stored value is none of ours.
    #[error("the API's state holds {what} that cannot be read")]
    Stored {
        /// What it should have been.
        what: &'static str,
    },
    /// The name is taken.
    #[error("the user {0:?} exists")]
    UserExists(String),
    /// A name that cannot be.
    #[error("a user's name has 1 to 64 characters out of a-z, 0-9, '.', '-' and '_'")]
    UserName,
    /// A password that cannot be.
    #[error("a password has 12 to 256 characters")]
    Password,
    /// Nobody could administer any more.
    #[error("{0:?} is the last admin; make another one first")]
    LastAdmin(String),
    /// A group that cannot be, or cannot be given.
    #[error("{0}")]
    Group(String),
    /// The password could not be hashed.
    #[error("cannot hash a password: {0}")]
    Hash(String),
}

impl StateError {
    pub(crate) fn database(attempt: &'static str) -> impl FnOnce(ControlError) -> StateError {
        move |source| StateError::Database { attempt, source }
    }
}

impl From<ControlError> for StateError {
    fn from(source: ControlError) -> Self {
        Self::Database {
            attempt: "read a stored value",
            source,
        }
    }
}

/// The API could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The settings cannot be.
    #[error("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config {
        /// All of them.
        faults: Vec<ConfigFault>,
    },
    /// Its state could not be prepared.
    #[error(transparent)]
    State(#[from] StateError),
    /// The address could not be bound.
    #[error("cannot listen on {address}; is another process there? (`ss -ltnp` shows it)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// A certificate or key file could not be read.
    #[error("cannot read {path}: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key file is missing, or others may read it.
    #[error("the key of the API cannot be used")]
    TlsKey(#[source] fleetmend_identity::IdentityError),
    /// Certificate and key do not make a server.
    #[error("the certificate and key of the API do not fit")]
    Tls(#[source] fleetmend_identity::IdentityError),
}

/// The API stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed for good.
    #[error("cannot accept connections on {address}")]
    Accept {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
}
