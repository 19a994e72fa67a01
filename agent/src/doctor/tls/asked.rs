//! Whether the peer asked for our certificate. One that did not cannot be said to have accepted it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, SignatureScheme};

/// Gives the certificate that the configuration gives, and remembers that it was wanted.
#[derive(Debug)]
pub(super) struct Asked {
    certificate: Arc<dyn ResolvesClientCert>,
    was_asked: AtomicBool,
}

impl Asked {
    /// The same configuration, watched.
    pub(super) fn watch(config: &ClientConfig) -> (Arc<ClientConfig>, Arc<Self>) {
        let asked = Arc::new(Self {
            certificate: config.client_auth_cert_resolver.clone(),
            was_asked: AtomicBool::new(false),
        });
        let mut config = config.clone();
        config.client_auth_cert_resolver = asked.clone();
        (Arc::new(config), asked)
    }

    pub(super) fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        self.certificate.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.certificate.has_certs()
    }
}
