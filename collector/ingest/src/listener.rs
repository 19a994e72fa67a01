//! A TLS listener: bounded connections, a deadline for the handshake, every refusal audited, and a refused
//! peer told why.
//!
//! One task accepts; each handshake is a task of its own, ended by its deadline or by the listener's end. When
//! `connections_max` are open, new ones wait in the kernel's backlog. A connection that failed its handshake is
//! lingered on for a moment: closing it with unread bytes would reset it, and the reset may overtake the TLS
//! alert that says what was wrong.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fleetmend_identity::PeerIdentity;
use fleetmend_identity::tls::TlsFault;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::enrol::{Audit, AuditKind};

/// Connections that finished their handshake and wait to be served.
const HANDED_OVER_MAX: usize = 64;
/// How long a refused connection is drained so that its peer reads the alert.
const LINGER: Duration = Duration::from_secs(1);
/// How much of a refused connection is drained.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Pause after the kernel refused to accept (as when descriptors run out).
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Open connections, those in their handshake included.
    pub connections_max: usize,
    /// From accepting to the end of the handshake.
    pub handshake_timeout: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Who is at the other end; a request extension of every call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its address: for people and rate limits, never for trust.
    pub address: SocketAddr,
    /// Whom its certificate names; none on the enrolment listener.
    pub peer: Option<Arc<PeerIdentity>>,
}

/// A connection whose handshake succeeded.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _slot: OwnedSemaphorePermit,
}

/// Connections as tonic serves them.
pub type Incoming = ReceiverStream<io::Result<TlsConnection>>;

/// Accepts and shakes hands until `end` resolves; the connections come out of the stream that
/// [`TlsAccepting::new`] returned.
pub struct TlsAccepting {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: ListenerLimits,
    audit: Audit,
    ready: mpsc::Sender<io::Result<TlsConnection>>,
}

impl TlsAccepting {
    /// A listener over `config`; refusals go to `audit`.
    pub fn new(
        listener: TcpListener,
        config: Arc<ServerConfig>,
        limits: ListenerLimits,
        audit: Audit,
    ) -> (Self, Incoming) {
        let (ready, connections) = mpsc::channel(HANDED_OVER_MAX);
        let accepting = Self {
            listener,
            acceptor: TlsAcceptor::from(config),
            limits,
            audit,
            ready,
        };
        (accepting, ReceiverStream::new(connections))
    }

    /// Runs the listener until `end` resolves.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and every handshake in progress.
    pub async fn run(self, end: impl Future<Output = ()> + Send) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max));
        let mut handshakes = JoinSet::new();
        let mut end = std::pin::pin!(end);
        loop {
            while handshakes.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut end => return,
                accepted = self.accept(&slots) => accepted,
            };
            match accepted {
                Ok((stream, address, slot)) => {
                    handshakes.spawn(Handshake::of(&self).run(stream, address, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "listener could not accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, address, slot))
    }
}

struct Handshake {
    acceptor: TlsAcceptor,
    deadline: Duration,
    audit: Audit,
    ready: mpsc::Sender<io::Result<TlsConnection>>,
}

impl Handshake {
    fn of(listener: &TlsAccepting) -> Self {
        Self {
            acceptor: listener.acceptor.clone(),
            deadline: listener.limits.handshake_timeout,
            audit: listener.audit.clone(),
            ready: listener.ready.clone(),
        }
    }

    async fn run(self, stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        let handshake = self.acceptor.accept(stream).into_fallible();
        let stream = match tokio::time::timeout(self.deadline, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, raw))) => {
                let fault = TlsFault::find(&error);
                // A port that is opened and closed again is a health check, not an attack.
                if fault.is_some() || error.kind() != io::ErrorKind::UnexpectedEof {
                    let code = fault.map_or("connection_lost", TlsFault::code);
                    let detail = format!("{code}: {error}");
                    self.audit
                        .refused(AuditKind::Handshake, address.ip(), None, &detail)
                        .await;
                }
                return linger(raw).await;
            }
            Err(_) => {
                self.audit
                    .refused(AuditKind::Handshake, address.ip(), None, "handshake_timeout")
                    .await;
                return;
            }
        };
        let chain = stream.get_ref().1.peer_certificates();
        let peer = match chain.map(|chain| PeerIdentity::of_chain(Some(chain))).transpose() {
            Ok(peer) => peer.map(Arc::new),
            Err(error) => {
                self.audit
                    .refused(AuditKind::Handshake, address.ip(), None, &error.to_string())
                    .await;
                return;
            }
        };
        if let Some(peer) = &peer {
            self.audit.met(peer);
        }
        let connection = TlsConnection {
            stream,
            caller: Caller { address, peer },
            _slot: slot,
        };
        if self.ready.send(Ok(connection)).await.is_err() {
            tracing::debug!("connection arrived while the listener was ending");
        }
    }
}

async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES_MAX;
        let mut buffer = [0; 4096];
        while left > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, drain).await {
        tracing::trace!(%error, "refused connection ended while it was drained");
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
