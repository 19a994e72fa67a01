//! One request to a target, and what its answer means.
//!
//! | answer | means |
//! |---|---|
//! | 2xx | taken |
//! | 429, 5xx, none in time, a connection that breaks | later: the same again, after `Retry-After` if it says so |
//! | 401, 403, 404, 405, 407, 408 | later: a password or a path is wrong, which a person mends; nothing is dropped for it meanwhile |
//! | other 4xx | refused: the same again would be refused again |
//! | 1xx, 3xx | later: redirects are not followed, as they would carry facts to where nobody sent them |

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_outward::{ERROR_CHARS_MAX, reason_of};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use url::Url;

use crate::config::{Endpoint, check_url};
use crate::error::ExportError;

/// Much of an answer as is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Largest file with a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Longest that a target may ask to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Added to the path of the target's URL.
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content_encoding: Option<&'static str>,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: Bytes,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Taken; the beginning of the answer.
    Accepted(Bytes),
    /// Not now.
    Later {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// Never.
    Refused { status: u16, reason: String },
}

enum Credential {
    None,
    Bearer(PathBuf),
    Basic(String, PathBuf),
}

/// A target and the client for it.
pub(crate) struct HttpTarget {
    pub(crate) name: String,
    url: Url,
    credential: Credential,
    headers: HeaderMap,
    client: reqwest::Client,
}

impl HttpTarget {
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, ExportError> {
        let wrong = |reason: String| ExportError::Target {
            name: endpoint.name.clone(),
            reason,
        };
        let url = check_url(&endpoint.url).map_err(|reason| wrong(format!("its url {reason}")))?;
        let client =
            fleetmend_outward::client(endpoint.ca.as_deref(), endpoint.timeout.get()).map_err(wrong)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|error| wrong(error.to_string()))?;
            headers.insert(name, value);
        }
        let credential = match (
            &endpoint.bearer_token_file,
            &endpoint.username,
            &endpoint.password_file,
        ) {
            (Some(file), ..) => Credential::Bearer(file.clone()),
            (None, Some(user), Some(file)) => Credential::Basic(user.clone(), file.clone()),
            _ => Credential::None,
        };
        Ok(Self {
            name: endpoint.name.clone(),
            url,
            credential,
            headers,
            client,
        })
    }

    /// Sends it once.
    ///
    /// # Cancel safety
    /// May be dropped; the target may have taken it all the same.
    pub(crate) async fn send(&self, request: &Request) -> Outcome {
        let outcome = self.attempt(request).await;
        let named = match &outcome {
            Outcome::Accepted(_) => "accepted",
            Outcome::Later { .. } => "later",
            Outcome::Refused { .. } => "refused",
        };
        metrics::counter!(crate::metrics::REQUESTS, "target" => self.name.clone(), "outcome" => named)
            .increment(1);
        outcome
    }

    async fn attempt(&self, request: &Request) -> Outcome {
        let later = |reason: String| Outcome::Later {
            reason,
            retry_after: None,
        };
        let mut url = self.url.clone();
        if !request.path.is_empty() {
            let path = format!("{}{}", url.path().trim_end_matches('/'), request.path);
            url.set_path(&path);
        }
        let mut builder = self
            .client
            .post(url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, request.content_type);
        if let Some(encoding) = request.content_encoding {
            builder = builder.header(CONTENT_ENCODING, encoding);
        }
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        builder = match &self.credential {
            Credential::None => builder,
            Credential::Bearer(file) => match secret(file).await {
                Ok(token) => builder.bearer_auth(token),
                Err(reason) => return later(reason),
            },
            Credential::Basic(user, file) => match secret(file).await {
                Ok(password) => builder.basic_auth(user, Some(password)),
                Err(reason) => return later(reason),
            },
        };
        match builder.body(request.body.clone()).send().await {
            Ok(answer) => judge(answer).await,
            Err(error) => later(reason_of(error)),
        }
    }
}

async fn judge(answer: reqwest::Response) -> Outcome {
    let status = answer.status();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(retry_after);
    let body = match beginning(answer).await {
        Ok(body) => body,
        // Its status says enough.
        Err(_) if !status.is_success() => Bytes::new(),
        // Taken or not is not known; the same again is at least once.
        Err(error) => {
            return Outcome::Later {
                reason: format!("its answer broke off: {}", reason_of(error)),
                retry_after: None,
            };
        }
    };
    if status.is_success() {
        return Outcome::Accepted(body);
    }
    let said = shown(&body);
    let reason = if status.is_redirection() {
        format!("it answered {status}; redirects are not followed: set its url to where it is")
    } else if said.is_empty() {
        format!("it answered {status}")
    } else {
        format!("it answered {status}: {said}")
    };
    let mendable = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if status.is_client_error() && !mendable.contains(&status) {
        Outcome::Refused {
            status: status.as_u16(),
            reason,
        }
    } else {
        Outcome::Later { reason, retry_after }
    }
}

/// Reads no more than is kept: an answer may have no end.
async fn beginning(mut answer: reqwest::Response) -> Result<Bytes, reqwest::Error> {
    let mut read = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = ANSWER_BYTES_MAX.saturating_sub(read.len());
        read.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if read.len() >= ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(read.into())
}

/// Text of somebody else, fit for one line of a log.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.trim().chars().take(ERROR_CHARS_MAX);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Seconds or a date; bounded.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let millis = at.as_millisecond() - jiff::Timestamp::now().as_millisecond();
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

async fn secret(file: &PathBuf) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("cannot read its secret {}: {error}", file.display());
    let size = tokio::fs::metadata(file).await.map_err(wrong)?.len();
    if size > SECRET_BYTES_MAX {
        return Err(format!("{} is too large to be a secret", file.display()));
    }
    let text = tokio::fs::read_to_string(file).await.map_err(wrong)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_that_a_target_asks_for_is_bounded() {
        let of = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        for wrong in ["-1", "soon", ""] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_target_says_fits_one_line() {
        assert_eq!(shown(b" a\nb\x1b[31m\xff "), "a b [31m\u{fffd}");
        assert_eq!(shown(&[b'x'; 5_000]).len(), ERROR_CHARS_MAX);
    }
}
