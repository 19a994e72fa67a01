//! Requests to addresses that an operator named: receivers of alerts, targets of export.
//!
//! # Invariants
//! - TLS 1.3 to every other machine; plain HTTP on loopback only. A user or a password in an address is refused: logs
//!   and lists would show it.
//! - Redirects are not followed, as they would carry facts to where nobody sent them, and no proxy of the environment
//!   is used.
//! - An error never repeats the address, which may hold a key in its path.

#![warn(missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::{Host, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Much of an error as is kept, in characters.
pub const ERROR_CHARS_MAX: usize = 300;

/// An address, when requests may go there. `instead` says what takes the place of a user or a password in it.
///
/// # Errors
/// What is wrong with it, as the end of a sentence about it.
pub fn check_url(text: &str, instead: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("holds a user or a password; {instead}"));
    }
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err("names no host".to_owned()),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err("is plain http to another machine; use https".to_owned()),
        _ => Err("has a scheme other than https and http".to_owned()),
    }
}

/// A client that trusts public authorities and, in addition, those of a PEM file. One request may take `timeout`.
///
/// # Errors
/// What is wrong with the file, in words.
pub fn client(authority: Option<&Path>, timeout: Duration) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(authority)?)
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .user_agent(concat!("fleetmend/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .build()
        .map_err(|error| error.to_string())
}

/// An error with its causes, without the address.
pub fn reason_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().take(ERROR_CHARS_MAX).collect()
}

fn tls(authority: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = authority {
        let wrong = |reason: String| format!("its authority {}: {reason}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13];
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_or_loopback_and_holds_no_secret() {
        for good in [
            "https://pager.example/hook",
            "http://127.0.0.1:9/x",
            "http://[::1]/",
            "http://localhost:1/",
        ] {
            assert!(check_url(good, "").is_ok(), "{good}");
        }
        for bad in [
            "http://pager.example/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "x",
            "https://u:p@h/",
            "http://10.0.0.1/",
        ] {
            let wrong = check_url(bad, "name a file").unwrap_err();
            assert_eq!(bad.contains('@'), wrong.contains("name a file"), "{bad}: {wrong}");
        }
    }

    #[test]
    fn a_file_of_authorities_that_cannot_be_read_is_named() {
        let client = client(Some(Path::new("/nowhere/ca.pem")), CONNECT_TIMEOUT);
        assert!(client.unwrap_err().contains("/nowhere/ca.pem"));
        assert!(super::client(None, CONNECT_TIMEOUT).is_ok());
    }
}
