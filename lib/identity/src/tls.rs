//! The TLS configurations of the fleet, and what a refused handshake means.
//!
//! | listener | server proves | client proves |
//! |---|---|---|
//! | carrier | `spiffe://<fleet>/collector/…` under a root and an issuer of the trust bundle | `spiffe://<fleet>/host/…`, likewise, in time and not revoked |
//! | enrolment | a chain up to the root whose fingerprint is in the token | nothing (a one-use secret, inside) |
//!
//! All of them: TLS 1.3 only, aws-lc-rs given explicitly, time from [`TrustedTime`](crate::TrustedTime), no
//! tickets and no resumption, ALPN `h2`. Server names are not looked at: the name in the certificate counts,
//! and which collector it is does not matter to a host.

mod client;
mod fault;
mod server;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{ServerName, UnixTime};

pub use client::{
    for_enrolment as client_for_enrolment, for_host as client_for_host, for_time as client_for_time,
};
pub use fault::TlsFault;
pub use server::{
    for_enrolment as server_for_enrolment, for_hosts as server_for_hosts, for_web as server_for_web,
};

/// The one protocol spoken inside.
const ALPN: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The one crypto provider of the workspace.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// What to give a TLS connector as the name of the server: it is not sent and not compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST).into())
}

/// The moment at which a certificate is judged, as our own type.
fn micros_of(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests;
