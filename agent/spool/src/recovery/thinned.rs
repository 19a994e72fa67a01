//! Aggregates that a killed run had made: its gap row decides whether they count. See [`crate::thin`].

use std::path::Path;

use bytes::Bytes;
use fleetmend_event::table::{Gap, Table as _};
use fleetmend_event::{Frame, Lane};

use crate::disk::{Access, Disk};
use crate::index::{EpochIndex, Extent, ExtentKind};
use crate::layout::{self, ThinName};
use crate::thin::{REASON, place};

/// More of a file than any segment has is not looked at.
const BYTES_MAX: u64 = 65 * 1024 * 1024;

/// Puts aggregates into their lane whose gap row is there, and removes all others. What the disk refuses is tried
/// again at the next start; until then neither they nor what they stand for is sent.
pub(super) fn finish(disk: &dyn Disk, epochs: &mut [EpochIndex], others: &[Vec<String>]) {
    for (at, names) in others.iter().enumerate() {
        for name in names {
            let Some(epoch) = epochs.get(at) else { continue };
            let path = epoch.folder.join(name);
            // What was being written when a run was killed counts for nothing.
            if name.ends_with(".new")
                && let Err(error) = layout::remove_if_there(disk, &path)
            {
                tracing::warn!(%error, path = %path.display(), "could not remove half a file");
            }
            let Some(thin) = ThinName::parse(name) else {
                continue;
            };
            let frames = frames(disk, &path);
            if !is_next(epoch, &thin, &frames) || !has_gap(disk, epoch, thin.gap) {
                if let Err(error) = layout::remove_if_there(disk, &path) {
                    tracing::warn!(%error, path = %path.display(), "could not remove aggregates that do not count");
                }
                continue;
            }
            let bytes = frames.iter().map(|frame| frame.encoded_len() as u64).sum();
            let next = thin.first.saturating_add(frames.len() as u64);
            if bury(disk, epochs, &thin)
                && let Some(epoch) = epochs.get_mut(at)
            {
                match place(disk, &epoch.folder, &thin) {
                    Ok(()) => epoch.lanes.get_mut(Lane::Metrics).place(thin.first, next, bytes),
                    Err(error) => tracing::warn!(%error, "aggregates wait for the next start"),
                }
            }
        }
    }
}

/// Makes tombstones of what the aggregates stand for.
fn bury(disk: &dyn Disk, epochs: &mut [EpochIndex], thin: &ThinName) -> bool {
    let source = epochs.iter_mut().find(|epoch| epoch.ordinal == thin.of_ordinal);
    let Some(source) = source else { return true };
    let lane = source.lanes.get_mut(Lane::Metrics);
    let (first, next) = thin.of;
    let raw =
        |extent: &Extent| extent.kind != ExtentKind::Shed && first <= extent.first && extent.next <= next;
    if !lane.extents.iter().any(raw) {
        return true;
    }
    let before = lane.extents.clone();
    // One with those beside them, by their name too: each extent is one file.
    let merged = lane.bury(first, next);
    let named = merged.path(&source.folder, Lane::Metrics);
    let buried = layout::turn_to_shed(
        disk,
        &source.folder,
        &layout::segment_name(Lane::Metrics, first),
        &layout::shed_name(Lane::Metrics, merged.first, merged.next),
    );
    if let Err(error) = buried {
        tracing::warn!(%error, "thinned samples stay until the next start");
        return false;
    }
    let covered = |extent: &&Extent| merged.first <= extent.first && extent.next <= merged.next;
    for extent in before.iter().filter(covered) {
        let path = extent.path(&source.folder, Lane::Metrics);
        let removed = if path == named {
            Ok(())
        } else {
            layout::remove_if_there(disk, &path)
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "could not remove what tombstones cover");
        }
    }
    true
}

fn frames(disk: &dyn Disk, path: &Path) -> Vec<Frame> {
    let read = disk
        .open(path, Access::Read)
        .and_then(|file| file.read_whole(BYTES_MAX));
    let mut rest = Bytes::from(read.unwrap_or_default());
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let Ok(frame) = Frame::decode(&rest) else {
            return Vec::new();
        };
        rest = rest.slice(frame.encoded_len()..);
        frames.push(frame);
    }
    frames
}

/// Whether these are the frames that come next in the lane.
fn is_next(epoch: &EpochIndex, thin: &ThinName, frames: &[Frame]) -> bool {
    let lane = epoch.lanes.get(Lane::Metrics);
    let ours = frames.iter().zip(thin.first..).all(|(frame, number)| {
        frame.id.epoch == epoch.epoch && frame.id.lane == Lane::Metrics && frame.id.sequence.0 == number
    });
    !frames.is_empty() && ours && (lane.next == 0 || lane.next == thin.first)
}

fn has_gap(disk: &dyn Disk, epoch: &EpochIndex, number: u64) -> bool {
    let lane = epoch.lanes.get(Lane::Critical);
    let Some(extent) = lane.at_or_after(number) else {
        return false;
    };
    if extent.first > number {
        // Acknowledged and deleted while the disk refused what comes after it.
        return true;
    }
    let found = frames(disk, &extent.path(&epoch.folder, Lane::Critical));
    let row = found.iter().find(|frame| frame.id.sequence.0 == number);
    let batch = row
        .filter(|row| row.table == Gap::ID)
        .and_then(|row| row.batch().ok()?);
    let gaps = batch.and_then(|batch| Gap::from_batch(&batch).ok());
    gaps.is_some_and(|gaps| gaps.iter().any(|gap| gap.reason == REASON))
}

#[cfg(test)]
mod tests {
    use fleetmend_event::SpoolEpoch;

    use super::*;
    use crate::disk::RealDisk;
    use crate::index::{LaneIndex, PerLane};

    #[test]
    fn tombstones_beside_others_are_one_file_as_they_are_one_extent() {
        let folder = tempfile::tempdir().unwrap();
        let extent = |first, next, kind| Extent {
            first,
            next,
            kind,
            acknowledged_at: None,
            thin: false,
        };
        let raw = ExtentKind::Segment { bytes: 4, version: 0 };
        let found = [
            extent(1, 5, ExtentKind::Shed),
            extent(5, 9, raw),
            extent(9, 12, ExtentKind::Shed),
            extent(12, 14, raw),
        ];
        for extent in &found {
            std::fs::write(extent.path(folder.path(), Lane::Metrics), b"rows").unwrap();
        }
        let mut lanes = PerLane::default();
        *lanes.get_mut(Lane::Metrics) = LaneIndex {
            extents: found.into(),
            next: 14,
            ..LaneIndex::default()
        };
        let mut epochs = [EpochIndex {
            ordinal: 1,
            epoch: SpoolEpoch::random(),
            folder: folder.path().to_owned(),
            lanes,
        }];
        let thin = ThinName {
            first: 14,
            gap: 1,
            of_ordinal: 1,
            of: (5, 9),
        };
        assert!(bury(&RealDisk, &mut epochs, &thin));
        let mut there: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        there.sort();
        let extents = &epochs[0].lanes.get(Lane::Metrics).extents;
        let mut known: Vec<_> = extents
            .iter()
            .map(|extent| extent.path(folder.path(), Lane::Metrics))
            .collect();
        known.sort();
        assert_eq!(there, known);
        assert_eq!(std::fs::metadata(&there[0]).unwrap().len(), 0, "{there:?}");
    }
}
