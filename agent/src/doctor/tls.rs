//! The handshake with a collector, and whether it accepts this host.
//!
//! In TLS 1.3 our side is done before the collector has judged our certificate: whether it took it shows only when
//! it answers. So an HTTP/2 ping is sent over the finished handshake; nothing above it is.

mod asked;
mod listen;
mod shown;
mod words;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_stream::network::Dialer;
use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::{self, TlsFault};
use fleetmend_identity::{LiveIdentity, PeerIdentity, PeerKind, TrustedTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::asked::Asked;
use self::listen::{Heard, Listening};
use self::words::{Case, Words};
use super::clock::{second, span};
use super::network::STEP_TIMEOUT;
use super::report::Check;

const NAME: &str = "TLS";
/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame, a PING and a GOAWAY without an error, as RFC 9113 has them.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00fleetmnd";
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const FRAME_PING: u8 = 6;
const FLAG_ACK: u8 = 1;
/// Longest frame that a peer may send without asking first.
const FRAME_BYTES_MAX: usize = 16_384;
/// Frames that a peer may send before its answer to the ping.
const FRAMES_MAX: usize = 64;

/// Shakes hands on `stream` as the agent does, and sends a ping.
pub(super) async fn examine(
    address: &str,
    stream: TcpStream,
    dialer: &Dialer,
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
    signed: Option<TimeMicros>,
) -> Check {
    let config = match tls::client_for_host(identity, time) {
        Ok(config) => config,
        Err(error) => {
            return Check::failed(
                NAME,
                format!("no configuration can be made of this host's identity: {error}"),
                "enrol this host again",
            );
        }
    };
    let (config, asked) = Asked::watch(&config);
    let heard = Heard::default();
    let listening = Listening::new(stream, heard.clone());
    let handshake = TlsConnector::from(config).connect(tls::server_name(), listening);
    let error = match timeout(STEP_TIMEOUT, handshake).await {
        Ok(Ok(mut stream)) => {
            let peer = PeerIdentity::of_chain(stream.get_ref().1.peer_certificates());
            match timeout(STEP_TIMEOUT, ping(&mut stream)).await {
                Ok(Ok(_)) if !asked.was_asked() => return not_asked(address),
                Ok(Ok(took)) => return accepted(address, peer.ok(), took, time.now().0),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            }
        }
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let case = Case {
        fault: TlsFault::find(&error),
        error,
        heard: heard.bytes(),
        certificate: None,
        identity: identity.current(),
        now: time.now(),
        signed,
    };
    let case = match case.fault {
        Some(fault) if words::is_about_theirs(fault) => Case {
            certificate: shown::look(address, dialer).await,
            ..case
        },
        _ => case,
    };
    let Words { seen, next } = words::explain(&case);
    Check::failed(NAME, format!("{address}: {seen}"), next)
}

fn not_asked(address: &str) -> Check {
    Check::failed(
        NAME,
        format!(
            "{address} is a collector of this fleet, and asks for no certificate: this is its enrolment listener"
        ),
        "name the port of its carrier listener, 7444 unless it is configured otherwise: stream.collectors here, or enrolment.collectors in the collector's configuration",
    )
}

fn accepted(address: &str, peer: Option<PeerIdentity>, took: Duration, now: TimeMicros) -> Check {
    let took = took.as_millis();
    let Some(peer) = peer else {
        return Check::ok(
            NAME,
            format!("{address} accepts this host's certificate, and answers in {took} ms"),
        );
    };
    let who = match &peer.kind {
        PeerKind::Collector(name) => format!("collector {name} of fleet {}", peer.fleet),
        PeerKind::Host(host) => format!("host {host} of fleet {}", peer.fleet),
    };
    Check::ok(
        NAME,
        format!(
            "{address} is {who}, its certificate valid until {}, another {}; it accepts this host's certificate, and answers in {took} ms",
            second(peer.not_after),
            span(peer.not_after.micros_since(now))
        ),
    )
}

/// Sends a ping and waits for its answer. How long it took.
async fn ping(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Duration> {
    let begun = Instant::now();
    let written = async {
        stream.write_all(&[PREFACE, SETTINGS, PING].concat()).await?;
        stream.flush().await
    };
    // A refusal may be there to be read although nothing more could be written.
    let written = written.await;
    for _ in 0..FRAMES_MAX {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head).await {
            let ended = error.kind() == io::ErrorKind::UnexpectedEof && TlsFault::find(&error).is_none();
            return Err(if ended {
                written.err().unwrap_or(error)
            } else {
                error
            });
        }
        let [high, middle, low, kind, flags, ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its answer is no HTTP/2",
            ));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if kind == FRAME_PING && flags & FLAG_ACK != 0 {
            let took = begun.elapsed();
            // It was answered: that the goodbye does not arrive matters to nobody.
            if stream.write_all(GOAWAY).await.is_ok() && stream.shutdown().await.is_err() {
                tracing::debug!("connection was closed by the collector");
            }
            return Ok(took);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it does not answer an HTTP/2 ping",
    ))
}
