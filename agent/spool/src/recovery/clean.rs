//! The mark of a clean stop: with it, and within the same boot, an epoch goes on.

use std::fs;
use std::io::Write as _;

use fleetmend_event::{Lane, SpoolEpoch};
use serde::{Deserialize, Serialize};

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
    pub(crate) fn new(epoch: SpoolEpoch, next: &PerLane<u64>) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id(),
            epoch,
            next_critical: *next.get(Lane::Critical),
            next_events: *next.get(Lane::Events),
            next_metrics: *next.get(Lane::Metrics),
        }
    }

    /// Makes the stop a clean one.
    pub(crate) fn write(&self, layout: &Layout) -> std::io::Result<()> {
        let path = layout.clean();
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        layout::sync_folder(layout.root())
    }

    /// Reads the mark and removes it, durably. One that cannot be understood, or that stays, is the same as
    /// none: then another epoch begins, which the mark does not fit.
    pub(crate) fn take(layout: &Layout) -> Option<Self> {
        let path = layout.clean();
        let mark = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= BYTES_MAX => fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
                .filter(|mark| mark.version == VERSION),
            _ => None,
        };
        let removed = layout::remove_if_there(&path).and_then(|()| layout::sync_folder(layout.root()));
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

    /// The numbers with which `last` goes on; `None` when it must not.
    pub(crate) fn continues(&self, last: &EpochIndex) -> Option<PerLane<u64>> {
        if last.epoch != self.epoch || self.boot_id != boot_id() || self.boot_id.is_empty() {
            return None;
        }
        let mut next = PerLane::from_fn(|_| 1);
        for (lane, marked) in [
            (Lane::Critical, self.next_critical),
            (Lane::Events, self.next_events),
            (Lane::Metrics, self.next_metrics),
        ] {
            let found = last.lanes.get(lane);
            // What is on disk must end where the mark says, or be gone because it was acknowledged.
            if !found.extents.is_empty() && found.next != marked {
                return None;
            }
            *next.get_mut(lane) = marked.max(1);
        }
        Some(next)
    }
}

/// What tells this boot of the kernel from every other; empty when it cannot be read, and then no epoch goes on.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
