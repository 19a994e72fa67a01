//! Server configurations of the collector.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleetmend_event::TimeMicros;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::{ALPN, micros_of, provider};
use crate::{
    CollectorAuthority, IdentityError, LiveAuthority, PeerIdentity, PeerKind, Revocations, TimeSource,
    TrustedTime,
};

/// The collector's own TLS certificate, made anew in memory at two thirds of it.
const OWN_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// How far the clock may be set back before the certificate is made anew; certificates begin an hour before.
const CLOCK_SLACK_MICROS: i64 = 30 * 60 * 1_000_000;

/// Carrier listener: a client certificate of an enrolled, unrevoked host is required.
pub fn for_hosts(
    authority: impl Into<LiveAuthority>,
    revocations: &Revocations,
    time: &Arc<TrustedTime>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let authority = authority.into();
    let verifier = HostVerifier {
        chain: Mutex::new(Chain::of(authority.current())?),
        authority: authority.clone(),
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
    authority: impl Into<LiveAuthority>,
    time: &Arc<TrustedTime>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let config = ServerConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(OwnCertificate::new(authority.into(), time, Above::Root));
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
    authority: LiveAuthority,
    time: Arc<TrustedTime>,
    above: Above,
    present: Mutex<Option<Shown>>,
}

/// The certificate that is shown, who made it, and while it is good to show.
struct Shown {
    key: Arc<CertifiedKey>,
    made_by: Arc<CollectorAuthority>,
    made_at: TimeMicros,
    not_after: TimeMicros,
}

impl Shown {
    /// Until two thirds of its life, and not before it was made: a clock that was a year ahead and was set right
    /// would otherwise leave a certificate that nobody accepts for a year.
    fn is_good(&self, authority: &Arc<CollectorAuthority>, now: TimeMicros) -> bool {
        let age = now.micros_since(self.made_at);
        let life = self.not_after.micros_since(self.made_at);
        Arc::ptr_eq(&self.made_by, authority) && age >= -CLOCK_SLACK_MICROS && age < life / 3 * 2
    }
}

impl OwnCertificate {
    fn new(authority: LiveAuthority, time: &Arc<TrustedTime>, above: Above) -> Arc<Self> {
        Arc::new(Self {
            authority,
            time: time.clone(),
            above,
            present: Mutex::new(None),
        })
    }

    fn make(&self, made_by: Arc<CollectorAuthority>, made_at: TimeMicros) -> Result<Shown, IdentityError> {
        let (issued, key) = made_by.issue_own(made_at, OWN_LIFETIME)?;
        let mut chain = issued.chain;
        if let Above::Root = self.above {
            chain.extend(made_by.above_issuer().cloned());
        }
        let key = provider()
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(key))?;
        Ok(Shown {
            key: Arc::new(CertifiedKey::new(chain, key)),
            made_by,
            made_at,
            not_after: issued.peer.not_after,
        })
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (now, _): (TimeMicros, TimeSource) = self.time.now();
        let authority = self.authority.current();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = present.as_ref().filter(|shown| shown.is_good(&authority, now)) {
            return Some(shown.key.clone());
        }
        match self.make(authority, now) {
            Ok(made) => {
                self.authority.shows_until(made.not_after);
                let key = made.key.clone();
                *present = Some(made);
                Some(key)
            }
            Err(error) => {
                tracing::error!(%error, "could not make the collector's own certificate");
                present.as_ref().map(|shown| shown.key.clone())
            }
        }
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OwnCertificate({:?})", self.authority.current())
    }
}

/// The verifier of chains under the roots of one authority.
#[derive(Debug, Clone)]
struct Chain {
    authority: Arc<CollectorAuthority>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Chain {
    fn of(authority: Arc<CollectorAuthority>) -> Result<Self, IdentityError> {
        let roots = Arc::new(authority.bundle().root_store()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| IdentityError::Make {
                what: "the client verifier",
                reason: error.to_string(),
            })?;
        Ok(Self { authority, verifier })
    }
}

/// Chain and time as webpki checks them; then issuer, name and revocation. All by the authority of the moment.
#[derive(Debug)]
struct HostVerifier {
    authority: LiveAuthority,
    chain: Mutex<Chain>,
    revocations: Revocations,
}

impl HostVerifier {
    fn chain(&self) -> Result<Chain, Error> {
        let authority = self.authority.current();
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&chain.authority, &authority) {
            *chain = Chain::of(authority).map_err(|error| Error::General(error.to_string()))?;
        }
        Ok(chain.clone())
    }
}

impl ClientCertVerifier for HostVerifier {
    /// None: hosts have one certificate, and the roots may change while this is in use.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = self.chain()?;
        let bundle = chain.authority.bundle();
        // An issuer that the bundle no longer lists is as good as absent.
        let listed: Vec<_> = intermediates
            .iter()
            .filter(|certificate| bundle.lists_issuer(certificate))
            .cloned()
            .collect();
        let verified = chain.verifier.verify_client_cert(end_entity, &listed, now)?;
        let peer = PeerIdentity::from_certificate(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        if peer.fleet != bundle.fleet || !matches!(peer.kind, PeerKind::Host(_)) {
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
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
