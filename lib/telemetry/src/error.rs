use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Why logs could not be set up.
#[derive(Debug, Error)]
pub enum LogsError {
    /// `FLEETMEND_LOG` holds something that is no filter.
    #[error("read the log filter of FLEETMEND_LOG")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Logs were set up before.
    #[error("set up logs a second time")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Why metrics could not be set up.
#[derive(Debug, Error)]
#[error("install the metrics recorder")]
pub struct MetricsError(#[from] pub(crate) metrics_exporter_prometheus::BuildError);

/// Why the admin server could not be bound.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Only loopback is served in plain text.
    #[error(
        "serve the admin interface on {0}: it is plain text, so only a loopback address or a unix socket will do"
    )]
    NotLoopback(SocketAddr),
    /// The address could not be bound.
    #[error("bind the admin interface to {address}")]
    Tcp {
        /// What was configured.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The socket could not be made.
    #[error("make the admin socket {path}")]
    Unix {
        /// What was configured.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Somebody answers on that socket.
    #[error("make the admin socket {0}: another process serves it")]
    InUse(PathBuf),
}
