//! One connection to a collector: TCP, TLS, HTTP/2, each with its own clear error.
//!
//! A link does not reconnect by itself: retries live in one layer, that of the caller. A client certificate is
//! judged by the collector only after our side of a TLS 1.3 handshake is done, so a refusal arrives with the
//! first read; it is kept in the link, because what HTTP/2 makes of it no longer says what it was.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use fleetmend_identity::AddressError;
use fleetmend_identity::tls::{self, TlsFault};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::network::{Dialer, STEP_TIMEOUT, TunnelFault};

/// How often HTTP/2 asks whether the other side is still there.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A collector could not be reached, or is not who it must be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error("the collector's address {address:?} {source}")]
    Address {
        /// What stands there.
        address: String,
        /// Why.
        source: AddressError,
    },
    /// The name has no address.
    #[error(
        "the name of the collector at {address} is not resolved; check the spelling, /etc/hosts and /etc/resolv.conf"
    )]
    Unresolved {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The proxy on the way does not lead there.
    #[error("no way to the collector at {address} through the proxy at {proxy}: {fault}")]
    Proxy {
        /// `host:port`.
        address: String,
        /// `host:port` of the proxy.
        proxy: String,
        /// Why.
        fault: TunnelFault,
    },
    /// No TCP connection.
    #[error(
        "could not reach the collector at {address}; check the address, that the collector runs there, and firewalls in between"
    )]
    Unreachable {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing came back in time.
    #[error("the collector at {address} did not answer within {} s; check firewalls in between and the collector's load", STEP_TIMEOUT.as_secs())]
    TimedOut {
        /// `host:port`.
        address: String,
    },
    /// The two sides do not trust each other.
    #[error("no trust with the collector at {address}: {fault}")]
    Tls {
        /// `host:port`.
        address: String,
        /// Why.
        fault: TlsFault,
    },
    /// The connection broke.
    #[error("the connection to the collector at {address} broke while it was being made")]
    Broken {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An established connection.
#[derive(Debug, Clone)]
pub struct Link {
    channel: Channel,
    address: String,
    fault: Arc<OnceLock<TlsFault>>,
}

impl Link {
    /// Connects to `address` (`host:port`) without a proxy; see [`Link::connect_by`].
    ///
    /// # Errors
    /// As [`Link::connect_by`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<Self, ConnectError> {
        Self::connect_by(&Dialer::direct(), address, tls).await
    }

    /// Connects to `address` (`host:port`) as `dialer` does; TLS goes from end to end, whatever is in between.
    ///
    /// # Errors
    /// With the step that failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect_by(
        dialer: &Dialer,
        address: &str,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, ConnectError> {
        let stream = dialer.dial(address).await?;
        let late = || ConnectError::TimedOut {
            address: address.to_owned(),
        };
        let handshake = TlsConnector::from(tls).connect(tls::server_name(), stream);
        let stream = tokio::time::timeout(STEP_TIMEOUT, handshake)
            .await
            .map_err(|_| late())?;
        let stream = stream.map_err(|source| match TlsFault::find(&source) {
            Some(fault) => ConnectError::Tls {
                address: address.to_owned(),
                fault,
            },
            None => ConnectError::Broken {
                address: address.to_owned(),
                source: source.into(),
            },
        })?;
        Self::over(stream, address).await
    }

    /// Speaks HTTP/2 over a connection whose handshake is done.
    pub(crate) async fn over<S>(stream: S, address: &str) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let late = || ConnectError::TimedOut {
            address: address.to_owned(),
        };
        let fault = Arc::new(OnceLock::new());
        let mut watched = Some(TokioIo::new(Watched {
            stream,
            fault: fault.clone(),
        }));
        let connector = tower::service_fn(move |_: http::Uri| {
            let taken = watched.take();
            async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        // The scheme is ours to say: the connector above already speaks TLS.
        // Pings find a collector that is gone without a word, as after a power cut.
        let endpoint = Endpoint::from_static("http://collector")
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let connecting = endpoint.connect_with_connector(connector);
        let channel = tokio::time::timeout(STEP_TIMEOUT, connecting)
            .await
            .map_err(|_| late())?;
        let channel = channel.map_err(|source| match fault.get().copied() {
            Some(fault) => ConnectError::Tls {
                address: address.to_owned(),
                fault,
            },
            None => ConnectError::Broken {
                address: address.to_owned(),
                source: source.into(),
            },
        })?;
        Ok(Self {
            channel,
            address: address.to_owned(),
            fault,
        })
    }

    /// What calls are made on.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The refusal of our certificate behind a failed call, if that is what it was.
    pub fn fault(&self, status: &Status) -> Option<TlsFault> {
        self.fault.get().copied().or_else(|| TlsFault::find(status))
    }
}

/// Notes the TLS fault that ends the stream.
struct Watched<S> {
    stream: S,
    fault: Arc<OnceLock<TlsFault>>,
}

impl<S> Watched<S> {
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome
            && let Some(fault) = TlsFault::find(error)
        {
            self.fault.get_or_init(|| fault);
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
