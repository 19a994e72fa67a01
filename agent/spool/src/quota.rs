//! Keeping the spool within its bytes: acknowledged segments are deleted, metrics are thinned, then the oldest become
//! tombstones.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Frame, Lane, SpoolEpoch, TimeMicros};

use crate::clock;
use crate::disk::{Access, Disk};
use crate::gaps::Loss;
use crate::index::{EpochIndex, Extent, ExtentKind};
use crate::intake::Damaged;
use crate::layout;
use crate::recovery::{Damage, LaneFolder, Marker, forgotten, repair_segment};
use crate::task::{Writer, loss_of};
use crate::thin::SEGMENTS_PER_ROUND;

/// Lanes in the order in which they give way.
const YIELDING: [Lane; 3] = [Lane::Metrics, Lane::Events, Lane::Critical];

impl Writer {
    /// Deletes what was acknowledged long enough ago, and enforces the quotas.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let retention = self.shared.config.retention.get();
        if self.gaps.is_empty() && !self.disk_refuses() {
            self.reserve.keep(now);
        }
        if self.gaps.is_empty() && !(self.markers.is_empty() && self.leftovers.is_empty()) {
            self.remove_leftovers();
        }
        for lane in YIELDING {
            self.seal_if_done(lane, now);
            while self.delete_acknowledged(lane, |at| now.saturating_duration_since(at) >= retention) {}
            if lane == Lane::Metrics {
                self.complete_staged(now);
                self.thin(now);
            }
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
        index.epochs.retain(|epoch| {
            let waits =
                epoch.epoch == current || self.staged.iter().any(|staged| staged.epoch == epoch.epoch);
            waits || !forgotten(&**self.shared.layout.disk(), epoch)
        });
    }

    /// Thins while what the collector lacks comes near the quota.
    fn thin(&mut self, now: Instant) {
        if self.thinned.is_some() && !self.place_thinned() {
            return;
        }
        for _ in 0..SEGMENTS_PER_ROUND {
            if self.unacknowledged_bytes(Lane::Metrics) <= self.shared.config.thin_from_bytes()
                || !self.thin_oldest(now)
            {
                return;
            }
        }
    }

    fn unacknowledged_bytes(&self, lane: Lane) -> u64 {
        let index = self.shared.index.lock();
        let extents = index
            .epochs
            .iter()
            .flat_map(|epoch| &epoch.lanes.get(lane).extents);
        extents
            .filter(|extent| extent.acknowledged_at.is_none())
            .map(Extent::bytes)
            .sum()
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
            if made {
                return;
            }
            if self.shed_oldest(other, "disk_full", now) {
                // There is room for it now, and until it is written a kill would take the word with it.
                self.write_gaps(now);
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
                self.markers.extend(damage.markers);
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

    /// Marks on disk what repairs made tombstones of, now that their losses are durable; those that it refused.
    fn mark_tombstones(&mut self) -> Vec<Marker> {
        let mut refused = Vec::new();
        for marker in std::mem::take(&mut self.markers) {
            let found = {
                let index = self.shared.index.lock();
                index.find(marker.ordinal).and_then(|epoch| {
                    let extent = epoch.lanes.get(marker.lane).at_or_after(marker.first)?;
                    let covers = extent.kind == ExtentKind::Shed
                        && extent.first <= marker.first
                        && marker.next <= extent.next;
                    covers.then(|| (epoch.folder.clone(), extent))
                })
            };
            // Acknowledged and deleted since, or never in the index because its repair came to nothing.
            let Some((folder, extent)) = found else { continue };
            let name = layout::shed_name(marker.lane, extent.first, extent.next);
            if let Err(error) = layout::mark_file(&**self.shared.layout.disk(), &folder, &name) {
                tracing::warn!(%error, "could not mark tombstones; the next start finds the same hole");
                refused.push(marker);
            }
        }
        refused
    }

    /// Removes what repairs left, now that their losses are durable.
    pub(crate) fn remove_leftovers(&mut self) {
        let unmarked = self.mark_tombstones();
        self.markers.clone_from(&unmarked);
        for left in std::mem::take(&mut self.leftovers) {
            // The file that says that there was something has to stay.
            let needed = |marker: &Marker| {
                (marker.ordinal, marker.lane) == (left.ordinal, left.lane)
                    && left.keep == 0
                    && (marker.first..marker.next).contains(&left.first)
            };
            if unmarked.iter().any(needed) {
                continue;
            }
            // So has the one that says that the lane did not begin with what is staged.
            if left.keep == 0 && left.lane == Lane::Metrics && self.waits_staged(left.ordinal) {
                self.leftovers.push(left);
                continue;
            }
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

    /// Whether batches that the last run had staged are still to be written there.
    fn waits_staged(&self, ordinal: u32) -> bool {
        let index = self.shared.index.lock();
        let epoch = index.find(ordinal).map(|epoch| epoch.epoch);
        self.staged.iter().any(|staged| Some(staged.epoch) == epoch)
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
        // Beside a hole that is not marked yet, what is there says that there is one.
        let unmarked = self.markers.iter().any(|marker| marker.lane == lane);
        if unmarked || (lane == Lane::Metrics && self.staging.is_stale()) {
            return false;
        }
        let due = |extent: &&Extent| extent.acknowledged_at.is_some_and(&old_enough);
        self.take_oldest(lane, due).is_some_and(|(epoch, extent)| {
            self.seal_if_open(lane, epoch.epoch == self.epoch, extent.first);
            self.remove_file(&extent.path(&epoch.folder, lane));
            true
        })
    }

    /// Makes tombstones of the oldest segment of `lane` of which nothing was sent; when there is none but a quota has
    /// to hold, of the oldest. Its loss is in the spool, or at least known, before its file goes.
    fn shed_oldest(&mut self, lane: Lane, reason: &'static str, now: Instant) -> bool {
        let Some(doomed) = self.oldest_to_shed(lane) else {
            return false;
        };
        let Doomed {
            ordinal,
            epoch,
            ref folder,
            extent,
            ..
        } = doomed;
        self.seal_if_open(lane, epoch == self.epoch, extent.first);
        let path = extent.path(folder, lane);
        // A disk that refuses the tombstones refuses them again and again; the loss is one.
        let counted = Some((ordinal, extent.first));
        if *self.counted.get(lane) != counted {
            let (losses, in_flight) = losses_of(&**self.shared.layout.disk(), &path, lane, &doomed, reason);
            for loss in &losses {
                self.gaps.add(loss);
            }
            if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
                epoch.lanes.get_mut(lane).remember(in_flight);
            }
            *self.counted.get_mut(lane) = counted;
        }
        if self.shared.config.quota_bytes(lane) > 0 && reason != "disk_full" {
            self.write_gaps(now);
        }
        let buried = self.bury(ordinal, folder, lane, (doomed.from, extent.next));
        if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
            epoch.lanes.get_mut(lane).yielded(extent.first);
        }
        self.shared.notify();
        if let Err(error) = &buried {
            tracing::warn!(%lane, %error, "could not mark tombstones; the segment stays");
        }
        buried.is_ok()
    }

    /// Readers are kept from it until it is buried.
    fn oldest_to_shed(&self, lane: Lane) -> Option<Doomed> {
        let mut index = self.shared.index.lock();
        let find = |epoch: &EpochIndex, unsent: bool| {
            let index = epoch.lanes.get(lane);
            let may_go = |extent: &&Extent| {
                extent.kind != ExtentKind::Shed
                    && !index.yields(extent.first)
                    && extent.next > index.acknowledged.saturating_add(1)
                    && (!unsent || index.is_unsent(extent))
            };
            let extent = *index.extents.iter().find(may_go)?;
            let is_front = index
                .extents
                .front()
                .is_some_and(|front| front.first == extent.first);
            // What is acknowledged is deleted, not buried: to a store that was restored since it is what it lacks.
            let from = if is_front {
                extent.first.max(index.acknowledged.saturating_add(1))
            } else {
                extent.first
            };
            Some(Doomed {
                ordinal: epoch.ordinal,
                epoch: epoch.epoch,
                folder: epoch.folder.clone(),
                extent,
                from,
                acknowledged: index.acknowledged,
                sent: index.sent,
            })
        };
        let doomed = [true, false]
            .into_iter()
            .find_map(|unsent| index.epochs.iter().find_map(|epoch| find(epoch, unsent)))?;
        if let Some(epoch) = index.find_mut(doomed.ordinal) {
            let range = (doomed.extent.first, doomed.extent.next);
            epoch.lanes.get_mut(lane).yielding.push(range);
        }
        Some(doomed)
    }

    /// Makes tombstones of `first..next`, which end where a segment does, on disk and in the index; those beside them
    /// become one with them.
    pub(crate) fn bury(
        &self,
        ordinal: u32,
        folder: &Path,
        lane: Lane,
        (first, next): (u64, u64),
    ) -> io::Result<()> {
        let disk = &**self.shared.layout.disk();
        let (merged, replaced) = {
            let index = self.shared.index.lock();
            let Some(epoch) = index.find(ordinal) else {
                return Ok(());
            };
            let before = epoch.lanes.get(lane);
            let merged = before.clone().bury(first, next);
            let replaced: Vec<Extent> = before
                .extents
                .iter()
                .filter(|extent| extent.first < merged.next && merged.first < extent.next)
                .copied()
                .collect();
            (merged, replaced)
        };
        let raw = replaced.iter().find(|extent| extent.kind != ExtentKind::Shed);
        let named = raw.map_or(first, |extent| extent.first);
        let (segment, shed) = (
            layout::segment_name(lane, named),
            layout::shed_name(lane, merged.first, merged.next),
        );
        layout::turn_to_shed(disk, folder, &segment, &shed)?;
        if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
            epoch.lanes.get_mut(lane).bury(first, next);
        }
        for extent in replaced {
            let path = extent.path(folder, lane);
            if path != folder.join(&shed) {
                self.remove_file(&path);
            }
        }
        Ok(())
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

/// A segment that is to become tombstones.
#[derive(Debug)]
pub(crate) struct Doomed {
    pub(crate) ordinal: u32,
    pub(crate) epoch: SpoolEpoch,
    pub(crate) folder: PathBuf,
    pub(crate) extent: Extent,
    /// First number that becomes one.
    pub(crate) from: u64,
    pub(crate) acknowledged: u64,
    /// Up to here the collector may have it.
    pub(crate) sent: u64,
}

/// What goes with a segment: the rows of its frames that the collector does not have. Of those that were sent and not
/// acknowledged nobody knows whether it has them: at least none is lost, and by their numbers what is lost should it say
/// that it lacks them. Records that cannot be read any more are counted as records.
pub(crate) fn losses_of(
    disk: &dyn Disk,
    path: &Path,
    lane: Lane,
    doomed: &Doomed,
    reason: &'static str,
) -> (Vec<Loss>, Vec<(u64, Loss)>) {
    let mut rest = disk
        .open(path, Access::Read)
        .and_then(|file| file.read_whole(u64::MAX))
        .map(Bytes::from)
        .unwrap_or_default();
    let extent = doomed.extent;
    let from = extent.first.max(doomed.acknowledged.saturating_add(1));
    let certain = from.max(doomed.sent.saturating_add(1)).min(extent.next.max(from));
    let (mut unsure, mut unread) = (certain.saturating_sub(from), extent.next.saturating_sub(certain));
    let (mut losses, mut in_flight) = (Vec::new(), Vec::new());
    let mut span: Option<(TimeMicros, TimeMicros)> = None;
    while let Ok(frame) = Frame::decode(&rest) {
        let number = frame.id.sequence.0;
        let loss = loss_of(&frame, reason);
        if certain <= number && number < extent.next {
            unread = unread.saturating_sub(1);
            losses.push(loss);
        } else if from <= number && number < certain {
            unsure = unsure.saturating_sub(1);
            losses.push(Loss {
                count: 0,
                exactness: Exactness::AtLeast,
                ..loss
            });
            in_flight.push((number, loss));
        }
        span = Some((frame.from_time, frame.to_time));
        rest = rest.slice(frame.encoded_len()..);
    }
    if unread > 0 || unsure > 0 {
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
    (losses, in_flight)
}
