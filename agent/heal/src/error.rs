//! What can go wrong between agent and healer.

use std::path::PathBuf;

use fleetmend_event::healer::MessageError;

/// Nobody takes facts any more: the agent is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes facts any more")]
pub struct SinkClosed;

/// The healer cannot be reached, or not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("no connection to the healer at {}", socket.display())]
    Connect {
        /// Where it should be.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A message could not be read or written.
    #[error("connection to the healer failed")]
    Io(#[from] std::io::Error),
    /// A message could not be understood.
    #[error("healer sent something that is no message")]
    Message(#[from] MessageError),
    /// It takes too long.
    #[error("healer did not answer in time")]
    Slow,
    /// It refuses us.
    #[error("healer refused: {0}")]
    Refused(String),
    /// It closed.
    #[error("healer closed the connection")]
    Closed,
}

/// The cursor could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct CursorError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}
