//! One attempt to hand a message to a receiver.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use reqwest::redirect;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use crate::config::{Receiver, check_url};
use crate::error::AlertError;
use crate::signature::sign;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Much of an error as is kept.
const ERROR_CHARS_MAX: usize = 300;

/// A receiver with its client.
pub(crate) struct Webhook {
    pub(crate) name: String,
    url: Url,
    secret: fleetmend_config::Secret,
    client: reqwest::Client,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted(u16),
    /// A status other than 2xx, or none at all.
    Refused {
        status: Option<u16>,
        error: String,
    },
}

impl Webhook {
    pub(crate) fn new(receiver: &Receiver) -> Result<Self, AlertError> {
        let wrong = |reason: String| AlertError::Receiver {
            name: receiver.name.clone(),
            reason,
        };
        let url = check_url(&receiver.url).map_err(|reason| wrong(format!("its url {reason}")))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(receiver).map_err(wrong)?)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(receiver.timeout.get())
            .user_agent(concat!("fleetmend/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            name: receiver.name.clone(),
            url,
            secret: receiver.secret.clone(),
            client,
        })
    }

    pub(crate) async fn send(&self, delivery_id: &str, body: String) -> Outcome {
        let signature = sign(
            self.secret.expose(),
            TimeMicros::now().0.div_euclid(1_000_000),
            body.as_bytes(),
        );
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("fleetmend-signature", signature)
            .header("fleetmend-delivery", delivery_id)
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Accepted(answer.status().as_u16()),
            Ok(answer) => {
                let status = answer.status();
                let error = if status.is_redirection() {
                    format!("it answered {status}; redirects are not followed")
                } else {
                    format!("it answered {status}")
                };
                Outcome::Refused {
                    status: Some(status.as_u16()),
                    error,
                }
            }
            Err(error) => Outcome::Refused {
                status: None,
                error: reason(error),
            },
        }
    }
}

/// The chain of causes, without the URL, which may hold a key in its path.
fn reason(error: reqwest::Error) -> String {
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

fn tls(receiver: &Receiver) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = &receiver.ca {
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
