//! What may fail when the carrier is set up.

use fleetmend_identity::IdentityError;

/// The carrier could not be served.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Its TLS configuration could not be made.
    #[error("could not make the TLS configuration of the carrier listener")]
    Tls(#[from] IdentityError),
    /// HTTP/2 could not go on.
    #[error("could not serve the carrier")]
    Serve(#[from] tonic::transport::Error),
}
