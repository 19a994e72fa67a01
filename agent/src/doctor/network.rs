//! Names and TCP connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fleetmend_identity::Address;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::report::Check;

/// How long each step may take; the agent's own patience.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Resolves `address` (`host:port`) and connects to every address that it has; the first connection is handed on.
pub(super) async fn reach(check: &'static str, address: &str) -> (Vec<Check>, Option<TcpStream>) {
    let found = match resolve(address).await {
        Ok(found) => found,
        Err((seen, next)) => return (vec![Check::failed(check, seen, next)], None),
    };
    let mut reached = None;
    let mut refusals = Vec::new();
    for target in &found {
        match connect(*target).await {
            Ok(stream) => reached = reached.or(Some(stream)),
            Err((seen, next)) => refusals.push((format!("{}: {seen}", shown(address, *target)), next)),
        }
    }
    let works = reached.is_some();
    let mut checks: Vec<Check> = refusals
        .into_iter()
        .map(|(seen, next)| {
            if works {
                // The agent tries all addresses of a name, too.
                Check::warning(check, format!("{seen}; another address of the name works"), next)
            } else {
                Check::failed(check, seen, next)
            }
        })
        .collect();
    if let Some(target) = reached.as_ref().and_then(|stream| stream.peer_addr().ok()) {
        checks.push(Check::ok(
            check,
            format!("{}: a TCP connection is made", shown(address, target)),
        ));
    }
    (checks, reached)
}

/// The name, and what it leads to where that is not the same.
fn shown(address: &str, target: SocketAddr) -> String {
    if address == target.to_string() {
        address.to_owned()
    } else {
        format!("{address} ({})", target.ip())
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, (String, String)> {
    let parsed: Address = address.parse().map_err(|error| {
        (
            format!("the address {address:?} {error}"),
            "correct it where it stands: stream.collectors or stream.proxy here, enrolment in the collector's configuration"
                .to_owned(),
        )
    })?;
    let host = parsed.host();
    let in_order = format!("check the spelling, /etc/hosts and /etc/resolv.conf: getent hosts {host}");
    match timeout(STEP_TIMEOUT, lookup_host((host, parsed.port()))).await {
        Err(_) => Err((
            format!(
                "{address}: no answer about the name within {} s",
                STEP_TIMEOUT.as_secs()
            ),
            "see whether the name servers in /etc/resolv.conf answer, and firewalls on port 53".to_owned(),
        )),
        Ok(Err(error)) => {
            let reason = error.to_string();
            let reason = reason.rsplit(": ").next().unwrap_or_default();
            Err((
                format!("{address}: the name is not resolved ({reason})"),
                in_order,
            ))
        }
        Ok(Ok(found)) => {
            let found: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
            if found.is_empty() {
                Err((format!("{address}: the name has no address"), in_order))
            } else {
                Ok(found)
            }
        }
    }
}

async fn connect(target: SocketAddr) -> Result<TcpStream, (String, String)> {
    let error = match timeout(STEP_TIMEOUT, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let port = target.port();
    let (seen, next) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            format!("refused: the machine answers, and nothing listens on port {port}"),
            format!(
                "see there whether the collector runs and listens on it: systemctl status fleetmend-collector; ss -ltn sport = :{port}"
            ),
        ),
        io::ErrorKind::TimedOut => (
            format!("no answer within {} s", STEP_TIMEOUT.as_secs()),
            format!(
                "the machine is off, the address is wrong, or a firewall in between drops port {port}: ping {}; then look at the firewalls of both sides",
                target.ip()
            ),
        ),
        io::ErrorKind::NetworkUnreachable => (
            "this host has no route to that network".to_owned(),
            format!("look at its addresses and routes: ip route get {}", target.ip()),
        ),
        io::ErrorKind::HostUnreachable => (
            "the machine cannot be reached".to_owned(),
            format!(
                "it is off, or a router or firewall refuses: ip route get {0}; ping {0}",
                target.ip()
            ),
        ),
        io::ErrorKind::PermissionDenied => (
            "the system forbids the connection".to_owned(),
            "a firewall rule or sandbox of this host refuses it: nft list ruleset".to_owned(),
        ),
        io::ErrorKind::ConnectionReset => (
            "the connection was reset while it was made".to_owned(),
            "something in between ends it: look at load balancers and firewalls".to_owned(),
        ),
        _ => (
            error.to_string(),
            "look at this host's network: ip addr; ip route".to_owned(),
        ),
    };
    Err((seen, next))
}
