//! What was found.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fleetmend_event::{Lane, SpoolEpoch, TimeMicros};
use serde::Serialize;

use crate::scan::Piece;

/// Faults of one lane that are kept one by one; further ones are counted.
const FAULTS_MAX: usize = 1_000;

/// What lies in the folder of a spool.
#[derive(Debug, Clone, Serialize)]
pub struct SpoolReport {
    /// The folder.
    pub folder: PathBuf,
    /// Its epochs, oldest first; the last one is, or was last, written.
    pub epochs: Vec<EpochReport>,
    /// Whether the mark of a clean stop is there: no agent runs, and the last one ended in order.
    pub stopped_cleanly: bool,
    /// Ticks of metrics that wait for their batch.
    pub staged_ticks: u64,
    /// Bytes of these.
    pub staged_bytes: u64,
    /// Files of bytes that an agent set aside at a start, because they were no frames.
    pub set_aside_files: u64,
    /// Their bytes.
    pub set_aside_bytes: u64,
    /// What lies beside the epochs and is not of a spool; the first twenty names.
    pub foreign: Vec<String>,
}

/// One life of the spool.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// Its place among the epochs.
    pub ordinal: u32,
    /// Its id.
    pub epoch: SpoolEpoch,
    /// Its lanes, by priority.
    pub lanes: Vec<LaneReport>,
    /// What lies in its folder and is not of a spool; the first twenty names.
    pub foreign: Vec<String>,
}

/// One lane of one epoch.
#[derive(Debug, Clone, Serialize)]
pub struct LaneReport {
    /// The lane.
    pub lane: Lane,
    /// Segment files.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whole frames.
    pub frames: u64,
    /// Numbers whose records were shed.
    pub tombstones: u64,
    /// Lowest number; what is before it was acknowledged and deleted.
    pub first: Option<u64>,
    /// Highest number.
    pub last: Option<u64>,
    /// Earliest time of any row.
    pub from_time: Option<TimeMicros>,
    /// Latest time of any row.
    pub to_time: Option<TimeMicros>,
    /// Bytes at the end of the last segment that begin a frame and do not end it. Such a frame was never handed
    /// out; the next start cuts it off. Beside a running agent it is one that is just being written.
    pub torn_bytes: u64,
    /// What is not as it should be.
    pub faults: Vec<Fault>,
    /// Faults beyond those listed.
    pub faults_more: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// In which file, where it is in one.
    pub file: Option<String>,
    /// From which byte of the file.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// First number that is gone with it.
    pub first: Option<u64>,
    /// Last number that is gone with it.
    pub last: Option<u64>,
    /// In words.
    pub reason: String,
}

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Bytes that are no frame of this lane in rising order.
    Damaged,
    /// A segment that ends within a frame, and is not the one that was written last.
    Torn,
    /// Numbers of which there is nothing.
    Missing,
    /// A file that cannot be read.
    Unreadable,
    /// A file whose first number is not the one in its name.
    Misnamed,
}

impl FaultKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::Damaged => "damaged",
            FaultKind::Torn => "torn",
            FaultKind::Missing => "missing",
            FaultKind::Unreadable => "unreadable",
            FaultKind::Misnamed => "misnamed",
        }
    }
}

impl SpoolReport {
    /// How many things are not as they should be; torn tails are not among them.
    pub fn faults(&self) -> u64 {
        let of = |lane: &LaneReport| length(lane.faults.len()).saturating_add(lane.faults_more);
        self.epochs.iter().flat_map(|epoch| &epoch.lanes).map(of).sum()
    }

    /// Bytes of frames.
    pub fn bytes(&self) -> u64 {
        self.epochs
            .iter()
            .flat_map(|epoch| &epoch.lanes)
            .map(|lane| lane.bytes)
            .sum()
    }
}

impl LaneReport {
    /// What the mark of a clean stop says has to be what is there, where anything is.
    pub(super) fn compare(&mut self, next: u64) {
        let found = self.last.map_or(next, |last| last.saturating_add(1));
        if self.torn_bytes == 0 && found == next {
            return;
        }
        self.add(Fault {
            kind: FaultKind::Missing,
            file: None,
            offset: 0,
            bytes: self.torn_bytes,
            first: (found < next).then_some(found),
            last: (found < next).then(|| next.saturating_sub(1)),
            reason: format!(
                "the agent stopped in order before number {next}, and the files do not end there"
            ),
        });
    }

    fn add(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.faults_more = self.faults_more.saturating_add(1);
        }
    }
}

/// Judges one lane, file by file.
pub(super) struct Judge {
    report: LaneReport,
    /// The number that has to come next; `None` before the first.
    expected: Option<u64>,
    /// The last fault was met after the last number: a hole that follows is its doing.
    unexplained: bool,
}

impl Judge {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            report: LaneReport {
                lane,
                segments: 0,
                bytes: 0,
                frames: 0,
                tombstones: 0,
                first: None,
                last: None,
                from_time: None,
                to_time: None,
                torn_bytes: 0,
                faults: Vec::new(),
                faults_more: 0,
            },
            expected: None,
            unexplained: false,
        }
    }

    pub(super) fn finish(self) -> LaneReport {
        self.report
    }

    pub(super) fn shed(&mut self, first: u64, next: u64) {
        let from = self.expected.map_or(first, |expected| expected.max(first));
        if from < next {
            self.numbers(from, next);
            self.report.tombstones = self.report.tombstones.saturating_add(next - from);
        }
    }

    pub(super) fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.fault(FaultKind::Unreadable, path, (0, 0), error.to_string());
    }

    /// `last`: it is the one that is, or was last, written.
    pub(super) fn segment(
        &mut self,
        path: &Path,
        named: u64,
        bytes: &Bytes,
        pieces: &[Piece],
        cut: bool,
        last: bool,
    ) {
        self.report.segments = self.report.segments.saturating_add(1);
        self.report.bytes = self.report.bytes.saturating_add(length(bytes.len()));
        for (index, piece) in pieces.iter().enumerate() {
            match *piece {
                Piece::Good { first, next, .. } if self.expected.is_some_and(|expected| next <= expected) => {
                    // Kept under another name by a repair that was interrupted.
                    tracing::debug!(first, next, "numbers are there twice");
                }
                Piece::Good {
                    first, next, span, ..
                } => {
                    if index == 0 && first != named {
                        let reason =
                            format!("its name says that it begins with {named}, and it begins with {first}");
                        self.fault(FaultKind::Misnamed, path, (0, 0), reason);
                    }
                    self.numbers(first, next);
                    let report = &mut self.report;
                    report.frames = report.frames.saturating_add(next - first);
                    report.from_time = Some(report.from_time.map_or(span.0, |time| time.min(span.0)));
                    report.to_time = report.to_time.max(Some(span.1));
                }
                Piece::Bad { offset, bytes } => {
                    let reason = format!("{bytes} bytes are no frame of this lane");
                    self.fault(FaultKind::Damaged, path, (offset, bytes), reason);
                }
                Piece::Torn { bytes, .. } if last => self.report.torn_bytes = length(bytes),
                Piece::Torn { offset, bytes } => {
                    let reason = format!("the file ends within a frame, after {bytes} bytes of it");
                    self.fault(FaultKind::Torn, path, (offset, bytes), reason);
                }
            }
        }
        if cut {
            let reason = "it is longer than any segment; what is beyond is never read".to_owned();
            self.fault(FaultKind::Damaged, path, (bytes.len(), 0), reason);
        }
    }

    fn numbers(&mut self, first: u64, next: u64) {
        if let Some(expected) = self.expected.filter(|expected| *expected < first) {
            self.hole(expected, first - 1);
        }
        self.unexplained = false;
        self.expected = Some(next);
        self.report.first = self.report.first.or(Some(first));
        self.report.last = Some(next.saturating_sub(1));
    }

    fn hole(&mut self, first: u64, last: u64) {
        match self.report.faults.last_mut().filter(|_| self.unexplained) {
            Some(fault) => (fault.first, fault.last) = (Some(first), Some(last)),
            None => self.report.add(Fault {
                kind: FaultKind::Missing,
                file: None,
                offset: 0,
                bytes: 0,
                first: Some(first),
                last: Some(last),
                reason: "there is neither a frame nor a tombstone".to_owned(),
            }),
        }
    }

    fn fault(&mut self, kind: FaultKind, path: &Path, (offset, bytes): (usize, usize), reason: String) {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
        let file = Path::new(folder).join(path.file_name().unwrap_or_default());
        self.unexplained = true;
        self.report.add(Fault {
            kind,
            file: Some(file.display().to_string()),
            offset: length(offset),
            bytes: length(bytes),
            first: None,
            last: None,
            reason,
        });
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
