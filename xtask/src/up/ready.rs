//! Waiting for the programs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;

use super::children::Children;
use super::configure::Instance;
use super::wait;
use crate::step::output;

/// One attempt's patience.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Waits until `GET path` on loopback answers 200.
pub(super) fn http(
    url: &str,
    path: &str,
    timeout: Duration,
    stop: &AtomicBool,
    children: &mut Children,
) -> Result<()> {
    let address = url.trim_start_matches("http://").to_owned();
    wait("the collector", timeout, stop, children, || {
        TcpStream::connect(&address).is_ok_and(|stream| {
            stream.set_read_timeout(Some(ATTEMPT)).is_ok() && answers(stream, path, &address)
        })
    })
}

/// Waits until somebody listens on the socket at `path`; a file alone may be an earlier run's.
pub(super) fn socket(
    path: &Path,
    timeout: Duration,
    stop: &AtomicBool,
    children: &mut Children,
) -> Result<()> {
    wait(&path.display().to_string(), timeout, stop, children, || {
        UnixStream::connect(path).is_ok()
    })
}

/// Waits until the agent is connected to the collector.
pub(super) fn agent(
    instance: &Instance,
    timeout: Duration,
    stop: &AtomicBool,
    children: &mut Children,
) -> Result<()> {
    let socket = instance.agent_socket();
    wait("the agent", timeout, stop, children, || {
        UnixStream::connect(&socket).is_ok_and(|stream| {
            stream.set_read_timeout(Some(ATTEMPT)).is_ok() && answers(stream, "/readyz", "agent")
        })
    })
}

/// Waits until rows of this run are in the store: that is what the rest is for.
pub(super) fn rows(
    instance: &Instance,
    timeout: Duration,
    stop: &AtomicBool,
    children: &mut Children,
) -> Result<()> {
    // The programs were started seconds ago, and each start writes the state of its probes.
    let query = "select 1 from probe_status where time > now() - interval '1 minute' limit 1";
    wait("the store", timeout, stop, children, || {
        instance
            .cli(&["sql", "--json", query])
            .and_then(|mut sql| output(&mut sql))
            .is_ok_and(|said| said.contains("[["))
    })
}

fn answers(mut stream: impl Read + Write, path: &str, host: &str) -> bool {
    let mut answer = String::new();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.lines().next().is_some_and(|line| line.contains(" 200"))
}
