//! The store in ClickHouse, with its ledger in the control database: for fleets that one machine does not hold.
//!
//! Facts lie in ClickHouse (`ddl.rs` is the specification of the tables), marks, leases and claims in the control
//! database (`ledger.rs` says how a commit goes through both). Collectors are stateless: any number of them may stand
//! behind a balancer, when the control database is PostgreSQL.
//!
//! # Invariants
//! - [`FactStore::commit_timed`] returns after the rows are inserted and the mark is raised under the host's fencing
//!   token. A single server is told to sync inserts to its disk; in a cluster most replicas have them.
//! - What is sent again, by the same host to whichever collector, after a crash at any point, is stored once; another
//!   content under a claimed identity is refused. No window of deduplication is relied on.
//! - A collector that another one took a host over from commits nothing more for it.
//! - An engine that is away is backpressure: commits fail with [`CommitError::Unavailable`], [`FactStore::health`] says
//!   which and why, and nothing has to be restarted. Waits have deadlines (`clickhouse.statement_timeout_ms`).
//! - SQL is that of every store (`crate::query`): ClickHouse only filters and projects.
//!
//! # Tasks
//! - `store-clickhouse`, critical: the writer; takes commands from one `mpsc` (1,024 and
//!   [`StoreConfig::queue_bytes_max`]).
//! - `store-clickhouse-look`, best effort: asks both engines now and then whether they are there, reads the losses that
//!   other collectors stored, forgets old claims, and ends statements that nobody waits for (an `mpsc` of 256; more
//!   are left to the server).
//!
//! # Limits of today
//! Joins, sorts, groups and counts are done by the collector that is asked, within the limits of queries: a question
//! that reads much is better put to ClickHouse itself, over the views. Retention is by age alone. Facts of the collector
//! itself are stored at least once: their caller may repeat what failed. Subscribers hear of what this collector stores,
//! and answers of losses that another collector stored up to `clickhouse.look_ms` late. What a damaged disk of the
//! server loses is the server's to tell.

pub mod config;

mod client;
mod ddl;
mod error;
mod forget;
mod hosts;
mod ledger;
mod look;
mod predicate;
mod rows;
mod scan;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetmend_control::{Control, ControlError};
use fleetmend_event::table::Gap;
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, SpoolEpoch, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::timeout_at;

use crate::backend::FactStore;
use crate::clock::ClockAhead;
use crate::commit::{chain, memory_of, not_finished, prepare_all, refused_at_sight};
use crate::config::StoreConfig;
use crate::error::{CommitError, OpenError, QueryError};
use crate::gaps::Gaps;
use crate::inner::{COMMANDS_MAX, Health, SUBSCRIBER_BACKLOG};
use crate::mark::StreamKey;
use crate::own::{new_own_epoch, own_frames};
use crate::query::{Answer, Engine, QueryLimits, RunningQuery, Stock};
use crate::select::{Gather, SeriesAnswer, SeriesKey, SeriesSelect, Wish};
use crate::series::SeriesLimit;
use crate::store::{Committed, StoreStats};
use client::Client;
use config::ClickHouseUrl;
use error::EngineError;
use hosts::Hosts;
pub use ledger::TABLES as LEDGER_TABLES;
use ledger::{Ledger, TakeOver};
use scan::{Origins, Reader, chunk_types};
use writer::{Command, OwnNumbers, Writer};

/// Statements that may wait to be ended.
const UNWANTED_MAX: usize = 256;

/// The store. Clones are the same store.
#[derive(Clone)]
pub struct ClickHouseStore {
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    engine: Arc<Engine>,
    start: Arc<Mutex<Option<Start>>>,
}

/// What `run` starts the tasks with.
struct Start {
    commands: mpsc::Receiver<Command>,
    unwanted: mpsc::Receiver<String>,
}

/// What the store and its tasks share.
pub(crate) struct Shared {
    config: StoreConfig,
    writes: Client,
    ledger: Ledger,
    epoch: [u8; 16],
    own_epoch: SpoolEpoch,
    own_numbers: OwnNumbers,
    hosts: Hosts,
    gaps: Arc<Gaps>,
    series: Arc<SeriesLimit>,
    committed: broadcast::Sender<Arc<Committed>>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    health: watch::Sender<Health>,
    /// When a group last failed.
    failed_at: Mutex<Option<Instant>>,
    /// Streams whose old claims can go, each with the number before which.
    trims: Mutex<std::collections::HashMap<StreamKey, u64>>,
}

impl std::fmt::Debug for ClickHouseStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("ClickHouseStore")
            .field(&self.shared.writes)
            .finish()
    }
}

impl ClickHouseStore {
    /// Opens the store at `url`, and makes or alters its tables. The folder of `config` holds what queries spill.
    ///
    /// # Errors
    /// [`OpenError`] says which engine is not there or refuses, and why.
    pub async fn open(config: StoreConfig, url: ClickHouseUrl, control: Control) -> Result<Self, OpenError> {
        crate::metrics::describe();
        if let Some((key, reason)) = config.faults().into_iter().next() {
            return Err(OpenError::Config { key, reason });
        }
        let spill = config.spill_folder();
        let settings = config.clickhouse.clone();
        let prepare = move || {
            make_folder(spill)?;
            // Two clients: queries run on threads of their own, and so do their connections.
            let clients = (Client::new(url.clone(), &settings), Client::new(url, &settings));
            Ok::<_, OpenError>((clients.0.map_err(engine)?, clients.1.map_err(engine)?))
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let (writes, reads) = prepared.map_err(|error| OpenError::Engine(error.to_string()))??;
        ddl::apply(&writes, &config.retention).await.map_err(engine)?;
        let opened = Ledger::open(control, config.clickhouse.lease_s).await;
        let (ledger, epoch) = opened.map_err(|error: ControlError| OpenError::Engine(chain(&error)))?;
        let query_engine = Engine::new(&config)?;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (unwanted, unwanted_receiver) = mpsc::channel(UNWANTED_MAX);
        let gaps = Arc::new(Gaps::default());
        let reader = Reader {
            client: reads,
            gaps: gaps.clone(),
            timeout: Duration::from_millis(config.query.timeout_ms_max),
            unwanted,
        };
        let shared = Shared {
            writes,
            ledger,
            epoch,
            own_epoch: new_own_epoch(),
            own_numbers: OwnNumbers::default(),
            hosts: Hosts::default(),
            gaps,
            series: Arc::new(SeriesLimit::new(config.series_per_host_max)),
            committed: broadcast::Sender::new(SUBSCRIBER_BACKLOG),
            commands,
            room: Arc::new(Semaphore::new(
                usize::try_from(config.queue_bytes_max).unwrap_or(usize::MAX),
            )),
            health: watch::Sender::new(Health::NotReady("starting".to_owned())),
            failed_at: Mutex::default(),
            trims: Mutex::default(),
            config,
        };
        let store = Self {
            shared: Arc::new(shared),
            reader: Arc::new(reader),
            engine: Arc::new(query_engine),
            start: Arc::new(Mutex::new(Some(Start {
                commands: receiver,
                unwanted: unwanted_receiver,
            }))),
        };
        if let Err(error) = store.load_gaps(TimeMicros(0)).await {
            tracing::warn!(%error, "cannot read the gaps of former times; answers do not name them yet");
        }
        Ok(store)
    }

    fn stock(&self) -> Stock {
        Stock::Elsewhere(self.reader.clone())
    }

    /// Keeps the newest gaps at hand; gives the time of the newest.
    pub(crate) async fn load_gaps(&self, after: TimeMicros) -> Result<TimeMicros, QueryError> {
        self.engine
            .load_gaps(&self.stock(), &self.shared.gaps, after)
            .await
    }

    /// The token under which a host is held, taking it where nobody else has it.
    async fn token_of(&self, host: HostId) -> Result<i64, CommitError> {
        if let Some(token) = self.shared.hosts.token(host) {
            return Ok(token);
        }
        self.take(host, false).await?;
        let reason = "the host was let go while it was taken".to_owned();
        self.shared
            .hosts
            .token(host)
            .ok_or(CommitError::Unavailable { reason })
    }

    async fn take(&self, host: HostId, forced: bool) -> Result<(), CommitError> {
        let held = self.shared.hosts.token(host);
        let taken = self.shared.ledger.take(host, held, forced).await;
        let taken = taken.map_err(|error| CommitError::Unavailable {
            reason: format!(
                "cannot take the host over in the control database: {}",
                chain(&error)
            ),
        })?;
        match taken {
            TakeOver::Held => {}
            TakeOver::Taken(taken) => self.shared.hosts.hold(host, taken),
            TakeOver::Elsewhere => {
                return Err(CommitError::Unavailable {
                    reason: "another collector stores for this host; it has to say hello here".to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<T>,
        deadline: tokio::time::Instant,
    ) -> Result<T, CommitError> {
        let waited = self.shared.config.commit_timeout();
        let busy = |_| CommitError::Busy { waited };
        let sent = timeout_at(deadline, self.shared.commands.send(command)).await;
        sent.map_err(busy)?.map_err(|_| CommitError::Closed)?;
        timeout_at(deadline, answer)
            .await
            .map_err(busy)?
            .map_err(|_| CommitError::Closed)
    }

    async fn gather(&self, select: &SeriesSelect, wish: Wish) -> Result<Gather, QueryError> {
        let limits = select.limits();
        let (select, reading) = (select.clone(), self.reader.reading());
        let statement = Arc::new(look::chunks_statement(&self.reader.client, &select));
        let work = async move {
            let failed = |error: EngineError| QueryError::Failed {
                reason: error.to_string(),
            };
            let mut gather = Gather::new(&select, wish);
            let batches = reading.batches(statement).await.map_err(failed)?;
            let mut batches = std::pin::pin!(batches);
            while let Some(batch) = batches.next().await {
                add_chunks(&mut gather, &batch.map_err(failed)?)?;
            }
            Ok(gather)
        };
        self.engine.in_turn(limits, work).await
    }
}

fn add_chunks(gather: &mut Gather, batch: &RecordBatch) -> Result<(), QueryError> {
    let failed = |reason: String| QueryError::Failed { reason };
    let batch = chunk_types(batch).map_err(|error| failed(error.to_string()))?;
    let origins = Origins::of(&batch).map_err(|error| failed(chain(&error)))?;
    let mut first = 0;
    while first < batch.num_rows() {
        let origin = origins.row(first);
        let rest = first..batch.num_rows();
        let end = rest
            .clone()
            .find(|row| origins.row(*row) != origin)
            .unwrap_or(rest.end);
        let origin = origins
            .origin(first)
            .ok_or_else(|| failed("a host that is none".to_owned()))?;
        gather.record(&origin, &batch.slice(first, end.saturating_sub(first)))?;
        first = end;
    }
    Ok(())
}

fn make_folder(folder: PathBuf) -> Result<(), OpenError> {
    std::fs::create_dir_all(&folder).map_err(crate::recover::io_error("make", &folder))
}

fn engine(error: EngineError) -> OpenError {
    OpenError::Engine(error.to_string())
}

impl Shared {
    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|held| {
            let changed = *held != health;
            if changed {
                match &health {
                    Health::Ready => tracing::info!("store takes records"),
                    Health::NotReady(reason) => tracing::warn!(reason, "store takes no records"),
                }
                *held = health;
            }
            changed
        });
    }

    fn wrote(&self) {
        *self.failed_at.lock() = None;
        self.set_health(Health::Ready);
    }

    fn failed_to_write(&self, reason: &str) {
        *self.failed_at.lock() = Some(Instant::now());
        self.set_health(Health::NotReady(reason.to_owned()));
    }
}

#[async_trait]
impl FactStore for ClickHouseStore {
    fn run(&self, tasks: &Tasks) -> std::io::Result<()> {
        let Some(start) = self.start.lock().take() else {
            return Ok(());
        };
        // The writer ends after whoever commits, the looks before it.
        let (writer, token) = (Writer::new(self.shared.clone(), start.commands), tasks.token());
        tasks.spawn("store-clickhouse", TaskKind::Critical, async move {
            Box::pin(writer.run(token)).await;
            Ok::<(), std::convert::Infallible>(())
        });
        let looking = tasks.child("store-clickhouse-look");
        let (store, token) = (self.clone(), looking.token());
        looking.spawn("store-clickhouse-look", TaskKind::BestEffort, async move {
            Box::pin(look::run(store, start.unwanted, token)).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(())
    }

    async fn commit_timed(
        &self,
        host: HostId,
        frames: Vec<(Frame, ClockAhead)>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, CommitError> {
        refused_at_sight(host, &frames)?;
        let waited = self.shared.config.commit_timeout();
        let deadline = tokio::time::Instant::now() + waited;
        let busy = |_| CommitError::Busy { waited };
        let token = timeout_at(deadline, self.token_of(host)).await.map_err(busy)??;
        let bytes = frames
            .iter()
            .map(|(frame, _)| memory_of(frame))
            .fold(0, usize::saturating_add);
        let share = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .clamp(1, self.shared.config.queue_bytes_max);
        let room = self.shared.room.clone().acquire_many_owned(share);
        let room = timeout_at(deadline, room)
            .await
            .map_err(busy)?
            .map_err(|_| CommitError::Closed)?;
        let series = self.shared.series.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare_all(frames, gaps, (host, &series)));
        let prepared = prepared.await.map_err(not_finished)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Commit {
            host,
            token,
            prepared,
            bytes,
            reply,
            room,
        };
        self.ask(command, answer, deadline).await?
    }

    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, CommitError> {
        self.take(host, true).await?;
        Ok(self.shared.hosts.marks_of(host))
    }

    fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        self.shared.hosts.last_of(host)
    }

    fn declare_lost(&self, host: HostId, id: RecordId) {
        self.shared.hosts.declare_lost(host, id);
    }

    async fn append_for(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError> {
        let deadline = tokio::time::Instant::now() + self.shared.config.commit_timeout();
        let epoch = self.shared.own_epoch;
        let frames = tokio::task::spawn_blocking(move || own_frames(epoch, facts));
        let frames = frames.await.map_err(not_finished)??;
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Own { host, frames, reply }, answer, deadline)
            .await?
            .map(|_| ())
    }

    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Answer, QueryError> {
        self.engine.sql(&self.stock(), query, limits).await
    }

    fn queries(&self) -> Vec<RunningQuery> {
        self.engine.running.list()
    }

    fn cancel(&self, id: u64) -> bool {
        self.engine.running.cancel(id)
    }

    async fn select(&self, select: SeriesSelect) -> Result<SeriesAnswer, QueryError> {
        let gather = self.gather(&select, Wish::Samples).await?;
        Ok(SeriesAnswer {
            series: gather.into_series(),
            gaps: select.gaps_of(&self.shared.gaps),
            ..SeriesAnswer::default()
        })
    }

    async fn series_keys(&self, select: SeriesSelect) -> Result<Vec<SeriesKey>, QueryError> {
        Ok(self.gather(&select, Wish::Keys).await?.into_keys())
    }

    fn epoch(&self) -> [u8; 16] {
        self.shared.epoch
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.shared.committed.subscribe()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    async fn stats(&self) -> Result<StoreStats, QueryError> {
        look::stats(&self.reader.client).await
    }

    async fn seal(&self) -> Result<(), CommitError> {
        let deadline = tokio::time::Instant::now() + self.shared.config.commit_timeout();
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Seal { reply }, answer, deadline).await
    }
}
