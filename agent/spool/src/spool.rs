//! The spool as the rest of the agent sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use fleetmend_event::{Fact, Lane, Mark, SpoolEpoch};
use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::SpoolConfig;
use crate::disk::{Disk, RealDisk};
use crate::error::OpenError;
use crate::index::{ExtentKind, Index, LaneIndex};
use crate::intake::Intake;
use crate::layout::Layout;
use crate::reader::SpoolReader;
use crate::recovery::{self, Recovered};
use crate::sent::Sent;
use crate::stat::{LaneStat, SpoolStat};
use crate::task::{Writer, WriterStart};

/// An opened spool whose writer does not run yet.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    pub(crate) writer: Writer,
}

/// What the rest of the agent holds of the spool; clones are the same.
#[derive(Debug, Clone)]
pub struct SpoolHandle {
    pub(crate) shared: Arc<Shared>,
}

/// What writer, readers and handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SpoolConfig,
    pub(crate) layout: Layout,
    pub(crate) intake: Intake,
    pub(crate) index: Mutex<Index>,
    pub(crate) sent: Mutex<Sent>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) disk_refuses: AtomicBool,
    tickets: AtomicU64,
}

/// Moves whenever there may be something new for a reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) generation: u64,
    pub(crate) flushed_ticket: u64,
    pub(crate) ended: bool,
}

impl Spool {
    /// Opens or makes the spool and repairs what is damaged. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be used or another agent uses it; damage is no error.
    pub fn open(config: SpoolConfig) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(config, Arc::new(RealDisk))
    }

    pub(crate) fn open_on(config: SpoolConfig, disk: Arc<dyn Disk>) -> Result<(Self, Recovered), OpenError> {
        crate::metrics::describe();
        let layout = Layout::new(config.folder.clone(), disk);
        let mut opened = recovery::open(&layout)?;
        let sent = Sent::open(&layout, &mut opened.index);
        let shared = Arc::new(Shared {
            intake: Intake::new(&config),
            config,
            layout,
            index: Mutex::new(opened.index),
            sent: Mutex::new(sent),
            progress: watch::Sender::default(),
            disk_refuses: AtomicBool::new(false),
            tickets: AtomicU64::new(0),
        });
        let writer = Writer::new(
            shared.clone(),
            WriterStart {
                lock: opened.lock,
                next: opened.next,
                losses: opened.losses,
                leftovers: opened.leftovers,
                markers: opened.markers,
                staged: opened.staged,
                staged_bytes: opened.staged_bytes,
            },
        );
        Ok((Self { shared, writer }, opened.recovered))
    }

    /// A handle; facts that are appended before [`Spool::run`] wait for it.
    pub fn handle(&self) -> SpoolHandle {
        SpoolHandle {
            shared: self.shared.clone(),
        }
    }

    /// Starts the writer's thread. It ends when its turn in the drain comes: then it writes everything that
    /// waits and marks the stop as clean.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn run(self, tasks: &Tasks) -> io::Result<()> {
        let Self { writer, .. } = self;
        tasks.spawn_thread("spool-writer", TaskKind::Critical, move |token| {
            writer.run(&token);
            Ok(())
        })
    }
}

impl SpoolHandle {
    /// Takes a fact in. Never waits for the disk; with a full intake the fact is counted and becomes part of a
    /// gap row, metrics first.
    pub fn append(&self, fact: impl Into<Fact>) {
        self.shared.intake.push(fact.into());
    }

    /// A reader that begins with the oldest record that is not acknowledged.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader::new(self.shared.clone())
    }

    /// The collector has made these durable.
    pub fn acknowledge(&self, marks: &[Mark]) {
        self.shared.index.lock().acknowledge(marks, Instant::now());
        self.shared.intake.request(|requests| requests.tidy = true);
    }

    /// The epoch that is being written.
    pub fn epoch(&self) -> SpoolEpoch {
        self.shared.index.lock().current_epoch()
    }

    /// Highest durable number of every epoch and lane that has one.
    pub fn spooled(&self) -> Vec<Mark> {
        self.shared.index.lock().spooled()
    }

    /// Waits until everything appended before this call is durable, or, of what the disk refused for too long,
    /// the gap row that counts it; while the disk refuses, that may be long. `false` when the writer has ended.
    ///
    /// # Cancel safety
    /// The flush happens whether or not somebody waits for it.
    pub async fn flush(&self) -> bool {
        let ticket = self
            .shared
            .tickets
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let mut progress = self.shared.progress.subscribe();
        self.shared
            .intake
            .request(|requests| requests.flush_ticket = requests.flush_ticket.max(ticket));
        let reached = progress
            .wait_for(|progress| progress.flushed_ticket >= ticket || progress.ended)
            .await;
        reached.is_ok_and(|progress| progress.flushed_ticket >= ticket)
    }

    /// The state of the spool.
    pub fn stat(&self) -> SpoolStat {
        let index = self.shared.index.lock();
        SpoolStat {
            epoch: index.current_epoch(),
            epochs: index.epochs.len(),
            intake_facts: self.shared.intake.len(),
            disk_refuses: self.shared.disk_refuses.load(Ordering::Relaxed),
            lanes: Lane::ALL
                .iter()
                .map(|lane| self.lane_stat(&index, *lane))
                .collect(),
        }
    }

    fn lane_stat(&self, index: &Index, lane: Lane) -> LaneStat {
        let lanes = || index.epochs.iter().map(|epoch| epoch.lanes.get(lane));
        let is_segment = |kind: ExtentKind| matches!(kind, ExtentKind::Segment { .. });
        let last = index.epochs.last().map(|epoch| epoch.lanes.get(lane));
        LaneStat {
            lane,
            waiting: lanes().map(LaneIndex::waiting).sum(),
            bytes: lanes().map(LaneIndex::bytes).sum(),
            quota_bytes: self.shared.config.quota_bytes(lane),
            segments: lanes()
                .flat_map(|lane| &lane.extents)
                .filter(|extent| is_segment(extent.kind))
                .count(),
            highest: last.map_or(0, |lane| lane.next.saturating_sub(1)),
            acknowledged: last.map_or(0, |lane| lane.acknowledged),
        }
    }
}

impl Shared {
    /// Tells readers to look again.
    pub(crate) fn notify(&self) {
        self.progress
            .send_modify(|progress| progress.generation = progress.generation.wrapping_add(1));
    }
}
