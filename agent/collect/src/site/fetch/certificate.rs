//! The TLS handshake of a probe: it looks at the served certificate even when that is not valid.
//!
//! Nothing secret is sent over such a connection, so that it may be made; the fault is what the probe reports.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::SiteProbe;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a handshake showed.
pub(super) struct Seen {
    version: Option<String>,
    leaf: Option<Vec<u8>>,
    fault: Option<String>,
}

/// Shakes hands on `stream` and looks at the certificate.
pub(super) async fn handshake(
    stream: TcpStream,
    host: &str,
    ca_file: Option<&Path>,
) -> Result<(TlsStream<TcpStream>, Seen), String> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| format!("{host:?} is no name that TLS can check"))?;
    let verifier = Arc::new(Recorder {
        inner: webpki(ca_file)?,
        seen: Mutex::default(),
    });
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS handshake failed: {error}"))?;
    let version = stream
        .get_ref()
        .1
        .protocol_version()
        .and_then(|version| version.as_str())
        .map(|text| text.replace('_', "."));
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| leaf.to_vec());
    let fault = verifier
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    Ok((stream, Seen { version, leaf, fault }))
}

fn webpki(ca_file: Option<&Path>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let roots = match ca_file {
        None => super::public_roots(),
        Some(path) => {
            let mut roots: RootCertStore = (*super::public_roots()).clone();
            let certificates = CertificateDer::pem_file_iter(path)
                .map_err(|error| format!("read {}: {error}", path.display()))?;
            for certificate in certificates {
                let certificate =
                    certificate.map_err(|error| format!("parse {}: {error}", path.display()))?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Arc::new(roots)
        }
    };
    WebPkiServerVerifier::builder_with_provider(roots, Arc::new(default_provider()))
        .build()
        .map_err(|error| error.to_string())
}

impl Seen {
    /// Writes what was seen into the row.
    pub(super) fn describe(&self, row: &mut SiteProbe) {
        row.tls_version.clone_from(&self.version);
        row.certificate_fault.clone_from(&self.fault);
        let Some(leaf) = &self.leaf else { return };
        if let Ok((_, certificate)) = X509Certificate::from_der(leaf) {
            let seconds = certificate.validity().not_after.timestamp();
            row.certificate_not_after = Some(TimeMicros(seconds.saturating_mul(1_000_000)));
            row.certificate_issuer = Some(certificate.issuer().to_string());
        }
    }
}

/// Verifies as browsers do, remembers what is wrong, and lets the handshake go on.
#[derive(Debug)]
struct Recorder {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<String>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Err(error) = self
            .inner
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
        {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
