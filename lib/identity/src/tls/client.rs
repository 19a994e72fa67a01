//! Client configurations of the agent.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor,
};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{ALPN, provider};
use crate::x509::spki_of;
use crate::{Fingerprint, FleetId, IdentityError, LiveIdentity, PeerIdentity, PeerKind, TrustedTime};

/// For the carrier listener: shows the host's present certificate, accepts collectors of its fleet only.
pub fn for_host(
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = FleetVerifier {
        identity: identity.clone(),
    };
    let config = ClientConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(HostCertificate {
            identity: identity.clone(),
        }));
    Ok(hardened(config))
}

/// For the enrolment listener: accepts only a collector under the root with this fingerprint.
pub fn for_enrolment(root: Fingerprint, time: &Arc<TrustedTime>) -> Result<Arc<ClientConfig>, IdentityError> {
    pinned(
        PinnedVerifier {
            root,
            judge: Judge::Clock,
        },
        time,
    )
}

/// For asking the time of the enrolment listener when our own clock cannot be believed: as
/// [`for_enrolment`], but a certificate is not judged by time. What is sent must be nothing but the question,
/// and the answer counts only by its own signature over our nonce.
pub fn for_time(root: Fingerprint, time: &Arc<TrustedTime>) -> Result<Arc<ClientConfig>, IdentityError> {
    pinned(
        PinnedVerifier {
            root,
            judge: Judge::Nothing,
        },
        time,
    )
}

fn pinned(verifier: PinnedVerifier, time: &Arc<TrustedTime>) -> Result<Arc<ClientConfig>, IdentityError> {
    let config = ClientConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(hardened(config))
}

fn hardened(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Arc::new(config)
}

struct HostCertificate {
    identity: LiveIdentity,
}

impl ResolvesClientCert for HostCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let identity = self.identity.current();
        match provider().key_provider.load_private_key(identity.key().to_tls()) {
            Ok(key) => Some(Arc::new(CertifiedKey::new(identity.chain(), key))),
            Err(error) => {
                tracing::error!(%error, "host key cannot be used");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for HostCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostCertificate({:?})", self.identity.current())
    }
}

fn verify_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<PeerIdentity, Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
    PeerIdentity::from_certificate(end_entity)
        .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))
}

fn collector_only(peer: &PeerIdentity, fleet: Option<&FleetId>) -> Result<ServerCertVerified, Error> {
    let ours = fleet.is_none_or(|fleet| peer.fleet == *fleet);
    if ours && matches!(peer.kind, PeerKind::Collector(_)) {
        Ok(ServerCertVerified::assertion())
    } else {
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }
}

macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                cert,
                dss,
                &provider().signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                cert,
                dss,
                &provider().signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

/// A collector under the present trust bundle.
#[derive(Debug)]
struct FleetVerifier {
    identity: LiveIdentity,
}

impl ServerCertVerifier for FleetVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = self.identity.current();
        let bundle = identity.bundle();
        let listed: Vec<_> = intermediates
            .iter()
            .filter(|certificate| bundle.lists_issuer(certificate))
            .cloned()
            .collect();
        let verified = verify_chain(end_entity, &listed, &bundle.root_store()?, now);
        if let Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) = &verified {
            // Perhaps its keys were rotated while this host slept: whoever keeps the identity finds out.
            self.identity.doubt();
        }
        collector_only(&verified?, Some(&bundle.fleet))
    }

    handshake_signatures!();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    Clock,
    Nothing,
}

/// A collector under the root with a known fingerprint, which the server itself shows.
#[derive(Debug)]
struct PinnedVerifier {
    root: Fingerprint,
    judge: Judge,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |certificate: &&CertificateDer<'_>| {
            spki_of(certificate).is_some_and(|spki| Fingerprint::of_spki(&spki) == self.root)
        };
        let root = intermediates
            .iter()
            .find(pinned)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let now = match self.judge {
            Judge::Clock => now,
            Judge::Nothing => newest_beginning(end_entity, intermediates).unwrap_or(now),
        };
        let peer = verify_chain(end_entity, intermediates, &roots, now)?;
        collector_only(&peer, None)
    }

    handshake_signatures!();
}

/// The first moment at which the whole chain holds.
fn newest_beginning(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Option<UnixTime> {
    let beginning = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        u64::try_from(parsed.validity().not_before.timestamp()).ok()
    };
    let newest = std::iter::once(end_entity)
        .chain(intermediates)
        .filter_map(beginning)
        .max()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(newest)))
}
