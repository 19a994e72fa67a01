//! The way through an HTTP proxy.

use agent_stream::network::{Dialer, Proxy, TunnelFault};
use fleetmend_identity::Address;
use tokio::net::TcpStream;

use super::network;
use super::report::{Check, chain};
use crate::config::AgentConfig;

const NAME: &str = "proxy";

/// What makes the connections, if its settings are right.
pub(super) fn dialer(config: &AgentConfig) -> Result<Dialer, Check> {
    config.stream.dialer().map_err(|error| {
        Check::failed(
            NAME,
            chain(&error),
            "correct stream.proxy, stream.proxy_password_file (owned by the agent's user, mode 0600) and stream.no_proxy; a systemd credential is there for the service only: try it with an absolute path",
        )
    })
}

/// Connects to `address` as the agent does: through the proxy, where one is on the way.
pub(super) async fn reach(
    check: &'static str,
    address: &str,
    dialer: &Dialer,
) -> (Vec<Check>, Option<TcpStream>) {
    let target = address.parse::<Address>().ok();
    let proxied = target
        .as_ref()
        .and_then(|target| Some((target, dialer.proxy_for(target)?)));
    let Some((target, proxy)) = proxied else {
        return network::reach(check, address).await;
    };
    let (mut checks, stream) = network::reach(NAME, &proxy.to_string()).await;
    let Some(mut stream) = stream else {
        checks.push(Check::skipped(
            check,
            format!("{address} lies behind the proxy {proxy}"),
        ));
        return (checks, None);
    };
    match proxy.tunnel(&mut stream, target).await {
        Ok(()) => {
            checks.push(Check::ok(
                check,
                format!("{address}: a tunnel through the proxy {proxy} is made"),
            ));
            (checks, Some(stream))
        }
        Err(fault) => {
            let (seen, next) = words(&fault, proxy, address);
            checks.push(Check::failed(check, format!("{address}: {seen}"), next));
            (checks, None)
        }
    }
}

fn words(fault: &TunnelFault, proxy: &Proxy, address: &str) -> (String, String) {
    match fault {
        TunnelFault::Login { given: false, offered } => (
            format!("the proxy {proxy} wants a user and a password (407, it offers {offered}), and none is configured"),
            "set stream.proxy to http://user@host:port and stream.proxy_password_file; only Basic is known here: an address that is excepted at the proxy needs no login".to_owned(),
        ),
        TunnelFault::Login { given: true, offered } => (
            format!("the proxy {proxy} does not accept the user and password (407, it offers {offered})"),
            "correct the user in stream.proxy and the file stream.proxy_password_file, then restart the agent; where the proxy does not offer Basic, except the collector's address there".to_owned(),
        ),
        TunnelFault::Refused { code: 403 | 405, status } => (
            format!("the proxy {proxy} refuses the tunnel ({status})"),
            format!("let it allow CONNECT to {address}; many proxies allow port 443 alone: then have the collector listen there, or reach it without the proxy (stream.no_proxy)"),
        ),
        TunnelFault::Refused { code: 500..=504, status } => (
            format!("the proxy {proxy} does not reach the collector ({status})"),
            format!("from the proxy's side see whether the name in {address} is resolved and the port answers; its log says more"),
        ),
        TunnelFault::Refused { status, .. } => (
            format!("the proxy {proxy} refuses the tunnel ({status})"),
            "its log says why".to_owned(),
        ),
        TunnelFault::Late { .. } => (
            format!("the proxy {proxy} took the question for a tunnel and did not answer within {} s", network::STEP_TIMEOUT.as_secs()),
            format!("it waits for {address}, which does not answer it, or it is overloaded: see its log, and firewalls between it and the collector"),
        ),
        TunnelFault::NotHttp { .. } | TunnelFault::TooLong => (
            chain(fault),
            "correct the address and port in stream.proxy".to_owned(),
        ),
        TunnelFault::Closed(_) | TunnelFault::Unreachable(_) | TunnelFault::Unresolved(_) => (
            chain(fault),
            format!("see the log of the proxy {proxy}, and whether this host may use it"),
        ),
    }
}
