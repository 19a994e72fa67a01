//! The admin server: `/healthz`, `/readyz`, `/metrics`, and what the binary adds to them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{AdminError, MetricsHandle, Readiness};

/// More are left waiting in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 32;
/// A client that has not said what it wants by then is gone.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Scrapers come back; nobody needs one connection for longer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// For the answer that is on its way when the process ends.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
/// After a failed accept (no descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Where the server listens.
#[derive(Debug)]
pub enum Listener {
    /// Loopback only.
    Tcp(TcpListener),
    /// Guarded by the mode of the socket.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Binds a loopback address.
///
/// # Errors
/// Any other address, and one that is taken.
pub async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, AdminError> {
    if !address.ip().is_loopback() {
        return Err(AdminError::NotLoopback(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| AdminError::Tcp { address, source })
}

/// Makes a socket with `mode`, in the place of one that nobody serves any more.
///
/// # Errors
/// A socket that somebody serves, a file that is no socket, or a refusal of the system.
pub fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Unix {
        path: path.to_owned(),
        source,
    };
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(AdminError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// The three routes; a binary may merge its own into them before [`serve`].
pub fn router(metrics: MetricsHandle, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(readiness)
        .route("/metrics", get(render))
        .with_state(metrics)
}

/// Serves `router` until the drain, and keeps the metrics' buffers empty.
pub fn serve(listener: impl Into<Listener>, router: Router, metrics: MetricsHandle, tasks: &Tasks) {
    let own = tasks.child("admin");
    let token = own.token();
    own.spawn("upkeep", TaskKind::BestEffort, async move {
        while token
            .run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY))
            .await
            .is_some()
        {
            metrics.upkeep();
        }
        Ok::<(), Infallible>(())
    });
    own.spawn(
        "accept",
        TaskKind::Critical,
        accept(listener.into(), router, own.clone()),
    );
}

async fn accept(listener: Listener, router: Router, tasks: Tasks) -> Result<(), Infallible> {
    let token = tasks.token();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(Ok(seat)) = token.run_until_cancelled(room.clone().acquire_owned()).await {
        match token.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok(stream)) => {
                let conversation = converse(stream, router.clone(), token.clone());
                tasks.spawn("connection", TaskKind::BestEffort, async move {
                    conversation.await;
                    drop(seat);
                    Ok::<(), Infallible>(())
                });
            }
            Some(Err(error)) => {
                crate::log_at_most!(30, warn, %error, "accept of an admin connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn converse(stream: Box<dyn Stream>, router: Router, token: CancellationToken) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = timeout(CONNECTION_DEADLINE, connection.as_mut()) => ended,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE_DEADLINE, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn readyz(Shared(readiness): Shared<Readiness>) -> Response {
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "ready": readiness.is_ready(), "conditions": readiness.conditions() });
    (status, axum::Json(body)).into_response()
}

async fn render(Shared(metrics): Shared<MetricsHandle>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        metrics.render(),
    )
        .into_response()
}
