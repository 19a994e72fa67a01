//! The fleet root: one Ed25519 key, and the X.509 authority over the same key.

use std::path::Path;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use crate::bundle::RootEntry;
use crate::x509::{self, make_error};
use crate::{
    Context, Fingerprint, FleetId, IdentityError, PublicKey, SignatureError, Signed, SigningKey, files,
};

const KEY_FILE: &str = "root.key";
const CERTIFICATE_FILE: &str = "root.pem";
/// The root's certificate outlives hosts and collectors; it is replaced by a bundle, not by expiring.
const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Authorities in a chain below a voucher: the vouchers of eight later roots and an issuing certificate.
const VOUCHERS_BELOW_MAX: u8 = 9;
/// What the common name of a root certificate begins and ends with; the fleet id stands between.
const COMMON_NAME: (&str, &str) = ("fleetmend ", " root");

/// The fleet root with its private key. Needed to set up a collector, to sign policies and to rotate keys; not
/// to run a collector.
#[derive(Debug)]
pub struct FleetRoot {
    fleet: FleetId,
    key: SigningKey,
    certificate: CertificateDer<'static>,
}

impl FleetRoot {
    /// Makes a new root in `folder` (created with mode 0700). An existing root is never overwritten.
    pub fn create(folder: &Path, fleet: FleetId) -> Result<Self, IdentityError> {
        files::private_folder(folder)?;
        let root = Self::in_memory(fleet)?;
        root.key.create(&folder.join(KEY_FILE))?;
        let pem = x509::chain_pem(std::slice::from_ref(&root.certificate));
        files::write_public(&folder.join(CERTIFICATE_FILE), pem.as_bytes())?;
        Ok(root)
    }

    /// Makes a new root that is written nowhere: for tests.
    pub fn in_memory(fleet: FleetId) -> Result<Self, IdentityError> {
        let key = SigningKey::generate()?;
        let name = format!("{}{fleet}{}", COMMON_NAME.0, COMMON_NAME.1);
        let params = x509::authority(x509::params(&name, TimeMicros::now(), LIFETIME), 1);
        let certificate = params
            .self_signed(&key.certificate_key()?)
            .map_err(make_error("the root certificate"))?
            .into();
        Ok(Self {
            fleet,
            key,
            certificate,
        })
    }

    /// Opens the root that [`FleetRoot::create`] made.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let key = SigningKey::open(&folder.join(KEY_FILE))?;
        let path = folder.join(CERTIFICATE_FILE);
        let wrong = |reason: &str| IdentityError::Content {
            path: path.clone(),
            what: "fleet root certificate",
            reason: reason.to_owned(),
        };
        let chain = x509::read_chain_file(&path)?;
        let certificate = chain
            .into_iter()
            .next()
            .ok_or_else(|| wrong("there is no certificate in it"))?;
        if x509::spki_of(&certificate).is_none_or(|spki| spki != key.public().spki()) {
            return Err(wrong("it is not of the key in root.key"));
        }
        let fleet = fleet_of(&certificate).ok_or_else(|| wrong("it does not name its fleet"))?;
        Ok(Self {
            fleet,
            key,
            certificate,
        })
    }

    /// Opens the root in `folder`, or makes one for `fleet` when there is none.
    pub fn open_or_create(folder: &Path, fleet: FleetId) -> Result<Self, IdentityError> {
        if folder.join(KEY_FILE).exists() {
            Self::open(folder)
        } else {
            Self::create(folder, fleet)
        }
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// What enrolment tokens pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.public().fingerprint()
    }

    /// The public half of its key.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs a document: a policy, a bundle, a model's manifest.
    pub fn sign<T: Serialize>(&self, context: Context, value: &T) -> Result<Signed<T>, SignatureError> {
        Signed::sign(&self.key, context, value)
    }

    pub(crate) fn entry(&self) -> RootEntry {
        RootEntry {
            certificate: self.certificate.to_vec(),
            key: self.key.public(),
        }
    }

    /// A certificate of this root over the key of its successor: whoever trusts this root follows it there.
    pub(crate) fn vouch(
        &self,
        successor: &FleetRoot,
        now: TimeMicros,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let name = format!("{}{}{}", COMMON_NAME.0, successor.fleet, COMMON_NAME.1);
        // Later roots' vouchers and an issuing certificate come below it.
        let params = x509::authority(x509::params(&name, now, LIFETIME), VOUCHERS_BELOW_MAX);
        let made = params
            .signed_by(&successor.key.certificate_key()?, &self.issuer()?)
            .map_err(make_error("the certificate over the new root"))?;
        Ok(made.into())
    }

    pub(crate) fn issuer(&self) -> Result<rcgen::Issuer<'static, rcgen::KeyPair>, IdentityError> {
        rcgen::Issuer::from_ca_cert_der(&self.certificate, self.key.certificate_key()?)
            .map_err(make_error("an issuer of the root"))
    }
}

fn fleet_of(certificate: &[u8]) -> Option<FleetId> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix(COMMON_NAME.0)?
        .strip_suffix(COMMON_NAME.1)?
        .parse()
        .ok()
}
