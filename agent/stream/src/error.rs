//! Why a session ended, or never began.

use std::time::Duration;

use fleetmend_identity::tls::TlsFault;
use fleetmend_proto::WireError;
use fleetmend_shutdown::BoxError;
use tonic::Status;

use crate::connector::ConnectError;

/// A session could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is nowhere to connect to.
    #[error("no collector is known: enrol this host, or name one under stream.collectors")]
    NoCollector,
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The collector does not accept this host's certificate.
    #[error("the collector does not accept this host: {fault}")]
    Refused {
        /// Why.
        fault: TlsFault,
    },
    /// The call failed.
    #[error("the stream broke: {} ({:?})", status.message(), status.code())]
    Call {
        /// What the collector, or the connection, said.
        status: Box<Status>,
    },
    /// The collector ended the stream in order.
    #[error("the collector said goodbye: {reason}")]
    Goodbye {
        /// Its reason.
        reason: String,
        /// When it wants to see us again.
        retry_after: Duration,
        /// Whether that is of use without a person's help.
        retry: bool,
        /// It could not read a relative frame.
        self_contained: bool,
    },
    /// The stream ended without a goodbye.
    #[error("the collector closed the stream")]
    Closed,
    /// Something did not come in time.
    #[error("{what} did not come within {} s", after.as_secs())]
    Late {
        /// What was awaited.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The collector does not speak the protocol.
    #[error("the collector does not follow the protocol: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
    /// The spool could not be read.
    #[error("could not read the spool")]
    Source(#[source] BoxError),
}

impl StreamError {
    pub(crate) fn call(status: Status) -> Self {
        Self::Call {
            status: Box::new(status),
        }
    }

    /// Whether trying again soon is of no use.
    pub(crate) fn needs_a_person(&self) -> bool {
        match self {
            StreamError::Connect(ConnectError::Tls { fault, .. }) | StreamError::Refused { fault } => {
                fault.is_permanent()
            }
            StreamError::Connect(ConnectError::Proxy { fault, .. }) => fault.is_permanent(),
            StreamError::Connect(ConnectError::Address { .. }) => true,
            StreamError::Goodbye { retry, .. } => !retry,
            StreamError::NoCollector => true,
            _ => false,
        }
    }

    /// A word for metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            StreamError::NoCollector => "no_collector",
            StreamError::Connect(_) => "connect",
            StreamError::Refused { .. } => "refused",
            StreamError::Call { .. } => "broken",
            StreamError::Goodbye { .. } => "goodbye",
            StreamError::Closed => "closed",
            StreamError::Late { .. } => "late",
            StreamError::Protocol { .. } => "protocol",
            StreamError::Source(_) => "spool",
        }
    }
}

impl From<WireError> for StreamError {
    fn from(error: WireError) -> Self {
        Self::Protocol {
            reason: error.to_string(),
        }
    }
}
