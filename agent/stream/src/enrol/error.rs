//! Why enrolment or renewal failed, and what to do next.

use fleetmend_identity::IdentityError;
use fleetmend_identity::time::TimeError;
use fleetmend_identity::tls::TlsFault;
use tonic::{Code, Status};

use crate::connector::{ConnectError, Link};

/// Enrolment, renewal or recovery failed; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The collector said no, with its reason.
    #[error("the collector at {address} refused: {reason}")]
    Refused {
        /// `host:port`.
        address: String,
        /// In the collector's words.
        reason: String,
        /// Whether asking again later can help.
        retry: bool,
    },
    /// The call failed on the way.
    #[error("the call to the collector at {address} failed ({code}): {reason}; it is worth trying again")]
    Failed {
        /// `host:port`.
        address: String,
        /// What kind of failure.
        code: Code,
        /// In the transport's words.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "the collector at {address} took the request and did not answer; look at its log, then try again"
    )]
    Silent {
        /// `host:port`.
        address: String,
    },
    /// The answer does not fit the request.
    #[error("the collector's answer was not accepted; nothing was changed on this host")]
    Answer(#[source] IdentityError),
    /// The answer names another host than its certificate.
    #[error(
        "the collector's answer names another host than the certificate in it; nothing was changed: report this, it is a fault of the collector"
    )]
    OtherHost,
    /// The identity's files or keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The collector's time.
    #[error("the collector's time was not taken over")]
    Time(#[from] TimeError),
    /// The new identity was not written, because the process is ending.
    #[error("the renewed identity was not written because the agent is ending; the present one stays in use")]
    Interrupted,
    /// No collector is known.
    #[error(
        "this host was told no collector address when it enrolled; set the collector's enrolment configuration and enrol this host again"
    )]
    NoCollector,
}

impl EnrolError {
    /// Whether asking again later, without anybody's help, can succeed.
    pub fn is_worth_retrying(&self) -> bool {
        match self {
            EnrolError::Connect(ConnectError::Tls { fault, .. }) => !fault.is_permanent(),
            EnrolError::Connect(ConnectError::Proxy { fault, .. }) => !fault.is_permanent(),
            EnrolError::Connect(ConnectError::Address { .. }) => false,
            EnrolError::Connect(_) | EnrolError::Failed { .. } | EnrolError::Silent { .. } => true,
            EnrolError::Refused { retry, .. } => *retry,
            EnrolError::Answer(_) | EnrolError::OtherHost | EnrolError::NoCollector => false,
            EnrolError::Identity(_) | EnrolError::Time(_) | EnrolError::Interrupted => true,
        }
    }

    /// The fault of the handshake, if that is what failed.
    pub fn fault(&self) -> Option<TlsFault> {
        match self {
            EnrolError::Connect(ConnectError::Tls { fault, .. }) => Some(*fault),
            _ => None,
        }
    }

    pub(super) fn of_call(link: &Link, status: &Status) -> Self {
        if let Some(fault) = link.fault(status) {
            let address = link.address().to_owned();
            return EnrolError::Connect(ConnectError::Tls { address, fault });
        }
        Self::of_status(link.address(), status)
    }

    /// What a collector's refusal means.
    pub fn of_status(address: &str, status: &Status) -> Self {
        let address = address.to_owned();
        let reason = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition => EnrolError::Refused {
                address,
                reason,
                retry: false,
            },
            Code::ResourceExhausted => EnrolError::Refused {
                address,
                reason,
                retry: true,
            },
            code => EnrolError::Failed {
                address,
                code,
                reason,
            },
        }
    }
}
