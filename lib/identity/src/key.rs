//! Ed25519 keys that sign documents, and their public halves.

use std::fmt;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rcgen::PublicKeyData as _;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Fingerprint, IdentityError, files};

/// DER in front of the 32 bytes of an Ed25519 public key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl SigningKey {
    /// A new random key.
    pub fn generate() -> Result<Self, IdentityError> {
        let make = |reason: String| IdentityError::Make {
            what: "an Ed25519 key",
            reason,
        };
        let pair = Ed25519KeyPair::generate().map_err(|error| make(error.to_string()))?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|error| make(error.to_string()))?;
        Self::from_pkcs8(Zeroizing::new(pkcs8.as_ref().to_vec())).map_err(make)
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|error| error.to_string())?;
        let public =
            PublicKey::from_raw(pair.public_key().as_ref()).ok_or("its public half is not 32 bytes")?;
        Ok(Self { pair, pkcs8, public })
    }

    /// Reads the key that [`SigningKey::create`] wrote; refuses one that others may read.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let what = "Ed25519 private key (PKCS #8 PEM)";
        let pkcs8 = crate::x509::read_key_file(path, what)?;
        Self::from_pkcs8(pkcs8).map_err(|reason| IdentityError::Content {
            path: path.to_owned(),
            what,
            reason,
        })
    }

    /// Writes the key as PKCS #8 PEM, mode 0600; an existing file is never overwritten.
    pub fn create(&self, path: &Path) -> Result<(), IdentityError> {
        files::create_private(path, crate::x509::key_pem(&self.pkcs8).as_bytes())
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// 64 bytes over `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The same key as an X.509 issuer wants it.
    pub(crate) fn certificate_key(&self) -> Result<rcgen::KeyPair, IdentityError> {
        let key = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let pair =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).map_err(|error| {
                IdentityError::Make {
                    what: "an X.509 issuer",
                    reason: error.to_string(),
                }
            })?;
        debug_assert_eq!(pair.subject_public_key_info(), self.public.spki());
        Ok(pair)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKey({})", self.public.fingerprint().short())
    }
}

/// An Ed25519 public key. Serialised as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its 32 bytes; `None` when they are not 32.
    pub fn from_raw(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From its SubjectPublicKeyInfo; `None` when that is not of an Ed25519 key.
    pub fn from_spki(spki_der: &[u8]) -> Option<Self> {
        spki_der.strip_prefix(&SPKI_PREFIX).and_then(Self::from_raw)
    }

    /// Its SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), self.0.as_slice()].concat()
    }

    /// What it is pinned by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.spki())
    }

    /// Whether `signature` is of this key over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", hex::encode(self.0))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| "a public key is 64 hexadecimal digits")?;
        Ok(Self(bytes))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        hex::encode(key.0)
    }
}
