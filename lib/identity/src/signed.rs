//! Signed documents: policies, orders, leases, models' manifests, trust bundles, the time.
//!
//! # Format, version 1
//!
//! JSON object: `payload` (base64 of the exact bytes that were signed, themselves JSON), `context` (what the
//! document is for), `key` (fingerprint of the signer's key), `algorithm` (`ed25519`), `signature` (base64).
//! What is signed is `"fleetmend-signed-v1\0" + context + "\0" + payload`: a signature made for one context
//! never holds in another, and the payload is parsed only after its signature was found good.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Fingerprint, SigningKey, TrustAnchors};

/// Largest payload that is verified, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
const PREFIX: &[u8] = b"fleetmend-signed-v1\0";

/// What a signed document is for, and with that, who may sign it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// A healing policy: what may be done, where, how often. Root only.
    Policy,
    /// The trust bundle of a fleet. Root only.
    Bundle,
    /// A model's manifest. Root only.
    Model,
    /// An order to one host, inside a policy. Root or online key.
    Order,
    /// Authority to act for a limited time, inside a policy. Root or online key.
    Lease,
    /// The collector's present time. Root or online key.
    Time,
}

impl Context {
    /// The word that is signed along.
    pub fn as_str(self) -> &'static str {
        match self {
            Context::Policy => "policy",
            Context::Bundle => "bundle",
            Context::Model => "model",
            Context::Order => "order",
            Context::Lease => "lease",
            Context::Time => "time",
        }
    }

    /// Whether a collector's online key may sign this, or only the fleet root.
    pub fn online_key_suffices(self) -> bool {
        matches!(self, Context::Order | Context::Lease | Context::Time)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A signed document was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The document is not a signed document at all.
    #[error("this is not a signed document: {0}")]
    Malformed(String),
    /// The document is for something else.
    #[error("the document was signed as a {found}, not as a {wanted}")]
    Context {
        /// What it had to be.
        wanted: Context,
        /// What it says it is.
        found: Context,
    },
    /// The document was signed with an algorithm that is not used here.
    #[error("the document is signed with {0:?}; only ed25519 is accepted")]
    Algorithm(String),
    /// The signer may not sign this, or nobody here knows it.
    #[error("the {context} is signed by key {key}, which is not trusted for it; sign it with {needed}")]
    Signer {
        /// What was verified.
        context: Context,
        /// First digits of the signer's fingerprint.
        key: String,
        /// Whose signature was needed.
        needed: &'static str,
    },
    /// The bytes are not those that were signed.
    #[error("the signature of the {0} does not match: it was changed after it was signed")]
    Mismatch(Context),
    /// The payload is too large to be one.
    #[error("the signed payload has {0} bytes, more than the 1 MiB allowed")]
    TooLarge(usize),
    /// The signature is good, the payload is not what the context says.
    #[error("the signed {context} cannot be read: {reason}")]
    Payload {
        /// What was verified.
        context: Context,
        /// Why it cannot be read.
        reason: String,
    },
    /// A value could not be written as JSON.
    #[error("the {context} cannot be written: {reason}")]
    Encode {
        /// What was to be signed.
        context: Context,
        /// Why it cannot be written.
        reason: String,
    },
    /// A trust bundle does not follow from the one that is trusted now.
    #[error("the trust bundle was refused: {0}")]
    Bundle(&'static str),
}

/// A value of type `T` with a signature over its exact bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct Signed<T> {
    #[serde(with = "base64_bytes")]
    payload: Vec<u8>,
    context: Context,
    key: Fingerprint,
    algorithm: String,
    #[serde(with = "base64_bytes")]
    signature: Vec<u8>,
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

fn message(context: Context, payload: &[u8]) -> Vec<u8> {
    [PREFIX, context.as_str().as_bytes(), b"\0", payload].concat()
}

impl<T: Serialize> Signed<T> {
    /// Signs `value` for `context`.
    pub fn sign(key: &SigningKey, context: Context, value: &T) -> Result<Self, SignatureError> {
        let payload = serde_json::to_vec(value).map_err(|error| SignatureError::Encode {
            context,
            reason: error.to_string(),
        })?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SignatureError::TooLarge(payload.len()));
        }
        let signature = key.sign(&message(context, &payload));
        let algorithm = "ed25519".to_owned();
        Ok(Self {
            payload,
            context,
            key: key.public().fingerprint(),
            algorithm,
            signature,
            kind: PhantomData,
        })
    }
}

impl<T: DeserializeOwned> Signed<T> {
    /// The value, if a key that may sign `context` signed exactly these bytes for it.
    pub fn verify(&self, anchors: &TrustAnchors, context: Context) -> Result<T, SignatureError> {
        if self.context != context {
            return Err(SignatureError::Context {
                wanted: context,
                found: self.context,
            });
        }
        if self.algorithm != "ed25519" {
            return Err(SignatureError::Algorithm(
                self.algorithm.chars().take(32).collect(),
            ));
        }
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SignatureError::TooLarge(self.payload.len()));
        }
        let key = anchors
            .signer(context, &self.key)
            .ok_or_else(|| SignatureError::Signer {
                context,
                key: self.key.short(),
                needed: if context.online_key_suffices() {
                    "a collector's online key"
                } else {
                    "the fleet root key"
                },
            })?;
        if !key.verifies(&message(context, &self.payload), &self.signature) {
            return Err(SignatureError::Mismatch(context));
        }
        self.unverified()
    }

    /// The value without looking at the signature: only to find out which key to verify with.
    pub(crate) fn unverified(&self) -> Result<T, SignatureError> {
        serde_json::from_slice(&self.payload).map_err(|error| SignatureError::Payload {
            context: self.context,
            reason: error.to_string(),
        })
    }
}

impl<T> Signed<T> {
    /// The document as JSON, as it is stored and sent.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SignatureError> {
        serde_json::to_vec(self).map_err(|error| SignatureError::Encode {
            context: self.context,
            reason: error.to_string(),
        })
    }

    /// Reads what [`Signed::to_bytes`] wrote. Nothing is trusted yet: see [`Signed::verify`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        if bytes.len() > PAYLOAD_BYTES_MAX.saturating_mul(2) {
            return Err(SignatureError::TooLarge(bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|error| SignatureError::Malformed(error.to_string()))
    }

    /// Fingerprint of the key that is said to have signed this.
    pub fn signer(&self) -> Fingerprint {
        self.key
    }

    /// SHA-256 of the exact payload: by which a document is referred to.
    pub fn digest(&self) -> Fingerprint {
        Fingerprint::of_bytes(&self.payload)
    }
}

// By hand: the value itself is not held, so nothing is asked of its type.
impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            payload: self.payload.clone(),
            context: self.context,
            key: self.key,
            algorithm: self.algorithm.clone(),
            signature: self.signature.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.payload, self.context, self.key) == (&other.payload, other.context, other.key)
            && (&self.algorithm, &self.signature) == (&other.algorithm, &other.signature)
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.payload.len();
        write!(
            formatter,
            "Signed({}, {bytes} bytes, key {})",
            self.context,
            self.key.short()
        )
    }
}

/// Bytes as base64 text in JSON.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    fn note() -> Note {
        Note {
            text: "throttle only".to_owned(),
        }
    }

    fn anchors(root: &SigningKey, online: &SigningKey) -> TrustAnchors {
        TrustAnchors {
            roots: vec![root.public()],
            online: vec![online.public()],
        }
    }

    #[test]
    fn a_document_holds_only_for_its_context_and_its_signer() {
        let (root, online, stranger) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let anchors = anchors(&root, &online);
        let policy = Signed::sign(&root, Context::Policy, &note()).unwrap();
        let sent = Signed::<Note>::from_bytes(&policy.to_bytes().unwrap()).unwrap();
        assert_eq!(sent.verify(&anchors, Context::Policy).unwrap(), note());
        assert!(matches!(
            sent.verify(&anchors, Context::Order),
            Err(SignatureError::Context { .. })
        ));

        let widened = Signed::sign(&online, Context::Policy, &note()).unwrap();
        let error = widened.verify(&anchors, Context::Policy).unwrap_err();
        assert!(
            error.to_string().contains("sign it with the fleet root key"),
            "{error}"
        );
        assert!(
            Signed::sign(&online, Context::Order, &note())
                .unwrap()
                .verify(&anchors, Context::Order)
                .is_ok()
        );
        let foreign = Signed::sign(&stranger, Context::Order, &note()).unwrap();
        assert!(matches!(
            foreign.verify(&anchors, Context::Order),
            Err(SignatureError::Signer { .. })
        ));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (root, online) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let anchors = anchors(&root, &online);
        let good = Signed::sign(&root, Context::Policy, &note()).unwrap();
        for index in 0..good.payload.len() {
            let mut torn = good.clone();
            torn.payload[index] ^= 1;
            assert!(matches!(
                torn.verify(&anchors, Context::Policy),
                Err(SignatureError::Mismatch(_))
            ));
        }
        let mut relabelled = Signed::sign(&root, Context::Order, &note()).unwrap();
        relabelled.context = Context::Policy;
        assert!(matches!(
            relabelled.verify(&anchors, Context::Policy),
            Err(SignatureError::Mismatch(_))
        ));
        for bytes in [&b""[..], b"{}", b"null", b"{\"payload\":1}", &[0xff; 40]] {
            assert!(matches!(
                Signed::<Note>::from_bytes(bytes),
                Err(SignatureError::Malformed(_))
            ));
        }
    }
}
