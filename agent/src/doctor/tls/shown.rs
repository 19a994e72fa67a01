//! The certificate that a peer shows whom we do not trust.
//!
//! It is got over a second connection on which any certificate will do. That is safe because nothing is sent over
//! it, our own certificate least of all; the handshake that counts is the other one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use agent_stream::network::Dialer;
use fleetmend_event::TimeMicros;
use fleetmend_identity::{PeerIdentity, tls};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::doctor::network::STEP_TIMEOUT;

/// What a certificate says of itself.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    /// Whose it is, when it is one of a fleet.
    pub(super) peer: Option<PeerIdentity>,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) not_before: TimeMicros,
    pub(super) not_after: TimeMicros,
}

/// The certificate that `address` shows; none when it cannot be had.
pub(super) async fn look(address: &str, dialer: &Dialer) -> Option<Certificate> {
    let keeper = Arc::new(Keeper::default());
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(keeper.clone())
        .with_no_client_auth();
    let handshake = async {
        let stream = dialer.dial(address).await.map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config))
            .connect(tls::server_name(), stream)
            .await
    };
    // Whether it succeeds does not matter: the certificate comes before the end.
    if timeout(STEP_TIMEOUT, handshake).await.is_err() {
        tracing::debug!(
            address,
            "the handshake for a look at the certificate took too long"
        );
    }
    let der = keeper
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    let micros = |seconds: i64| TimeMicros(seconds.saturating_mul(1_000_000));
    Some(Certificate {
        peer: PeerIdentity::from_certificate(&der).ok(),
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_before: micros(parsed.validity().not_before.timestamp()),
        not_after: micros(parsed.validity().not_after.timestamp()),
    })
}

#[derive(Debug, Default)]
struct Keeper {
    seen: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Keeper {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
