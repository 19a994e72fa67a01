//! Why a bundle was refused.

use std::path::PathBuf;

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file of the bundle could not be read.
    #[error("read model file {path}")]
    Read {
        /// File that was read.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any bundle needs.
    #[error("model file {path} has {bytes} bytes, more than {max}")]
    TooLarge {
        /// File that was read.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A file is not what its format says.
    #[error("parse model file {file}")]
    Parse {
        /// File in the bundle.
        file: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file's bytes are not those the manifest names.
    #[error("model {model}: {file} has SHA-256 {found}, the manifest says {wanted}: not loaded")]
    Digest {
        /// Model named by the manifest.
        model: String,
        /// File in the bundle.
        file: String,
        /// Digest in the manifest.
        wanted: String,
        /// Digest of the bytes.
        found: String,
    },
    /// The manifest asks for something this reader does not allow.
    #[error("model {model}: {reason}")]
    Refused {
        /// Model named by the manifest.
        model: String,
        /// What is not allowed.
        reason: String,
    },
}
