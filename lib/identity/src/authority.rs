//! A collector's authority: the issuing certificate, the online key and the trust bundle it hands out.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, PublicKeyData as _, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::bundle::CollectorEntry;
use crate::x509::{self, make_error};
use crate::{
    CollectorName, Context, Fingerprint, FleetId, FleetRoot, IdentityError, PeerIdentity, PeerName,
    SignatureError, Signed, SignedTime, SigningKey, TrustAnchors, TrustBundle, files,
};

const ISSUING_KEY_FILE: &str = "issuing.key";
const ISSUING_CHAIN_FILE: &str = "issuing.pem";
const ONLINE_KEY_FILE: &str = "online.key";
/// The signed trust bundle, beside the keys.
pub const BUNDLE_FILE: &str = "trust-bundle.json";
/// What the name of the folder ends with in which they are made.
const PARTIAL_SUFFIX: &str = ".partial";
const ISSUING_LIFETIME: Duration = Duration::from_hours(2 * 365 * 24);
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
}

struct Fresh {
    issuing_key: rcgen::KeyPair,
    chain: Vec<CertificateDer<'static>>,
    online: SigningKey,
    bundle: Signed<TrustBundle>,
}

impl CollectorAuthority {
    /// Makes the keys of a collector in `folder` and a trust bundle that lists it, signed by `root`.
    ///
    /// They are made in a folder beside it that is then renamed: a crash leaves none of them or all, and what it left
    /// beside is made anew. A folder that holds anything is never touched.
    pub fn create(folder: &Path, root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { action, path, source }
        };
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            let path = folder.to_owned();
            return Err(IdentityError::AlreadyThere { path });
        }
        let mut partial = folder.as_os_str().to_owned();
        partial.push(PARTIAL_SUFFIX);
        let partial = Path::new(&partial);
        if partial.exists() {
            fs::remove_dir_all(partial).map_err(failed("remove", partial))?;
        }
        let made = Self::create_in(partial, root, name)?;
        fs::rename(partial, folder).map_err(failed("rename into place", partial))?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::File::open(parent)
            .and_then(|opened| opened.sync_all())
            .map_err(failed("sync folder", parent))?;
        Ok(made)
    }

    fn create_in(folder: &Path, root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        files::private_folder(folder)?;
        let fresh = Fresh::make(root, name)?;
        let key = Zeroizing::new(fresh.issuing_key.serialize_der());
        files::create_private(&folder.join(ISSUING_KEY_FILE), x509::key_pem(&key).as_bytes())?;
        files::write_public(
            &folder.join(ISSUING_CHAIN_FILE),
            x509::chain_pem(&fresh.chain).as_bytes(),
        )?;
        fresh.online.create(&folder.join(ONLINE_KEY_FILE))?;
        TrustBundle::write(&folder.join(BUNDLE_FILE), &fresh.bundle)?;
        Self::assemble(fresh)
    }

    /// A collector's authority that is written nowhere: for tests.
    pub fn in_memory(root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        Self::assemble(Fresh::make(root, name)?)
    }

    /// Opens what [`CollectorAuthority::create`] made; needs no root key.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let what = "ECDSA P-256 private key (PKCS #8 PEM)";
        let path = folder.join(ISSUING_KEY_FILE);
        let key = x509::read_key_file(&path, what)?;
        let key = PrivatePkcs8KeyDer::from(key.as_slice());
        let issuing_key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Content {
                path: path.clone(),
                what,
                reason: error.to_string(),
            })?;
        let chain = x509::read_chain_file(&folder.join(ISSUING_CHAIN_FILE))?;
        let online = SigningKey::open(&folder.join(ONLINE_KEY_FILE))?;
        let (bundle, _) = TrustBundle::read(&folder.join(BUNDLE_FILE))?;
        Self::assemble(Fresh {
            issuing_key,
            chain,
            online,
            bundle,
        })
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

    fn assemble(fresh: Fresh) -> Result<Self, IdentityError> {
        let Fresh {
            issuing_key,
            chain,
            online,
            bundle: signed_bundle,
        } = fresh;
        let wrong = |reason: &str| IdentityError::Make {
            what: "the collector's authority",
            reason: reason.to_owned(),
        };
        let bundle = TrustBundle::open_pinned(&signed_bundle, &signed_bundle.signer())?;
        let entry = bundle
            .collectors
            .iter()
            .find(|entry| entry.online_key == online.public())
            .ok_or_else(|| wrong("its online key is not in its trust bundle"))?;
        let name = entry.name.clone();
        let issuing = chain
            .first()
            .ok_or_else(|| wrong("there is no issuing certificate"))?;
        if x509::spki_of(issuing).is_none_or(|spki| spki != issuing_key.subject_public_key_info()) {
            return Err(wrong("its issuing certificate is not of its issuing key"));
        }
        if !bundle.lists_issuer(issuing) {
            return Err(wrong("its issuing certificate is not in its trust bundle"));
        }
        let issuer =
            rcgen::Issuer::from_ca_cert_der(issuing, issuing_key).map_err(make_error("an issuer"))?;
        Ok(Self {
            name,
            issuer,
            chain,
            online,
            signed_bundle,
            bundle,
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

    /// The issuing certificate and the root's: what the enrolment listener sends above its own.
    pub(crate) fn upper_chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
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

impl Fresh {
    fn make(root: &FleetRoot, name: CollectorName) -> Result<Self, IdentityError> {
        let now = TimeMicros::now();
        let issuing_key = rcgen::KeyPair::generate().map_err(make_error("the issuing key"))?;
        let title = format!("fleetmend {} issuing {name}", root.fleet());
        let params = x509::authority(x509::params(&title, now, ISSUING_LIFETIME), 0);
        let issuing = params
            .signed_by(&issuing_key, &root.issuer()?)
            .map_err(make_error("the issuing certificate"))?;
        let online = SigningKey::generate()?;
        let issuer = Fingerprint::of_spki(&issuing_key.subject_public_key_info());
        let bundle = TrustBundle {
            fleet: root.fleet().clone(),
            version: 1,
            created: now,
            roots: vec![root.entry()],
            collectors: vec![CollectorEntry {
                name,
                issuer,
                online_key: online.public(),
            }],
        };
        let bundle = root.sign(Context::Bundle, &bundle)?;
        Ok(Self {
            issuing_key,
            chain: vec![issuing.into(), root.certificate().clone()],
            online,
            bundle,
        })
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
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("authority");
        let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
        let make = || CollectorAuthority::open_or_create(&place, &root, "c1".parse().unwrap());
        // As a crash leaves it: some of the keys, and no bundle.
        let partial = folder.path().join("authority.partial");
        let left = CollectorAuthority::create_in(&partial, &root, "c1".parse().unwrap()).unwrap();
        fs::remove_file(partial.join(BUNDLE_FILE)).unwrap();
        let made = make().unwrap();
        assert_ne!(left.bundle().anchors(), made.bundle().anchors());
        assert!(!partial.exists());
        // Keys whose bundle was lost may have signed something: they are not replaced.
        fs::remove_file(place.join(BUNDLE_FILE)).unwrap();
        assert!(matches!(make(), Err(IdentityError::AlreadyThere { .. })));
        assert!(place.join(ISSUING_KEY_FILE).exists());
    }
}
