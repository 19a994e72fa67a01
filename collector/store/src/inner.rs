//! What the writer, maintenance and queries share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Fact, HostId, Lane, Mark, SpoolEpoch, TimeMicros};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::Committed;
use crate::catalogue::Catalogue;
use crate::chunk::Footers;
use crate::commit::Command;
use crate::config::StoreConfig;
use crate::error::{CommitError, MaintenanceError, ReadError};
use crate::gaps::{Gaps, HostGap, Reach};
use crate::label::StoreId;
use crate::mark::{Marks, StreamKey};
use crate::metrics as names;
use crate::own::{OWN_HOST, own_frames};
use crate::segment::SegmentWriter;
use crate::series::SeriesLimit;
use crate::shape::sql_tables;
use crate::steps::Steps;
use crate::view::{HotFrame, ParquetFile, View};
use crate::writer::Group;

/// Whether the store takes records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// It does not, and why.
    NotReady(String),
}

/// A segment that is not compacted yet.
#[derive(Debug, Clone)]
pub(crate) struct SegmentState {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) sealed: bool,
    /// Highest number of every stream in it.
    pub(crate) marks: HashMap<StreamKey, u64>,
}

/// A Parquet file that was set aside, or a frame given up, until the catalogue and the gap row say so.
#[derive(Debug, Clone)]
pub(crate) struct SetAside {
    /// 0 for what is no Parquet file.
    pub(crate) file_id: i64,
    /// Whose rows are lost; the store's own host where they are of several.
    pub(crate) host: HostId,
    pub(crate) gap: Gap,
}

pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    /// The life of this store.
    pub(crate) epoch: [u8; 16],
    /// Which store it is, in all its lives.
    pub(crate) store_id: StoreId,
    /// Epoch of the store's own records, new at every start.
    pub(crate) own_epoch: SpoolEpoch,
    pub(crate) catalogue: Catalogue,
    pub(crate) view: Arc<View>,
    pub(crate) gaps: Gaps,
    /// Footers of files of metrics.
    pub(crate) footers: Footers,
    pub(crate) committed: broadcast::Sender<Arc<Committed>>,
    /// Files whose merge failed, as when it needs more than a query may take; tried again after the next start.
    pub(crate) unmergeable: Mutex<HashSet<i64>>,
    /// Blocking work of maintenance.
    pub(crate) steps: Steps,
    /// Files that could not be registered, relative to the folder of Parquet files; at most those of one step each of
    /// maintenance and tiers.
    pub(crate) unregistered: Mutex<Vec<String>>,
    /// Held from when the catalogue knows files until the view shows them: between the two a day is dirty whose samples
    /// nobody sees.
    pub(crate) settling: tokio::sync::Mutex<()>,
    /// Wakes maintenance.
    pub(crate) wake: Notify,
    pub(crate) segments: Mutex<BTreeMap<u64, SegmentState>>,
    pub(crate) marks: Mutex<Marks>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) series: SeriesLimit,
    health: watch::Sender<Health>,
    aside: Mutex<Vec<SetAside>>,
    /// Held as long as the store is open.
    _lock: Arc<std::fs::File>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Inner")
            .field("folder", &self.config.folder)
            .finish_non_exhaustive()
    }
}

/// What [`Inner`] is made from.
pub(crate) struct Parts {
    pub(crate) config: StoreConfig,
    pub(crate) epoch: [u8; 16],
    pub(crate) store_id: StoreId,
    pub(crate) own_epoch: SpoolEpoch,
    pub(crate) catalogue: Catalogue,
    pub(crate) view: Arc<View>,
    pub(crate) gaps: Gaps,
    pub(crate) segments: BTreeMap<u64, SegmentState>,
    pub(crate) marks: Marks,
    pub(crate) aside: Vec<SetAside>,
    pub(crate) lock: Arc<std::fs::File>,
}

/// Facts a subscriber may fall behind before it is told that it missed some.
pub(crate) const SUBSCRIBER_BACKLOG: usize = 1_024;
/// Losses that are told in one record.
const SETTLED_AT_ONCE: usize = 256;
/// Commits that may wait for the writer; their bytes are bounded too.
pub(crate) const COMMANDS_MAX: usize = 1_024;

impl Inner {
    pub(crate) fn new(parts: Parts) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let room = Arc::new(Semaphore::new(
            usize::try_from(parts.config.queue_bytes_max).unwrap_or(usize::MAX),
        ));
        let inner = Self {
            series: SeriesLimit::new(parts.config.series_per_host_max),
            config: parts.config,
            epoch: parts.epoch,
            store_id: parts.store_id,
            own_epoch: parts.own_epoch,
            catalogue: parts.catalogue,
            view: parts.view,
            gaps: parts.gaps,
            footers: Footers::default(),
            committed: broadcast::Sender::new(SUBSCRIBER_BACKLOG),
            unmergeable: Mutex::default(),
            steps: Steps::default(),
            unregistered: Mutex::default(),
            settling: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            segments: Mutex::new(parts.segments),
            marks: Mutex::new(parts.marks),
            commands,
            room,
            health: watch::Sender::new(Health::NotReady("starting".to_owned())),
            aside: Mutex::new(parts.aside),
            _lock: parts.lock,
        };
        (Arc::new(inner), receiver)
    }

    pub(crate) fn set_health(&self, health: Health) {
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

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn marks_of(&self, streams: &[StreamKey]) -> Vec<Mark> {
        let marks = self.marks.lock();
        streams.iter().map(|key| marks.of_stream(*key)).collect()
    }

    pub(crate) fn last_seen(&self, key: StreamKey) -> Option<TimeMicros> {
        self.marks.lock().seen_at(key)
    }

    /// Notes that the records of `group` are durable in segment `number`.
    pub(crate) fn note_durable(&self, group: &Group, number: u64) {
        self.marks.lock().apply(group.pending(), group.now());
        let mut segments = self.segments.lock();
        if let Some(segment) = segments.get_mut(&number) {
            for placed in group.placed() {
                let mark = segment
                    .marks
                    .entry((placed.host, placed.id.epoch, placed.id.lane))
                    .or_default();
                *mark = placed.id.sequence.0.max(*mark);
            }
        }
    }

    pub(crate) fn add_segment(&self, made: &SegmentWriter) {
        let state = SegmentState {
            path: made.reader.path.clone(),
            bytes: 0,
            sealed: false,
            marks: HashMap::new(),
        };
        self.segments.lock().insert(made.reader.number, state);
    }

    pub(crate) fn seal_segment(&self, number: u64, bytes: u64) {
        if let Some(segment) = self.segments.lock().get_mut(&number) {
            segment.sealed = true;
            segment.bytes = bytes;
        }
        self.wake.notify_one();
    }

    /// Stores facts of the store or of the collector under `host`; returns once they are durable.
    pub(crate) async fn append(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError> {
        let deadline = Instant::now() + self.config.commit_timeout();
        let epoch = self.own_epoch;
        let frames = tokio::task::spawn_blocking(move || own_frames(epoch, facts));
        let frames = frames.await.map_err(|error| CommitError::Encode {
            reason: error.to_string(),
        })??;
        let (reply, receiver) = oneshot::channel();
        self.ask(Command::Own { host, frames, reply }, receiver, deadline)
            .await?
            .map(|_| ())
    }

    /// Gives the writer a command and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<T>,
        deadline: Instant,
    ) -> Result<T, CommitError> {
        let busy = || CommitError::Busy {
            waited: self.config.commit_timeout(),
        };
        timeout_at(deadline, self.commands.send(command))
            .await
            .map_err(|_| busy())?
            .map_err(|_| CommitError::Closed)?;
        timeout_at(deadline, answer)
            .await
            .map_err(|_| busy())?
            .map_err(|_| CommitError::Closed)
    }

    /// Takes a damaged Parquet file out of the view and renames it; [`Self::settle_set_aside`] does the rest.
    pub(crate) fn set_aside(&self, file: &Arc<ParquetFile>, reason: &str) {
        if self
            .view
            .replace(&HashSet::new(), &HashSet::from([file.id]), Vec::new())
            .is_empty()
        {
            return;
        }
        tracing::error!(path = %file.path.display(), reason, rows = file.rows, "Parquet file is damaged and set aside");
        metrics::counter!(names::DAMAGED_FILES).increment(1);
        file.rename_aside();
        self.aside.lock().push(SetAside {
            file_id: file.id,
            host: OWN_HOST,
            gap: gap_of_file(file, reason),
        });
        self.wake.notify_one();
    }

    /// Gives a hot frame up that cannot be read any more.
    pub(crate) fn lose_frame(&self, frame: &Arc<HotFrame>, table: usize, error: &ReadError) {
        if !frame.give_up() {
            return;
        }
        tracing::error!(host = %frame.host, segment = frame.segment.number, %error, "stored frame cannot be read");
        let info = sql_tables().get(table).map(|table| table.info);
        let (from_time, to_time) = frame.clock.true_span(frame.from, frame.to);
        let gap = Gap {
            time: TimeMicros::now(),
            table: info.map_or("*", |info| info.name).to_owned(),
            lane: info.map_or(Lane::Events, |info| info.lane),
            from_time,
            to_time,
            count: frame.rows,
            exactness: Exactness::Exact,
            stage: GapStage::Store,
            reason: "corrupt segment".to_owned(),
        };
        self.aside.lock().push(SetAside {
            file_id: 0,
            host: frame.host,
            gap,
        });
        self.wake.notify_one();
    }

    /// The newest gaps that touch what was read and that `wanted` says yes to, those not written yet included.
    pub(crate) fn gaps_of_hosts(&self, reaches: &[Reach], wanted: impl Fn(&HostGap) -> bool) -> Vec<HostGap> {
        let unwritten: Vec<HostGap> = self
            .aside
            .lock()
            .iter()
            .map(|aside| HostGap {
                host_id: aside.host,
                gap: aside.gap.clone(),
            })
            .collect();
        self.gaps.touching(reaches, unwritten, wanted)
    }

    /// Tells the catalogue and the gap table of what was set aside since the last call.
    pub(crate) async fn settle_set_aside(&self) -> Result<(), MaintenanceError> {
        loop {
            // Of a disk that goes bad there may be more than one record holds.
            let waiting: Vec<SetAside> = self.aside.lock().iter().take(SETTLED_AT_ONCE).cloned().collect();
            if waiting.is_empty() {
                return Ok(());
            }
            self.settle(waiting).await?;
        }
    }

    async fn settle(&self, waiting: Vec<SetAside>) -> Result<(), MaintenanceError> {
        // The gap comes first: said twice after a kill in between is better than never.
        let mut of_hosts: BTreeMap<HostId, Vec<Fact>> = BTreeMap::new();
        for aside in &waiting {
            let facts = of_hosts.entry(aside.host).or_default();
            facts.push(Fact::from(aside.gap.clone()));
        }
        for (host, facts) in of_hosts {
            self.append(host, facts).await?;
        }
        self.aside.lock().drain(..waiting.len());
        for aside in waiting.iter().filter(|aside| aside.file_id > 0) {
            self.catalogue.set_damaged(aside.file_id).await?;
        }
        Ok(())
    }
}

/// The loss of a whole file.
pub(crate) fn gap_of_file(file: &ParquetFile, reason: &str) -> Gap {
    let info = sql_tables().get(file.table).map(|table| table.info);
    Gap {
        time: TimeMicros::now(),
        table: info.map_or("*", |info| info.name).to_owned(),
        lane: info.map_or(Lane::Events, |info| info.lane),
        from_time: file.true_from,
        to_time: file.true_to,
        count: file.rows,
        exactness: Exactness::Exact,
        stage: GapStage::Store,
        reason: reason.to_owned(),
    }
}
