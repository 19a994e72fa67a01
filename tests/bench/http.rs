//! One GET without a client library, over TCP or a Unix socket: HTTP/1.0, the answer ends with the connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The body of `GET path` over a Unix socket.
pub(crate) fn get_unix(socket: &Path, path: &str) -> Result<String> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .context("set the timeout")?;
    get(stream, path)
}

/// The body of `GET path` from a port of loopback.
pub(crate) fn get_loopback(port: u16, path: &str) -> Result<String> {
    let stream =
        TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connect to port {port}"))?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .context("set the timeout")?;
    get(stream, path)
}

fn get(mut stream: impl Read + Write, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").context("send the request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.lines().next().is_some_and(|line| line.contains(" 200")) => {
            Ok(body.to_owned())
        }
        Some((head, _)) => bail!("the answer is {}", head.lines().next().unwrap_or_default()),
        None => bail!("the answer was cut short"),
    }
}
