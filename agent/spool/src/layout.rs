//! Names of files and folders.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetmend_event::{Lane, SpoolEpoch};

use crate::disk::{Access, Disk};

/// The folder of the spool, and the disk it lies on.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

/// What a file in an epoch's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Frames from `first` on.
    Segment { lane: Lane, first: u64 },
    /// `first..next` are tombstones.
    Shed { lane: Lane, first: u64, next: u64 },
}

impl Layout {
    pub(crate) fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk }
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn clean(&self) -> PathBuf {
        self.root.join("clean")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn corrupt(&self) -> PathBuf {
        self.root.join("corrupt")
    }

    pub(crate) fn epoch(&self, ordinal: u32, epoch: SpoolEpoch) -> PathBuf {
        self.root.join(format!("{ordinal:08}-{epoch}"))
    }
}

/// Ordinal and epoch of a folder's name.
pub(crate) fn parse_epoch(name: &str) -> Option<(u32, SpoolEpoch)> {
    let (ordinal, epoch) = name.split_once('-')?;
    if ordinal.len() != 8 {
        return None;
    }
    Some((ordinal.parse().ok()?, epoch.parse().ok()?))
}

pub(crate) fn segment_name(lane: Lane, first: u64) -> String {
    format!("{lane}-{first:020}.frames")
}

pub(crate) fn shed_name(lane: Lane, first: u64, next: u64) -> String {
    format!("{lane}-{first:020}-{next:020}.shed")
}

/// What a file's name says; `None` for anything that is not ours.
pub(crate) fn parse_entry(name: &str) -> Option<Entry> {
    let number = |text: &str| {
        if text.len() == 20 {
            text.parse::<u64>().ok()
        } else {
            None
        }
    };
    if let Some(stem) = name.strip_suffix(".frames") {
        let (lane, first) = stem.split_once('-')?;
        let first = number(first).filter(|first| *first > 0)?;
        return Some(Entry::Segment {
            lane: lane.parse().ok()?,
            first,
        });
    }
    let (lane, range) = name.strip_suffix(".shed")?.split_once('-')?;
    let (first, next) = range.split_once('-')?;
    let (first, next) = (number(first)?, number(next)?);
    (0 < first && first < next).then_some(Entry::Shed {
        lane: lane.parse().ok()?,
        first,
        next,
    })
}

/// Makes a folder that only we may enter, and its name durable: both or neither.
pub(crate) fn durable_folder(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.make_folder(path)?;
    path.parent()
        .map_or(Ok(()), |parent| disk.sync_folder(parent))
        .or_else(|error| disk.remove_folder(path).and(Err(error)))
}

/// Puts `name` into `folder` as an empty file.
pub(crate) fn mark_file(disk: &dyn Disk, folder: &Path, name: &str) -> io::Result<()> {
    disk.open(&folder.join(name), Access::Create)?.sync_all()?;
    disk.sync_folder(folder)
}

/// Makes tombstones of a segment by giving its file their name. On a full disk this needs no room and makes
/// some; a segment that is gone is replaced by an empty file.
pub(crate) fn turn_to_shed(disk: &dyn Disk, folder: &Path, segment: &str, shed: &str) -> io::Result<()> {
    let target = folder.join(shed);
    match disk.rename(&folder.join(segment), &target) {
        // The name first: an empty segment would say nothing of its numbers.
        Ok(()) => disk
            .sync_folder(folder)
            .and_then(|()| disk.open(&target, Access::Write)?.set_len(0)),
        Err(_) => mark_file(disk, folder, shed),
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for lane in Lane::ALL.iter().copied() {
            assert_eq!(
                parse_entry(&segment_name(lane, 7)),
                Some(Entry::Segment { lane, first: 7 })
            );
            assert_eq!(
                parse_entry(&shed_name(lane, 7, 9)),
                Some(Entry::Shed {
                    lane,
                    first: 7,
                    next: 9
                })
            );
        }
        let epoch = SpoolEpoch::random();
        assert_eq!(parse_epoch(&format!("00000012-{epoch}")), Some((12, epoch)));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            "events-1.frames",
            "events-00000000000000000000.frames",
            "x-00000000000000000001.frames",
            "lost+found",
        ] {
            assert_eq!(parse_entry(name), None, "{name}");
        }
        assert_eq!(parse_entry(&shed_name(Lane::Events, 9, 9)), None);
        assert_eq!(parse_epoch("corrupt"), None);
    }
}
