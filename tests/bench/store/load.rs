//! Simulated hosts that commit frame after frame, each its own, some at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector_store::Store;
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch};
use tokio::task::JoinSet;

/// Hosts that commit at once: each waits for its own fsync.
const AT_ONCE: usize = 8;

/// One host's stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) host: HostId,
    pub(super) epoch: SpoolEpoch,
    pub(super) lane: Lane,
    pub(super) next: u64,
}

impl Stream {
    /// The stream of the host with this number; the same for the same number and seed.
    pub(super) fn new(seed: u64, number: usize, lane: Lane) -> Self {
        let id = |kind: u8| {
            let mut bytes = [kind; 16];
            let tail = seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
            // Spread, so that hosts do not sort as they are numbered.
            let spread = tail.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for (byte, from) in bytes.iter_mut().zip(spread.to_le_bytes()) {
                *byte = from;
            }
            bytes
        };
        Self {
            host: HostId::from_bytes(id(0xa5)),
            epoch: SpoolEpoch::from_bytes(id(0xe7)),
            lane,
            next: 1,
        }
    }

    /// The identity of its next record.
    pub(super) fn take(&mut self) -> RecordId {
        let id = RecordId {
            epoch: self.epoch,
            lane: self.lane,
            sequence: Sequence(self.next),
        };
        self.next += 1;
        id
    }
}

/// What was loaded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loaded {
    /// Frames that were acknowledged.
    pub(super) frames: u64,
    /// Wall time.
    pub(super) took: Duration,
    /// Time all hosts together took to make frames.
    pub(super) making: Duration,
}

/// Commits what the hosts make. `make` gives the frames of a host's turn, none when it has no more; the hosts take
/// turns, so that time goes on for all of them alike.
pub(super) async fn load<H, M>(store: &Store, hosts: Vec<H>, make: M) -> Result<Loaded>
where
    H: Send + 'static,
    M: Fn(&mut H) -> Result<Option<(HostId, Vec<Frame>)>> + Send + Sync + 'static,
{
    let begun = Instant::now();
    let make = Arc::new(make);
    let (frames, making) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut shares: Vec<Vec<H>> = (0..AT_ONCE).map(|_| Vec::new()).collect();
    for (host, index) in hosts.into_iter().zip(0_usize..) {
        if let Some(share) = shares.get_mut(index % AT_ONCE) {
            share.push(host);
        }
    }
    let mut workers = JoinSet::new();
    for mut share in shares {
        let (store, make) = (store.clone(), make.clone());
        let (frames, making) = (frames.clone(), making.clone());
        workers.spawn(async move {
            while !share.is_empty() {
                let mut left = Vec::with_capacity(share.len());
                for mut host in share {
                    let began = Instant::now();
                    let made = make(&mut host)?;
                    let took = u64::try_from(began.elapsed().as_micros())?;
                    making.fetch_add(took, Ordering::Relaxed);
                    let Some((id, of_host)) = made else { continue };
                    frames.fetch_add(of_host.len() as u64, Ordering::Relaxed);
                    commit(&store, id, of_host).await?;
                    left.push(host);
                }
                share = left;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("wait for a host")??;
    }
    Ok(Loaded {
        frames: frames.load(Ordering::Relaxed),
        took: begun.elapsed(),
        making: Duration::from_micros(making.load(Ordering::Relaxed)),
    })
}

async fn commit(store: &Store, host: HostId, frames: Vec<Frame>) -> Result<()> {
    let last = frames.last().map(|frame| frame.id).context("commit nothing")?;
    let marks = store.commit(host, frames).await.context("commit")?;
    let durable = marks
        .iter()
        .any(|mark| mark.epoch == last.epoch && mark.lane == last.lane && mark.sequence == last.sequence);
    ensure!(durable, "record {last:?} was not acknowledged: {marks:?}");
    Ok(())
}
