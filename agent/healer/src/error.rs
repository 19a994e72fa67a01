//! What can keep the healer from starting or from going on.

use std::path::PathBuf;

use crate::interrupt::Interrupted;
use crate::journal::JournalError;
use crate::ledger::LedgerError;

/// The healer could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file of root's is not as it must be.
    #[error("could not open the state of the healer")]
    Identity(#[from] fleetmend_identity::IdentityError),
    /// The journal.
    #[error("could not open the journal")]
    Journal(#[from] JournalError),
    /// The ledger cannot be read.
    #[error("could not open the ledger")]
    Ledger(#[from] LedgerError),
    /// Another healer runs on the same state.
    #[error("another healer holds {}", .0.display())]
    Held(PathBuf),
    /// A file operation.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The socket's group or an allowed user is not known on this host.
    #[error("there is no {what} {name:?} on this host")]
    NoSuch {
        /// `user` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

/// A trust bundle was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// There is nothing that it could follow from.
    #[error("there is no trust bundle on this host; enrol it as root first")]
    NoAnchors,
    /// What is there is not to be trusted.
    #[error("the trust bundle of this host cannot be read: {0}")]
    Anchors(String),
    /// It does not follow from the one in force.
    #[error("the trust bundle was refused: {0}")]
    Signature(#[from] fleetmend_identity::SignatureError),
    /// The root was changed too often since the host enrolled.
    #[error("more than {0} changes of the fleet root since this host enrolled; enrol it anew as root")]
    TooMany(usize),
    /// It could not be kept.
    #[error("the trust bundle could not be kept")]
    Keep(#[source] fleetmend_identity::IdentityError),
}

/// A transaction could not be brought to its end here and now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The ledger cannot be written: nothing may be done.
    #[error("the ledger cannot be written: {0}")]
    Ledger(#[from] LedgerError),
    /// The journal cannot be written: nothing may be done.
    #[error("the journal cannot be written: {0}")]
    Journal(#[from] JournalError),
    /// The healer is ending; the next start goes on.
    #[error("the healer is ending; the next start goes on")]
    Closing,
    /// A test cut it short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}
