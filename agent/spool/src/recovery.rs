//! Opening a spool: what lies there is scanned, damage is set aside, and it is decided whether the epoch goes on.

mod clean;
mod ended;
mod lane;
mod thinned;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Lane, SpoolEpoch, TimeMicros};

use crate::clock;
use crate::disk::{Access, Disk, DiskFile};
use crate::error::OpenError;
use crate::gaps::Loss;
use crate::index::{EpochIndex, Index, PerLane};
use crate::layout::{self, Layout};
use crate::staging::{self, Staged};

pub(crate) use clean::CleanMark;
pub(crate) use lane::{LaneFolder, is_damage, repair_segment};

/// What was found when the spool was opened.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The epoch that is written now.
    pub epoch: SpoolEpoch,
    /// Whether it is the one of the last run.
    pub epoch_continued: bool,
    /// Whether the last run ended in order, or there was none.
    pub clean: bool,
    /// Records that lie there, tombstones included.
    pub records: u64,
    /// Bytes that lie there.
    pub bytes: u64,
    /// Bytes of torn tails that were cut off.
    pub torn_bytes: u64,
    /// Bytes that were no frame and were set aside.
    pub corrupt_bytes: u64,
    /// Ticks of metrics taken back from staging.
    pub staged_ticks: usize,
}

/// An opened spool, before its writer runs.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) lock: Box<dyn DiskFile>,
    pub(crate) index: Index,
    pub(crate) next: PerLane<u64>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) markers: Vec<Marker>,
    pub(crate) staged: VecDeque<Staged>,
    /// Bytes of the staging file that are whole ticks.
    pub(crate) staged_bytes: u64,
    pub(crate) recovered: Recovered,
}

/// A fact of the critical and the events lane waits at most so long for its flush.
const FLUSH_AGE_MAX_MS: i64 = 1_000;
/// How far back the loss of an unclean stop may reach when no row says when it was.
const UNKNOWN_REACH_MS: i64 = 24 * 3_600_000;

/// What repair adds up.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    pub(crate) losses: Vec<Loss>,
    pub(crate) torn_bytes: u64,
    pub(crate) corrupt_bytes: u64,
    /// What is cut off or removed once the losses are durable: a crash in between must find it again.
    pub(crate) leftovers: Vec<Leftover>,
    /// Tombstones that are marked on disk then, for the same reason.
    pub(crate) markers: Vec<Marker>,
    /// Latest time of any row that was found.
    pub(crate) last: Option<TimeMicros>,
}

/// Numbers `first..next` that are gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marker {
    pub(crate) ordinal: u32,
    pub(crate) lane: Lane,
    pub(crate) first: u64,
    pub(crate) next: u64,
}

/// Bytes of a damaged file that are no frames.
#[derive(Debug)]
pub(crate) struct Leftover {
    path: PathBuf,
    pub(crate) ordinal: u32,
    pub(crate) lane: Lane,
    /// First number of the file.
    pub(crate) first: u64,
    /// Good bytes at its beginning; without any the file goes.
    pub(crate) keep: u64,
}

impl Leftover {
    pub(crate) fn remove(&self, disk: &dyn Disk) -> io::Result<()> {
        if self.keep > 0 {
            let file = disk.open(&self.path, Access::Write)?;
            return file.set_len(self.keep).and_then(|()| file.sync_all());
        }
        layout::remove_if_there(disk, &self.path)?;
        self.path
            .parent()
            .map_or(Ok(()), |folder| disk.sync_folder(folder))
    }
}

pub(crate) fn open(layout: &Layout) -> Result<Opened, OpenError> {
    let disk = layout.disk();
    disk.make_folder(layout.root())
        .map_err(OpenError::io("make", layout.root()))?;
    let parent = layout.root().parent();
    if let Err(error) = parent.map_or(Ok(()), |parent| disk.sync_folder(parent)) {
        tracing::warn!(%error, "the name of the spool's folder may not survive a power cut");
    }
    if let Err(error) = disk.make_folder(&layout.corrupt()) {
        tracing::warn!(%error, "corrupt bytes will not be set aside");
    }
    let lock = lock(layout)?;
    // Gone before the first append: whatever happens from here on is an unclean stop until the next mark.
    let mark = CleanMark::take(layout);

    let mut damage = Damage::default();
    let (mut epochs, mut others) = (Vec::new(), Vec::new());
    for place in epoch_folders(layout)? {
        let names = other_names(layout, place);
        epochs.push(recover_epoch(
            layout,
            place,
            (mark.as_ref(), ended::read(&names)),
            &mut damage,
        ));
        others.push(names);
    }
    let last = epochs.last().map(|last: &EpochIndex| last.epoch);
    let clean = last.is_none_or(|last| mark.as_ref().is_some_and(|mark| mark.is_of(last)));
    if let Some(last) = epochs.last().filter(|_| !clean) {
        sync_found(&**disk, last, &mut damage);
    }
    let continued = mark
        .as_ref()
        .and_then(|mark| mark.continues(&**disk, epochs.last()?));
    let epoch_continued = continued.is_some();
    thinned::finish(&**disk, &mut epochs, &others);
    let (staged, staged_bytes) = staging::recover(&**disk, &layout.staging(), &epochs);
    if !clean {
        damage.losses.push(unclean(
            damage
                .last
                .max(staged.iter().filter_map(|staged| staged.last).max()),
        ));
    }
    let ended = epochs.len().saturating_sub(usize::from(epoch_continued));
    for (epoch, names) in epochs.iter().zip(&others).take(ended) {
        ended::write(&**disk, epoch, names);
    }
    let (mut current, next) = match (epochs.pop(), continued) {
        (Some(last), Some(next)) => (last, next),
        (last, _) => {
            epochs.extend(last);
            let ordinal = epochs.last().map_or(1, |last| last.ordinal.saturating_add(1));
            (begin_epoch(layout, ordinal), PerLane::from_fn(|_| 1))
        }
    };
    let waits = |epoch: &EpochIndex| staged.iter().any(|staged| staged.epoch == epoch.epoch);
    epochs.retain(|epoch| waits(epoch) || !forgotten(&**disk, epoch));
    for lane in Lane::ALL.iter().copied() {
        let (index, next) = (current.lanes.get_mut(lane), *next.get(lane));
        if index.extents.is_empty() {
            (index.next, index.acknowledged) = (next, next.saturating_sub(1));
        }
    }
    epochs.push(current);
    let index = Index {
        epochs,
        ..Index::default()
    };
    let recovered = Recovered {
        epoch: index.current_epoch(),
        epoch_continued,
        clean,
        records: index.records(),
        bytes: index.bytes(),
        torn_bytes: damage.torn_bytes,
        corrupt_bytes: damage.corrupt_bytes,
        staged_ticks: staged.iter().map(|staged| staged.ticks).sum(),
    };
    Ok(Opened {
        lock,
        index,
        next,
        losses: damage.losses,
        leftovers: damage.leftovers,
        markers: damage.markers,
        staged,
        staged_bytes,
        recovered,
    })
}

fn lock(layout: &Layout) -> Result<Box<dyn DiskFile>, OpenError> {
    let (path, disk) = (layout.lock(), layout.disk());
    // A disk that became read-only holds the file already, and it can be locked all the same.
    let file = disk
        .open(&path, Access::Create)
        .or_else(|error| disk.open(&path, Access::Read).map_err(|_| error))
        .map_err(OpenError::io("open", &path))?;
    match file.try_lock() {
        Ok(true) => Ok(file),
        Ok(false) => Err(OpenError::Locked {
            path: layout.root().to_owned(),
        }),
        Err(error) => Err(OpenError::io("lock", &path)(error)),
    }
}

fn epoch_folders(layout: &Layout) -> Result<Vec<(u32, SpoolEpoch)>, OpenError> {
    let root = layout.root();
    let names = layout.disk().list(root).map_err(OpenError::io("list", root))?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| layout::parse_epoch(name))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// What lies beside the lanes of an epoch. A folder that cannot be listed has nothing of the kind: its lanes cannot
/// be read either.
fn other_names(layout: &Layout, (ordinal, epoch): (u32, SpoolEpoch)) -> Vec<String> {
    let mut names = layout
        .disk()
        .list(&layout.epoch(ordinal, epoch))
        .unwrap_or_default();
    names.retain(|name| layout::parse_entry(name).is_none());
    names
}

/// `said` is where its lanes end by the mark of a clean stop, and by what was noted when the next epoch began.
fn recover_epoch(
    layout: &Layout,
    (ordinal, epoch): (u32, SpoolEpoch),
    (mark, ended): (Option<&CleanMark>, [u64; 3]),
    damage: &mut Damage,
) -> EpochIndex {
    let folder = layout.epoch(ordinal, epoch);
    let mut lanes = PerLane::default();
    for (lane, ended) in Lane::ALL.iter().copied().zip(ended) {
        let place = LaneFolder {
            disk: &**layout.disk(),
            folder: &folder,
            corrupt: &layout.corrupt(),
            ordinal,
            epoch,
            lane,
        };
        *lanes.get_mut(lane) = lane::recover_lane(
            place,
            mark.and_then(|mark| mark.next(epoch, lane)).max(Some(ended)),
            damage,
        );
    }
    EpochIndex {
        ordinal,
        epoch,
        folder,
        lanes,
    }
}

/// After a kill the kernel may still show what was never synced; nothing of it may be sent before it is. Earlier
/// epochs went through this when the next one began.
fn sync_found(disk: &dyn Disk, last: &EpochIndex, damage: &mut Damage) {
    for lane in Lane::ALL.iter().copied() {
        let segments = last
            .lanes
            .get(lane)
            .extents
            .iter()
            .filter(|extent| extent.bytes() > 0);
        let mut paths = segments.map(|extent| extent.path(&last.folder, lane));
        let synced = paths
            .try_for_each(|path| disk.open(&path, Access::Read)?.sync_all())
            .and_then(|()| disk.sync_folder(&last.folder));
        if let Err(error) = synced {
            tracing::error!(%error, %lane, "what the last run left cannot be made durable");
            damage.losses.push(Loss {
                lane,
                reason: "unsynced",
                ..unclean(None)
            });
        }
    }
}

/// A new epoch. On a disk that refuses its folder, the first append that finds room makes it.
fn begin_epoch(layout: &Layout, ordinal: u32) -> EpochIndex {
    let epoch = clock::new_epoch();
    let folder = layout.epoch(ordinal, epoch);
    if let Err(error) = layout::durable_folder(&**layout.disk(), &folder) {
        tracing::error!(%error, path = %folder.display(), "the disk refuses a new epoch: frames wait in memory");
    }
    EpochIndex {
        ordinal,
        epoch,
        folder,
        lanes: PerLane::default(),
    }
}

/// Removes the folder of an epoch of which nothing is left.
pub(crate) fn forgotten(disk: &dyn Disk, epoch: &EpochIndex) -> bool {
    let empty = Lane::ALL
        .iter()
        .all(|lane| epoch.lanes.get(*lane).extents.is_empty());
    if empty {
        ended::remove(disk, &epoch.folder);
    }
    // Files that are not ours keep the folder; that harms nobody.
    empty && disk.remove_folder(&epoch.folder).is_ok()
}

/// From when rows may be missing after a run whose latest row is of `last`.
fn lost_from(last: TimeMicros, now: TimeMicros) -> TimeMicros {
    if last <= now {
        // Another lane may have been flushed later than the one that lost something.
        last.plus_millis(-FLUSH_AGE_MAX_MS)
    } else {
        // The clock was ahead for a while: no row says when the run ended.
        now.plus_millis(-UNKNOWN_REACH_MS)
    }
}

/// What waited in memory when the last run ended is lost, and nobody counted it.
fn unclean(last: Option<TimeMicros>) -> Loss {
    let now = clock::wall();
    Loss {
        table: "*",
        lane: Lane::Events,
        span: (last.map_or(now, |last| lost_from(last, now)), now),
        count: 0,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "unclean_stop",
    }
}
