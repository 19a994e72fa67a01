//! A TCP proxy that misbehaves on request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const BUFFER_BYTES: usize = 16 * 1024;

/// What the proxy does to the connections through it, present and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Passes everything on.
    None,
    /// Passes everything on, each piece this much later.
    Delay(Duration),
    /// Keeps connections open and passes nothing on: a peer that is half gone.
    Stall,
    /// Passes on what callers send and holds back what they are answered: work is done, and nobody learns of it.
    HoldAnswers,
    /// Closes every connection, and new ones at once.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From who connected to the target.
    Call,
    /// From the target to who connected.
    Answer,
}

impl Fault {
    fn holds(self, direction: Direction) -> bool {
        match self {
            Fault::Stall => true,
            Fault::HoldAnswers => direction == Direction::Answer,
            Fault::None | Fault::Delay(_) | Fault::Cut => false,
        }
    }
}

/// A running proxy; it ends, and its connections with it, when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    targets: watch::Sender<Vec<SocketAddr>>,
    accepted: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl FaultProxy {
    /// Listens on a free port of the loopback and passes on to `target`.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        Self::balance(&[target]).await
    }

    /// As a TCP balancer: each connection goes to the next of `targets` that takes it.
    pub async fn balance(targets: &[SocketAddr]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let (targets, their) = watch::channel(targets.to_vec());
        let accepted = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, their, faults, accepted.clone()));
        Ok(Self {
            address,
            fault,
            targets,
            accepted,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, at once and for connections that are open.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Passes new connections on to other targets, as an address that moved.
    pub fn retarget(&self, targets: &[SocketAddr]) {
        self.targets.send_replace(targets.to_vec());
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    mut their: watch::Receiver<Vec<SocketAddr>>,
    faults: watch::Receiver<Fault>,
    accepted: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    let mut targets = their.borrow_and_update().clone();
    while let Ok((near, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        while connections.try_join_next().is_some() {}
        if their.has_changed().unwrap_or(false) {
            targets.clone_from(&their.borrow_and_update());
        }
        connections.spawn(carry(near, targets.clone(), faults.clone()));
        if !targets.is_empty() {
            targets.rotate_left(1);
        }
    }
}

async fn carry(near: TcpStream, targets: Vec<SocketAddr>, mut faults: watch::Receiver<Fault>) {
    if *faults.borrow() == Fault::Cut {
        return;
    }
    let mut taken = None;
    for target in targets {
        if let Ok(far) = TcpStream::connect(target).await {
            taken = Some(far);
            break;
        }
    }
    let Some(far) = taken else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let both = async {
        tokio::join!(
            pass(near_read, far_write, Direction::Call, faults.clone()),
            pass(far_read, near_write, Direction::Answer, faults.clone())
        )
    };
    let mut cut = faults.clone();
    tokio::select! {
        _ = both => {}
        _ = cut.wait_for(|fault| *fault == Fault::Cut) => {}
    }
    faults.mark_unchanged();
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    direction: Direction,
    mut faults: watch::Receiver<Fault>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if faults.wait_for(|fault| !fault.holds(direction)).await.is_err() {
            break;
        }
        let present = *faults.borrow();
        if let Fault::Delay(delay) = present {
            tokio::time::sleep(delay).await;
        }
        let Some(piece) = buffer.get(..read) else { break };
        if to.write_all(piece).await.is_err() {
            break;
        }
    }
    // The other direction may still be carrying; this one says that it ended.
    drop(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        (address, task)
    }

    #[tokio::test]
    async fn a_held_answer_is_of_a_call_that_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = FaultProxy::start(listener.local_addr().unwrap()).await.unwrap();
        let patience = Duration::from_secs(10);
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        proxy.set(Fault::HoldAnswers);
        let mut byte = [0; 1];
        near.write_all(b"a").await.unwrap();
        tokio::time::timeout(patience, far.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        far.write_all(b"b").await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(50), near.read_exact(&mut byte))
                .await
                .is_err()
        );
        proxy.set(Fault::None);
        tokio::time::timeout(patience, near.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"b");
    }

    #[tokio::test]
    async fn a_stalled_connection_goes_on_later_and_a_cut_one_ends() {
        let (target, _echo) = echo().await;
        let proxy = FaultProxy::start(target).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut byte = [0; 1];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        proxy.set(Fault::Stall);
        stream.write_all(b"b").await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut byte))
                .await
                .is_err()
        );
        proxy.set(Fault::None);
        let patience = Duration::from_secs(10);
        tokio::time::timeout(patience, stream.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"b");
        proxy.set(Fault::Cut);
        let ended = tokio::time::timeout(patience, stream.read(&mut byte))
            .await
            .unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
        assert_eq!(proxy.accepted(), 1);
    }
}
