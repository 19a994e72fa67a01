//! One phase: fifty streams are opened, the gate is opened, and what is acknowledged is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_stream::{Hint, StreamConfig, StreamParts, StreamPhase, StreamState, StreamTask};
use anyhow::{Context, Result, bail};
use fleetmend_event::Lane;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_shutdown::Tasks;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::feed::{Feed, Gate, Pace, Progress, Stock};

/// How long all streams have to open.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// How long what is in flight at the end of a phase has to be acknowledged.
const FINISH_WITHIN: Duration = Duration::from_secs(30);
/// How long the streams have to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Time between two looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What one agent sent in a phase.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AgentOutcome {
    /// Rows that were sent.
    pub(crate) rows_sent: u64,
    /// Rows that were acknowledged as durable.
    pub(crate) rows_acknowledged: u64,
    /// Bytes of the frames that were sent, as they travelled.
    bytes_sent: u64,
    /// Bytes of the same frames as a spool holds them.
    bytes_spooled: usize,
}

/// What a phase did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By agent, in their order.
    pub(crate) agents: Vec<AgentOutcome>,
    /// From due to acknowledged, of every frame, milliseconds.
    pub(crate) latency_ms: Vec<f64>,
    seconds: f64,
    frames: usize,
}

impl Outcome {
    fn rows(&self) -> f64 {
        self.sum(|agent| agent.rows_acknowledged) as f64
    }

    /// Rows acknowledged, divided by the time from the opening of the gate to the last acknowledgement.
    pub(crate) fn acknowledged_rows_per_s(&self) -> f64 {
        self.rows() / self.seconds
    }

    /// Bytes of the frames that were sent, as they travelled, for each row in them.
    pub(crate) fn wire_bytes_per_row(&self) -> f64 {
        self.sum(|agent| agent.bytes_sent) as f64 / self.sum(|agent| agent.rows_sent) as f64
    }

    /// Bytes of the same frames as a spool holds them, each for itself.
    pub(crate) fn spooled_bytes_per_row(&self) -> f64 {
        let bytes: usize = self.agents.iter().map(|agent| agent.bytes_spooled).sum();
        bytes as f64 / self.sum(|agent| agent.rows_sent) as f64
    }

    fn sum(&self, of: impl Fn(&AgentOutcome) -> u64) -> u64 {
        self.agents.iter().map(of).sum()
    }

    /// For the conditions.
    pub(crate) fn condition(&self) -> Value {
        json!({"seconds": self.seconds, "frames_acknowledged": self.frames, "rows_acknowledged": self.rows()})
    }
}

struct Stream {
    stock: Arc<Stock>,
    progress: Arc<Mutex<Progress>>,
    state: watch::Receiver<StreamState>,
}

impl Stream {
    fn with<T>(&self, look: impl FnOnce(&Progress) -> T) -> T {
        look(&self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends `feeds`, one for each agent, for at most `within`.
pub(crate) async fn phase(
    agents: &[LiveIdentity],
    address: &str,
    lane: Lane,
    feeds: Vec<Arc<Stock>>,
    pace: Pace,
    within: Duration,
) -> Result<Outcome> {
    let tasks = Tasks::new();
    let gate = watch::Sender::new(Gate::Closed);
    let mut streams = Vec::new();
    let count = u32::try_from(agents.len()).unwrap_or(u32::MAX).max(1);
    for ((agent, stock), index) in agents.iter().zip(feeds).zip(0_u32..) {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let offset = match pace {
            Pace::FlatOut => Duration::ZERO,
            Pace::Every(interval) => interval * index / count,
        };
        let feed = Feed::new(
            stock.clone(),
            lane,
            pace,
            offset,
            gate.subscribe(),
            progress.clone(),
        );
        let state = open(agent, address, feed, &tasks)?;
        streams.push(Stream {
            stock,
            progress,
            state,
        });
    }
    wait("all streams to open", CONNECT_WITHIN, || {
        streams
            .iter()
            .all(|stream| stream.state.borrow().phase == StreamPhase::Connected)
    })
    .await
    .with_context(|| last_errors(&streams))?;

    let begun = Instant::now();
    gate.send_replace(Gate::Open(begun));
    let all = |streams: &[Stream]| {
        streams
            .iter()
            .all(|stream| stream.with(|progress| progress.acknowledged >= stream.stock.limit(pace)))
    };
    while begun.elapsed() < within && !all(&streams) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    gate.send_replace(Gate::Over);
    wait("what is in flight to be acknowledged", FINISH_WITHIN, || {
        streams
            .iter()
            .all(|stream| stream.with(|progress| progress.acknowledged >= progress.sent))
    })
    .await
    .with_context(|| last_errors(&streams))?;
    tasks.begin("the phase is over");
    tasks.drain(DRAIN_WITHIN).await;
    Ok(outcome(&streams, begun))
}

fn open(
    agent: &LiveIdentity,
    address: &str,
    feed: Feed,
    tasks: &Tasks,
) -> Result<watch::Receiver<StreamState>> {
    let (state, states) = watch::channel(StreamState::default());
    // Nobody gives orders here: both ends are let go.
    let (orders, _) = mpsc::channel(1);
    let (_, results) = mpsc::channel(1);
    let parts = StreamParts {
        config: StreamConfig {
            collectors: vec![address.to_owned()],
            ..StreamConfig::default()
        },
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: feed,
        orders,
        results,
        hints: watch::Sender::new(Hint::default()),
        state,
    };
    StreamTask::new(parts, agent.clone(), &TrustedTime::system())
        .context("prepare a stream")?
        .spawn(tasks);
    Ok(states)
}

fn outcome(streams: &[Stream], begun: Instant) -> Outcome {
    let mut outcome = Outcome {
        agents: Vec::new(),
        latency_ms: Vec::new(),
        seconds: 0.0,
        frames: 0,
    };
    for stream in streams {
        stream.with(|progress| {
            let mut agent = AgentOutcome {
                bytes_sent: stream.state.borrow().bytes_sent,
                ..AgentOutcome::default()
            };
            for index in 0..progress.sent {
                agent.rows_sent += stream.stock.rows;
                agent.bytes_spooled += stream.stock.bytes(index);
                if index < progress.acknowledged {
                    agent.rows_acknowledged += stream.stock.rows;
                    outcome.frames += 1;
                }
            }
            outcome.agents.push(agent);
            outcome.latency_ms.extend(&progress.latency_ms);
            if let Some(last) = progress.last_acknowledged {
                outcome.seconds = outcome
                    .seconds
                    .max(last.saturating_duration_since(begun).as_secs_f64());
            }
        });
    }
    outcome
}

fn last_errors(streams: &[Stream]) -> String {
    let mut errors: Vec<String> = streams
        .iter()
        .filter_map(|stream| stream.state.borrow().last_error.clone())
        .collect();
    errors.sort();
    errors.dedup();
    format!("the streams said: {}", errors.join("; "))
}

async fn wait(what: &str, within: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > within {
            bail!("waited {within:?} for {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
