//! The trust bundle: what a fleet trusts, versioned, signed by its root.

use std::path::Path;

use fleetmend_event::TimeMicros;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::signed::base64_bytes;
use crate::x509::{missing, spki_of};
use crate::{
    CollectorName, Context, Fingerprint, FleetId, IdentityError, PublicKey, SignatureError, Signed,
    SigningKey, files,
};

/// Bundles between the one in force and the newest that are looked at.
pub const CHAIN_MAX: usize = 64;

/// Everything a fleet trusts. Only the fleet root signs one; a later version is signed by a root of the one
/// before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustBundle {
    /// The fleet.
    pub fleet: FleetId,
    /// Grows with every change, from 1.
    pub version: u64,
    /// When it was made.
    pub created: TimeMicros,
    /// The root authorities. Usually one; two while the root key is being changed.
    pub roots: Vec<RootEntry>,
    /// The collectors that may issue certificates and sign orders.
    pub collectors: Vec<CollectorEntry>,
}

/// One root authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootEntry {
    /// Its self-signed certificate, DER.
    #[serde(with = "base64_bytes")]
    pub certificate: Vec<u8>,
    /// Its key, the one in the certificate.
    pub key: PublicKey,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorEntry {
    /// Its name.
    pub name: CollectorName,
    /// Key of its issuing certificate. A chain through an issuer that is not listed is refused.
    pub issuer: Fingerprint,
    /// The key that signs its orders, leases and time.
    pub online_key: PublicKey,
}

impl RootEntry {
    /// When its certificate ends.
    pub fn not_after(&self) -> Option<TimeMicros> {
        crate::x509::not_after(&self.certificate)
    }
}

impl TrustBundle {
    /// Signs the bundle with a root key.
    pub fn sign(&self, root: &SigningKey) -> Result<Signed<TrustBundle>, SignatureError> {
        Signed::sign(root, Context::Bundle, self)
    }

    /// The bundle, if the root with this fingerprint signed it: how a host meets its fleet.
    pub fn open_pinned(
        signed: &Signed<TrustBundle>,
        root: &Fingerprint,
    ) -> Result<TrustBundle, SignatureError> {
        let claimed = signed.unverified()?;
        let keys: Vec<PublicKey> = claimed
            .roots
            .iter()
            .map(|entry| entry.key)
            .filter(|key| key.fingerprint() == *root)
            .collect();
        let anchors = TrustAnchors {
            roots: keys,
            online: Vec::new(),
        };
        signed.verify(&anchors, Context::Bundle)?.consistent()
    }

    /// The next bundle, if it is newer than this one, of the same fleet and signed by one of its roots.
    pub fn open_successor(&self, signed: &Signed<TrustBundle>) -> Result<TrustBundle, SignatureError> {
        let next = signed.verify(&self.anchors(), Context::Bundle)?.consistent()?;
        if next.fleet != self.fleet {
            return Err(SignatureError::Bundle("it belongs to another fleet"));
        }
        if next.version < self.version {
            return Err(SignatureError::Bundle("it is older than the one in force"));
        }
        Ok(next)
    }

    /// As [`TrustBundle::open_successor`], for one that has to be newer; `None` when it is this one.
    pub fn open_newer(&self, signed: &Signed<TrustBundle>) -> Result<Option<TrustBundle>, SignatureError> {
        let next = self.open_successor(signed)?;
        if next == *self {
            return Ok(None);
        }
        if next.version == self.version {
            return Err(SignatureError::Bundle(
                "it is another one than the one in force, of the same version",
            ));
        }
        Ok(Some(next))
    }

    /// The newest bundle, reached from this one over those in between, oldest first, each verified by the one
    /// before it. What is not newer than this one is passed over.
    pub fn open_chain(
        &self,
        between: &[Signed<TrustBundle>],
        newest: &Signed<TrustBundle>,
    ) -> Result<TrustBundle, SignatureError> {
        if between.len() > CHAIN_MAX {
            return Err(SignatureError::Bundle("it comes with too many predecessors"));
        }
        let mut present = self.clone();
        for signed in between {
            // A look at the version only: nothing of what is passed over is used.
            if signed.unverified()?.version > present.version {
                present = present.open_successor(signed)?;
            }
        }
        present.open_successor(newest)
    }

    /// As [`TrustBundle::open_pinned`], when the bundle may be signed by a successor of the pinned root.
    pub fn open_pinned_chain(
        between: &[Signed<TrustBundle>],
        newest: &Signed<TrustBundle>,
        root: &Fingerprint,
    ) -> Result<TrustBundle, SignatureError> {
        if newest.signer() == *root {
            return Self::open_pinned(newest, root);
        }
        match between.iter().rev().find(|signed| signed.signer() == *root) {
            Some(signed) => Self::open_pinned(signed, root)?.open_chain(between, newest),
            None => Self::open_pinned(newest, root),
        }
    }

    fn consistent(self) -> Result<Self, SignatureError> {
        let matches =
            |entry: &RootEntry| spki_of(&entry.certificate).is_some_and(|spki| spki == entry.key.spki());
        if self.roots.is_empty() {
            return Err(SignatureError::Bundle("it has no root"));
        }
        if !self.roots.iter().all(matches) {
            return Err(SignatureError::Bundle(
                "a root certificate is not of the root key beside it",
            ));
        }
        Ok(self)
    }

    /// Reads a bundle from a file that only its owner may change, and checks that one of its own roots signed
    /// it.
    pub fn read(path: &Path) -> Result<(Signed<TrustBundle>, TrustBundle), IdentityError> {
        Self::parse(&files::read_trusted(path)?.ok_or_else(|| missing(path))?)
    }

    /// As [`TrustBundle::read`], from a file that is root's or our own: where a privileged process has its
    /// trust anchors from. It is trusted because of its owner, who wrote it at enrolment.
    pub fn read_own(path: &Path) -> Result<(Signed<TrustBundle>, TrustBundle), IdentityError> {
        Self::parse(&files::read_own(path)?.ok_or_else(|| missing(path))?)
    }

    fn parse(bytes: &[u8]) -> Result<(Signed<TrustBundle>, TrustBundle), IdentityError> {
        let signed = Signed::from_bytes(bytes)?;
        let opened = Self::open_pinned(&signed, &signed.signer())?;
        Ok((signed, opened))
    }

    /// Writes a signed bundle, world-readable, atomically.
    pub fn write(path: &Path, signed: &Signed<TrustBundle>) -> Result<(), IdentityError> {
        files::write_public(path, &signed.to_bytes()?)
    }

    /// The keys that sign documents.
    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors {
            roots: self.roots.iter().map(|entry| entry.key).collect(),
            online: self.collectors.iter().map(|entry| entry.online_key).collect(),
        }
    }

    /// The root authorities for TLS.
    pub(crate) fn root_store(&self) -> Result<RootCertStore, rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(CertificateDer::from(root.certificate.clone()))?;
        }
        Ok(store)
    }

    /// Whether an issuing certificate is one of the fleet's present ones.
    pub(crate) fn lists_issuer(&self, certificate: &[u8]) -> bool {
        spki_of(certificate).is_some_and(|spki| {
            let found = Fingerprint::of_spki(&spki);
            self.collectors.iter().any(|entry| entry.issuer == found)
        })
    }
}

/// The public keys whose signatures count here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustAnchors {
    /// Fleet roots: may sign everything.
    pub roots: Vec<PublicKey>,
    /// Online keys of collectors: may sign orders, leases and the time.
    pub online: Vec<PublicKey>,
}

impl TrustAnchors {
    /// The trusted key with this fingerprint, if it may sign `context`.
    pub(crate) fn signer(&self, context: Context, fingerprint: &Fingerprint) -> Option<&PublicKey> {
        let online = self.online.iter().filter(|_| context.online_key_suffices());
        self.roots
            .iter()
            .chain(online)
            .find(|key| key.fingerprint() == *fingerprint)
    }
}
