//! Who a verified certificate says its holder is.

use fleetmend_event::{HostId, TimeMicros};
use x509_parser::extensions::GeneralName;

use crate::{CollectorName, Fingerprint, FleetId, PeerName};

/// A certificate does not say who its holder is in the way ours do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It cannot be parsed.
    #[error("the peer's certificate cannot be parsed: {0}")]
    Unreadable(String),
    /// It has no name of ours, or more than one.
    #[error("the peer's certificate must carry exactly one name spiffe://<fleet>/…, it carries {0}")]
    Names(usize),
    /// Its name is not one.
    #[error(transparent)]
    Name(#[from] crate::name::NameError),
    /// The peer gave none.
    #[error("the peer presented no certificate")]
    None,
}

/// What kind of peer it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// An enrolled host.
    Host(HostId),
    /// A collector.
    Collector(CollectorName),
}

/// The holder of a certificate. Reading it verifies nothing: the TLS handshake did that before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The fleet it belongs to.
    pub fleet: FleetId,
    /// What it is.
    pub kind: PeerKind,
    /// Serial number of the certificate, hexadecimal.
    pub serial: String,
    /// Fingerprint of its key.
    pub key: Fingerprint,
    /// From when on the certificate holds.
    pub not_before: TimeMicros,
    /// Until when the certificate holds.
    pub not_after: TimeMicros,
}

impl PeerIdentity {
    /// Reads an end-entity certificate, DER.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let unreadable = |error: String| PeerError::Unreadable(error);
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|error| unreadable(error.to_string()))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| unreadable(error.to_string()))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some(*uri)
                } else {
                    None
                }
            })
            .collect();
        let [uri] = uris.as_slice() else {
            return Err(PeerError::Names(uris.len()));
        };
        let (fleet, kind) = match uri.parse()? {
            PeerName::Host { fleet, host } => (fleet, PeerKind::Host(host)),
            PeerName::Collector { fleet, name } => (fleet, PeerKind::Collector(name)),
        };
        let micros = |seconds: i64| TimeMicros(seconds.saturating_mul(1_000_000));
        Ok(Self {
            fleet,
            kind,
            serial: hex::encode(parsed.raw_serial()),
            key: Fingerprint::of_spki(parsed.tbs_certificate.subject_pki.raw),
            not_before: micros(parsed.validity().not_before.timestamp()),
            not_after: micros(parsed.validity().not_after.timestamp()),
        })
    }

    /// The peer of an established TLS connection, from the chain it presented.
    pub fn of_chain(chain: Option<&[rustls_pki_types::CertificateDer<'_>]>) -> Result<Self, PeerError> {
        Self::from_certificate(chain.and_then(<[_]>::first).ok_or(PeerError::None)?)
    }

    /// The host id, when the peer is a host.
    pub fn host(&self) -> Option<HostId> {
        match self.kind {
            PeerKind::Host(host) => Some(host),
            PeerKind::Collector(_) => None,
        }
    }
}
