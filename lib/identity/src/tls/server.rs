//! Server configurations of the collector.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleetmend_event::TimeMicros;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::{ALPN, micros_of, provider};
use crate::{
    CollectorAuthority, IdentityError, PeerIdentity, PeerKind, Revocations, TimeSource, TrustBundle,
    TrustedTime,
};

/// The collector's own TLS certificate, made anew in memory at two thirds of it.
const OWN_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Carrier listener: a client certificate of an enrolled, unrevoked host is required.
pub fn for_hosts(
    authority: &Arc<CollectorAuthority>,
    revocations: &Revocations,
    time: &Arc<TrustedTime>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let bundle = authority.bundle().clone();
    let roots = Arc::new(bundle.root_store()?);
    let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| IdentityError::Make {
            what: "the client verifier",
            reason: error.to_string(),
        })?;
    let verifier = HostVerifier {
        chain,
        bundle,
        revocations: revocations.clone(),
    };
    let config = ServerConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(OwnCertificate::new(authority, time, Above::Issuer));
    Ok(hardened(config))
}

/// Enrolment listener: the server shows its chain up to the root, the client shows nothing.
pub fn for_enrolment(
    authority: &Arc<CollectorAuthority>,
    time: &Arc<TrustedTime>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let config = ServerConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(OwnCertificate::new(authority, time, Above::Root));
    Ok(hardened(config))
}

/// Web listener (API, dashboard) with a given chain and key, PKCS #8: the operator's own, or one of
/// [`CollectorAuthority::issue_web`].
pub fn for_web(
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn hardened(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// How much of the chain above the certificate is sent.
#[derive(Debug, Clone, Copy)]
enum Above {
    /// The issuing certificate: the host knows the root.
    Issuer,
    /// The root's too: the host knows only its fingerprint.
    Root,
}

struct OwnCertificate {
    authority: Arc<CollectorAuthority>,
    time: Arc<TrustedTime>,
    above: Above,
    present: Mutex<Option<(Arc<CertifiedKey>, TimeMicros)>>,
}

impl OwnCertificate {
    fn new(authority: &Arc<CollectorAuthority>, time: &Arc<TrustedTime>, above: Above) -> Arc<Self> {
        Arc::new(Self {
            authority: authority.clone(),
            time: time.clone(),
            above,
            present: Mutex::new(None),
        })
    }

    fn make(&self, now: TimeMicros) -> Result<Arc<CertifiedKey>, IdentityError> {
        let (issued, key) = self.authority.issue_own(now, OWN_LIFETIME)?;
        let mut chain = issued.chain;
        if let Above::Root = self.above {
            chain.extend(self.authority.upper_chain().iter().skip(1).cloned());
        }
        let key = provider()
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(key))?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (now, _): (TimeMicros, TimeSource) = self.time.now();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, renew_at)) = present.as_ref()
            && now < *renew_at
        {
            return Some(key.clone());
        }
        match self.make(now) {
            Ok(made) => {
                let life = i64::try_from(OWN_LIFETIME.as_micros()).unwrap_or(i64::MAX);
                *present = Some((made.clone(), now.plus_micros(life / 3 * 2)));
                Some(made)
            }
            Err(error) => {
                tracing::error!(%error, "could not make the collector's own certificate");
                present.as_ref().map(|(key, _)| key.clone())
            }
        }
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OwnCertificate({:?})", self.authority)
    }
}

/// Chain and time as webpki checks them; then issuer, name and revocation.
#[derive(Debug)]
struct HostVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    bundle: TrustBundle,
    revocations: Revocations,
}

impl ClientCertVerifier for HostVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // An issuer that the bundle no longer lists is as good as absent.
        let listed: Vec<_> = intermediates
            .iter()
            .filter(|certificate| self.bundle.lists_issuer(certificate))
            .cloned()
            .collect();
        let verified = self.chain.verify_client_cert(end_entity, &listed, now)?;
        let peer = PeerIdentity::from_certificate(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        if peer.fleet != self.bundle.fleet || !matches!(peer.kind, PeerKind::Host(_)) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        if self.revocations.current().contains(&peer) {
            tracing::debug!(host = ?peer.kind, at = micros_of(now), "revoked certificate presented");
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
