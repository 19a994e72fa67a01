//! Names to addresses, telling "there is no such name" from "our resolver does not answer".

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Attempts per name server.
const ATTEMPTS: usize = 2;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResolveFault {
    /// The answer was that there is none: a fault of the site.
    NoSuchName(String),
    /// There was no answer: a fault of ours.
    Resolver(String),
}

/// A resolver over `server`, or over the system's configuration.
pub(super) fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        Some(server) => {
            let mut connection = ConnectionConfig::udp();
            connection.port = server.port();
            let servers = vec![NameServerConfig::new(server.ip(), true, vec![connection])];
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio()?,
    };
    let options = builder.options_mut();
    options.attempts = ATTEMPTS;
    options.timeout = Duration::from_secs(2);
    // A site that moved must be seen at its new place at the next probe.
    options.cache_size = 0;
    builder.build()
}

/// The addresses of `host`, which may be an address itself.
pub(super) async fn resolve(
    resolver: &TokioResolver,
    host: &str,
    within: Duration,
) -> Result<Vec<IpAddr>, ResolveFault> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    match tokio::time::timeout(within, resolver.lookup_ip(host)).await {
        Err(_) => Err(ResolveFault::Resolver(format!(
            "our resolver did not answer for {host} within {within:?}"
        ))),
        Ok(Ok(lookup)) => Ok(lookup.iter().collect()),
        Ok(Err(error)) if error.is_no_records_found() => Err(ResolveFault::NoSuchName(format!(
            "the name {host} does not exist or has no address"
        ))),
        Ok(Err(error)) => Err(ResolveFault::Resolver(format!(
            "our resolver failed for {host}: {error}"
        ))),
    }
}
