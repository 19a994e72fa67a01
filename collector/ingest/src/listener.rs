//! A TLS listener: bounded connections, a deadline for the handshake, every refusal audited, and a refused
//! peer told why.
//!
//! One task accepts; each handshake is a task of its own, ended by its deadline or by the listener's end. When
//! `connections_max` are open, new ones wait in the kernel's backlog. No address and no host can have all of them
//! ([`slots`]), and a connection on which nobody calls is closed after [`ListenerLimits::idle_max`]: it says
//! nothing, or it takes no answer. A connection that failed its handshake is lingered on for a moment: closing it
//! with unread bytes would reset it, and the reset may overtake the TLS alert that says what was wrong.

mod slots;

use std::io;
use std::net::{IpAddr, SocketAddr};
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
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

pub use self::slots::{Calls, OpenCall};
use self::slots::{Place, Slot, Slots};
use crate::enrol::{Audit, AuditKind};
use crate::metrics;

/// Connections that finished their handshake and wait to be served.
const HANDED_OVER_MAX: usize = 64;
/// How long a refused connection is drained so that its peer reads the alert.
const LINGER: Duration = Duration::from_secs(1);
/// How much of a refused connection is drained.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Descriptors that connections leave to everything else, above all to the store.
const DESCRIPTORS_KEPT: usize = 512;
/// Pause after the kernel refused to accept (as when descriptors run out).
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Open connections, those in their handshake included.
    pub connections_max: usize,
    /// From its turn to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Open connections of one address.
    pub connections_per_address_max: usize,
    /// Handshakes of one address at once; more wait for their turn.
    pub handshakes_per_address_max: usize,
    /// Open connections of one host.
    pub connections_per_host_max: usize,
    /// How long a connection may be open without a call on it; `None` where calls are not counted.
    pub idle_max: Option<Duration>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_timeout: Duration::from_secs(10),
            connections_per_address_max: 2048,
            handshakes_per_address_max: 64,
            connections_per_host_max: 8,
            idle_max: None,
        }
    }
}

impl ListenerLimits {
    /// The same, with no more connections than the process may have open beside [`DESCRIPTORS_KEPT`] others.
    fn within_descriptors(mut self) -> Self {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let left = most.saturating_sub(DESCRIPTORS_KEPT).max(1);
        if self.connections_max > left {
            tracing::warn!(
                configured = self.connections_max,
                used = left,
                "fewer connections than configured: the limit of open files is too low"
            );
            self.connections_max = left;
        }
        self
    }
}

/// Who is at the other end; a request extension of every call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its address: for people and rate limits, never for trust.
    pub address: SocketAddr,
    /// Whom its certificate names; none on the enrolment listener.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The calls of its connection.
    pub calls: Calls,
}

/// A connection whose handshake succeeded.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    idle: Option<Idle>,
    _place: Place,
}

/// Ends a connection on which nobody calls.
#[derive(Debug)]
struct Idle {
    most: Duration,
    look: Pin<Box<Sleep>>,
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
            limits: limits.within_descriptors(),
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
        let total = Arc::new(Semaphore::new(self.limits.connections_max));
        let slots = Slots::default();
        let mut handshakes = JoinSet::new();
        let mut end = std::pin::pin!(end);
        loop {
            while handshakes.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut end => return,
                accepted = self.accept(&total) => accepted,
            };
            match accepted {
                Ok((stream, address, total)) => {
                    let handshake = Handshake::of(&self, &slots);
                    let limits = &self.limits;
                    let (connections, turns) = (
                        limits.connections_per_address_max,
                        limits.handshakes_per_address_max,
                    );
                    match slots.of_address(address.ip(), connections, turns) {
                        Ok((slot, turn)) => {
                            handshakes.spawn(handshake.run(stream, address, (total, slot), turn));
                        }
                        Err(many) => {
                            metrics::connection_refused("address");
                            if many.name_it {
                                handshakes.spawn(handshake.name_address(address.ip()));
                            }
                        }
                    }
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
    limits: ListenerLimits,
    audit: Audit,
    slots: Slots,
    ready: mpsc::Sender<io::Result<TlsConnection>>,
}

impl Handshake {
    fn of(listener: &TlsAccepting, slots: &Slots) -> Self {
        Self {
            acceptor: listener.acceptor.clone(),
            limits: listener.limits,
            audit: listener.audit.clone(),
            slots: slots.clone(),
            ready: listener.ready.clone(),
        }
    }

    async fn run(
        self,
        stream: TcpStream,
        address: SocketAddr,
        (total, slot): (OwnedSemaphorePermit, Slot),
        turn: Arc<Semaphore>,
    ) {
        // Never closed; the wait ends because each handshake does.
        let Ok(turn) = turn.acquire_owned().await else {
            return;
        };
        let Some(stream) = self.shake(stream, address).await else {
            return;
        };
        drop(turn);
        let chain = stream.get_ref().1.peer_certificates();
        let peer = match chain.map(|chain| PeerIdentity::of_chain(Some(chain))).transpose() {
            Ok(peer) => peer.map(Arc::new),
            Err(error) => {
                self.refuse(address.ip(), &error.to_string()).await;
                return;
            }
        };
        let host = peer.as_ref().and_then(|peer| peer.host());
        let of_host = host.map(|host| self.slots.of_host(host, self.limits.connections_per_host_max));
        let host_slot = match of_host.transpose() {
            Ok(slot) => slot,
            Err(many) => {
                metrics::connection_refused("host");
                if many.name_it {
                    let most = self.limits.connections_per_host_max;
                    let detail = format!("too_many_connections: the host has {most} open");
                    let audit = &self.audit;
                    audit
                        .refused(AuditKind::Handshake, address.ip(), host, &detail)
                        .await;
                }
                return;
            }
        };
        if let Some(peer) = &peer {
            self.audit.met(peer);
        }
        let connection = TlsConnection {
            stream,
            caller: Caller {
                address,
                peer,
                calls: Calls::default(),
            },
            idle: self.limits.idle_max.map(|most| Idle {
                most,
                look: Box::pin(sleep(most)),
            }),
            _place: Place {
                _total: total,
                _address: slot,
                _host: host_slot,
            },
        };
        if self.ready.send(Ok(connection)).await.is_err() {
            tracing::debug!("connection arrived while the listener was ending");
        }
    }

    /// The connection after its handshake; none when that failed, which is audited.
    async fn shake(&self, stream: TcpStream, address: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let handshake = self.acceptor.accept(stream).into_fallible();
        match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err((error, raw))) => {
                let fault = TlsFault::find(&error);
                // A port that is opened and closed again is a health check, not an attack.
                if fault.is_some() || error.kind() != io::ErrorKind::UnexpectedEof {
                    let code = fault.map_or("connection_lost", TlsFault::code);
                    self.refuse(address.ip(), &format!("{code}: {error}")).await;
                }
                linger(raw).await;
                None
            }
            Err(_) => {
                self.refuse(address.ip(), "handshake_timeout").await;
                None
            }
        }
    }

    async fn name_address(self, address: IpAddr) {
        let most = self.limits.connections_per_address_max;
        let detail = format!("too_many_connections: the address has {most} open");
        self.refuse(address, &detail).await;
    }

    async fn refuse(&self, address: IpAddr, detail: &str) {
        self.audit
            .refused(AuditKind::Handshake, address, None, detail)
            .await;
    }
}

impl Idle {
    /// Ready when there was no call for too long.
    fn poll(&mut self, calls: &Calls, context: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(context).is_ready() {
            let since = calls.idle_since().map(Instant::from_std);
            let due = since.unwrap_or_else(Instant::now) + self.most;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(due);
        }
        Poll::Pending
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
        let this = &mut *self;
        if let Some(idle) = &mut this.idle
            && idle.poll(&this.caller.calls, context).is_ready()
        {
            metrics::connection_refused("idle");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
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
