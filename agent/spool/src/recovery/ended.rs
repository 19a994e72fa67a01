//! Where the lanes of an epoch end that is no longer written: without it, a file that damage cut off between two
//! frames, or took away, would look as if nothing had ever followed.

use std::path::Path;

use fleetmend_event::Lane;

use crate::disk::Disk;
use crate::index::EpochIndex;
use crate::layout;

/// The numbers that came next when the epoch ended, by [`Lane::ALL`]; nothing when that was not said.
pub(super) fn read(names: &[String]) -> [u64; 3] {
    let found = names.iter().filter_map(|name| layout::parse_end(name));
    found.max().unwrap_or_default()
}

/// Says where the epoch ends; a disk that refuses is asked again by the next start.
pub(super) fn write(disk: &dyn Disk, epoch: &EpochIndex, names: &[String]) {
    let said = read(names);
    let next = Lane::ALL.iter().zip(said).map(|(lane, said)| {
        let lane = epoch.lanes.get(*lane);
        if lane.extents.is_empty() {
            said
        } else {
            said.max(lane.next)
        }
    });
    let next: Vec<u64> = next.collect();
    let Ok(next) = <[u64; 3]>::try_from(next) else {
        return;
    };
    if next == said {
        return;
    }
    if let Err(error) = layout::mark_file(disk, &epoch.folder, &layout::end_name(next)) {
        tracing::warn!(%error, "could not note where an epoch ends");
        return;
    }
    if said != [0; 3] {
        forget(disk, &epoch.folder, &layout::end_name(said));
    }
}

/// Removes what was said, that the folder may go.
pub(super) fn remove(disk: &dyn Disk, folder: &Path) {
    let names = disk.list(folder).unwrap_or_default();
    for name in names.iter().filter(|name| layout::parse_end(name).is_some()) {
        forget(disk, folder, name);
    }
}

fn forget(disk: &dyn Disk, folder: &Path, name: &str) {
    if let Err(error) = layout::remove_if_there(disk, &folder.join(name)) {
        tracing::debug!(%error, name, "could not remove where an epoch ended");
    }
}
