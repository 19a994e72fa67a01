//! What a refused or failed handshake means, in the words of the person who must act.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError, Error};

/// Why two peers did not come to trust each other. [`TlsFault::code`] is for metrics and the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TlsFault {
    /// The other side refused our certificate because it has ended.
    #[error(
        "the collector refused this host's certificate because it has expired; it is recovered through the enrolment listener: see that the agent reaches it, or enrol again with a new token"
    )]
    OursExpired,
    /// The other side refused our certificate because it is revoked.
    #[error(
        "the collector refused this host's certificate because it was revoked; if that was a mistake remove the identity folder and enrol again with a new token"
    )]
    OursRevoked,
    /// The other side does not know who issued our certificate.
    #[error(
        "the collector does not know who issued this host's certificate: this host is enrolled in another fleet; enrol it with a token of this one"
    )]
    OursUnknown,
    /// The other side wants a certificate and got none.
    #[error("the collector requires a client certificate and got none; enrol this host with a token")]
    OursMissing,
    /// The other side did not accept our certificate's name or purpose.
    #[error(
        "the collector did not accept the name or purpose of this host's certificate; enrol this host with a token"
    )]
    OursUnfit,
    /// The other side's certificate was not issued under our root.
    #[error(
        "the peer's certificate was not issued under the expected fleet root: this is another fleet, or someone in between; compare the root's fingerprint with the collector's"
    )]
    TheirsUnknown,
    /// The other side's certificate has ended, or has not begun.
    #[error("the peer's certificate is not valid at this time; check both clocks")]
    TheirsExpired,
    /// The other side's certificate is revoked.
    #[error("the peer's certificate was revoked")]
    TheirsRevoked,
    /// The other side's certificate is for something else.
    #[error("the peer's certificate has another name or purpose than this connection needs")]
    TheirsUnfit,
    /// The other side showed no certificate.
    #[error("the peer presented no certificate, and one is required")]
    TheirsMissing,
    /// The other side does not speak TLS.
    #[error(
        "the peer does not speak TLS (plain text or garbage); check the port and that nothing in between ends TLS"
    )]
    NotTls,
    /// The two sides have no version or algorithm in common.
    #[error("the peer does not offer TLS 1.3 with an algorithm of ours")]
    Incompatible,
    /// Anything else.
    #[error("the TLS handshake failed")]
    Other,
}

impl TlsFault {
    /// A word for metrics and the audit.
    pub fn code(self) -> &'static str {
        match self {
            TlsFault::OursExpired => "own_certificate_expired",
            TlsFault::OursRevoked => "own_certificate_revoked",
            TlsFault::OursUnknown => "own_certificate_unknown",
            TlsFault::OursMissing => "own_certificate_missing",
            TlsFault::OursUnfit => "own_certificate_unfit",
            TlsFault::TheirsUnknown => "peer_certificate_unknown",
            TlsFault::TheirsExpired => "peer_certificate_expired",
            TlsFault::TheirsRevoked => "peer_certificate_revoked",
            TlsFault::TheirsUnfit => "peer_certificate_unfit",
            TlsFault::TheirsMissing => "peer_certificate_missing",
            TlsFault::NotTls => "not_tls",
            TlsFault::Incompatible => "tls_incompatible",
            TlsFault::Other => "tls_failed",
        }
    }

    /// Whether trying again without anybody's help is of no use.
    pub fn is_permanent(self) -> bool {
        !matches!(
            self,
            TlsFault::OursExpired | TlsFault::TheirsExpired | TlsFault::NotTls | TlsFault::Other
        )
    }

    /// The fault in an error or its sources; `None` when the error has nothing to do with TLS.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let inner = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref);
            let typed = error
                .downcast_ref::<Error>()
                .or_else(|| inner.and_then(|inner| inner.downcast_ref::<Error>()));
            if let Some(fault) = typed.map(Self::of).or_else(|| Self::of_text(&error.to_string())) {
                return Some(fault);
            }
            next = error.source();
        }
        None
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::InvalidCertificate(reason) => Self::of_certificate(reason),
            Error::NoCertificatesPresented => TlsFault::TheirsMissing,
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerSentOversizedRecord => TlsFault::NotTls,
            Error::PeerIncompatible(_) => TlsFault::Incompatible,
            _ => TlsFault::Other,
        }
    }

    fn of_certificate(reason: &CertificateError) -> Self {
        match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFault::TheirsExpired,
            CertificateError::Revoked => TlsFault::TheirsRevoked,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::TheirsUnknown,
            _ => TlsFault::TheirsUnfit,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateExpired => TlsFault::OursExpired,
            AlertDescription::CertificateRevoked => TlsFault::OursRevoked,
            AlertDescription::UnknownCA | AlertDescription::DecryptError => TlsFault::OursUnknown,
            AlertDescription::CertificateRequired => TlsFault::OursMissing,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => TlsFault::OursUnfit,
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoApplicationProtocol => TlsFault::Incompatible,
            _ => TlsFault::Other,
        }
    }

    /// HTTP/2 keeps only the text of what ended the connection below it.
    fn of_text(text: &str) -> Option<Self> {
        let (_, alert) = text.split_once("received fatal alert: ")?;
        let word: String = alert
            .chars()
            .take_while(|character| character.is_ascii_alphanumeric())
            .collect();
        Some(match word.as_str() {
            "CertificateExpired" => TlsFault::OursExpired,
            "CertificateRevoked" => TlsFault::OursRevoked,
            "UnknownCA" | "DecryptError" => TlsFault::OursUnknown,
            "CertificateRequired" => TlsFault::OursMissing,
            "BadCertificate" | "UnsupportedCertificate" | "CertificateUnknown" | "AccessDenied" => {
                TlsFault::OursUnfit
            }
            "ProtocolVersion" | "HandshakeFailure" | "NoApplicationProtocol" => TlsFault::Incompatible,
            _ => TlsFault::Other,
        })
    }
}
