//! A host's identity: its key, and what it was given when it enrolled.
//!
//! Two files lie in the identity folder: `host.key`, made here and never sent anywhere, and `identity.json`
//! (host id, certificate chain, trust bundle, addresses), which is replaced as a whole at each renewal, so
//! that no crash can leave a certificate beside another one's bundle.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use crate::signed::base64_bytes;
use crate::x509::{self, make_error};
use crate::{Fingerprint, FleetId, IdentityError, PeerIdentity, PeerKind, Signed, TrustBundle, files};

const KEY_FILE: &str = "host.key";
const IDENTITY_FILE: &str = "identity.json";
const IDENTITY_VERSION: u32 = 1;

/// The private key that is the host.
pub struct HostKey {
    pair: rcgen::KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl HostKey {
    /// A new ECDSA P-256 key that is written nowhere: for tests.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = rcgen::KeyPair::generate().map_err(make_error("the host key"))?;
        let pkcs8 = Zeroizing::new(pair.serialize_der());
        Ok(Self { pair, pkcs8 })
    }

    /// Opens the key in `folder`, or makes one when there is none. One that others may read is refused.
    pub fn load_or_create(folder: &Path) -> Result<Self, IdentityError> {
        files::private_folder(folder)?;
        let path = folder.join(KEY_FILE);
        if path.exists() {
            return Self::load(&path);
        }
        let key = Self::generate()?;
        files::create_private(&path, x509::key_pem(&key.pkcs8).as_bytes())?;
        Ok(key)
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let what = "ECDSA P-256 private key (PKCS #8 PEM)";
        let pkcs8 = x509::read_key_file(path, what)?;
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Content {
                path: path.to_owned(),
                what,
                reason: error.to_string(),
            })?;
        Ok(Self { pair, pkcs8 })
    }

    /// A certificate signing request (PKCS #10, DER): proof of possession of the key, without names.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&self.pair)
            .map_err(make_error("a certificate signing request"))?;
        Ok(request.der().to_vec())
    }

    /// Fingerprint of its public half.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.pair.subject_public_key_info())
    }

    pub(crate) fn to_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostKey({})", self.fingerprint().short())
    }
}

/// What a host is given when it enrols.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Certificate chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The fleet's trust bundle.
    pub bundle: Signed<TrustBundle>,
    /// `host:port` of the collectors.
    pub collectors: Vec<String>,
    /// `host:port` of the enrolment listener, for recovery and the time.
    pub enrolment: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    root: Fingerprint,
    collectors: Vec<String>,
    enrolment: String,
    chain: Vec<Base64>,
    bundle: Signed<TrustBundle>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Base64(#[serde(with = "base64_bytes")] Vec<u8>);

/// A host that has enrolled.
pub struct HostIdentity {
    key: Arc<HostKey>,
    root: Fingerprint,
    grant: Grant,
    bundle: TrustBundle,
    host: HostId,
    peer: PeerIdentity,
}

impl HostIdentity {
    /// The identity in `folder`; `None` when the host has not enrolled. An expired certificate is still one.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = folder.join(IDENTITY_FILE);
        let Some(bytes) = files::read_private(&path)? else {
            return Ok(None);
        };
        let wrong = |reason: String| IdentityError::Content {
            path: path.clone(),
            what: "host identity",
            reason,
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if record.version != IDENTITY_VERSION {
            return Err(wrong(format!("version {} is not known here", record.version)));
        }
        let key = Arc::new(HostKey::load(&folder.join(KEY_FILE))?);
        let grant = Grant {
            chain: record
                .chain
                .into_iter()
                .map(|certificate| certificate.0)
                .collect(),
            bundle: record.bundle,
            collectors: record.collectors,
            enrolment: record.enrolment,
        };
        let bundle = TrustBundle::open_pinned(&grant.bundle, &record.root)?;
        Self::assemble(key, record.root, grant, bundle).map(Some)
    }

    /// Checks what the collector granted against the key and the pinned root. Writes nothing.
    pub fn accept(key: Arc<HostKey>, root: Fingerprint, grant: Grant) -> Result<Self, IdentityError> {
        Self::accept_through(key, root, &[], grant)
    }

    /// As [`HostIdentity::accept`], when the granted bundle may be signed by a successor of the pinned root: the
    /// bundles `between`, oldest first, lead there.
    pub fn accept_through(
        key: Arc<HostKey>,
        root: Fingerprint,
        between: &[Signed<TrustBundle>],
        grant: Grant,
    ) -> Result<Self, IdentityError> {
        let bundle = TrustBundle::open_pinned_chain(between, &grant.bundle, &root)?;
        let root = grant.bundle.signer();
        Self::assemble(key, root, grant, bundle)
    }

    /// Checks a renewed certificate and the bundle that came with it against this identity. Writes nothing.
    pub fn renewed(&self, chain: Vec<Vec<u8>>, bundle: Signed<TrustBundle>) -> Result<Self, IdentityError> {
        self.renewed_through(chain, &[], bundle)
    }

    /// As [`HostIdentity::renewed`], over the bundles that this host slept through, oldest first.
    pub fn renewed_through(
        &self,
        chain: Vec<Vec<u8>>,
        between: &[Signed<TrustBundle>],
        bundle: Signed<TrustBundle>,
    ) -> Result<Self, IdentityError> {
        let opened = self.bundle.open_chain(between, &bundle)?;
        let grant = Grant {
            chain,
            bundle,
            ..self.grant.clone()
        };
        // A new root takes over the pin when a root of the bundle before signed the bundle that lists it.
        let root = grant.bundle.signer();
        let next = Self::assemble(self.key.clone(), root, grant, opened)?;
        if next.host == self.host {
            Ok(next)
        } else {
            Err(IdentityError::Request {
                reason: "the renewed certificate is for another host".to_owned(),
            })
        }
    }

    fn assemble(
        key: Arc<HostKey>,
        root: Fingerprint,
        grant: Grant,
        bundle: TrustBundle,
    ) -> Result<Self, IdentityError> {
        let wrong = |reason: &str| IdentityError::Make {
            what: "the host's identity",
            reason: reason.to_owned(),
        };
        let leaf = grant
            .chain
            .first()
            .ok_or_else(|| wrong("the collector granted no certificate"))?;
        let peer = PeerIdentity::from_certificate(leaf)?;
        let PeerKind::Host(host) = peer.kind else {
            return Err(wrong("the certificate is not a host's"));
        };
        if peer.key != key.fingerprint() {
            return Err(wrong("the certificate is for another key than host.key"));
        }
        if peer.fleet != bundle.fleet {
            return Err(wrong("the certificate is of another fleet than the trust bundle"));
        }
        Ok(Self {
            key,
            root,
            grant,
            bundle,
            host,
            peer,
        })
    }

    /// Writes the identity into `folder`, atomically.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        files::private_folder(folder)?;
        let record = Record {
            version: IDENTITY_VERSION,
            root: self.root,
            collectors: self.grant.collectors.clone(),
            enrolment: self.grant.enrolment.clone(),
            chain: self.grant.chain.iter().cloned().map(Base64).collect(),
            bundle: self.grant.bundle.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&record).map_err(|error| IdentityError::Make {
            what: "the identity file",
            reason: error.to_string(),
        })?;
        files::write_private(&folder.join(IDENTITY_FILE), &bytes)
    }

    /// The host's id.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetId {
        &self.bundle.fleet
    }

    /// Its certificate's name, serial and validity.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The fleet's trust bundle.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The fleet's trust bundle as it was signed.
    pub fn signed_bundle(&self) -> &Signed<TrustBundle> {
        &self.grant.bundle
    }

    /// Fingerprint of the root that the host trusts.
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    /// `host:port` of the collectors.
    pub fn collectors(&self) -> &[String] {
        &self.grant.collectors
    }

    /// `host:port` of the enrolment listener.
    pub fn enrolment(&self) -> &str {
        &self.grant.enrolment
    }

    /// Its key.
    pub fn key(&self) -> &HostKey {
        &self.key
    }

    /// Certificate chain, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.grant
            .chain
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect()
    }

    /// When to renew: at two thirds of the certificate's life, and up to a twelfth of it later. `jitter` is
    /// between 0 and 1, so that a fleet that enrolled together does not renew together.
    pub fn renew_at(&self, jitter: f64) -> TimeMicros {
        let life = self.peer.not_after.micros_since(self.peer.not_before).max(0);
        let twelfth =
            Duration::from_micros(u64::try_from(life / 12).unwrap_or(0)).mul_f64(jitter.clamp(0.0, 1.0));
        let late = i64::try_from(twelfth.as_micros()).unwrap_or(0);
        self.peer.not_before.plus_micros(life / 3 * 2).plus_micros(late)
    }
}

impl fmt::Debug for HostIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.peer.not_after;
        write!(
            formatter,
            "HostIdentity({}/{}, until {until})",
            self.bundle.fleet, self.host
        )
    }
}

/// The present identity of a running agent: TLS configurations read it at each handshake, so that a renewal
/// takes effect on the next connection.
#[derive(Debug, Clone)]
pub struct LiveIdentity {
    present: Arc<RwLock<Arc<HostIdentity>>>,
    folder: Option<PathBuf>,
    doubt: Arc<Notify>,
    replaced: watch::Sender<u64>,
}

impl LiveIdentity {
    /// Begins with `identity`; renewals are written to `folder`.
    pub fn new(identity: HostIdentity, folder: Option<PathBuf>) -> Self {
        Self {
            present: Arc::new(RwLock::new(Arc::new(identity))),
            folder,
            doubt: Arc::default(),
            replaced: watch::Sender::default(),
        }
    }

    /// Says that a collector did not prove itself under the present trust bundle, does not know who issued our
    /// certificate, or has a newer bundle: perhaps its keys were rotated.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Returns after the next [`LiveIdentity::doubt`], at once if there was one since the last return.
    ///
    /// # Cancel safety
    ///
    /// A doubt that was not returned stays.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Changes with each [`LiveIdentity::replace`].
    pub fn replacements(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// The present identity.
    pub fn current(&self) -> Arc<HostIdentity> {
        self.present
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes the new identity to its folder, then makes it the present one. Blocks on the disk.
    pub fn replace(&self, identity: HostIdentity) -> Result<(), IdentityError> {
        if let Some(folder) = &self.folder {
            identity.save(folder)?;
        }
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        self.replaced.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}
