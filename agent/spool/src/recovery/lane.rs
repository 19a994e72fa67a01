//! One lane of one epoch: its files in order, holes filled with tombstones, damage set aside.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Frame, Lane, SpoolEpoch, TimeMicros};

use super::{Damage, Leftover, Marker};
use crate::clock;
use crate::disk::{Access, Disk, DiskFile};
use crate::gaps::Loss;
use crate::index::{Extent, ExtentKind, LaneIndex};
use crate::layout::{self, Entry};
use crate::scan::{Expected, Piece, scan};

/// More of a file than any segment has is not looked at.
const SEGMENT_BYTES_MAX: u64 = 65 * 1024 * 1024;
/// What a disk loses at once.
const BLOCK_BYTES: usize = 4096;
/// Blocks that may be unreadable before the rest of the file counts as lost.
const LOST_BLOCKS_MAX: u32 = 16;
/// Most bytes that are set aside in all; further ones are only counted.
const CORRUPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where a lane lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneFolder<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) folder: &'a Path,
    pub(crate) corrupt: &'a Path,
    pub(crate) ordinal: u32,
    pub(crate) epoch: SpoolEpoch,
    pub(crate) lane: Lane,
}

/// Collects a lane's extents in order of their numbers.
struct Build<'a> {
    place: LaneFolder<'a>,
    extents: VecDeque<Extent>,
    /// The number that has to come next; `None` before the first, because acknowledged ones were deleted.
    expected: Option<u64>,
    last: Option<TimeMicros>,
    /// Bad bytes were met after the last number; how many numbers they held shows at the next one.
    unexplained: Option<&'static str>,
}

/// `marked` is the number that comes next by the mark of a clean stop, or where the epoch ended, when one is known.
pub(super) fn recover_lane(place: LaneFolder<'_>, marked: Option<u64>, damage: &mut Damage) -> LaneIndex {
    let mut build = Build {
        place,
        extents: VecDeque::new(),
        expected: None,
        last: None,
        unexplained: None,
    };
    let entries = entries(place).unwrap_or_else(|error| build.unreadable(Vec::new(), &error));
    for (at, entry) in entries.iter().copied().enumerate() {
        let taken = match entry {
            Entry::Shed { first, next, .. } => {
                build.shed_file(first, next, damage);
                Ok(())
            }
            Entry::Segment { first, .. } => build.segment(first, begin_after(&entries, at), damage),
        };
        taken.unwrap_or_else(|error| build.unreadable((), &error));
    }
    if let Some(marked) = marked {
        build.fill_hole(marked, clock::wall(), damage);
    }
    build.finish(damage);
    damage.last = damage.last.max(build.last);
    let next = build.expected.unwrap_or(0);
    // What is no longer there was acknowledged; the collector's welcome says how far it really is.
    let acknowledged = build
        .extents
        .front()
        .map_or(next, |extent| extent.first)
        .saturating_sub(1);
    LaneIndex {
        extents: build.extents,
        acknowledged,
        next,
        ..LaneIndex::default()
    }
}

/// Repairs the file of `extent`, in which a reader met bytes that are no frame; what takes its place.
pub(crate) fn repair_segment(
    place: LaneFolder<'_>,
    extent: Extent,
    damage: &mut Damage,
) -> io::Result<VecDeque<Extent>> {
    let expected = Some(extent.first);
    let mut build = Build {
        place,
        extents: VecDeque::new(),
        expected,
        last: None,
        unexplained: Some("corrupt"),
    };
    build.segment(extent.first, extent.next, damage)?;
    if build.expected < Some(extent.next) {
        build.fill_hole(extent.next, clock::wall(), damage);
    }
    Ok(build.extents)
}

fn entries(place: LaneFolder<'_>) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for name in place.disk.list(place.folder)? {
        found.extend(layout::parse_entry(&name));
    }
    found.retain(|entry| matches!(entry, Entry::Segment { lane, .. } | Entry::Shed { lane, .. } if *lane == place.lane));
    // A tombstone wins over a segment that was not yet removed: its loss has been reported.
    found.sort_unstable_by_key(|entry| match *entry {
        Entry::Shed { first, next, .. } => (first, 0, u64::MAX - next),
        Entry::Segment { first, .. } => (first, 1, 0),
    });
    Ok(found)
}

impl Build<'_> {
    /// What cannot be read at this start stays where it is; its numbers become tombstones.
    fn unreadable<T>(&mut self, instead: T, error: &io::Error) -> T {
        let folder = self.place.folder.display();
        tracing::error!(%error, %folder, lane = %self.place.lane, "spool files cannot be read");
        self.unexplained = Some("unreadable");
        instead
    }

    fn shed_file(&mut self, first: u64, next: u64, damage: &mut Damage) {
        let path = self
            .place
            .folder
            .join(layout::shed_name(self.place.lane, first, next));
        let from = self.expected.map_or(first, |expected| expected.max(first));
        if from >= next {
            // Those that cover them may not be durable yet.
            let synced = self.place.disk.sync_folder(self.place.folder);
            tolerate(
                "remove tombstones",
                synced.and_then(|()| layout::remove_if_there(self.place.disk, &path)),
            );
            return;
        }
        self.fill_hole(from, clock::wall(), damage);
        if from > first {
            let name = layout::shed_name(self.place.lane, from, next);
            tolerate(
                "rename tombstones",
                self.place.disk.rename(&path, &self.place.folder.join(name)),
            );
        }
        self.push(from, next, ExtentKind::Shed);
    }

    /// Frames of a file end where the next file begins: an append that failed and could not be taken back may have
    /// left frames there, whose numbers were given again.
    fn segment(&mut self, named: u64, end: u64, damage: &mut Damage) -> io::Result<()> {
        let path = self
            .place
            .folder
            .join(layout::segment_name(self.place.lane, named));
        // The name says with which number the lane begins here, whatever its bytes are.
        self.expected.get_or_insert(named);
        let (bytes, cut) = read_bounded(self.place.disk, &path)?;
        let mut pieces = scan(
            &bytes,
            Expected {
                epoch: self.place.epoch,
                lane: self.place.lane,
            },
        );
        end_before(&bytes, &mut pieces, end);
        if let [
            Piece::Good {
                first,
                next,
                span,
                bytes: length,
                ..
            },
        ] = *pieces.as_slice()
            && first == named
            && length == bytes.len()
            && !cut
            && self.expected.is_none_or(|expected| expected <= first)
        {
            self.fill_hole(first, span.0, damage);
            self.last = self.last.max(Some(span.1));
            self.push_segment(first, next, bytes.len());
            return Ok(());
        }
        self.rebuild(named, &path, &bytes, &pieces, damage);
        Ok(())
    }

    /// Splits a damaged file into files of whole runs.
    fn rebuild(&mut self, named: u64, path: &Path, bytes: &Bytes, pieces: &[Piece], damage: &mut Damage) {
        let mut keep = 0;
        for piece in pieces {
            match *piece {
                Piece::Good {
                    offset,
                    bytes: length,
                    first,
                    next,
                    span,
                } => {
                    if self.expected.is_some_and(|expected| first < expected) {
                        // Already kept, under another name, by a repair that was interrupted.
                        continue;
                    }
                    if offset == 0 && first == named {
                        keep = length;
                    } else {
                        let run = bytes.get(offset..offset.saturating_add(length));
                        if let Err(error) = self.write_run(first, run.unwrap_or_default()) {
                            tracing::error!(%error, first, next, "good frames of a damaged segment cannot be kept");
                            self.unexplained = Some("corrupt");
                            continue;
                        }
                    }
                    self.fill_hole(first, span.0, damage);
                    self.last = self.last.max(Some(span.1));
                    self.push_segment(first, next, length);
                }
                Piece::Bad {
                    offset,
                    bytes: length,
                } => {
                    damage.corrupt_bytes = damage.corrupt_bytes.saturating_add(length_of(length));
                    self.set_aside(
                        named,
                        offset,
                        bytes
                            .get(offset..offset.saturating_add(length))
                            .unwrap_or_default(),
                    );
                    self.unexplained = Some("corrupt");
                }
                Piece::Torn { bytes: length, .. } => {
                    damage.torn_bytes = damage.torn_bytes.saturating_add(length_of(length));
                    self.unexplained = self.unexplained.or(Some("torn_tail"));
                }
            }
        }
        if keep == 0 && self.kept_elsewhere(named) {
            // A run of another offset took this very name: the file is already the repaired one.
            return;
        }
        // They stay until the gap rows are durable, and are never read: the index knows how many are good.
        damage.leftovers.push(Leftover {
            path: path.to_owned(),
            ordinal: self.place.ordinal,
            lane: self.place.lane,
            first: named,
            keep: length_of(keep),
        });
    }

    fn kept_elsewhere(&self, named: u64) -> bool {
        self.extents
            .iter()
            .any(|extent| extent.first == named && matches!(extent.kind, ExtentKind::Segment { .. }))
    }

    /// Bad bytes at the very end held at least one record.
    fn finish(&mut self, damage: &mut Damage) {
        let Some(reason) = self.unexplained.take() else {
            return;
        };
        let now = clock::wall();
        damage.losses.push(Loss {
            table: "*",
            lane: self.place.lane,
            span: (self.last.map_or(now, |last| last.min(now)), now),
            count: 1,
            exactness: Exactness::AtLeast,
            stage: GapStage::Spool,
            reason,
        });
    }

    /// Makes tombstones of the numbers from the expected one up to `first`. They are in memory only until their gap row
    /// is durable: should that be cut short, the next start finds the same hole.
    fn fill_hole(&mut self, first: u64, until: TimeMicros, damage: &mut Damage) {
        let Some(expected) = self.expected.filter(|expected| *expected < first) else {
            return;
        };
        damage.markers.push(Marker {
            ordinal: self.place.ordinal,
            lane: self.place.lane,
            first: expected,
            next: first,
        });
        damage.losses.push(Loss {
            table: "*",
            lane: self.place.lane,
            span: (self.last.map_or(until, |last| last.min(until)), until),
            count: first - expected,
            exactness: Exactness::AtLeast,
            stage: GapStage::Spool,
            reason: self.unexplained.unwrap_or("missing"),
        });
        self.push(expected, first, ExtentKind::Shed);
    }

    fn write_run(&self, first: u64, run: &[u8]) -> io::Result<()> {
        let path = self
            .place
            .folder
            .join(layout::segment_name(self.place.lane, first));
        let fresh = path.with_extension("new");
        let disk = self.place.disk;
        let mut file = disk.open(&fresh, Access::Create)?;
        file.write_all(run)?;
        file.sync_all()?;
        disk.rename(&fresh, &path)?;
        disk.sync_folder(self.place.folder)
    }

    /// Keeps bad bytes for a person to look at. That it fails, on a full disk say, must not stop the repair.
    fn set_aside(&self, named: u64, offset: usize, bad: &[u8]) {
        let LaneFolder {
            disk,
            corrupt,
            ordinal,
            lane,
            ..
        } = self.place;
        let path = corrupt.join(format!("{ordinal:08}-{lane}-{named:020}-{offset}.corrupt"));
        tracing::warn!(bytes = bad.len(), path = %path.display(), "spool bytes that are no frame are set aside");
        let room = CORRUPT_BYTES_MAX.saturating_sub(folder_bytes(disk, corrupt));
        let kept = bad
            .get(..usize::try_from(room).unwrap_or(usize::MAX).min(bad.len()))
            .unwrap_or_default();
        let written = disk
            .open(&path, Access::Create)
            .and_then(|mut file| file.write_all(kept));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "could not set corrupt bytes aside");
        }
    }

    fn push_segment(&mut self, first: u64, next: u64, bytes: usize) {
        self.push(
            first,
            next,
            ExtentKind::Segment {
                bytes: length_of(bytes),
                version: next_version(),
            },
        );
    }

    fn push(&mut self, first: u64, next: u64, kind: ExtentKind) {
        self.extents.push_back(Extent {
            first,
            next,
            kind,
            acknowledged_at: None,
            thin: false,
        });
        self.expected = Some(next);
        self.unexplained = None;
    }
}

/// First number of the next file.
fn begin_after(entries: &[Entry], at: usize) -> u64 {
    let next = entries.get(at.saturating_add(1)).map(|entry| match *entry {
        Entry::Segment { first, .. } | Entry::Shed { first, .. } => first,
    });
    next.unwrap_or(u64::MAX)
}

/// Leaves out the frames from number `end` on, and what follows them.
fn end_before(bytes: &Bytes, pieces: &mut Vec<Piece>, end: u64) {
    let past = pieces
        .iter()
        .position(|piece| matches!(*piece, Piece::Good { next, .. } if next > end));
    let Some(at) = past else { return };
    pieces.truncate(at.saturating_add(1));
    let Some(Piece::Good {
        offset,
        bytes: length,
        first,
        next,
        ..
    }) = pieces.last_mut()
    else {
        return;
    };
    if *first >= end {
        pieces.pop();
        return;
    }
    let mut kept = 0_usize;
    for _ in *first..end {
        let rest = bytes.get(offset.saturating_add(kept)..).unwrap_or_default();
        kept = kept.saturating_add(Frame::peek_len(rest).unwrap_or(0));
    }
    (*length, *next) = (kept, end);
}

/// Tells rewritten files from what a reader has open.
fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    VERSION.fetch_add(1, Ordering::Relaxed)
}

/// A repair that the disk refuses is made at the next start; it stops nothing.
fn tolerate(action: &'static str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "could not {action}");
    }
}

/// The bytes of a segment, with zeros where the disk cannot read them, and whether it is longer than any.
fn read_bounded(disk: &dyn Disk, path: &Path) -> io::Result<(Bytes, bool)> {
    let file = match disk.open(path, Access::Read) {
        // Removed by somebody else while we run: everything it held is damage.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Bytes::new(), false)),
        other => other?,
    };
    let length = file.length()?;
    let wanted = usize::try_from(length.min(SEGMENT_BYTES_MAX)).unwrap_or(0);
    let bytes = match file.read_whole(SEGMENT_BYTES_MAX) {
        Err(error) if is_damage(&error) => salvage(&*file, wanted)?,
        other => other?,
    };
    Ok((bytes.into(), length > SEGMENT_BYTES_MAX))
}

/// Whether the error says that these bytes are gone, and not that reading failed for another reason.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [
        Errno::IO,
        Errno::BADMSG,
        Errno::UCLEAN,
        Errno::NODATA,
        Errno::ISDIR,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| gone.iter().any(|errno| errno.raw_os_error() == code))
}

/// Reads block by block what can be read. A disk tries long before it gives a block up, so few are tried.
fn salvage(file: &dyn DiskFile, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let (mut offset, mut lost) = (0_u64, 0);
    for block in bytes.chunks_mut(BLOCK_BYTES) {
        match file.read_exact_at(block, offset) {
            Err(error) if is_damage(&error) => {
                block.fill(0);
                lost += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        if lost >= LOST_BLOCKS_MAX {
            break;
        }
        offset = offset.saturating_add(length_of(block.len()));
    }
    Ok(bytes)
}

fn folder_bytes(disk: &dyn Disk, folder: &Path) -> u64 {
    let lengths = disk.list(folder).map(|names| {
        let length = |name: String| disk.length(&folder.join(name)).ok();
        names.into_iter().filter_map(length).sum()
    });
    lengths.unwrap_or(CORRUPT_BYTES_MAX)
}

fn length_of(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
