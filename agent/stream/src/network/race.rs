//! All addresses of a name, one after the other and none waited for: as RFC 8305 ("Happy Eyeballs") has it.
//!
//! Families take turns, beginning with that of the first address. The next address is tried when the one before
//! it failed, or has not answered within [`STAGGER`]; the first connection wins and the others are dropped.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::ADDRESSES_MAX;

/// Between the starts of two attempts (RFC 8305, section 5).
pub(super) const STAGGER: Duration = Duration::from_millis(250);
/// How long one address may take: three lost SYNs.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

/// Connects to whichever answers first.
///
/// # Cancel safety
/// Dropping the future closes every attempt.
pub(super) async fn connect(found: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = in_turns(found);
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        match waiting.pop_front() {
            Some(target) => attempts.push(attempt(target)),
            None if attempts.is_empty() => return Err(all_failed(failures)),
            None => {}
        }
        tokio::select! {
            Some((target, outcome)) = attempts.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.push((target, error)),
            },
            () = sleep(STAGGER), if !waiting.is_empty() => {}
        }
    }
}

async fn attempt(target: SocketAddr) -> (SocketAddr, io::Result<TcpStream>) {
    let outcome = timeout(ATTEMPT_TIMEOUT, TcpStream::connect(target)).await;
    (
        target,
        outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    )
}

/// The families alternate, each in the order in which it came.
fn in_turns(found: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = VecDeque::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair.iter().all(Option::is_none) {
            break;
        }
        turns.extend(pair.into_iter().flatten());
    }
    turns.truncate(ADDRESSES_MAX);
    turns
}

/// One error of all; the kind is that of the one that says most: somebody refused, rather than nobody answered.
fn all_failed(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let kinds = || failures.iter().map(|(_, error)| error.kind());
    let kind = kinds()
        .find(|kind| *kind == io::ErrorKind::ConnectionRefused)
        .or_else(|| kinds().find(|kind| *kind != io::ErrorKind::TimedOut))
        .unwrap_or(io::ErrorKind::TimedOut);
    let said: Vec<String> = failures
        .iter()
        .map(|(target, error)| format!("{target}: {error}"))
        .collect();
    io::Error::new(kind, said.join("; "))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn families_take_turns() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = vec![
            of("[::1]:1"),
            of("[::2]:1"),
            of("1.1.1.1:1"),
            of("[::3]:1"),
            of("1.1.1.2:1"),
        ];
        let turns = in_turns(found);
        let wanted = vec![
            of("[::1]:1"),
            of("1.1.1.1:1"),
            of("[::2]:1"),
            of("1.1.1.2:1"),
            of("[::3]:1"),
        ];
        assert_eq!(turns, VecDeque::from(wanted));
        assert!(in_turns(vec![of("1.1.1.1:1"); 50]).len() <= ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_the_live_one_up() {
        // A full queue of connections: the kernel drops what else comes, as a firewall does.
        let socket = TcpSocket::new_v6().unwrap();
        socket.bind("[::1]:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let dead = full.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(dead)).await {
            queued.push(stream);
            assert!(queued.len() < 64, "the queue is never full");
        }
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begun = Instant::now();
        let stream = connect(vec![dead, live.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
        assert!(
            begun.elapsed() < ATTEMPT_TIMEOUT,
            "the dead address was waited for"
        );
    }

    #[tokio::test]
    async fn a_refusal_by_all_names_them_all() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let other = TcpListener::bind("[::1]:0").await.unwrap().local_addr().unwrap();
        let error = connect(vec![closed, other]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let said = error.to_string();
        assert!(
            said.contains(&closed.to_string()) && said.contains(&other.to_string()),
            "{said}"
        );
    }
}
