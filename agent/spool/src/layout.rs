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

    pub(crate) fn sent(&self) -> PathBuf {
        self.root.join("sent")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
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

/// With which numbers the lanes of an epoch end that is no longer written: they come next, by [`Lane::ALL`].
pub(crate) fn end_name(next: [u64; 3]) -> String {
    let [critical, events, metrics] = next;
    format!("end-{critical:020}-{events:020}-{metrics:020}")
}

/// The numbers of [`end_name`].
pub(crate) fn parse_end(name: &str) -> Option<[u64; 3]> {
    let mut numbers = name.strip_prefix("end-")?.split('-').map(number);
    let next = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(next)
}

/// What a file of aggregates says by its name; see [`crate::thin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThinName {
    /// First number of the aggregates, in the epoch of their folder.
    pub(crate) first: u64,
    /// Number of the gap row that makes them true, in the critical lane of the same epoch.
    pub(crate) gap: u64,
    /// Epoch of the numbers that they stand for, by its ordinal.
    pub(crate) of_ordinal: u32,
    /// Those numbers.
    pub(crate) of: (u64, u64),
}

impl ThinName {
    pub(crate) fn name(&self) -> String {
        let Self {
            first,
            gap,
            of_ordinal,
            of: (from, next),
        } = *self;
        format!("metrics-{first:020}-{gap:020}-{of_ordinal:08}-{from:020}-{next:020}.thin")
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("metrics-")?.strip_suffix(".thin")?.split('-');
        let (first, gap) = (number(parts.next()?)?, number(parts.next()?)?);
        let of_ordinal = parts.next().filter(|part| part.len() == 8)?.parse().ok()?;
        let of = (number(parts.next()?)?, number(parts.next()?)?);
        (parts.next().is_none() && first > 0 && of.0 < of.1).then_some(Self {
            first,
            gap,
            of_ordinal,
            of,
        })
    }
}

fn number(text: &str) -> Option<u64> {
    if text.len() == 20 { text.parse().ok() } else { None }
}

/// What a file's name says; `None` for anything that is not ours.
pub(crate) fn parse_entry(name: &str) -> Option<Entry> {
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
    let found = disk.length(&target);
    let absent = matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let renamed = match found {
        Err(_) if absent => disk.rename(&folder.join(segment), &target),
        // The last attempt came so far, and then the disk refused.
        known => known.map(|_| ()),
    };
    match renamed {
        // The name first: an empty segment would say nothing of its numbers.
        Ok(()) => disk
            .sync_folder(folder)
            .and_then(|()| disk.open(&target, Access::Write)?.set_len(0)),
        // A mark that may not be durable would take the segment with it at some later start.
        Err(_) if absent => {
            mark_file(disk, folder, shed).inspect_err(|_| drop(remove_if_there(disk, &target)))
        }
        Err(error) => Err(error),
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
        assert_eq!(parse_end(&end_name([1, 20, 3])), Some([1, 20, 3]));
        let thin = ThinName {
            first: 7,
            gap: 3,
            of_ordinal: 2,
            of: (1, 5),
        };
        assert_eq!(ThinName::parse(&thin.name()), Some(thin));
        assert_eq!(parse_entry(&thin.name()), None);
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
        assert_eq!(parse_end("end-1-2-3"), None);
        assert_eq!(ThinName::parse("metrics-1.thin"), None);
    }
}
