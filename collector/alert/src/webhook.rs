//! One attempt to hand a message to a receiver.

use fleetmend_event::TimeMicros;
use url::Url;

use crate::config::{Receiver, check_url};
use crate::error::AlertError;
use crate::signature::sign;

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
        let client =
            fleetmend_outward::client(receiver.ca.as_deref(), receiver.timeout.get()).map_err(wrong)?;
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
                error: fleetmend_outward::reason_of(error),
            },
        }
    }
}
