//! The mark of a clean stop: with it, and within the same boot, an epoch goes on.

use fleetmend_event::{Lane, SpoolEpoch};
use serde::{Deserialize, Serialize};

use crate::disk::{Access, Disk};
use crate::index::{EpochIndex, PerLane};
use crate::layout::{self, Layout};

const VERSION: u32 = 1;
/// The mark has about 200 bytes; more is not ours.
const BYTES_MAX: u64 = 4096;

/// Written last, when everything else is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CleanMark {
    version: u32,
    boot_id: String,
    epoch: SpoolEpoch,
    next_critical: u64,
    next_events: u64,
    next_metrics: u64,
}

impl CleanMark {
    pub(crate) fn new(disk: &dyn Disk, epoch: SpoolEpoch, next: &PerLane<u64>) -> Self {
        Self {
            version: VERSION,
            boot_id: disk.boot_id(),
            epoch,
            next_critical: *next.get(Lane::Critical),
            next_events: *next.get(Lane::Events),
            next_metrics: *next.get(Lane::Metrics),
        }
    }

    /// Makes the stop a clean one.
    pub(crate) fn write(&self, layout: &Layout) -> std::io::Result<()> {
        let (path, disk) = (layout.clean(), layout.disk());
        let fresh = path.with_extension("new");
        let mut file = disk.open(&fresh, Access::Create)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        disk.rename(&fresh, &path)?;
        disk.sync_folder(layout.root())
    }

    /// Reads the mark and removes it, durably. One that cannot be understood, or that stays, is the same as
    /// none: then another epoch begins, which the mark does not fit.
    pub(crate) fn take(layout: &Layout) -> Option<Self> {
        let (path, disk) = (layout.clean(), layout.disk());
        let mark = match disk.length(&path) {
            Ok(bytes) if bytes <= BYTES_MAX => disk
                .open(&path, Access::Read)
                .and_then(|file| file.read_whole(BYTES_MAX))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
                .filter(|mark| mark.version == VERSION),
            _ => None,
        };
        let removed = layout::remove_if_there(&**disk, &path).and_then(|()| disk.sync_folder(layout.root()));
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "could not remove the mark of the last stop");
            return None;
        }
        mark
    }

    /// Whether it marks the stop of this epoch.
    pub(crate) fn is_of(&self, epoch: SpoolEpoch) -> bool {
        self.epoch == epoch
    }

    /// The number that came next in `lane` of `epoch`, when it is this mark's.
    pub(crate) fn next(&self, epoch: SpoolEpoch, lane: Lane) -> Option<u64> {
        let next = match lane {
            Lane::Critical => self.next_critical,
            Lane::Events => self.next_events,
            Lane::Metrics => self.next_metrics,
        };
        (self.epoch == epoch).then_some(next)
    }

    /// The numbers with which `last` goes on; `None` when it must not.
    pub(crate) fn continues(&self, disk: &dyn Disk, last: &EpochIndex) -> Option<PerLane<u64>> {
        if self.boot_id != disk.boot_id() || self.boot_id.is_empty() {
            return None;
        }
        let mut next = PerLane::from_fn(|_| 1);
        for lane in Lane::ALL.iter().copied() {
            let found = last.lanes.get(lane);
            let marked = self.next(last.epoch, lane)?;
            // What is on disk must end where the mark says, or be gone because it was acknowledged.
            if !found.extents.is_empty() && found.next != marked {
                return None;
            }
            *next.get_mut(lane) = marked.max(1);
        }
        Some(next)
    }
}
