//! What lies on disk: per epoch and lane the extents of numbers, in order. Bodies are never in here.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fleetmend_event::{Lane, Mark, Sequence, SpoolEpoch};

use crate::gaps::Loss;
use crate::layout;

/// Records that were sent and are shed, per lane and epoch; of more of them the count stays unknown.
const UNSURE_MAX: usize = 4096;

/// One value per lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct PerLane<T> {
    critical: T,
    events: T,
    metrics: T,
}

impl<T> PerLane<T> {
    pub(crate) fn from_fn(mut make: impl FnMut(Lane) -> T) -> Self {
        Self {
            critical: make(Lane::Critical),
            events: make(Lane::Events),
            metrics: make(Lane::Metrics),
        }
    }

    pub(crate) fn get(&self, lane: Lane) -> &T {
        match lane {
            Lane::Critical => &self.critical,
            Lane::Events => &self.events,
            Lane::Metrics => &self.metrics,
        }
    }

    pub(crate) fn get_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Critical => &mut self.critical,
            Lane::Events => &mut self.events,
            Lane::Metrics => &mut self.metrics,
        }
    }
}

/// Consecutive numbers `first..next` that are kept the same way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) kind: ExtentKind,
    /// When all of it was found to be acknowledged.
    pub(crate) acknowledged_at: Option<Instant>,
    /// Thinning was done, or would gain nothing.
    pub(crate) thin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentKind {
    /// A segment file, durable up to `bytes`. `version` changes when the file is rewritten.
    Segment { bytes: u64, version: u64 },
    /// Tombstones; the body is gone.
    Shed,
}

/// One lane of one epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneIndex {
    pub(crate) extents: VecDeque<Extent>,
    /// Highest number that the collector has made durable.
    pub(crate) acknowledged: u64,
    /// Highest number that may have been sent since the collector said what it has: until it says so again, it may
    /// have stored what it did not acknowledge.
    pub(crate) sent: u64,
    /// Highest number that was ever handed out from this folder; after a kill not more than that. A number beyond it
    /// that the collector has came from a copy of the disk.
    pub(crate) handed: u64,
    /// Numbers that the writer is about to replace; nobody reads them until it has.
    pub(crate) yielding: Vec<(u64, u64)>,
    /// What was shed of records that were sent: lost if the collector says that it lacks them.
    pub(crate) unsure: Vec<(u64, Loss)>,
    /// One past the highest number that was ever durable here; 0 when nothing says that there was one.
    pub(crate) next: u64,
}

/// One life of the spool.
#[derive(Debug, Clone)]
pub(crate) struct EpochIndex {
    pub(crate) ordinal: u32,
    pub(crate) epoch: SpoolEpoch,
    pub(crate) folder: PathBuf,
    pub(crate) lanes: PerLane<LaneIndex>,
}

/// All of it, oldest epoch first; the last one is being written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) epochs: Vec<EpochIndex>,
    /// Of the unsure ones those that the collector turned out to lack.
    pub(crate) lost: Vec<Loss>,
}

impl Extent {
    pub(crate) fn bytes(&self) -> u64 {
        match self.kind {
            ExtentKind::Segment { bytes, .. } => bytes,
            ExtentKind::Shed => 0,
        }
    }

    pub(crate) fn path(&self, folder: &Path, lane: Lane) -> PathBuf {
        folder.join(match self.kind {
            ExtentKind::Segment { .. } => layout::segment_name(lane, self.first),
            ExtentKind::Shed => layout::shed_name(lane, self.first, self.next),
        })
    }
}

impl LaneIndex {
    pub(crate) fn bytes(&self) -> u64 {
        self.extents.iter().map(Extent::bytes).sum()
    }

    /// Frames up to `next` are durable in the file that begins with `first`.
    pub(crate) fn grow(&mut self, first: u64, next: u64, bytes: u64) {
        self.next = next;
        if let Some(last) = self.extents.back_mut().filter(|last| last.first == first)
            && let ExtentKind::Segment { bytes: durable, .. } = &mut last.kind
        {
            *durable = bytes;
            last.next = next;
            (last.acknowledged_at, last.thin) = (None, false);
            return;
        }
        let kind = ExtentKind::Segment { bytes, version: 0 };
        self.extents.push_back(Extent {
            first,
            next,
            kind,
            acknowledged_at: None,
            thin: false,
        });
    }

    /// Puts tombstones in the place of `first..next`, one with those beside them; the range that they cover now.
    pub(crate) fn bury(&mut self, first: u64, next: u64) -> Extent {
        let shed = |extent: &&Extent| extent.kind == ExtentKind::Shed;
        let mut of = (first, next);
        for beside in self.extents.iter().filter(shed) {
            if beside.next >= of.0 && beside.first <= of.1 {
                of = (of.0.min(beside.first), of.1.max(beside.next));
            }
        }
        let buried = Extent {
            first: of.0,
            next: of.1,
            kind: ExtentKind::Shed,
            acknowledged_at: None,
            thin: false,
        };
        self.extents
            .retain(|other| other.next <= of.0 || other.first >= of.1);
        let at = self.extents.partition_point(|other| other.next <= of.0);
        self.extents.insert(at, buried);
        buried
    }

    /// Aggregates were put at the end, in a file of their own.
    pub(crate) fn place(&mut self, first: u64, next: u64, bytes: u64) {
        self.grow(first, next, bytes);
        if let Some(last) = self.extents.back_mut() {
            last.thin = true;
        }
    }

    /// Whether the writer is about to replace the extent of `number`.
    pub(crate) fn yields(&self, number: u64) -> bool {
        self.yielding
            .iter()
            .any(|(first, next)| (*first..*next).contains(&number))
    }

    /// The writer replaced the extent that began with `first`, or gave it back.
    pub(crate) fn yielded(&mut self, first: u64) {
        self.yielding.retain(|range| range.0 != first);
    }

    /// Whether nobody can have got anything of the extent yet.
    pub(crate) fn is_unsent(&self, extent: &Extent) -> bool {
        extent.first > self.sent.max(self.acknowledged)
    }

    /// How far records of this folder are at the collector, which has the stream up to `mark`. The number that a copy
    /// of the disk completes from staging may be here with more ticks: what was never handed out is sent all the
    /// same. Where the collector has more than lies here, the run that had staged it went on, and it has everything.
    fn delivered(&self, lane: Lane, mark: u64) -> u64 {
        let last = self.next.saturating_sub(1);
        if mark > last || lane != Lane::Metrics {
            mark.min(last)
        } else {
            mark.min(self.handed)
        }
    }

    /// Numbers that are durable here and not yet at the collector.
    pub(crate) fn waiting(&self) -> u64 {
        self.next.saturating_sub(1).saturating_sub(self.acknowledged)
    }

    /// The extent that holds `number`, or the first one after it.
    pub(crate) fn at_or_after(&self, number: u64) -> Option<Extent> {
        let index = self.extents.partition_point(|extent| extent.next <= number);
        self.extents.get(index).copied()
    }

    /// These were sent, and are about to be shed.
    pub(crate) fn remember(&mut self, in_flight: Vec<(u64, Loss)>) {
        let room = UNSURE_MAX.saturating_sub(self.unsure.len());
        self.unsure.extend(in_flight.into_iter().take(room));
    }

    /// What is shed and may be at the collector, which says now that it lacks it.
    fn take_lost(&mut self) -> Vec<Loss> {
        let mut lost = Vec::new();
        for (number, loss) in std::mem::take(&mut self.unsure) {
            let is_shed = self
                .at_or_after(number)
                .is_some_and(|extent| extent.kind == ExtentKind::Shed);
            if is_shed {
                lost.push(loss);
            } else {
                self.unsure.push((number, loss));
            }
        }
        lost
    }

    fn set_acknowledged(&mut self, number: u64, now: Instant) {
        self.acknowledged = number;
        self.unsure.retain(|(unsure, _)| *unsure > number);
        for extent in &mut self.extents {
            let whole = extent.next.saturating_sub(1) <= number;
            extent.acknowledged_at = if whole {
                extent.acknowledged_at.or(Some(now))
            } else {
                None
            };
        }
    }
}

impl Index {
    pub(crate) fn find(&self, ordinal: u32) -> Option<&EpochIndex> {
        self.epochs.iter().find(|epoch| epoch.ordinal == ordinal)
    }

    pub(crate) fn find_mut(&mut self, ordinal: u32) -> Option<&mut EpochIndex> {
        self.epochs.iter_mut().find(|epoch| epoch.ordinal == ordinal)
    }

    /// The epoch that is being written; an index always has one.
    pub(crate) fn current_epoch(&self) -> SpoolEpoch {
        self.epochs
            .last()
            .map_or(SpoolEpoch::from_bytes([0; 16]), |epoch| epoch.epoch)
    }

    fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.epochs
            .iter()
            .flat_map(|epoch| Lane::ALL.iter().flat_map(|lane| &epoch.lanes.get(*lane).extents))
    }

    /// Records that are kept, tombstones included.
    pub(crate) fn records(&self) -> u64 {
        self.extents()
            .map(|extent| extent.next.saturating_sub(extent.first))
            .sum()
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.extents().map(Extent::bytes).sum()
    }

    /// Highest durable number of every epoch and lane that has one.
    pub(crate) fn spooled(&self) -> Vec<Mark> {
        let mark = |epoch: &EpochIndex, lane: Lane| {
            let next = epoch.lanes.get(lane).next;
            (next > 1).then(|| Mark {
                epoch: epoch.epoch,
                lane,
                sequence: Sequence(next - 1),
            })
        };
        self.epochs
            .iter()
            .flat_map(|epoch| Lane::ALL.iter().filter_map(move |lane| mark(epoch, *lane)))
            .collect()
    }

    /// The collector has made these durable. Marks never go back here.
    pub(crate) fn acknowledge(&mut self, marks: &[Mark], now: Instant) {
        for mark in marks {
            if let Some(epoch) = self.epochs.iter_mut().find(|epoch| epoch.epoch == mark.epoch) {
                let lane = epoch.lanes.get_mut(mark.lane);
                let number = lane.delivered(mark.lane, mark.sequence.0);
                if number > lane.acknowledged {
                    lane.set_acknowledged(number, now);
                }
            }
        }
    }

    /// The collector has exactly these: a store that was restored has less than it once acknowledged.
    pub(crate) fn resume(&mut self, durable: &[Mark], now: Instant) {
        for epoch in &mut self.epochs {
            for lane in Lane::ALL.iter().copied() {
                let has = |mark: &&Mark| mark.epoch == epoch.epoch && mark.lane == lane;
                let number = durable.iter().find(has).map_or(0, |mark| mark.sequence.0);
                let index = epoch.lanes.get_mut(lane);
                index.set_acknowledged(index.delivered(lane, number), now);
                index.sent = number.min(index.next.saturating_sub(1));
                index.unsure.retain(|(unsure, _)| *unsure > number);
                self.lost.extend(index.take_lost());
            }
        }
    }
}
