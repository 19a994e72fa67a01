//! ClickHouse over HTTP.
//!
//! A statement goes as the body of a POST, or as its parameter `query` when rows are the body; settings as further
//! parameters; user and password as headers, so that they are in no URL. Statements that change something ask to be
//! answered only once they are done (`wait_end_of_query`), so that the status tells their fate. An error shows as a
//! status, the header `X-ClickHouse-Exception-Code` and a text; one that comes after rows were sent breaks the stream
//! off, where Arrow's end mark is missing. A query has an id of ours, by which it can be ended.
//!
//! The server is who an authority of `ca_file` says, or a public one where there is no such file; the password goes
//! to nobody else. It is in no log, `Debug` or error.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::header::HeaderValue;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::config::{ClickHouseConfig, ClickHouseUrl};
use super::error::EngineError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of an error's text that are kept.
const REASON_CHARS_MAX: usize = 500;
/// Bytes of an answer that is no stream of rows.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const PASSWORD_BYTES_MAX: u64 = 4_096;
/// As for the control database: a group of administrators may read a password, anybody may not.
const OTHERS_MAY_READ: u32 = 0o007;
const PASSWORD_FILE: &str = "the password file of ClickHouse";
const AUTHORITIES: &str = "the authorities of ClickHouse";

/// The way to one ClickHouse.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: Arc<ClickHouseUrl>,
    user: HeaderValue,
    /// Shown by no `Debug`.
    password: Option<HeaderValue>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Client")
            .field("endpoint", &self.url.endpoint.as_str())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A parameter of a statement: a setting of the server's, or its id.
pub(crate) type Setting<'a> = (&'a str, String);

impl Client {
    /// Reads the password and the authorities. Blocks.
    pub(crate) fn new(url: ClickHouseUrl, config: &ClickHouseConfig) -> Result<Self, EngineError> {
        let password = config.password_file.as_deref().map(password).transpose()?;
        let user = HeaderValue::from_bytes(config.user.as_bytes()).map_err(|_| EngineError::User {
            user: config.user.clone(),
        })?;
        let failed = |reason: String| EngineError::File {
            what: "the HTTP client for",
            path: url.endpoint.to_string(),
            reason,
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(config)?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("fleetmend-collector/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            http,
            url: Arc::new(url),
            user,
            password: password.flatten(),
            timeout: Duration::from_millis(config.statement_timeout_ms),
        })
    }

    /// Where it goes.
    pub(crate) fn url(&self) -> &ClickHouseUrl {
        &self.url
    }

    /// Carries out a statement that gives little or nothing; its answer as text.
    pub(crate) async fn execute(&self, action: &'static str, statement: &str) -> Result<String, EngineError> {
        let database = self.url.database.clone();
        self.execute_in(action, statement, &database).await
    }

    /// As [`Self::execute`], also when the database is not there yet.
    pub(crate) async fn execute_outside(
        &self,
        action: &'static str,
        statement: &str,
    ) -> Result<String, EngineError> {
        self.execute_in(action, statement, "default").await
    }

    async fn execute_in(
        &self,
        action: &'static str,
        statement: &str,
        database: &str,
    ) -> Result<String, EngineError> {
        let settings = [
            ("wait_end_of_query", "1".to_owned()),
            ("database", database.to_owned()),
        ];
        let work = async {
            let answer = self.post(action, statement, &settings, None).await?;
            let bytes = self.gather(action, answer).await?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        self.in_time(action, self.timeout, work).await
    }

    /// Inserts rows, which are an Arrow stream, and waits until they are durable where the server makes them so.
    pub(crate) async fn insert(
        &self,
        statement: &str,
        settings: &[Setting<'_>],
        rows: Bytes,
    ) -> Result<(), EngineError> {
        const ACTION: &str = "insert rows";
        let mut all = vec![
            ("wait_end_of_query", "1".to_owned()),
            ("database", self.url.database.clone()),
        ];
        all.extend(settings.iter().cloned());
        let work = async {
            let answer = self.post(ACTION, statement, &all, Some(rows)).await?;
            self.gather(ACTION, answer).await.map(drop)
        };
        self.in_time(ACTION, self.timeout, work).await
    }

    /// Asks for rows; they come as they are read. The stream ends with an error when the connection breaks.
    pub(crate) async fn stream(
        &self,
        statement: &str,
        settings: &[Setting<'_>],
        timeout: Duration,
    ) -> Result<impl Stream<Item = Result<Bytes, EngineError>> + Send + use<>, EngineError> {
        const ACTION: &str = "read rows";
        let mut all = vec![("database", self.url.database.clone())];
        all.extend(settings.iter().cloned());
        let answer = self.post(ACTION, statement, &all, None);
        let answer = self.in_time(ACTION, timeout, answer).await?;
        let client = self.clone();
        let stream = answer.bytes_stream();
        Ok(stream.map(move |piece| piece.map_err(|error| client.unreachable(ACTION, error))))
    }

    async fn post(
        &self,
        action: &'static str,
        statement: &str,
        settings: &[Setting<'_>],
        rows: Option<Bytes>,
    ) -> Result<reqwest::Response, EngineError> {
        let mut url = self.url.endpoint.clone();
        {
            let mut pairs = url.query_pairs_mut();
            if rows.is_some() {
                pairs.append_pair("query", statement);
            }
            for (name, value) in settings {
                pairs.append_pair(name, value);
            }
        }
        let request = self
            .http
            .post(url)
            .header("x-clickhouse-user", &self.user)
            .header("content-type", "application/octet-stream");
        let request = match &self.password {
            Some(password) => request.header("x-clickhouse-key", password),
            None => request,
        };
        let body = rows.unwrap_or_else(|| Bytes::copy_from_slice(statement.as_bytes()));
        let answer = request.body(body).send().await;
        let answer = answer.map_err(|error| self.unreachable(action, error))?;
        let status = answer.status();
        let code = answer.headers().get("x-clickhouse-exception-code");
        let code = code.and_then(|value| value.to_str().ok()?.parse().ok());
        if status.is_success() && code.is_none() {
            return Ok(answer);
        }
        let text = self.gather(action, answer).await?;
        let reason = String::from_utf8_lossy(&text)
            .trim()
            .chars()
            .take(REASON_CHARS_MAX)
            .collect();
        Err(EngineError::Refused {
            action,
            status: status.as_u16(),
            code,
            reason,
        })
    }

    /// A short answer.
    async fn gather(&self, action: &'static str, answer: reqwest::Response) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| self.unreachable(action, error))?;
            if bytes.len().saturating_add(piece.len()) > ANSWER_BYTES_MAX {
                let reason = format!("an answer of more than {ANSWER_BYTES_MAX} bytes");
                return Err(EngineError::Garbled { action, reason });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn in_time<T>(
        &self,
        action: &'static str,
        waited: Duration,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let done = tokio::time::timeout(waited, work).await;
        done.unwrap_or_else(|_| {
            Err(EngineError::Late {
                action,
                endpoint: self.url.endpoint.to_string(),
                waited,
            })
        })
    }

    /// The chain of causes, without the URL, which holds the statement.
    fn unreachable(&self, action: &'static str, error: reqwest::Error) -> EngineError {
        EngineError::Unreachable {
            action,
            endpoint: self.url.endpoint.to_string(),
            reason: crate::commit::chain(&error.without_url()),
        }
    }
}

/// What is sent as the password; nothing where the file is empty.
fn password(path: &Path) -> Result<Option<HeaderValue>, EngineError> {
    let wrong = |reason: String| EngineError::File {
        what: PASSWORD_FILE,
        path: path.display().to_string(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if metadata.permissions().mode() & OTHERS_MAY_READ != 0 {
        return Err(wrong("anybody may read it: chmod o-rwx it".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(PASSWORD_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(wrong(format!(
            "it has more than the {PASSWORD_BYTES_MAX} bytes of a password"
        )));
    }
    while let Some(b'\r' | b'\n') = bytes.last() {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_bytes(&bytes);
    let mut value =
        value.map_err(|_| wrong("a password is one line without control characters".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The authorities of the configuration, or the public ones where it names none.
fn tls(config: &ClickHouseConfig) -> Result<ClientConfig, EngineError> {
    let roots = match &config.ca_file {
        Some(path) => authorities(path)?,
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.map_err(|error| EngineError::File {
        what: "TLS for ClickHouse, which",
        path: String::new(),
        reason: error.to_string(),
    })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(path: &Path) -> Result<RootCertStore, EngineError> {
    let wrong = |reason: String| EngineError::File {
        what: AUTHORITIES,
        path: path.display().to_string(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(roots)
}
