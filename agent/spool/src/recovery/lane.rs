//! One lane of one epoch: its files in order, holes filled with tombstones, damage set aside.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Lane, SpoolEpoch, TimeMicros};

use super::Damage;
use crate::error::OpenError;
use crate::gaps::Loss;
use crate::index::{Extent, ExtentKind, LaneIndex};
use crate::layout::{self, Entry};
use crate::scan::{Expected, Piece, scan};

/// More of a file than any segment has is not looked at.
const SEGMENT_BYTES_MAX: u64 = 65 * 1024 * 1024;
/// Most bytes that are set aside in all; further ones are only counted.
const CORRUPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where a lane lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneFolder<'a> {
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

pub(super) fn recover_lane(place: LaneFolder<'_>, damage: &mut Damage) -> Result<LaneIndex, OpenError> {
    let mut build = Build {
        place,
        extents: VecDeque::new(),
        expected: None,
        last: None,
        unexplained: None,
    };
    for entry in entries(place)? {
        match entry {
            Entry::Shed { first, next, .. } => build.shed_file(first, next, damage),
            Entry::Segment { first, .. } => build.segment(first, damage),
        }
        .map_err(OpenError::io("repair a segment in", place.folder))?;
    }
    build.finish(damage);
    damage.last = damage.last.max(build.last);
    let next = build.expected.unwrap_or(1);
    // What is no longer there was acknowledged; the collector's welcome says how far it really is.
    let acknowledged = build
        .extents
        .front()
        .map_or(next, |extent| extent.first)
        .saturating_sub(1);
    Ok(LaneIndex {
        extents: build.extents,
        acknowledged,
        next,
    })
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
    build.segment(extent.first, damage)?;
    if build.expected < Some(extent.next) {
        build.fill_hole(extent.next, TimeMicros::now(), damage)?;
    }
    Ok(build.extents)
}

fn entries(place: LaneFolder<'_>) -> Result<Vec<Entry>, OpenError> {
    let mut found = Vec::new();
    for file in fs::read_dir(place.folder).map_err(OpenError::io("list", place.folder))? {
        let file = file.map_err(OpenError::io("list", place.folder))?;
        found.extend(file.file_name().to_str().and_then(layout::parse_entry));
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
    fn shed_file(&mut self, first: u64, next: u64, damage: &mut Damage) -> io::Result<()> {
        let path = self
            .place
            .folder
            .join(layout::shed_name(self.place.lane, first, next));
        let from = self.expected.map_or(first, |expected| expected.max(first));
        if from >= next {
            return layout::remove_if_there(&path);
        }
        self.fill_hole(from, TimeMicros::now(), damage)?;
        if from > first {
            layout::mark_file(self.place.folder, &layout::shed_name(self.place.lane, from, next))?;
            layout::remove_if_there(&path)?;
        }
        self.push(from, next, ExtentKind::Shed);
        Ok(())
    }

    fn segment(&mut self, named: u64, damage: &mut Damage) -> io::Result<()> {
        let path = self
            .place
            .folder
            .join(layout::segment_name(self.place.lane, named));
        let (bytes, cut) = read_bounded(&path)?;
        let pieces = scan(
            &bytes,
            Expected {
                epoch: self.place.epoch,
                lane: self.place.lane,
            },
        );
        if let [
            Piece::Good {
                first, next, span, ..
            },
        ] = *pieces.as_slice()
            && first == named
            && !cut
            && self.expected.is_none_or(|expected| expected <= first)
        {
            self.fill_hole(first, span.0, damage)?;
            self.last = self.last.max(Some(span.1));
            self.push_segment(first, next, bytes.len());
            return Ok(());
        }
        self.rebuild(named, &path, &bytes, &pieces, damage)
    }

    /// Splits a damaged file into files of whole runs.
    fn rebuild(
        &mut self,
        named: u64,
        path: &Path,
        bytes: &Bytes,
        pieces: &[Piece],
        damage: &mut Damage,
    ) -> io::Result<()> {
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
                    self.fill_hole(first, span.0, damage)?;
                    if offset == 0 && first == named {
                        keep = length;
                    } else {
                        self.write_run(
                            first,
                            bytes
                                .get(offset..offset.saturating_add(length))
                                .unwrap_or_default(),
                        )?;
                    }
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
            return Ok(());
        }
        if keep > 0 {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(length_of(keep))?;
            file.sync_all()
        } else {
            layout::remove_if_there(path)?;
            layout::sync_folder(self.place.folder)
        }
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
        let now = TimeMicros::now();
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

    /// Makes tombstones of the numbers from the expected one up to `first`.
    fn fill_hole(&mut self, first: u64, until: TimeMicros, damage: &mut Damage) -> io::Result<()> {
        let Some(expected) = self.expected.filter(|expected| *expected < first) else {
            return Ok(());
        };
        layout::mark_file(
            self.place.folder,
            &layout::shed_name(self.place.lane, expected, first),
        )?;
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
        Ok(())
    }

    fn write_run(&self, first: u64, run: &[u8]) -> io::Result<()> {
        let path = self
            .place
            .folder
            .join(layout::segment_name(self.place.lane, first));
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(run)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        layout::sync_folder(self.place.folder)
    }

    /// Keeps bad bytes for a person to look at. That it fails, on a full disk say, must not stop the repair.
    fn set_aside(&self, named: u64, offset: usize, bad: &[u8]) {
        let LaneFolder {
            corrupt,
            ordinal,
            lane,
            ..
        } = self.place;
        let path = corrupt.join(format!("{ordinal:08}-{lane}-{named:020}-{offset}.corrupt"));
        tracing::warn!(bytes = bad.len(), path = %path.display(), "spool bytes that are no frame are set aside");
        let room = CORRUPT_BYTES_MAX.saturating_sub(folder_bytes(corrupt));
        let kept = bad
            .get(..usize::try_from(room).unwrap_or(usize::MAX).min(bad.len()))
            .unwrap_or_default();
        if let Err(error) = fs::write(&path, kept) {
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
        });
        self.expected = Some(next);
        self.unexplained = None;
    }
}

/// Tells rewritten files from what a reader has open.
fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    VERSION.fetch_add(1, Ordering::Relaxed)
}

fn read_bounded(path: &Path) -> io::Result<(Bytes, bool)> {
    let file = match File::open(path) {
        // Removed by somebody else while we run: everything it held is damage.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Bytes::new(), false)),
        other => other?,
    };
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(SEGMENT_BYTES_MAX)).unwrap_or(0));
    file.take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((bytes.into(), length > SEGMENT_BYTES_MAX))
}

fn folder_bytes(folder: &Path) -> u64 {
    let lengths = fs::read_dir(folder).map(|files| {
        files
            .flatten()
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    });
    lengths.unwrap_or(CORRUPT_BYTES_MAX)
}

fn length_of(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
