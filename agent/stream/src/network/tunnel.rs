//! The question for a tunnel and its answer (RFC 9110, section 9.3.6).

use std::io;
use std::time::Duration;

use fleetmend_identity::Address;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::STEP_TIMEOUT;
use super::proxy::Proxy;

/// Longest head of an answer. What a proxy adds for people to read comes after it and is not read.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most characters of what a proxy said that are shown.
const SAID_CHARS_MAX: usize = 120;
/// Most ways to log in that are shown.
const OFFERS_MAX: usize = 4;

/// A proxy does not lead to where it should.
#[derive(Debug, thiserror::Error)]
pub enum TunnelFault {
    /// The proxy's name is not known.
    #[error("the proxy's name is not resolved; check the spelling, /etc/hosts and /etc/resolv.conf")]
    Unresolved(#[source] io::Error),
    /// The proxy is not there.
    #[error("the proxy itself cannot be reached; check its address, that it runs, and firewalls in between")]
    Unreachable(#[source] io::Error),
    /// The proxy is too slow.
    #[error("the proxy did not {what} within {} s; it may be overloaded, or wait for a collector that does not answer it", STEP_TIMEOUT.as_secs())]
    Late {
        /// What was waited for.
        what: &'static str,
    },
    /// The proxy wants to know who we are, or does not believe it.
    #[error(
        "{}; it offers: {offered}",
        if *.given { "the proxy does not accept this host's user and password (407): correct stream.proxy and the file stream.proxy_password_file" } else { "the proxy wants a user and a password (407): set stream.proxy to http://user@host:port and stream.proxy_password_file" }
    )]
    Login {
        /// Whether a user and a password were sent.
        given: bool,
        /// What it offers, in its words.
        offered: String,
    },
    /// The proxy says no.
    #[error("the proxy refuses the tunnel ({status}): {}", advice(*.code))]
    Refused {
        /// The status code.
        code: u16,
        /// The status line without its version.
        status: String,
    },
    /// The head of the answer does not end.
    #[error(
        "the proxy's answer has a head of more than {HEAD_BYTES_MAX} bytes; this is no proxy, or a broken one"
    )]
    TooLong,
    /// No HTTP.
    #[error("what listens there is no HTTP proxy; it said {said:?}")]
    NotHttp {
        /// Its first words.
        said: String,
    },
    /// The connection ended.
    #[error("the proxy closed the connection instead of an answer; look at its log, and at who may use it")]
    Closed(#[source] io::Error),
}

impl TunnelFault {
    /// Whether trying again soon is of no use, or does harm: proxies lock out who tries a wrong password often.
    pub fn is_permanent(&self) -> bool {
        matches!(self, TunnelFault::Login { .. })
    }
}

fn advice(code: u16) -> &'static str {
    match code {
        403 => "let it allow CONNECT to the collector's address and port",
        405 | 501 => "it does not know CONNECT, or not on this port: this may be a web server",
        400 => "it does not understand the question: see whether this is its port for HTTP",
        429 | 503 => "it is overloaded, or the collector does not answer it",
        500 | 502 | 504 => "it cannot reach the collector: check the address from the proxy's side",
        _ => "its log says why",
    }
}

impl Proxy {
    /// Asks for a tunnel to `target` over `stream`, a connection to this proxy. Afterwards what is written to the
    /// stream arrives there.
    ///
    /// # Errors
    /// When there is none; the stream is of no use then.
    ///
    /// # Cancel safety
    /// Not safe: the stream has to be dropped with the future.
    pub async fn tunnel<S>(&self, stream: &mut S, target: &Address) -> Result<(), TunnelFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.tunnel_within(STEP_TIMEOUT, stream, target).await
    }

    async fn tunnel_within<S>(
        &self,
        limit: Duration,
        stream: &mut S,
        target: &Address,
    ) -> Result<(), TunnelFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let late = |_| TunnelFault::Late {
            what: "answer the question for a tunnel",
        };
        let asked = async {
            let question = self.question(target);
            stream
                .write_all(question.as_bytes())
                .await
                .map_err(TunnelFault::Closed)?;
            stream.flush().await.map_err(TunnelFault::Closed)?;
            read_head(stream).await
        };
        let head = timeout(limit, asked).await.map_err(late)??;
        judge(&head, self.has_login())
    }

    fn question(&self, target: &Address) -> Zeroizing<String> {
        let login = self.authorization().map_or_else(Zeroizing::default, |value| {
            Zeroizing::new(format!("Proxy-Authorization: {}\r\n", value.expose()))
        });
        Zeroizing::new(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
            login.as_str()
        ))
    }
}

/// Reads up to and with the empty line, and nothing beyond it: the first bytes after it are the collector's.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, TunnelFault> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(TunnelFault::TooLong);
        }
        // Byte by byte, so that none of the tunnel's is taken; a head is short and comes once per connection.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if head.is_empty() => return Err(TunnelFault::Closed(error)),
            Err(_) => return Err(TunnelFault::NotHttp { said: said(&head) }),
        }
        // Something else than HTTP may never say an empty line.
        if head.len() == 5 && head != b"HTTP/" {
            return Err(TunnelFault::NotHttp { said: said(&head) });
        }
    }
    Ok(head)
}

/// What the head of a proxy's answer says; `given` is whether it was told who we are.
///
/// # Errors
/// Everything but a tunnel.
pub fn judge(head: &[u8], given: bool) -> Result<(), TunnelFault> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    let status = status.split_once(' ').map_or("", |(_, status)| status).trim();
    let number = status.split(' ').next().unwrap_or_default();
    let code = number.parse::<u16>().ok().filter(|_| number.len() == 3);
    let Some(code) = code else {
        return Err(TunnelFault::NotHttp { said: said(head) });
    };
    match code {
        200..=299 => Ok(()),
        407 => {
            let offers = lines.filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let scheme = value.trim().split(' ').next()?;
                (name.trim().eq_ignore_ascii_case("proxy-authenticate") && !scheme.is_empty())
                    .then(|| said(scheme.as_bytes()))
            });
            let offered = offers.take(OFFERS_MAX).collect::<Vec<_>>().join(", ");
            Err(TunnelFault::Login {
                given,
                offered: if offered.is_empty() {
                    "nothing".to_owned()
                } else {
                    offered
                },
            })
        }
        code => Err(TunnelFault::Refused {
            code,
            status: said(status.as_bytes()),
        }),
    }
}

/// What somebody said, fit to be shown.
fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|letter| !letter.is_control())
        .take(SAID_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use tokio::io::duplex;

    use super::*;
    use crate::network::{Dialer, ProxySettings};

    fn dialer(url: &str) -> Dialer {
        let settings = ProxySettings {
            url: Some(url.to_owned()),
            ..ProxySettings::default()
        };
        Dialer::new(&settings).unwrap()
    }

    /// What comes of an answer, and what was asked.
    async fn answered(url: &str, answer: &[u8]) -> (Result<(), TunnelFault>, String) {
        let target: Address = "[2001:db8::1]:7444".parse().unwrap();
        let dialer = dialer(url);
        let proxy = dialer.proxy_for(&target).unwrap();
        let (mut near, mut far) = duplex(64 * 1024);
        far.write_all(answer).await.unwrap();
        let outcome = proxy
            .tunnel_within(Duration::from_millis(200), &mut near, &target)
            .await;
        drop(near);
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (outcome, asked)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_address_and_taken() {
        let (outcome, asked) = answered("http://me@proxy:1", b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n").await;
        outcome.unwrap();
        assert_eq!(
            asked,
            "CONNECT [2001:db8::1]:7444 HTTP/1.1\r\nHost: [2001:db8::1]:7444\r\nProxy-Authorization: Basic bWU6\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn bytes_after_the_head_are_left_in_the_stream() {
        let (mut near, mut far) = duplex(1024);
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst").await.unwrap();
        let target: Address = "c:1".parse().unwrap();
        let dialer = dialer("http://proxy:1");
        dialer
            .proxy_for(&target)
            .unwrap()
            .tunnel(&mut near, &target)
            .await
            .unwrap();
        let mut first = [0; 5];
        near.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
    }

    #[test]
    fn any_answer_is_judged() {
        let seed = std::env::var("FLEETMEND_TEST_SEED").map_or(7, |seed| seed.parse().unwrap());
        println!("FLEETMEND_TEST_SEED={seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let words: [&[u8]; 8] = [
            b"HTTP/1.1 ",
            b"407",
            b" ",
            b"\r\n",
            b"Proxy-Authenticate:",
            b"200",
            b":",
            b"\n",
        ];
        for _ in 0..20_000 {
            let mut head = Vec::new();
            for _ in 0..random.random_range(0..12) {
                if random.random_bool(0.7) {
                    head.extend_from_slice(words[random.random_range(0..words.len())]);
                } else {
                    head.push(random.random());
                }
            }
            if let Err(fault) = judge(&head, random.random()) {
                let said = fault.to_string();
                assert!(
                    said.chars().count() < 1_000 && !said.contains(['\r', '\n']),
                    "{said}"
                );
            }
        }
    }

    #[tokio::test]
    async fn every_other_answer_is_explained() {
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'a'; 2 * HEAD_BYTES_MAX]].concat();
        let cases: [(&[u8], &str); 9] = [
            (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n", "wants a user and a password (407): set stream.proxy"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refuses the tunnel (403 Forbidden): let it allow CONNECT"),
            (b"HTTP/1.1 502 \r\n\r\n", "cannot reach the collector"),
            (b"HTTP/1.1 42\r\n\r\n", "no HTTP proxy"),
            (b"SSH-2.0-OpenSSH\r\n", "no HTTP proxy"),
            (b"HTTP/1.1 200 OK\r\n", "did not answer"),
            (b"", "did not answer"),
            (b"HTTP/1.1 301 \x1b[2JMoved\r\n\r\n", "(301 [2JMoved)"),
            (&long, "more than 8192 bytes"),
        ];
        for (answer, part) in cases {
            let (outcome, _) = answered("http://proxy:1", answer).await;
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
        let (outcome, _) = answered("http://me@proxy:1", cases[0].0).await;
        let error = outcome.unwrap_err();
        assert!(error.is_permanent());
        let said = error.to_string();
        assert!(
            said.contains("does not accept this host's user") && said.contains("Negotiate, Basic"),
            "{said}"
        );
    }
}
