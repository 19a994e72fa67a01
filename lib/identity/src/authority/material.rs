//! The files of a collector's authority.
//!
//! | file | holds |
//! |---|---|
//! | `issuing.key`, `issuing.pem`, `online.key` | the keys in use; the chain is the issuing certificate, then its root's |
//! | `next/` | the same three of the keys that a rotation has introduced and not yet switched to |
//! | `trust-bundle.json` | the present bundle |
//! | `bundle-history.json` | the bundles before it, oldest first, at most [`HISTORY_MAX`]; absent before the first rotation |
//! | `cross.pem` | what former roots vouched for their successors with, and their own certificates; likewise |
//!
//! They are always written together, into a folder beside theirs that then takes its place in one step
//! (`RENAME_EXCHANGE`): a reader, a crash or a power cut finds all of the old or all of the new.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetmend_event::TimeMicros;
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::BUNDLE_FILE;
use crate::bundle::CollectorEntry;
use crate::x509::{self, make_error};
use crate::{
    CollectorName, Context, Fingerprint, FleetRoot, IdentityError, Signed, SigningKey, TrustBundle, files,
};

pub(super) const ISSUING_KEY_FILE: &str = "issuing.key";
const ISSUING_CHAIN_FILE: &str = "issuing.pem";
const ONLINE_KEY_FILE: &str = "online.key";
const NEXT_FOLDER: &str = "next";
const HISTORY_FILE: &str = "bundle-history.json";
const CROSS_FILE: &str = "cross.pem";
/// What the name of the folder ends with in which they are made.
const PARTIAL_SUFFIX: &str = ".partial";
const ISSUING_LIFETIME: Duration = Duration::from_hours(2 * 365 * 24);
/// Bundles that are kept: ten rotations of three stages. About 3 KiB each, sent to hosts that slept.
pub(super) const HISTORY_MAX: usize = 32;
/// Certificates kept in `cross.pem`: two for each of the last eight roots.
pub(super) const CROSS_MAX: usize = 16;

/// The keys of a collector between two rotations.
pub(super) struct Generation {
    pub(super) issuing_key: rcgen::KeyPair,
    /// Issuing certificate, then the root's.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) online: SigningKey,
}

/// Everything that the folder holds.
pub(super) struct Material {
    pub(super) active: Generation,
    pub(super) next: Option<Generation>,
    pub(super) bundle: Signed<TrustBundle>,
    pub(super) history: Vec<Signed<TrustBundle>>,
    pub(super) cross: Vec<CertificateDer<'static>>,
}

impl Generation {
    pub(super) fn make(
        root: &FleetRoot,
        name: &CollectorName,
        now: TimeMicros,
    ) -> Result<Self, IdentityError> {
        let issuing_key = rcgen::KeyPair::generate().map_err(make_error("the issuing key"))?;
        let title = format!("fleetmend {} issuing {name}", root.fleet());
        let params = x509::authority(x509::params(&title, now, ISSUING_LIFETIME), 0);
        let issuing = params
            .signed_by(&issuing_key, &root.issuer()?)
            .map_err(make_error("the issuing certificate"))?;
        Ok(Self {
            issuing_key,
            chain: vec![issuing.into(), root.certificate().clone()],
            online: SigningKey::generate()?,
        })
    }

    /// How a bundle lists it.
    pub(super) fn entry(&self, name: CollectorName) -> CollectorEntry {
        CollectorEntry {
            name,
            issuer: Fingerprint::of_spki(&self.issuing_key.subject_public_key_info()),
            online_key: self.online.public(),
        }
    }

    /// Its entry in `bundle`, if its files belong together and the bundle lists them.
    pub(super) fn check<'a>(&self, bundle: &'a TrustBundle) -> Result<&'a CollectorEntry, IdentityError> {
        let wrong = |reason: &str| IdentityError::Make {
            what: "the collector's authority",
            reason: reason.to_owned(),
        };
        let entry = bundle
            .collectors
            .iter()
            .find(|entry| entry.online_key == self.online.public())
            .ok_or_else(|| wrong("its online key is not in its trust bundle"))?;
        let issuing = self
            .chain
            .first()
            .ok_or_else(|| wrong("there is no issuing certificate"))?;
        if x509::spki_of(issuing).is_none_or(|spki| spki != self.issuing_key.subject_public_key_info()) {
            return Err(wrong("its issuing certificate is not of its issuing key"));
        }
        if !bundle.lists_issuer(issuing) {
            return Err(wrong("its issuing certificate is not in its trust bundle"));
        }
        Ok(entry)
    }

    fn read(folder: &Path) -> Result<Self, IdentityError> {
        let what = "ECDSA P-256 private key (PKCS #8 PEM)";
        let path = folder.join(ISSUING_KEY_FILE);
        let key = x509::read_key_file(&path, what)?;
        let key = PrivatePkcs8KeyDer::from(key.as_slice());
        let issuing_key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Content {
                path,
                what,
                reason: error.to_string(),
            })?;
        Ok(Self {
            issuing_key,
            chain: x509::read_chain_file(&folder.join(ISSUING_CHAIN_FILE))?,
            online: SigningKey::open(&folder.join(ONLINE_KEY_FILE))?,
        })
    }

    fn write(&self, folder: &Path) -> Result<(), IdentityError> {
        files::private_folder(folder)?;
        let key = Zeroizing::new(self.issuing_key.serialize_der());
        files::create_private(&folder.join(ISSUING_KEY_FILE), x509::key_pem(&key).as_bytes())?;
        let chain = x509::chain_pem(&self.chain);
        files::write_public(&folder.join(ISSUING_CHAIN_FILE), chain.as_bytes())?;
        self.online.create(&folder.join(ONLINE_KEY_FILE))
    }
}

impl Material {
    /// The first keys of a collector, and the first bundle of its fleet.
    pub(super) fn make(
        root: &FleetRoot,
        name: CollectorName,
        now: TimeMicros,
    ) -> Result<Self, IdentityError> {
        let active = Generation::make(root, &name, now)?;
        let bundle = TrustBundle {
            fleet: root.fleet().clone(),
            version: 1,
            created: now,
            roots: vec![root.entry()],
            collectors: vec![active.entry(name)],
        };
        Ok(Self {
            active,
            next: None,
            bundle: root.sign(Context::Bundle, &bundle)?,
            history: Vec::new(),
            cross: Vec::new(),
        })
    }

    pub(super) fn read(folder: &Path) -> Result<Self, IdentityError> {
        let next = folder.join(NEXT_FOLDER);
        let cross = folder.join(CROSS_FILE);
        Ok(Self {
            active: Generation::read(folder)?,
            next: next.exists().then(|| Generation::read(&next)).transpose()?,
            bundle: TrustBundle::read(&folder.join(BUNDLE_FILE))?.0,
            history: read_history(&folder.join(HISTORY_FILE))?,
            cross: if cross.exists() {
                x509::read_chain_file(&cross)?
            } else {
                Vec::new()
            },
        })
    }

    /// The present bundle; one of its own roots signed it.
    pub(super) fn opened(&self) -> Result<TrustBundle, IdentityError> {
        Ok(TrustBundle::open_pinned(&self.bundle, &self.bundle.signer())?)
    }

    /// Writes everything into `folder`, which must be empty or not there.
    pub(super) fn create(&self, folder: &Path) -> Result<(), IdentityError> {
        let partial = self.write_beside(folder)?;
        fs::rename(&partial, folder).map_err(failed("rename into place", &partial))?;
        files::sync_parent(folder)
    }

    /// Puts everything into the place of what `folder` holds, which is then deleted.
    pub(super) fn replace(&self, folder: &Path) -> Result<(), IdentityError> {
        let partial = self.write_beside(folder)?;
        files::exchange(&partial, folder)?;
        // The keys of before lie there now.
        fs::remove_dir_all(&partial).map_err(failed("remove", &partial))
    }

    fn write_beside(&self, folder: &Path) -> Result<PathBuf, IdentityError> {
        let mut partial = folder.as_os_str().to_owned();
        partial.push(PARTIAL_SUFFIX);
        let partial = PathBuf::from(partial);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed("remove", &partial))?;
        }
        self.active.write(&partial)?;
        if let Some(next) = &self.next {
            next.write(&partial.join(NEXT_FOLDER))?;
        }
        if !self.history.is_empty() {
            let bytes = serde_json::to_vec(&self.history).map_err(|error| IdentityError::Make {
                what: "the history of trust bundles",
                reason: error.to_string(),
            })?;
            files::write_public(&partial.join(HISTORY_FILE), &bytes)?;
        }
        if !self.cross.is_empty() {
            let pem = x509::chain_pem(&self.cross);
            files::write_public(&partial.join(CROSS_FILE), pem.as_bytes())?;
        }
        TrustBundle::write(&partial.join(BUNDLE_FILE), &self.bundle)?;
        Ok(partial)
    }
}

fn read_history(path: &Path) -> Result<Vec<Signed<TrustBundle>>, IdentityError> {
    let Some(bytes) = files::read_trusted(path)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&bytes).map_err(|error| IdentityError::Content {
        path: path.to_owned(),
        what: "history of trust bundles",
        reason: error.to_string(),
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { action, path, source }
}
