//! The store in memory, for demonstrations and tests: it keeps nothing over an end of its process.
//!
//! # Invariants
//! - What is promised of every store holds, but for durability: a commit is all or nothing, an identity is stored
//!   once, losses are rows, SQL sees each row once. There is one lock; rows and marks change under it together.
//! - Rows take at most [`MemoryConfig::bytes_max`], decoded. What would be more is refused as by a full disk, until
//!   retention made room: the sender keeps it.
//!
//! # Tasks
//! `store-memory`, best effort: drops what is older than retention allows or more than a table may hold, oldest first.

mod scan;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetmend_event::table::{Gap, MetricChunk, Table as _};
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, Sequence, SpoolEpoch, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};

use crate::admit::{Admitted, admit};
use crate::backend::FactStore;
use crate::clock::ClockAhead;
use crate::commit::{self, prepare_all};
use crate::config::StoreConfig;
use crate::error::{CommitError, OpenError, QueryError};
use crate::gaps::Gaps;
use crate::inner::{Health, SUBSCRIBER_BACKLOG};
use crate::mark::{Marks, Pending, StreamKey};
use crate::own::{OwnFrame, is_own_epoch, new_own_epoch, own_frames};
use crate::query::{Answer, Engine, QueryLimits, RunningQuery};
use crate::select::{Deadline, Gather, SeriesAnswer, SeriesKey, SeriesSelect, Wish};
use crate::series::SeriesLimit;
use crate::shape::{Origin, Rows, sql_tables, table_index};
use crate::store::{Committed, StoreStats, TableStats};
use crate::writer::tell;

/// Rows of one record.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) origin: Origin,
    /// Earliest and latest time by the rows themselves.
    pub(crate) from: TimeMicros,
    pub(crate) to: TimeMicros,
    /// Rows SQL shows of it.
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Aligned to the table's schema.
    pub(crate) batch: RecordBatch,
}

impl Kept {
    fn new(origin: Origin, rows: Rows) -> Arc<Self> {
        Arc::new(Self {
            origin,
            from: rows.from,
            to: rows.to,
            count: rows.count,
            bytes: rows.bytes,
            batch: rows.batch,
        })
    }

    fn true_to(&self) -> TimeMicros {
        self.origin.clock.true_time(self.to, self.origin.ingested_at)
    }
}

/// The store. Clones are the same store.
#[derive(Clone)]
pub struct MemoryStore {
    pub(crate) held: Arc<Held>,
    engine: Arc<Engine>,
}

/// What the store and its queries share.
pub(crate) struct Held {
    config: StoreConfig,
    epoch: [u8; 16],
    own_epoch: SpoolEpoch,
    marks: Mutex<Marks>,
    tables: RwLock<Vec<Vec<Arc<Kept>>>>,
    pub(crate) gaps: Gaps,
    series: SeriesLimit,
    committed: broadcast::Sender<Arc<Committed>>,
    health: watch::Sender<Health>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store. Its folder holds what queries spill.
    ///
    /// # Errors
    /// When the configuration is wrong, or the folder or the query engine cannot be made.
    pub fn new(config: StoreConfig) -> Result<Self, OpenError> {
        crate::metrics::describe();
        if let Some((key, reason)) = config.faults().into_iter().next() {
            return Err(OpenError::Config { key, reason });
        }
        let spill = config.spill_folder();
        std::fs::create_dir_all(&spill).map_err(crate::recover::io_error("make", &spill))?;
        let engine = Engine::new(&config)?;
        let held = Held {
            epoch: *uuid::Uuid::new_v4().as_bytes(),
            own_epoch: new_own_epoch(),
            marks: Mutex::default(),
            tables: RwLock::new(sql_tables().iter().map(|_| Vec::new()).collect()),
            gaps: Gaps::default(),
            series: SeriesLimit::new(config.series_per_host_max),
            committed: broadcast::Sender::new(SUBSCRIBER_BACKLOG),
            health: watch::Sender::new(Health::Ready),
            config,
        };
        Ok(Self {
            held: Arc::new(held),
            engine: Arc::new(engine),
        })
    }
}

impl MemoryStore {
    async fn gather<T: Send + 'static>(
        &self,
        select: SeriesSelect,
        wish: Wish,
        finish: fn(Gather) -> Vec<T>,
    ) -> Result<Vec<T>, QueryError> {
        let held = self.held.clone();
        let limits = select.limits();
        let work = move |deadline: &Deadline| {
            let mut gather = Gather::new(&select, wish);
            for kept in held.table(table_index(MetricChunk::ID).ok_or(QueryError::Closed)?) {
                deadline.check()?;
                gather.record(&kept.origin, &kept.batch)?;
            }
            Ok(finish(gather))
        };
        self.engine.blocking(limits, work).await
    }
}

impl Held {
    /// What a query of this table reads now.
    pub(crate) fn table(&self, table: usize) -> Vec<Arc<Kept>> {
        self.tables.read().get(table).cloned().unwrap_or_default()
    }

    /// Adds what one commit admits; nothing when it does not fit.
    fn add(&self, host: HostId, prepared: commit::PreparedCommit) -> Result<Vec<Mark>, CommitError> {
        let begun: Vec<RecordId> = prepared.1.iter().map(|(id, _)| *id).collect();
        let mut marks = self.marks.lock();
        let mut pending = Pending::default();
        let admitted = admit(&marks, &mut pending, host, prepared)?;
        let Admitted {
            streams,
            records,
            losses,
        } = admitted;
        let facts = losses.into_iter().map(|loss| Fact::from(loss.gap)).collect();
        let own = self.number(&marks, &mut pending, host, own_frames(self.own_epoch, facts)?);
        let now = TimeMicros::now();
        let of_records = records.into_iter().filter_map(|record| {
            record
                .rows
                .map(|(table, rows)| (table, rows, (record.id, record.clock)))
        });
        let rows = of_records.chain(own).collect();
        self.keep(host, now, rows)?;
        marks.apply(&pending, now);
        for id in begun.into_iter().filter(|id| id.sequence.0 == 0) {
            marks.raise((host, id.epoch, id.lane), 0, None, now);
        }
        Ok(streams.iter().map(|key| marks.of_stream(*key)).collect())
    }

    /// Adds rows of the collector.
    fn add_own(&self, host: HostId, frames: Vec<OwnFrame>) -> Result<(), CommitError> {
        let mut marks = self.marks.lock();
        let mut pending = Pending::default();
        let rows = self.number(&marks, &mut pending, host, frames);
        let now = TimeMicros::now();
        self.keep(host, now, rows)?;
        marks.apply(&pending, now);
        Ok(())
    }

    fn number(
        &self,
        marks: &Marks,
        pending: &mut Pending,
        host: HostId,
        frames: Vec<OwnFrame>,
    ) -> Vec<(usize, Rows, (RecordId, ClockAhead))> {
        let mut rows = Vec::with_capacity(frames.len());
        for frame in frames {
            let key: StreamKey = (host, self.own_epoch, frame.template.id.lane);
            let last = pending
                .last_of(&key)
                .unwrap_or_else(|| marks.of_stream(key).sequence.0);
            let id = RecordId {
                sequence: Sequence(last).next(),
                ..frame.template.id
            };
            pending.accept(host, id, None);
            rows.push((frame.table, frame.rows, (id, ClockAhead::NONE)));
        }
        rows
    }

    /// Keeps rows, all or none, and tells of them.
    fn keep(
        &self,
        host: HostId,
        ingested_at: TimeMicros,
        rows: Vec<(usize, Rows, (RecordId, ClockAhead))>,
    ) -> Result<(), CommitError> {
        let more = rows.iter().map(|(_, rows, _)| rows.bytes);
        let more = more.fold(0, u64::saturating_add);
        let mut tables = self.tables.write();
        let held = bytes_of(&tables);
        let most = self.config.memory.bytes_max;
        if held.saturating_add(more) > most {
            let reason = format!(
                "the store in memory is full: {held} of {most} bytes; wait for retention, or raise memory.bytes_max"
            );
            self.set_health(Health::NotReady(reason.clone()));
            return Err(CommitError::Unavailable { reason });
        }
        for (table, rows, (record, clock)) in rows {
            let origin = Origin {
                host,
                record,
                ingested_at,
                clock,
            };
            self.gaps.note(host, table, &rows.batch);
            tell(&self.committed, &origin, table, &rows);
            if let Some(kept) = tables.get_mut(table) {
                kept.push(Kept::new(origin, rows));
            }
        }
        drop(tables);
        self.set_health(Health::Ready);
        Ok(())
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|held| {
            let changed = *held != health;
            *held = health;
            changed
        });
    }

    /// Drops what retention does not allow any more.
    fn expire(&self, now: TimeMicros) {
        let mut tables = self.tables.write();
        for (kept, table) in tables.iter_mut().zip(sql_tables()) {
            let (days, bytes_max) = self.config.retention.of_table(table.info.name);
            let oldest = now.plus_millis(-i64::from(days).saturating_mul(86_400_000));
            kept.retain(|rows| rows.true_to() >= oldest);
            let mut bytes = kept.iter().map(|rows| rows.bytes).sum::<u64>();
            let over = kept
                .iter()
                .take_while(|rows| {
                    let is_over = bytes > bytes_max;
                    bytes = bytes.saturating_sub(rows.bytes);
                    is_over
                })
                .count();
            kept.drain(..over);
        }
        if bytes_of(&tables) < self.config.memory.bytes_max {
            self.set_health(Health::Ready);
        }
    }
}

fn bytes_of(tables: &[Vec<Arc<Kept>>]) -> u64 {
    tables.iter().flatten().map(|kept| kept.bytes).sum()
}

#[async_trait]
impl FactStore for MemoryStore {
    fn run(&self, tasks: &Tasks) -> std::io::Result<()> {
        let (held, token) = (self.held.clone(), tasks.token());
        let interval = Duration::from_millis(held.config.maintenance_interval_ms);
        tasks.spawn("store-memory", TaskKind::BestEffort, async move {
            while token
                .run_until_cancelled(tokio::time::sleep(interval))
                .await
                .is_some()
            {
                held.expire(TimeMicros::now());
            }
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
        commit::refused_at_sight(host, &frames)?;
        let held = self.held.clone();
        let done = tokio::task::spawn_blocking(move || {
            let prepared = prepare_all(frames, gaps, (host, &held.series));
            held.add(host, prepared)
        });
        done.await.map_err(commit::not_finished)?
    }

    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, CommitError> {
        let mut marks = self.held.marks.lock().of_host(host);
        marks.retain(|mark| !is_own_epoch(mark.epoch));
        Ok(marks)
    }

    fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        self.held.marks.lock().last_of_host(host)
    }

    fn declare_lost(&self, host: HostId, id: RecordId) {
        self.held.marks.lock().declare_lost(host, id);
    }

    async fn append_for(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError> {
        let held = self.held.clone();
        let done = tokio::task::spawn_blocking(move || {
            let frames = own_frames(held.own_epoch, facts)?;
            held.add_own(host, frames)
        });
        done.await.map_err(commit::not_finished)?
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
        let series = self
            .gather(select.clone(), Wish::Samples, Gather::into_series)
            .await?;
        let gaps = select.gaps_of(&self.held.gaps);
        Ok(SeriesAnswer {
            series,
            gaps,
            ..SeriesAnswer::default()
        })
    }

    async fn series_keys(&self, select: SeriesSelect) -> Result<Vec<SeriesKey>, QueryError> {
        self.gather(select, Wish::Keys, Gather::into_keys).await
    }

    fn epoch(&self) -> [u8; 16] {
        self.held.epoch
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.held.committed.subscribe()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.held.health.subscribe()
    }

    async fn stats(&self) -> Result<StoreStats, QueryError> {
        let tables = self.held.tables.read();
        let of_table = |(kept, table): (&Vec<Arc<Kept>>, &crate::shape::SqlTable)| TableStats {
            table: table.info.name,
            files: 0,
            rows: kept.iter().map(|kept| kept.count).sum(),
            chunks: 0,
            bytes: kept.iter().map(|kept| kept.bytes).sum(),
        };
        Ok(StoreStats {
            hot_frames: tables.iter().map(|kept| kept.len() as u64).sum(),
            hot_rows: tables.iter().flatten().map(|kept| kept.count).sum(),
            segments: 0,
            sealed_segment_bytes: 0,
            tables: tables.iter().zip(sql_tables()).map(of_table).collect(),
        })
    }

    async fn seal(&self) -> Result<(), CommitError> {
        Ok(())
    }
}
