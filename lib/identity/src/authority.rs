//! A collector's authority: the issuing certificate, the online key and the trust bundle it hands out.

mod live;
mod material;
mod rotation;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, PublicKeyData as _, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use serde::Serialize;

use material::{Generation, Material};

use crate::x509::{self, make_error};
use crate::{
    CollectorName, Context, Fingerprint, FleetId, FleetRoot, IdentityError, PeerIdentity, PeerName,
    PublicKey, SignatureError, Signed, SignedTime, SigningKey, TrustAnchors, TrustBundle,
};

pub use live::LiveAuthority;
pub use rotation::{Rotated, RotationKind, RotationState, Stage};

/// The signed trust bundle, beside the keys.
pub const BUNDLE_FILE: &str = "trust-bundle.json";
/// A host's certificate; renewed at two thirds of it.
pub const HOST_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// Largest signing request that is looked at, in bytes. Ours has about 250.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// A certificate that was just issued.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// The certificate and the issuing one above it, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// Who it is for.
    pub peer: PeerIdentity,
}

/// What a collector holds to enrol hosts and to sign orders. It does not hold the fleet root.
pub struct CollectorAuthority {
    name: CollectorName,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Issuing certificate, then the root's.
    chain: Vec<CertificateDer<'static>>,
    online: SigningKey,
    signed_bundle: Signed<TrustBundle>,
    bundle: TrustBundle,
    history: Vec<Signed<TrustBundle>>,
    cross: Vec<CertificateDer<'static>>,
    folder: Option<PathBuf>,
}

impl CollectorAuthority {
    /// Makes the keys of a collector in `folder` and a trust bundle that lists it, signed by `root`.
    ///
    /// They are made in a folder beside it that is then renamed: a crash leaves none of them or all, and what it left
    /// beside is made anew. A folder that holds anything is never touched.
    pub fn create(folder: &Path, root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            let path = folder.to_owned();
            return Err(IdentityError::AlreadyThere { path });
        }
        let material = Material::make(root, name, TimeMicros::now())?;
        material.create(folder)?;
        Self::assemble(material)
    }

    /// A collector's authority that is written nowhere: for tests.
    pub fn in_memory(root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        Self::assemble(Material::make(root, name, TimeMicros::now())?)
    }

    /// Opens what [`CollectorAuthority::create`] made; needs no root key.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let mut opened = Self::assemble(Material::read(folder)?)?;
        opened.folder = Some(folder.to_owned());
        Ok(opened)
    }

    /// Opens the authority in `folder`, or has `root` make one when there is none.
    pub fn open_or_create(
        folder: &Path,
        root: &FleetRoot,
        name: CollectorName,
    ) -> Result<Self, IdentityError> {
        if folder.join(BUNDLE_FILE).exists() {
            Self::open(folder)
        } else {
            Self::create(folder, root, name)
        }
    }

    fn assemble(material: Material) -> Result<Self, IdentityError> {
        let bundle = material.opened()?;
        let name = material.active.check(&bundle)?.name.clone();
        let Generation {
            issuing_key,
            chain,
            online,
        } = material.active;
        let issuing = chain.first().ok_or_else(|| IdentityError::Make {
            what: "the collector's authority",
            reason: "there is no issuing certificate".to_owned(),
        })?;
        let issuer =
            rcgen::Issuer::from_ca_cert_der(issuing, issuing_key).map_err(make_error("an issuer"))?;
        Ok(Self {
            name,
            issuer,
            chain,
            online,
            signed_bundle: material.bundle,
            bundle,
            history: material.history,
            cross: material.cross,
            folder: None,
        })
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetId {
        &self.bundle.fleet
    }

    /// The collector's name.
    pub fn name(&self) -> &CollectorName {
        &self.name
    }

    /// Fingerprint of the fleet root, as enrolment tokens pin it.
    pub fn root_fingerprint(&self) -> Fingerprint {
        self.signed_bundle.signer()
    }

    /// The trust bundle as hosts get it.
    pub fn signed_bundle(&self) -> &Signed<TrustBundle> {
        &self.signed_bundle
    }

    /// The trust bundle.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The public half of this collector's online key.
    pub fn online_key(&self) -> PublicKey {
        self.online.public()
    }

    /// The keys whose signatures count in this fleet.
    pub fn anchors(&self) -> TrustAnchors {
        self.bundle.anchors()
    }

    /// Signs an order, a lease or the time. What needs the fleet root is refused.
    pub fn sign<T: Serialize>(&self, context: Context, value: &T) -> Result<Signed<T>, SignatureError> {
        if !context.online_key_suffices() {
            let key = self.online.public().fingerprint().short();
            return Err(SignatureError::Signer {
                context,
                key,
                needed: "the fleet root key",
            });
        }
        Signed::sign(&self.online, context, value)
    }

    /// Signs the present time; `nonce` is what a host asked with, empty when none asked.
    pub fn sign_time(&self, now: TimeMicros, nonce: &[u8]) -> Result<Signed<SignedTime>, SignatureError> {
        self.sign(
            Context::Time,
            &SignedTime {
                unix: now,
                nonce: hex::encode(nonce),
            },
        )
    }

    /// Issues a host's certificate for the key in `request` (PKCS #10, DER), whose holder proved with it that
    /// it has the private key. Names and extensions in the request are ignored.
    pub fn issue_host(
        &self,
        request: &[u8],
        host: HostId,
        now: TimeMicros,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, IdentityError> {
        let key = HostRequest::parse(request)?;
        let uri = PeerName::Host {
            fleet: self.fleet().clone(),
            host,
        }
        .to_string();
        let params = x509::params(&host.to_string(), now, lifetime);
        let params = x509::peer(params, ExtendedKeyUsagePurpose::ClientAuth, &uri)?;
        self.issue(&params, &key.public)
    }

    /// Issues this collector's own TLS certificate over a new key; also returns the key, PKCS #8.
    pub fn issue_own(
        &self,
        now: TimeMicros,
        lifetime: Duration,
    ) -> Result<(IssuedCertificate, PrivatePkcs8KeyDer<'static>), IdentityError> {
        let uri = PeerName::Collector {
            fleet: self.fleet().clone(),
            name: self.name.clone(),
        }
        .to_string();
        let params = x509::params(self.name.as_str(), now, lifetime);
        let params = x509::peer(params, ExtendedKeyUsagePurpose::ServerAuth, &uri)?;
        let key = rcgen::KeyPair::generate().map_err(make_error("a TLS key"))?;
        let issued = self.issue(&params, &key)?;
        Ok((issued, PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// Issues a certificate for a web listener with DNS names or addresses, for browsers and the CLI: they
    /// trust it through the fleet's root. Returns the chain and the key, PKCS #8.
    pub fn issue_web(
        &self,
        names: &[String],
        now: TimeMicros,
        lifetime: Duration,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivatePkcs8KeyDer<'static>), IdentityError> {
        // As they stand in a URL or a configuration: brackets belong to the notation, not to the address.
        let bare = |name: &String| name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let names: Vec<String> = names.iter().map(bare).collect();
        let named = rcgen::CertificateParams::new(names).map_err(make_error("a web certificate's names"))?;
        let mut params = x509::params(self.name.as_str(), now, lifetime);
        params.subject_alt_names = named.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate().map_err(make_error("a TLS key"))?;
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(make_error("a web certificate"))?;
        let mut chain = vec![leaf.into()];
        chain.extend(self.chain.iter().cloned());
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// The bundles after `version` and before the present one, oldest first: with them a host that slept through
    /// several verifies each by the one before it.
    pub fn history_since(&self, version: u64) -> Vec<&Signed<TrustBundle>> {
        let after =
            |signed: &&Signed<TrustBundle>| signed.unverified().is_ok_and(|bundle| bundle.version > version);
        self.history.iter().filter(after).collect()
    }

    /// What lies in its folder, if that has another bundle by now: a rotation took a stage. Always `None` for one
    /// that was not opened from a folder.
    pub fn reopened(&self) -> Result<Option<Self>, IdentityError> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };
        let path = folder.join(BUNDLE_FILE);
        if TrustBundle::read(&path)?.0 == self.signed_bundle {
            return Ok(None);
        }
        let opened = Self::open(folder)?;
        // Read while a stage replaced the folder: the next look finds it whole.
        let settled = TrustBundle::read(&path)?.0 == opened.signed_bundle;
        Ok(settled.then_some(opened))
    }

    /// The folder that it was opened from.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// When the issuing certificate ends: the online keys have to be rotated before that.
    pub fn issuing_not_after(&self) -> Option<TimeMicros> {
        self.chain
            .first()
            .and_then(|certificate| x509::not_after(certificate))
    }

    /// What the enrolment listener sends above the issuing certificate: the root's, and for hosts that pin a root
    /// of before, the certificates by which it vouched for its successor.
    pub(crate) fn above_issuer(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.chain.iter().skip(1).chain(&self.cross)
    }

    fn issue(
        &self,
        params: &rcgen::CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<IssuedCertificate, IdentityError> {
        let leaf: CertificateDer<'static> = params
            .signed_by(key, &self.issuer)
            .map_err(make_error("a certificate"))?
            .into();
        let peer = PeerIdentity::from_certificate(&leaf)?;
        let chain = std::iter::once(leaf).chain(self.chain.first().cloned()).collect();
        Ok(IssuedCertificate { chain, peer })
    }
}

impl fmt::Debug for CollectorAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "CollectorAuthority({}/{})",
            self.bundle.fleet, self.name
        )
    }
}

/// A signing request whose signature was verified.
#[derive(Debug)]
pub struct HostRequest {
    public: SubjectPublicKeyInfo,
    key: Fingerprint,
}

impl HostRequest {
    /// Parses and verifies a PKCS #10 request, DER: its signature proves possession of the key.
    pub fn parse(request: &[u8]) -> Result<Self, IdentityError> {
        let wrong = |reason: String| IdentityError::Request { reason };
        if request.len() > REQUEST_BYTES_MAX {
            return Err(wrong(format!(
                "it has {} bytes, more than {REQUEST_BYTES_MAX}",
                request.len()
            )));
        }
        // Verifies the signature.
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| wrong(error.to_string()))?;
        let spki = request_spki(request).ok_or_else(|| wrong("it has no public key".to_owned()))?;
        let public = SubjectPublicKeyInfo::from_der(&spki).map_err(|error| wrong(error.to_string()))?;
        if ![&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519].contains(&public.algorithm()) {
            return Err(wrong("its key must be ECDSA P-256 or Ed25519".to_owned()));
        }
        Ok(Self {
            public,
            key: Fingerprint::of_spki(&spki),
        })
    }

    /// Fingerprint of the key that asks.
    pub fn key(&self) -> Fingerprint {
        self.key
    }
}

fn request_spki(request: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer as _;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(request).ok()?;
    Some(parsed.certification_request_info.subject_pki.raw.to_vec())
}

#[cfg(test)]
mod tests;
