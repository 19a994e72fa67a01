//! One probe: resolve, connect, handshake, request, read, each phase timed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{SiteProbe, SiteVerdict};
use hickory_resolver::TokioResolver;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use url::Url;

use super::resolve::{ResolveFault, resolve, resolver};
use super::verdict::{ConnectFault, Witness, connect_verdict, status_is_expected};
use crate::config::SiteConfig;

mod certificate;

/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 5;
/// Bytes of a body that are read; the rest is left alone.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Time the witness has to answer.
const WITNESS_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Probes sites. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    resolver: Result<TokioResolver, String>,
    witness: Option<SocketAddr>,
}

/// Why a probe did not end in an answer.
#[derive(Debug)]
pub(super) struct Failed {
    verdict: SiteVerdict,
    reason: String,
}

impl Failed {
    fn down(reason: impl Into<String>) -> Self {
        Self {
            verdict: SiteVerdict::Down,
            reason: reason.into(),
        }
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self {
            verdict: SiteVerdict::Unknown,
            reason: reason.into(),
        }
    }
}

impl Prober {
    /// A prober with its own resolver, or the system's, and a witness.
    pub fn new(resolver_address: Option<SocketAddr>, witness: Option<SocketAddr>) -> Self {
        Self {
            resolver: resolver(resolver_address).map_err(|error| error.to_string()),
            witness,
        }
    }

    /// Probes `site` once, within its timeout.
    pub async fn probe(&self, site: &SiteConfig) -> SiteProbe {
        let mut row = empty_row(site);
        let begun = Instant::now();
        let outcome = self.follow(site, &mut row).await;
        row.total_ms = Some(millis(begun));
        match outcome {
            Ok(reason) => {
                row.verdict = SiteVerdict::Up;
                row.reason = reason;
            }
            Err(failed) => {
                row.verdict = failed.verdict;
                row.reason = failed.reason;
            }
        }
        row
    }

    async fn follow(&self, site: &SiteConfig, row: &mut SiteProbe) -> Result<String, Failed> {
        let deadline = tokio::time::Instant::now() + site.timeout();
        let mut url = site.parsed_url().map_err(Failed::unknown)?;
        loop {
            let answer = self.request(&url, site, deadline, row).await?;
            if let Some(next) = answer
                .location
                .as_deref()
                .filter(|_| site.status_expected.is_empty())
            {
                row.redirect_count = row.redirect_count.saturating_add(1);
                if row.redirect_count > REDIRECTS_MAX {
                    return Err(Failed::down(format!("more than {REDIRECTS_MAX} redirects")));
                }
                url = url
                    .join(next)
                    .map_err(|error| Failed::down(format!("redirected to a bad address: {error}")))?;
                continue;
            }
            return judge(&answer, site, row);
        }
    }

    async fn request(
        &self,
        url: &Url,
        site: &SiteConfig,
        deadline: tokio::time::Instant,
        row: &mut SiteProbe,
    ) -> Result<Answer, Failed> {
        let host = url
            .host_str()
            .ok_or_else(|| Failed::down("redirected to an address without a host"))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let addresses = self.addresses(host, deadline, row).await?;
        let stream = self.connect(&addresses, port, deadline, row).await?;
        let exchange = async {
            if url.scheme() == "https" {
                let begun = Instant::now();
                let (stream, seen) = certificate::handshake(stream, host, site.ca_file.as_deref())
                    .await
                    .map_err(Failed::down)?;
                row.tls_ms = Some(millis(begun));
                seen.describe(row);
                if let Some(fault) = &row.certificate_fault {
                    return Err(Failed::down(format!("certificate is not valid: {fault}")));
                }
                ask(stream, url, row).await
            } else {
                ask(stream, url, row).await
            }
        };
        match timeout_at(deadline, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failed::down(format!(
                "connected, but no complete answer within {:?}",
                site.timeout()
            ))),
        }
    }

    async fn addresses(
        &self,
        host: &str,
        deadline: tokio::time::Instant,
        row: &mut SiteProbe,
    ) -> Result<Vec<IpAddr>, Failed> {
        let resolver = self
            .resolver
            .as_ref()
            .map_err(|error| Failed::unknown(format!("no resolver: {error}")))?;
        let begun = Instant::now();
        let within = deadline.saturating_duration_since(tokio::time::Instant::now());
        let found = resolve(resolver, host, within).await;
        row.dns_ms = Some(millis(begun));
        match found {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(Failed::down(format!("the name {host} has no address"))),
            Err(ResolveFault::NoSuchName(reason)) => Err(Failed::down(reason)),
            Err(ResolveFault::Resolver(reason)) => Err(Failed::unknown(reason)),
        }
    }

    /// Tries the addresses in turn; each has its share of the time that is left, so that one that is dead does
    /// not take the others' part.
    pub(super) async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: tokio::time::Instant,
        row: &mut SiteProbe,
    ) -> Result<TcpStream, Failed> {
        let begun = Instant::now();
        let mut fault = ConnectFault::Timeout;
        for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
            let address = SocketAddr::new(*address, port);
            row.remote_address = Some(address.to_string());
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            let share = remaining / u32::try_from(left).unwrap_or(u32::MAX);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    row.connect_ms = Some(millis(begun));
                    return Ok(stream);
                }
                Ok(Err(error)) => fault = ConnectFault::Refused(error.kind()),
                Err(_) => fault = ConnectFault::Timeout,
            }
        }
        let (verdict, reason) = connect_verdict(fault, self.ask_witness().await);
        Err(Failed {
            verdict,
            reason: format!(
                "{reason} ({})",
                row.remote_address.as_deref().unwrap_or("no address")
            ),
        })
    }

    async fn ask_witness(&self) -> Witness {
        match self.witness {
            None => Witness::Absent,
            Some(address) => match timeout(WITNESS_TIMEOUT, TcpStream::connect(address)).await {
                // A refusal is an answer too: packets come and go.
                Ok(Ok(_)) => Witness::Answers,
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Witness::Answers,
                Ok(Err(_)) | Err(_) => Witness::Silent,
            },
        }
    }
}

/// What a server answered.
struct Answer {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

async fn ask<S>(stream: S, url: &Url, row: &mut SiteProbe) -> Result<Answer, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken =
        |error: hyper::Error| Failed::down(format!("connected, but the HTTP exchange broke: {error}"));
    let begun = Instant::now();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let authority = url.port().map_or_else(
        || url.host_str().unwrap_or_default().to_owned(),
        |port| format!("{}:{port}", url.host_str().unwrap_or_default()),
    );
    let path = url.query().map_or_else(
        || url.path().to_owned(),
        |query| format!("{}?{query}", url.path()),
    );
    let request = http::Request::get(path)
        .header(http::header::HOST, authority)
        .header(
            http::header::USER_AGENT,
            concat!("fleetmend-agent/", env!("CARGO_PKG_VERSION")),
        )
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Failed::unknown(format!("the request could not be made: {error}")))?;
    let exchange = async {
        let mut response = sender.send_request(request).await?;
        row.first_byte_ms = Some(millis(begun));
        row.http_status = Some(u32::from(response.status().as_u16()));
        let mut body = Vec::new();
        while body.len() < BODY_BYTES_MAX
            && let Some(frame) = response.body_mut().frame().await
        {
            if let Ok(data) = frame?.into_data() {
                body.extend_from_slice(&data);
            }
        }
        row.body_bytes = Some(u64::try_from(body.len()).unwrap_or(u64::MAX));
        let location = response
            .headers()
            .get(http::header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let redirect = response
            .status()
            .is_redirection()
            .then_some(location)
            .flatten()
            .map(str::to_owned);
        Ok(Answer {
            status: response.status().as_u16(),
            location: redirect,
            body,
        })
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer.map_err(broken),
        ended = &mut connection => {
            ended.map_err(broken)?;
            exchange.await.map_err(broken)
        }
    }
}

fn judge(answer: &Answer, site: &SiteConfig, row: &SiteProbe) -> Result<String, Failed> {
    if !status_is_expected(answer.status, &site.status_expected) {
        return Err(Failed::down(format!("answered with status {}", answer.status)));
    }
    if let Some(wanted) = &site.body_contains
        && !contains(&answer.body, wanted.as_bytes())
    {
        return Err(Failed::down(format!("the answer does not contain {wanted:?}")));
    }
    Ok(format!(
        "status {} from {}",
        answer.status,
        row.remote_address.as_deref().unwrap_or("?")
    ))
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

pub(super) fn empty_row(site: &SiteConfig) -> SiteProbe {
    SiteProbe {
        time: TimeMicros::now(),
        site: site.name.clone(),
        url: site.url.clone(),
        verdict: SiteVerdict::Unknown,
        reason: String::new(),
        remote_address: None,
        http_status: None,
        redirect_count: 0,
        dns_ms: None,
        connect_ms: None,
        tls_ms: None,
        first_byte_ms: None,
        total_ms: None,
        body_bytes: None,
        tls_version: None,
        certificate_not_after: None,
        certificate_issuer: None,
        certificate_fault: None,
    }
}

/// Shared by every probe: the authorities that browsers trust.
fn public_roots() -> Arc<rustls::RootCertStore> {
    static ROOTS: std::sync::LazyLock<Arc<rustls::RootCertStore>> =
        std::sync::LazyLock::new(|| Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()));
    ROOTS.clone()
}
