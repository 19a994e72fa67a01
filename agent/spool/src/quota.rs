//! Keeping the spool within its bytes: acknowledged segments are deleted, then the oldest become tombstones.

use std::io;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Frame, Lane, TimeMicros};

use crate::clock;
use crate::disk::{Access, Disk};
use crate::gaps::Loss;
use crate::index::{EpochIndex, Extent, ExtentKind};
use crate::intake::Damaged;
use crate::layout;
use crate::recovery::{Damage, LaneFolder, forgotten, repair_segment};
use crate::task::{Writer, loss_of};

/// Lanes in the order in which they give way.
const YIELDING: [Lane; 3] = [Lane::Metrics, Lane::Events, Lane::Critical];

impl Writer {
    /// Deletes what was acknowledged long enough ago, and enforces the quotas.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let retention = self.shared.config.retention.get();
        for lane in YIELDING {
            self.seal_if_done(lane, now);
            while self.delete_acknowledged(lane, |at| now.saturating_duration_since(at) >= retention) {}
            let quota = self.shared.config.quota_bytes(lane);
            while self.held_bytes(lane) > quota {
                if !self.delete_acknowledged(lane, |_| true) && !self.shed_oldest(lane, "spool_quota", now) {
                    break;
                }
            }
            crate::metrics::held(lane, self.held_bytes(lane));
        }
        let mut index = self.shared.index.lock();
        let current = self.epoch;
        index
            .epochs
            .retain(|epoch| epoch.epoch == current || !forgotten(&**self.shared.layout.disk(), epoch));
    }

    /// The disk refused a frame of `lane`: what is acknowledged goes, then the oldest of a lesser lane.
    pub(crate) fn make_room(&mut self, lane: Lane, now: Instant) {
        let mut made = false;
        for other in YIELDING {
            while self.delete_acknowledged(other, |_| true) {
                made = true;
            }
        }
        let lesser = YIELDING.into_iter().take_while(|other| *other != lane);
        for other in lesser {
            if made || self.shed_oldest(other, "disk_full", now) {
                return;
            }
        }
    }

    /// Replaces a segment in which a reader met bytes that are no frame.
    pub(crate) fn repair(&mut self, (ordinal, lane, first): Damaged) {
        let found = {
            let index = self.shared.index.lock();
            index.find(ordinal).and_then(|epoch| {
                let extent = epoch
                    .lanes
                    .get(lane)
                    .extents
                    .iter()
                    .find(|extent| extent.first == first)?;
                Some((epoch.epoch, epoch.folder.clone(), *extent))
            })
        };
        let found = found.filter(|(_, _, extent)| extent.kind != ExtentKind::Shed);
        let Some((epoch, folder, extent)) = found else {
            // Shed or deleted in between: the reader has to look at the index again.
            self.shared.notify();
            return;
        };
        self.seal_if_open(lane, epoch == self.epoch, first);
        let corrupt = self.shared.layout.corrupt();
        let place = LaneFolder {
            disk: &**self.shared.layout.disk(),
            folder: &folder,
            corrupt: &corrupt,
            ordinal,
            epoch,
            lane,
        };
        let mut damage = Damage::default();
        match repair_segment(place, extent, &mut damage) {
            Ok(repaired) => {
                for loss in &damage.losses {
                    self.gaps.add(loss);
                }
                self.leftovers.extend(damage.leftovers);
                if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
                    let extents = &mut epoch.lanes.get_mut(lane).extents;
                    if let Some(at) = extents.iter().position(|extent| extent.first == first) {
                        extents.remove(at);
                        for (offset, part) in repaired.into_iter().enumerate() {
                            extents.insert(at.saturating_add(offset), part);
                        }
                    }
                }
                self.shared.notify();
            }
            Err(error) => tracing::error!(%lane, first, %error, "could not repair a spool segment"),
        }
    }

    /// Removes what repairs left, now that their losses are durable.
    pub(crate) fn remove_leftovers(&mut self) {
        for left in std::mem::take(&mut self.leftovers) {
            let used = |extent: &Extent| {
                extent.first == left.first
                    && matches!(extent.kind, ExtentKind::Segment { bytes, .. } if bytes != left.keep)
            };
            let index = self.shared.index.lock();
            let lane = index.find(left.ordinal).map(|epoch| epoch.lanes.get(left.lane));
            // The name may have been given again to an append since.
            if lane.is_some_and(|lane| lane.extents.iter().any(used)) {
                continue;
            }
            drop(index);
            match left.remove(&**self.shared.layout.disk()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, lane = %left.lane, first = left.first, "bytes of a damaged segment stay");
                }
                _ => {}
            }
        }
    }

    fn held_bytes(&self, lane: Lane) -> u64 {
        self.shared
            .index
            .lock()
            .epochs
            .iter()
            .map(|epoch| epoch.lanes.get(lane).bytes())
            .sum()
    }

    fn seal_if_open(&mut self, lane: Lane, current: bool, first: u64) {
        let appender = self.appenders.get_mut(lane);
        if current && appender.open_segment() == Some(first) {
            appender.seal();
        }
    }

    /// A quiet lane's file would otherwise stay for ever.
    fn seal_if_done(&mut self, lane: Lane, now: Instant) {
        let retention = self.shared.config.retention.get();
        let appender = self.appenders.get_mut(lane);
        if appender
            .opened()
            .is_some_and(|opened| now.saturating_duration_since(opened) >= retention)
        {
            appender.seal();
        }
    }

    /// Deletes the oldest extent of `lane` that is acknowledged since a moment that `old_enough` accepts.
    fn delete_acknowledged(&mut self, lane: Lane, old_enough: impl Fn(Instant) -> bool) -> bool {
        if lane == Lane::Metrics && self.staging.is_stale() {
            return false;
        }
        let due = |extent: &&Extent| extent.acknowledged_at.is_some_and(&old_enough);
        self.take_oldest(lane, due).is_some_and(|(epoch, extent)| {
            self.seal_if_open(lane, epoch.epoch == self.epoch, extent.first);
            self.remove_file(&extent.path(&epoch.folder, lane));
            true
        })
    }

    /// Makes tombstones of the oldest segment of `lane`; its loss is in the spool, or at least known, before
    /// its file goes.
    fn shed_oldest(&mut self, lane: Lane, reason: &'static str, now: Instant) -> bool {
        let found = {
            let index = self.shared.index.lock();
            index.epochs.iter().find_map(|epoch| {
                let segment = |extent: &&Extent| matches!(extent.kind, ExtentKind::Segment { .. });
                let extent = epoch.lanes.get(lane).extents.iter().find(segment)?;
                let acknowledged = epoch.lanes.get(lane).acknowledged;
                Some((
                    epoch.ordinal,
                    epoch.epoch,
                    epoch.folder.clone(),
                    *extent,
                    acknowledged,
                ))
            })
        };
        let Some((ordinal, epoch, folder, extent, acknowledged)) = found else {
            return false;
        };
        self.seal_if_open(lane, epoch == self.epoch, extent.first);
        let path = extent.path(&folder, lane);
        for loss in losses_of(
            &**self.shared.layout.disk(),
            &path,
            lane,
            extent,
            acknowledged,
            reason,
        ) {
            self.gaps.add(&loss);
        }
        if self.shared.config.quota_bytes(lane) > 0 && reason != "disk_full" {
            self.write_gaps(now);
        }
        let before = self.shed_before(ordinal, lane, extent.first);
        let merged = Extent {
            first: before.map_or(extent.first, |before| before.first),
            kind: ExtentKind::Shed,
            ..extent
        };
        let (segment, shed) = (
            layout::segment_name(lane, extent.first),
            layout::shed_name(lane, merged.first, merged.next),
        );
        if let Err(error) = layout::turn_to_shed(&**self.shared.layout.disk(), &folder, &segment, &shed) {
            tracing::warn!(%lane, %error, "could not mark tombstones; the segment stays");
            return false;
        }
        if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
            let extents = &mut epoch.lanes.get_mut(lane).extents;
            extents.retain(|other| other.next <= merged.first || other.first >= merged.next);
            let at = extents.partition_point(|other| other.next <= merged.first);
            extents.insert(at, merged);
        }
        self.remove_file(&path);
        if let Some(before) = before {
            self.remove_file(&before.path(&folder, lane));
        }
        self.shared.notify();
        true
    }

    fn shed_before(&self, ordinal: u32, lane: Lane, first: u64) -> Option<Extent> {
        let index = self.shared.index.lock();
        let extents = &index.find(ordinal)?.lanes.get(lane).extents;
        extents
            .iter()
            .find(|extent| extent.next == first && extent.kind == ExtentKind::Shed)
            .copied()
    }

    fn take_oldest(&self, lane: Lane, due: impl Fn(&&Extent) -> bool) -> Option<(EpochIndex, Extent)> {
        let mut index = self.shared.index.lock();
        for epoch in &mut index.epochs {
            let extents = &mut epoch.lanes.get_mut(lane).extents;
            if extents.front().filter(|extent| due(extent)).is_some() {
                let extent = extents.pop_front()?;
                let place = EpochIndex {
                    lanes: crate::index::PerLane::default(),
                    ..epoch.clone()
                };
                return Some((place, extent));
            }
        }
        None
    }

    fn remove_file(&self, path: &Path) {
        if let Err(error) = layout::remove_if_there(&**self.shared.layout.disk(), path) {
            tracing::warn!(%error, path = %path.display(), "could not remove a spool file");
        }
    }
}

/// What goes with a segment: the rows of its frames that the collector does not have. Records that cannot be
/// read any more are counted as records.
pub(crate) fn losses_of(
    disk: &dyn Disk,
    path: &Path,
    lane: Lane,
    extent: Extent,
    acknowledged: u64,
    reason: &'static str,
) -> Vec<Loss> {
    let mut rest = disk
        .open(path, Access::Read)
        .and_then(|file| file.read_whole(u64::MAX))
        .map(Bytes::from)
        .unwrap_or_default();
    let from = extent.first.max(acknowledged.saturating_add(1));
    let mut unread = extent.next.saturating_sub(from);
    let mut losses = Vec::new();
    let mut span: Option<(TimeMicros, TimeMicros)> = None;
    while let Ok(frame) = Frame::decode(&rest) {
        let number = frame.id.sequence.0;
        if from <= number && number < extent.next {
            unread = unread.saturating_sub(1);
            losses.push(loss_of(&frame, reason));
        }
        span = Some((frame.from_time, frame.to_time));
        rest = rest.slice(frame.encoded_len()..);
    }
    if unread > 0 {
        let now = clock::wall();
        losses.push(Loss {
            table: "*",
            lane,
            span: (span.map_or(now, |(_, last)| last.min(now)), now),
            count: unread,
            exactness: Exactness::AtLeast,
            stage: GapStage::Spool,
            reason,
        });
    }
    losses
}
