//! Why a host was not given a certificate, and what its operator does next.

use fleetmend_identity::{IdentityError, SignatureError, TokenError};
use tonic::{Code, Status};

/// The enroller could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The tables could not be read or written.
    #[error("could not use the enrolment tables")]
    Store(#[from] fleetmend_control::ControlError),
    /// A row holds something that is none of ours.
    #[error("the enrolment tables hold an invalid {0}")]
    Damaged(&'static str),
    /// The configured address cannot be put into a token.
    #[error("the configured enrolment address cannot go into a token")]
    Token(#[from] TokenError),
    /// A TLS configuration could not be made.
    #[error("could not prepare the enrolment listener")]
    Identity(#[from] IdentityError),
    /// The listener ended.
    #[error("the enrolment listener failed")]
    Serve(#[from] tonic::transport::Error),
}

/// A request that was refused. Its text goes to the host's operator.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such token.
    #[error("the collector does not know this token; make a new one with `fleetmend token create`")]
    TokenUnknown,
    /// The token was used.
    #[error(
        "this token was already used; a token enrols one host: make a new one with `fleetmend token create`"
    )]
    TokenUsed,
    /// The token has ended.
    #[error("this token has expired; make a new one with `fleetmend token create`")]
    TokenExpired,
    /// The token was revoked.
    #[error("this token was revoked; make a new one with `fleetmend token create`")]
    TokenRevoked,
    /// The host was revoked.
    #[error(
        "this host was revoked; if it may come back, remove its identity folder (a new key is made) and enrol it with a new token"
    )]
    HostRevoked,
    /// No such host.
    #[error("the collector does not know this host; enrol it with a new token")]
    HostUnknown,
    /// Another key than the host's.
    #[error(
        "the request is signed by another key than the one this host enrolled with; restore its identity folder, or enrol it with a new token"
    )]
    OtherKey,
    /// The certificate ended too long ago.
    #[error("this host's certificate ended too long ago to be recovered; enrol it with a new token")]
    TooLate,
    /// The caller is no host.
    #[error("only hosts renew certificates here")]
    NotAHost,
    /// The signing request is bad.
    #[error("the certificate signing request was refused: {0}")]
    Request(String),
    /// The message is of another protocol.
    #[error(
        "the collector speaks enrolment protocol {ours}, not {theirs}; install agent and collector of matching versions"
    )]
    Protocol {
        /// Of this collector.
        ours: u32,
        /// Of the agent.
        theirs: u32,
    },
    /// A field of the message is not what it should be.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// Too many refusals from this address.
    #[error("too many refused attempts from this address; wait a minute")]
    TooMany,
    /// Our own fault.
    #[error("the collector could not handle the request; its log says why: try again later")]
    Store(#[from] EnrolError),
}

impl Refusal {
    /// A word for metrics and the audit.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::TokenUnknown => "token_unknown",
            Refusal::TokenUsed => "token_used",
            Refusal::TokenExpired => "token_expired",
            Refusal::TokenRevoked => "token_revoked",
            Refusal::HostRevoked => "host_revoked",
            Refusal::HostUnknown => "host_unknown",
            Refusal::OtherKey => "other_key",
            Refusal::TooLate => "too_late",
            Refusal::NotAHost => "not_a_host",
            Refusal::Request(_) => "bad_request",
            Refusal::Protocol { .. } => "protocol",
            Refusal::Malformed(_) => "malformed",
            Refusal::TooMany => "too_many",
            Refusal::Store(_) => "internal",
        }
    }

    /// Whether the source is to blame. A source that is already held off is not blamed again, or it could
    /// never come back while it keeps asking.
    pub(super) fn counts_against_source(&self) -> bool {
        !matches!(self, Refusal::Store(_) | Refusal::TooMany)
    }
}

impl From<fleetmend_control::ControlError> for Refusal {
    fn from(error: fleetmend_control::ControlError) -> Self {
        Refusal::Store(EnrolError::Store(error))
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Request { reason } => Refusal::Request(reason),
            other => Refusal::Store(EnrolError::Identity(other)),
        }
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        IdentityError::from(error).into()
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::TokenUnknown | Refusal::OtherKey | Refusal::HostUnknown => Code::Unauthenticated,
            Refusal::TokenUsed
            | Refusal::TokenExpired
            | Refusal::TokenRevoked
            | Refusal::HostRevoked
            | Refusal::TooLate
            | Refusal::NotAHost => Code::PermissionDenied,
            Refusal::Request(_) | Refusal::Malformed(_) => Code::InvalidArgument,
            Refusal::Protocol { .. } => Code::FailedPrecondition,
            Refusal::TooMany => Code::ResourceExhausted,
            Refusal::Store(_) => Code::Unavailable,
        };
        Status::new(code, refusal.to_string())
    }
}
