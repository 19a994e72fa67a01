//! The certificate of the listener. It is read again on request: certificates are renewed more often than a collector
//! is restarted.

use std::path::Path;
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_identity::credential::{place_of, read_secret};
use parking_lot::RwLock;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{ApiTls, BuildError, metrics};

/// The certificate in use. Clones are the same one.
#[derive(Clone)]
pub struct Certificate {
    /// Where it was read from, when it was.
    files: Option<ApiTls>,
    current: Arc<RwLock<Option<Served>>>,
}

#[derive(Clone)]
struct Served {
    acceptor: TlsAcceptor,
    /// When the certificate ends, where that could be read.
    not_after: Option<TimeMicros>,
}

impl Served {
    /// Itself, after its end became a metric.
    fn shown(self) -> Self {
        if let Some(end) = self.not_after {
            metrics::cert_not_after(end);
        }
        self
    }
}

impl Certificate {
    /// That of the files; without them `other`, and without that none.
    pub(crate) fn open(
        files: Option<ApiTls>,
        other: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, BuildError> {
        let tls = match &files {
            Some(files) => Some(read_tls(files)?.shown()),
            None => other.map(|config| Served {
                acceptor: TlsAcceptor::from(config),
                not_after: None,
            }),
        };
        Ok(Self {
            files,
            current: Arc::new(RwLock::new(tls)),
        })
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current.read().as_ref().map(|served| served.acceptor.clone())
    }

    /// When it ends; none without one, and for one that was not read from files.
    pub(crate) fn not_after(&self) -> Option<TimeMicros> {
        self.current.read().as_ref()?.not_after
    }

    /// Reads the files again; new connections get what they say. `false` when there are no files.
    ///
    /// # Errors
    /// When a file cannot be used; what was there before stays in use.
    ///
    /// # Cancel safety
    /// May be dropped; the files are then read all the same.
    pub async fn reload(&self) -> Result<bool, BuildError> {
        let Some(files) = self.files.clone() else {
            return Ok(false);
        };
        let (current, path) = (self.current.clone(), files.certificate.clone());
        let read = tokio::task::spawn_blocking(move || {
            let tls = read_tls(&files)?.shown();
            *current.write() = Some(tls);
            Ok(true)
        });
        read.await.unwrap_or_else(|error| {
            let reason = error.to_string();
            Err(BuildError::TlsFile { path, reason })
        })
    }
}

fn read_tls(files: &ApiTls) -> Result<Served, BuildError> {
    let wrong = |path: &Path, reason: String| BuildError::TlsFile {
        path: path.to_owned(),
        reason,
    };
    let of_chain = |error: rustls_pki_types::pem::Error| wrong(&files.certificate, error.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(place_of(&files.certificate))
        .map_err(of_chain)?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(
            &files.certificate,
            "there is no certificate in it".to_owned(),
        ));
    }
    let key = read_secret(&files.key).map_err(BuildError::TlsKey)?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key)
        .map_err(|error| wrong(&files.key, format!("there is no PKCS #8 key in it: {error}")))?;
    let not_after = chain.first().and_then(|leaf| fleetmend_identity::not_after(leaf));
    let config = fleetmend_identity::tls::server_for_web(chain, key).map_err(BuildError::Tls)?;
    Ok(Served {
        acceptor: TlsAcceptor::from(config),
        not_after,
    })
}
