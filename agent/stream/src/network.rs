//! How connections come about: names, several addresses of one name, and an HTTP proxy in between.
//!
//! # Invariants
//! - Every step has a deadline, and so has every address of a name: one that is dead delays the next one by
//!   [`race::STAGGER`] and nothing more, whichever family it is of.
//! - A proxy sees the address that is connected to and bytes of TLS, nothing else: the tunnel is asked for with
//!   CONNECT, and the handshake with the collector goes through it from end to end.
//! - A proxy is used only where the configuration says so. The environment is looked at when
//!   `stream.proxy_from_environment` is set, never by itself.
//! - Its password comes from a file or a systemd credential. It is in no log, no error and no `Debug`.

mod except;
mod proxy;
mod race;
mod tunnel;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_identity::Address;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use except::Exceptions;
pub use proxy::{Proxy, ProxyError, ProxySettings};
pub use tunnel::{TunnelFault, judge};

use crate::connector::ConnectError;

/// How long each step of connecting may take.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync {
    /// Addresses of `host` with `port`, the preferred one first.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Makes TCP connections to collectors, through a proxy where one is configured. Clones are the same.
#[derive(Clone)]
pub struct Dialer {
    proxy: Option<Arc<Proxy>>,
    except: Arc<Exceptions>,
    resolver: Arc<dyn Resolve>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self::direct()
    }
}

impl Dialer {
    /// Without a proxy.
    pub fn direct() -> Self {
        Self {
            proxy: None,
            except: Arc::default(),
            resolver: Arc::new(SystemResolver),
        }
    }

    /// As the settings say; reads the file of the proxy's password.
    ///
    /// # Errors
    /// When a setting makes no sense, or the password cannot be had.
    pub fn new(settings: &ProxySettings) -> Result<Self, ProxyError> {
        let (proxy, except) = settings.open()?;
        Ok(Self {
            proxy: proxy.map(Arc::new),
            except: Arc::new(except),
            ..Self::direct()
        })
    }

    /// The same with another resolver.
    #[must_use]
    pub fn resolving_by(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// The proxy on the way to `address`, if one is.
    pub fn proxy_for(&self, address: &Address) -> Option<&Proxy> {
        self.proxy.as_deref().filter(|_| !self.except.covers(address))
    }

    /// Connects to `address` (`host:port`).
    ///
    /// # Errors
    /// When it cannot be reached in time; what a proxy says of it is [`ConnectError::Proxy`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn dial(&self, address: &str) -> Result<TcpStream, ConnectError> {
        let target: Address = address.parse().map_err(|source| ConnectError::Address {
            address: address.to_owned(),
            source,
        })?;
        let stream = match self.proxy_for(&target) {
            None => self.reach(&target).await.map_err(|why| why.of(address))?,
            Some(proxy) => self
                .tunnel(proxy, &target)
                .await
                .map_err(|fault| ConnectError::Proxy {
                    address: address.to_owned(),
                    proxy: proxy.to_string(),
                    fault,
                })?,
        };
        stream
            .set_nodelay(true)
            .map_err(|error| Unreached::Failed(error).of(address))?;
        Ok(stream)
    }

    async fn tunnel(&self, proxy: &Proxy, target: &Address) -> Result<TcpStream, TunnelFault> {
        let reached = self.reach(proxy.address()).await;
        let mut stream = reached.map_err(|why| match why {
            Unreached::Unresolved(source) => TunnelFault::Unresolved(source),
            Unreached::Failed(source) => TunnelFault::Unreachable(source),
            Unreached::Late => TunnelFault::Late {
                what: "take the connection",
            },
        })?;
        proxy.tunnel(&mut stream, target).await?;
        Ok(stream)
    }

    async fn reach(&self, address: &Address) -> Result<TcpStream, Unreached> {
        let found = timeout(
            STEP_TIMEOUT,
            self.resolver.resolve(address.host(), address.port()),
        )
        .await;
        let found = found
            .map_err(|_| Unreached::Unresolved(io::ErrorKind::TimedOut.into()))?
            .map_err(Unreached::Unresolved)?;
        if found.is_empty() {
            return Err(Unreached::Unresolved(io::Error::other("the name has no address")));
        }
        match timeout(STEP_TIMEOUT, race::connect(found)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Unreached::Late),
            Ok(Err(error)) => Err(Unreached::Failed(error)),
            Err(_) => Err(Unreached::Late),
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Dialer")
            .field("proxy", &self.proxy)
            .field("except", &self.except)
            .finish_non_exhaustive()
    }
}

enum Unreached {
    Unresolved(io::Error),
    Failed(io::Error),
    Late,
}

impl Unreached {
    fn of(self, address: &str) -> ConnectError {
        let address = address.to_owned();
        match self {
            Unreached::Unresolved(source) => ConnectError::Unresolved { address, source },
            Unreached::Failed(source) => ConnectError::Unreachable { address, source },
            Unreached::Late => ConnectError::TimedOut { address },
        }
    }
}
