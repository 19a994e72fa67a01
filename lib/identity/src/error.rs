//! Errors of the files, keys and certificates of an identity.

use std::io;
use std::path::PathBuf;

/// Something about a key, a certificate or the file that holds it is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A private file is open to others.
    #[error(
        "{} may be read or written by others (mode {mode:04o}); if it was exposed make a new key, else run: chmod {wanted:o} {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have.
        wanted: u32,
    },
    /// A file that must be root's or our own belongs to somebody else.
    #[error("{} belongs to uid {owner}, who could change it; check its content, then run: chown root {}", path.display(), path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A file holds something else than it should.
    #[error("{} is not a valid {what}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The folder already holds what was about to be created.
    #[error("{} already exists; it is never overwritten: use it, or choose another folder", path.display())]
    AlreadyThere {
        /// The file that is in the way.
        path: PathBuf,
    },
    /// A key or a certificate could not be made.
    #[error("could not make {what}: {reason}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A certificate signing request was refused.
    #[error("the certificate signing request is not acceptable: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] crate::name::NameError),
    /// A certificate does not say who its holder is.
    #[error(transparent)]
    Peer(#[from] crate::peer::PeerError),
    /// A signed document was refused.
    #[error(transparent)]
    Signature(#[from] crate::signed::SignatureError),
    /// A rotation of keys cannot take the step that was asked for.
    #[error("the keys were not rotated: {0}")]
    Rotation(String),
    /// A TLS configuration could not be built.
    #[error("could not build the TLS configuration")]
    Tls(#[from] rustls::Error),
}
