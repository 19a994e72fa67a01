//! The store as the binary sees it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use fleetmend_event::table::{Gap, TableInfo};
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::catalogue::Change;
use crate::clock::ClockAhead;
use crate::commit::{Command, memory_of, not_finished, prepare_all, refused_at_sight};
use crate::config::StoreConfig;
use crate::error::{CommitError, OpenError, QueryError};
use crate::inner::{Health, Inner};
use crate::open::{Start, open};
use crate::own::{Maker, OWN_HOST, is_own_epoch};
use crate::query::{Answer, Engine, QueryLimits, RunningQuery, Stock};
use crate::task;
use crate::writer::Writer;

/// Rows that have just become durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Whose they are.
    pub host: HostId,
    /// Their table.
    pub table: &'static TableInfo,
    /// The rows, with the columns of [`TableInfo::schema`]; metrics as chunks. Empty when they are withheld.
    pub batch: RecordBatch,
    /// Whether the rows are too many to be told, so that who wants them has to ask for them.
    pub withheld: bool,
    /// When the store took them.
    pub ingested_at: TimeMicros,
    /// Who made the record.
    pub maker: Maker,
}

/// What the store holds.
#[derive(Debug, Clone, Serialize)]
pub struct StoreStats {
    /// Frames not compacted yet.
    pub hot_frames: u64,
    /// Rows not compacted yet; a metric sample is a row.
    pub hot_rows: u64,
    /// Segments, the one being written included.
    pub segments: u64,
    /// Bytes of sealed segments.
    pub sealed_segment_bytes: u64,
    /// Every table's Parquet files.
    pub tables: Vec<TableStats>,
}

/// What the Parquet files of a table hold.
#[derive(Debug, Clone, Serialize)]
pub struct TableStats {
    /// Name of the table.
    pub table: &'static str,
    /// Files.
    pub files: u64,
    /// Rows in them; of metrics each sample is one.
    pub rows: u64,
    /// Chunks that hold the samples of metrics; as many of a series as its samples fill.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The store in a folder. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    pub(crate) engine: Arc<Engine>,
    /// Taken by `run`.
    start: Arc<Mutex<Option<Start>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("Store")
            .field(&self.inner.config.folder)
            .finish()
    }
}

impl Store {
    /// Opens or makes the store in its folder, and recovers what a kill or a power cut left.
    ///
    /// # Errors
    /// [`OpenError`] says what stands in the way. Damaged files do not: they are set aside and become gaps.
    ///
    /// # Cancel safety
    /// May be dropped; the next call starts again.
    pub async fn open(config: StoreConfig) -> Result<Store, OpenError> {
        crate::metrics::describe();
        let (inner, start) = open(config).await?;
        let engine = Engine::new(&inner.config)?;
        let store = Store {
            inner,
            engine: Arc::new(engine),
            start: Arc::new(Mutex::new(Some(start))),
        };
        store.load_gaps().await;
        Ok(store)
    }

    /// Starts the writer and maintenance. Whoever commits belongs into a child of `tasks`, so that it ends first.
    ///
    /// # Errors
    /// When the system refuses a thread. A second call does nothing.
    pub fn run(&self, tasks: &Tasks) -> std::io::Result<()> {
        let Some((commands, next_number)) = self.start.lock().take() else {
            return Ok(());
        };
        let writer = Writer::new(self.inner.clone(), commands, next_number);
        let runtime = Handle::current();
        tasks.spawn_thread("store-writer", TaskKind::Critical, move |token| {
            writer.run(&runtime, &token);
            Ok(())
        })?;
        let maintenance = tasks.child("store-maintenance");
        let token = maintenance.token();
        maintenance.spawn(
            "store-maintenance",
            TaskKind::Critical,
            task::maintain(self.clone(), token),
        );
        maintenance.spawn(
            "store-tiers",
            TaskKind::Critical,
            crate::tier::keep(self.inner.clone(), maintenance.token()),
        );
        Ok(())
    }

    /// Makes frames of a host durable and returns the marks of their streams. A record that is stored already is
    /// left out; rows that cannot be read, or that are more than one commit may decode to, become a gap and their
    /// record a tombstone.
    ///
    /// # Errors
    /// [`CommitError`]; none of the frames was stored, except after [`CommitError::Busy`], when they may be yet.
    ///
    /// # Cancel safety
    /// May be dropped; the frames may become durable all the same. Sending again stores them once.
    pub async fn commit(&self, host: HostId, frames: Vec<Frame>) -> Result<Vec<Mark>, CommitError> {
        self.commit_with_gaps(host, frames, Vec::new()).await
    }

    /// As [`Store::commit`], with losses that are known before, each with the record it is of; they become durable
    /// together with the frames. One of a record among `frames` is stored once, with that record. One of number 0,
    /// which no record has, is of what came before a stream: its epoch is known from then on.
    ///
    /// # Errors
    /// As [`Store::commit`].
    ///
    /// # Cancel safety
    /// As [`Store::commit`].
    pub async fn commit_with_gaps(
        &self,
        host: HostId,
        frames: Vec<Frame>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, CommitError> {
        let frames = frames.into_iter().map(|frame| (frame, ClockAhead::UNKNOWN));
        self.commit_timed(host, frames.collect(), gaps).await
    }

    /// As [`Store::commit_with_gaps`], with what is known of the clock that stamped each frame; it is kept with the
    /// rows, and decides where they belong and how long they are kept.
    ///
    /// # Errors
    /// As [`Store::commit`].
    ///
    /// # Cancel safety
    /// As [`Store::commit`].
    pub async fn commit_timed(
        &self,
        host: HostId,
        frames: Vec<(Frame, ClockAhead)>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, CommitError> {
        refused_at_sight(host, &frames)?;
        let config = &self.inner.config;
        let deadline = Instant::now() + config.commit_timeout();
        let busy = |_| CommitError::Busy {
            waited: config.commit_timeout(),
        };
        let bytes = frames.iter().map(|(frame, _)| memory_of(frame));
        let bytes = bytes.fold(0, usize::saturating_add);
        let share = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .clamp(1, config.queue_bytes_max);
        let room = self.inner.room.clone().acquire_many_owned(share);
        let room = timeout_at(deadline, room)
            .await
            .map_err(busy)?
            .map_err(|_| CommitError::Closed)?;
        let begun: Vec<RecordId> = gaps.iter().map(|(id, _)| *id).collect();
        let inner = self.inner.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare_all(frames, gaps, (host, &inner.series)));
        let (frames, gaps) = prepared.await.map_err(not_finished)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Commit {
            host,
            frames,
            gaps,
            reply,
            room,
        };
        let marks = self.inner.ask(command, answer, deadline).await??;
        self.note_begun(host, begun).await?;
        Ok(marks)
    }

    /// Remembers the epochs of gaps that are of no record, so that whoever wrote one sees that it is written.
    async fn note_begun(&self, host: HostId, ids: Vec<RecordId>) -> Result<(), CommitError> {
        let now = TimeMicros::now();
        let mark = |id: RecordId| {
            let mark = Mark {
                epoch: id.epoch,
                lane: id.lane,
                sequence: id.sequence,
            };
            (host, mark, now)
        };
        let begun = ids.into_iter().filter(|id| id.sequence.0 == 0);
        let change = Change {
            marks: begun.map(mark).collect(),
            ..Change::default()
        };
        if change.marks.is_empty() {
            return Ok(());
        }
        let failed = |error: crate::error::CatalogueError| CommitError::Unavailable {
            reason: error.to_string(),
        };
        self.inner.catalogue.apply(&change).await.map_err(failed)?;
        let mut marks = self.inner.marks.lock();
        for (host, mark, now) in change.marks {
            marks.raise((host, mark.epoch, mark.lane), 0, None, now);
        }
        Ok(())
    }

    /// What is durable of a host: the answer to its hello.
    pub fn marks(&self, host: HostId) -> Vec<Mark> {
        let mut marks = self.inner.marks.lock().of_host(host);
        marks.retain(|mark| !is_own_epoch(mark.epoch));
        marks
    }

    /// When a record of a host was last made durable, as far as its marks are known.
    pub fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        self.inner.marks.lock().last_of_host(host)
    }

    /// Says that a host does not have the records before `id` any more: the next record of that stream may be any
    /// up to it, and what is skipped becomes a gap. For a sender that, told the marks, begins after them.
    pub fn declare_lost(&self, host: HostId, id: RecordId) {
        self.inner.marks.lock().declare_lost(host, id);
    }

    /// Stores a fact of the collector itself under [`OWN_HOST`]; returns once it is durable.
    ///
    /// # Errors
    /// As [`Store::commit`].
    ///
    /// # Cancel safety
    /// May be dropped; the fact may become durable all the same.
    pub async fn append_own(&self, fact: Fact) -> Result<(), CommitError> {
        self.inner.append(OWN_HOST, vec![fact]).await
    }

    /// Stores facts that the collector knows of a host, such as a gap, under that host.
    ///
    /// # Errors
    /// As [`Store::commit`].
    ///
    /// # Cancel safety
    /// May be dropped; the facts may become durable all the same.
    pub async fn append_for(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError> {
        self.inner.append(host, facts).await
    }

    /// Answers a query; see [`crate::query`] for what it may be.
    ///
    /// # Errors
    /// [`QueryError`] says what is wrong with the query, or which limit it met.
    ///
    /// # Cancel safety
    /// May be dropped; the query is then stopped.
    pub async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Answer, QueryError> {
        self.engine
            .sql(&Stock::Folder(self.inner.clone()), query, limits)
            .await
    }

    /// Queries that run or wait for a turn, the oldest first.
    pub fn queries(&self) -> Vec<RunningQuery> {
        self.engine.running.list()
    }

    /// Cancels a query of [`Store::queries`]: it ends with [`QueryError::Cancelled`]. `false` when it has ended.
    pub fn cancel(&self, id: u64) -> bool {
        self.engine.running.cancel(id)
    }

    /// The life of this store: changes when it is made anew or restored.
    pub fn epoch(&self) -> [u8; 16] {
        self.inner.epoch
    }

    /// Rows from now on, each after it became durable. One that falls behind is told how many it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.inner.committed.subscribe()
    }

    /// Whether the store takes records, and why not.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    /// What the store holds.
    pub fn stats(&self) -> StoreStats {
        let (hot_frames, hot_rows) = self.inner.view.hot_count();
        let files = self.inner.view.files();
        let segments = self.inner.segments.lock();
        let tables = crate::shape::sql_tables()
            .iter()
            .zip(0_usize..)
            .map(|(table, index)| {
                let of_table = files.iter().filter(|file| file.table == index);
                let start = TableStats {
                    table: table.info.name,
                    files: 0,
                    rows: 0,
                    chunks: 0,
                    bytes: 0,
                };
                of_table.fold(start, |sum, file| TableStats {
                    files: sum.files.saturating_add(1),
                    rows: sum.rows.saturating_add(file.rows),
                    chunks: sum.chunks.saturating_add(file.chunks.unwrap_or(0)),
                    bytes: sum.bytes.saturating_add(file.bytes),
                    ..sum
                })
            });
        StoreStats {
            hot_frames,
            hot_rows,
            segments: segments.len() as u64,
            sealed_segment_bytes: segments.values().map(|segment| segment.bytes).sum(),
            tables: tables.collect(),
        }
    }

    /// Seals the segment being written, so that the next maintenance compacts it.
    ///
    /// # Errors
    /// When the writer does not answer in time.
    pub async fn seal(&self) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.inner.config.commit_timeout();
        self.inner.ask(Command::Seal { reply }, answer, deadline).await
    }

    /// Brings back the gaps that are compacted already; those in segments were read by recovery.
    async fn load_gaps(&self) {
        let stock = Stock::Folder(self.inner.clone());
        if let Err(error) = self
            .engine
            .load_gaps(&stock, &self.inner.gaps, TimeMicros(0))
            .await
        {
            tracing::warn!(%error, "cannot read the gaps of former times; answers do not name them");
        }
    }
}
