//! Who is who: keys, certificates, enrolment tokens, TLS configurations, signed documents and trusted time.
//!
//! # The chain
//!
//! The **fleet root** ([`FleetRoot`]) is one Ed25519 key and, over the same key, a self-signed X.509 authority.
//! It may be offline. It signs the **collector's authority** ([`CollectorAuthority`]): an issuing certificate
//! (ECDSA P-256) that signs the TLS certificates of hosts and collectors, and an **online key** (Ed25519) that
//! signs leases, orders and the time. Both stand in the **trust bundle** ([`TrustBundle`]), which the root
//! signs and each later version of which is signed by a root of the version before.
//!
//! A host's identity is its key ([`HostKey`]), made on the host and never leaving it. Its certificate carries
//! the name `spiffe://<fleet>/host/<id>`; a collector's carries `spiffe://<fleet>/collector/<name>`. Names of
//! machines and addresses mean nothing here: a peer is whom its certificate's name says, read by
//! [`PeerIdentity::from_certificate`] after the chain was verified.
//!
//! # Invariants
//!
//! - TLS 1.3 only, aws-lc-rs only, no session resumption (a resumed session would skip the client
//!   certificate, and with it a revocation), no fallback: see [`tls`].
//! - A private key is in a file of mode 0600 in a folder of mode 0700, written atomically with `fsync`; a key
//!   file that others may read is refused, not repaired ([`files`]). What an operator gives may be a systemd
//!   credential instead ([`credential`]).
//! - A [`Signed`] document is verified over its exact bytes, under a context that is part of what is signed:
//!   a policy can never be taken for an order. The root alone signs what widens authority ([`Context`]).
//! - Secrets do not appear in `Debug`, `Display` or errors.
//!
//! # Rotation
//!
//! The online key and the issuing certificate above a collector's certificates are replaced together, with or
//! without a new fleet root, in three stages ([`authority::Stage`]): the bundle lists old and new, the collector
//! changes over, the bundle lists the new alone. Each stage is a bundle version of its own, signed by a root that
//! both it and the version before it list; a host that slept through some gets all of them and verifies one by
//! the other ([`TrustBundle::open_chain`]), and so does its healer, which keeps a chain of its own. The enrolment
//! listener also shows the certificates by which each old root vouched for its successor, so that a token or a host
//! that pins an old root is still served.
//!
//! # What is thin
//!
//! One collector per bundle makes rotations; a second collector of a fleet would have to be given the bundle by
//! hand. The last 32 bundles are kept: a host that slept through more enrols again. [`TrustedTime`] falls back to
//! the system clock, and says so, until the first time signed by a collector arrives. A collector's own clock has
//! nobody above it: its certificates and its judgement are as wrong as it is. This crate starts no task and opens
//! no socket.

#![warn(missing_docs)]

pub mod address;
pub mod authority;
pub mod bundle;
pub mod credential;
pub mod error;
pub mod files;
pub mod fingerprint;
pub mod host;
pub mod key;
pub mod name;
pub mod peer;
pub mod revocation;
pub mod root;
pub mod signed;
pub mod time;
pub mod tls;
pub mod token;
mod x509;

pub use address::{Address, AddressError};
pub use authority::{CollectorAuthority, IssuedCertificate, LiveAuthority};
pub use bundle::{TrustAnchors, TrustBundle};
pub use error::IdentityError;
pub use fingerprint::Fingerprint;
pub use host::{HostIdentity, HostKey, LiveIdentity};
pub use key::{PublicKey, SigningKey};
pub use name::{CollectorName, FleetId, PeerName};
pub use peer::{PeerError, PeerIdentity, PeerKind};
pub use revocation::{Revocations, RevokedSet};
pub use root::FleetRoot;
pub use signed::{Context, SignatureError, Signed};
pub use time::{SignedTime, TimeSource, TrustedTime};
pub use token::{EnrolmentToken, TokenError, TokenSecret};
pub use x509::not_after;

#[cfg(test)]
mod tests;
