//! The listener: plain on loopback, TLS elsewhere, drained in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::assets::{self, Assets};
use crate::audit::Audit;
use crate::backend::{Alerts, Enrolments, HostsLive, LiveFacts, Operations, SqlQuery};
use crate::certificate::Certificate;
use crate::exports::Exports;
use crate::limit::RateLimits;
use crate::problem::{Code, Problem};
use crate::promql::Promql;
use crate::sessions::Sessions;
use crate::state::{ApiState, Remote, Shared};
use crate::{Accounts, ApiConfig, BuildError, ServeError, headers, routes};

const BODY_BYTES_MAX: usize = 256 * 1_024;
/// Longest time to the head of an answer; queries have a shorter one of their own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the handshake to the first whole head of a request, in any protocol: until it is known which one is spoken,
/// the server has no timer of its own.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without a new request a connection ends as soon as nothing is open on it: it holds a slot.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// Also how long a connection of HTTP/1 is kept between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP2_PING: Duration = Duration::from_secs(30);
const HTTP2_STREAMS_MAX: u32 = 100;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accepts that fail in a row before the listener is given up.
const ACCEPT_FAILURES_MAX: u32 = 600;

/// Everything the API reads from and gives orders to.
#[derive(Clone)]
pub struct Backends {
    /// The store.
    pub sql: Arc<dyn SqlQuery>,
    /// What is being committed.
    pub live: Arc<dyn LiveFacts>,
    /// The evaluator, over the store's series.
    pub promql: Arc<dyn Promql>,
    /// Who is connected.
    pub hosts: Arc<dyn HostsLive>,
    /// Enrolment and revocation.
    pub enrolments: Arc<dyn Enrolments>,
    /// Alerts.
    pub alerts: Arc<dyn Alerts>,
    /// Export.
    pub exports: Arc<dyn Exports>,
    /// The process itself.
    pub operations: Arc<dyn Operations>,
    /// The dashboard: [`crate::EmbeddedAssets`].
    pub assets: Arc<dyn Assets>,
}

/// The API, bound to its address and not yet serving.
pub struct Api {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Certificate,
    router: Router,
    connections_max: usize,
    draining: CancellationToken,
}

/// The description of the API as JSON.
pub fn openapi() -> String {
    let (_, document) = routes::api();
    document.to_json().unwrap_or_default()
}

impl Api {
    /// Checks the settings, binds the address and prepares the routes. `certificate` is used where `api.tls` is not
    /// set, such as a certificate of the fleet's own authority.
    ///
    /// # Errors
    /// When the settings cannot be, a file cannot be read, or the address is taken.
    pub async fn bind(
        config: &ApiConfig,
        certificate: Option<Arc<rustls::ServerConfig>>,
        accounts: Accounts,
        backends: Backends,
    ) -> Result<Self, BuildError> {
        let faults = config.faults(certificate.is_some());
        if !faults.is_empty() {
            return Err(BuildError::Config { faults });
        }
        let certificate = Certificate::open(config.tls.clone(), certificate)?;
        let wrap = |source| BuildError::Bind {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(wrap)?;
        let address = listener.local_addr().map_err(wrap)?;
        crate::metrics::describe();
        let draining = CancellationToken::new();
        let state = state(config, accounts, backends, certificate.clone(), draining.clone());
        Ok(Self {
            listener,
            address,
            certificate,
            router: router(state),
            connections_max: config.connections_max,
            draining,
        })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.certificate.acceptor().is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// Its certificate, to be read again while it serves.
    pub fn certificate(&self) -> Certificate {
        self.certificate.clone()
    }

    /// Serves until `tasks` drains; open requests are answered first, live streams end with a word.
    pub fn serve(self, tasks: &Tasks) {
        let connections = tasks.clone();
        tasks.spawn("api-accept", TaskKind::Critical, self.accept(connections));
    }

    async fn accept(self, tasks: Tasks) -> Result<(), ServeError> {
        let token = tasks.token();
        let slots = Arc::new(Semaphore::new(self.connections_max));
        let mut failures = 0;
        tracing::info!(address = %self.address, scheme = self.scheme(), "serving the API and the dashboard");
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => break,
                accepted = next(&self.listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, remote, slot)) => {
                    failures = 0;
                    let (router, tls, token) =
                        (self.router.clone(), self.certificate.acceptor(), token.clone());
                    tasks.spawn("api-connection", TaskKind::BestEffort, async move {
                        connection(stream, remote, router, tls, token, slot).await;
                        Ok::<(), ServeError>(())
                    });
                }
                Err(source) if failures < ACCEPT_FAILURES_MAX => {
                    failures += 1;
                    tracing::warn!(error = %source, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(source) => {
                    return Err(ServeError::Accept {
                        address: self.address,
                        source,
                    });
                }
            }
        }
        self.draining.cancel();
        Ok(())
    }
}

async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, slot))
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    token: CancellationToken,
    slot: OwnedSemaphorePermit,
) {
    metrics::gauge!(crate::metrics::CONNECTIONS).increment(1.0);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    match tls {
        None => answer(stream, remote, router, token).await,
        Some(acceptor) => match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => answer(stream, remote, router, token).await,
            Ok(Err(error)) => {
                metrics::counter!(crate::metrics::REFUSED, "reason" => "handshake").increment(1);
                tracing::debug!(%remote, %error, "TLS handshake failed");
            }
            Err(_) => {
                metrics::counter!(crate::metrics::REFUSED, "reason" => "handshake_timeout").increment(1);
                tracing::debug!(%remote, "TLS handshake took too long");
            }
        },
    }
    metrics::gauge!(crate::metrics::CONNECTIONS).decrement(1.0);
    drop(slot);
}

async fn answer<S>(stream: S, remote: SocketAddr, router: Router, token: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let with_remote = move |mut request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(Remote(remote));
        request
    };
    let service = TowerToHyperService::new(router.map_request(with_remote));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut ending = false;
    let mut seen = 0;
    let mut look_at = Instant::now() + FIRST_REQUEST_TIMEOUT;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%remote, error = %error, "connection ended");
                }
                return;
            }
            () = token.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(look_at), if !ending => {
                let now = requests.load(Ordering::Relaxed);
                if now == 0 {
                    metrics::counter!(crate::metrics::REFUSED, "reason" => "silent").increment(1);
                    tracing::debug!(%remote, "connection brought no request");
                    return;
                }
                if now == seen {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                seen = now;
                look_at = Instant::now() + QUIET_MAX;
            }
        }
    }
}

fn state(
    config: &ApiConfig,
    accounts: Accounts,
    backends: Backends,
    certificate: Certificate,
    draining: CancellationToken,
) -> Shared {
    Arc::new(ApiState {
        sql: backends.sql,
        live: backends.live,
        promql: backends.promql,
        hosts: backends.hosts,
        enrolments: backends.enrolments,
        alerts: backends.alerts,
        exports: backends.exports,
        operations: backends.operations,
        assets: backends.assets,
        audit: Audit::new(accounts.pool().clone(), config.audit_rows_max),
        sessions: Sessions::new(accounts.pool().clone(), config),
        groups: crate::groups::Groups::new(accounts.pool().clone()),
        accounts,
        limits: RateLimits::new(config.rate_burst, config.rate_per_s),
        throttle: crate::throttle::LoginThrottle::default(),
        basic: crate::basic::Known::default(),
        tickets: crate::tickets::Tickets::default(),
        live_slots: Arc::new(Semaphore::new(routes::LIVE_STREAMS_MAX)),
        certificate,
        openapi: openapi(),
        query_timeout: Duration::from_millis(config.query_timeout_ms),
        draining,
    })
}

fn router(state: Shared) -> Router {
    let (api, _) = routes::api();
    api.merge(routes::beside())
        .fallback(assets::serve)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            ANSWER_TIMEOUT,
        ))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn_with_state(
            state.clone(),
            headers::around,
        ))
        .with_state(state)
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked");
    Problem::new(Code::Internal, "the collector failed at this; its log says why").into_response()
}
