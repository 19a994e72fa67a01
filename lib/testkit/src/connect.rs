//! An HTTP proxy that knows CONNECT and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Longest question.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Tunnels at once; more wait.
const TUNNELS_MAX: usize = 256;
/// Questions that are remembered.
const ASKED_MAX: usize = 1024;
/// How long a question may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the proxy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Makes the tunnel.
    Willing,
    /// Makes it for who sends this value of `Proxy-Authorization`.
    For(String),
    /// Says this status line and closes.
    Says(String),
    /// Takes the question and never answers.
    Silent,
    /// Begins an answer whose head never ends.
    Endless,
}

/// A running proxy; it ends, and its tunnels with it, when dropped.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// What a `host:port` is to this proxy; others are connected to as they are.
    routes: BTreeMap<String, SocketAddr>,
    asked: Mutex<Vec<String>>,
    slots: Arc<Semaphore>,
}

impl ConnectProxy {
    /// Listens on a free port of the loopback. A question for a `host:port` of `routes` leads to its address, so
    /// that a test can name what no resolver knows.
    pub async fn start(routes: &[(&str, SocketAddr)]) -> anyhow::Result<Self> {
        Self::start_at("127.0.0.1:0", routes).await
    }

    /// As [`ConnectProxy::start`], at another address.
    pub async fn start_at(address: &str, routes: &[(&str, SocketAddr)]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (manner, manners) = watch::channel(Manner::Willing);
        let shared = Arc::new(Shared {
            routes: routes
                .iter()
                .map(|(name, target)| ((*name).to_owned(), *target))
                .collect(),
            asked: Mutex::default(),
            slots: Arc::new(Semaphore::new(TUNNELS_MAX)),
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, shared.clone(), manners));
        Ok(Self {
            address,
            manner,
            shared,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it answers from now on.
    pub fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// The `host:port` of every tunnel that was made, oldest first.
    pub fn tunnels(&self) -> Vec<String> {
        self.shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, manners: watch::Receiver<Manner>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = shared.slots.clone().acquire_owned().await else {
            return;
        };
        let (shared, manner) = (shared.clone(), manners.borrow().clone());
        connections.spawn(async move {
            serve(near, &shared, manner).await;
            drop(slot);
        });
    }
}

async fn serve(mut near: TcpStream, shared: &Shared, manner: Manner) {
    let Ok(Some(head)) = tokio::time::timeout(HEAD_TIMEOUT, head(&mut near)).await else {
        return;
    };
    let mut words = head.split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return say(near, "405 Method Not Allowed").await;
    };
    let login = head
        .lines()
        .find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    match &manner {
        Manner::For(wanted) if login != Some(wanted.as_str()) => {
            let refusal = "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"test\"";
            return say(near, refusal).await;
        }
        Manner::Willing | Manner::For(_) => {}
        Manner::Says(status) => return say(near, status).await,
        Manner::Silent => {
            // Until the other side has had enough.
            let _ended = near.read_u8().await;
            return;
        }
        Manner::Endless => {
            let piece = [b'a'; 4096];
            let mut outcome = near.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
            while outcome.is_ok() {
                outcome = near.write_all(&piece).await;
            }
            return;
        }
    }
    let far = match shared.routes.get(target) {
        Some(target) => TcpStream::connect(target).await,
        None => TcpStream::connect(target).await,
    };
    let Ok(mut far) = far else {
        return say(near, "502 Bad Gateway").await;
    };
    {
        let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() < ASKED_MAX {
            asked.push(target.to_owned());
        }
    }
    if near
        .write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        .await
        .is_ok()
    {
        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

/// The question up to its empty line; none when it is too long or the connection ends.
async fn head(near: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return None;
        }
        head.push(near.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn say(mut near: TcpStream, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nsorry");
    if near.write_all(answer.as_bytes()).await.is_ok() {
        let _ended = near.shutdown().await;
    }
}
