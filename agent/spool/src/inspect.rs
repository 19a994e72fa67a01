//! Looks at a spool without touching it: beside a running agent, after one, or at a copy of its folder.
//!
//! Nothing is locked, repaired or written. Each segment is judged by the same [`scan`] as at the start of an
//! agent, so that what is called damaged here is what would be set aside there. A running agent appends, renames
//! and deletes while we look: a lane that seems damaged is looked at again before it is called so, and a frame
//! that is cut short at the very end is no damage. At most one segment is in memory.

mod error;
mod list;
mod report;
mod walk;

use std::path::Path;

use bytes::Bytes;
use fleetmend_event::{Frame, Lane};
use serde::Deserialize;

pub use error::InspectError;
pub use report::{EpochReport, Fault, FaultKind, LaneReport, SpoolReport};
pub use walk::{Record, RowsError, Wanted, rows, walk};

use self::list::{EpochFolder, SpoolFolder, read_segment};
use self::report::Judge;
use crate::layout::Entry;
use crate::scan::{Expected, scan};

/// How often a lane is looked at before what is missing there counts as missing.
const LOOKS_MAX: u32 = 3;
/// The mark of a clean stop has about 200 bytes.
const CLEAN_BYTES_MAX: u64 = 4096;
/// Staged ticks that are read; the agent reads no more either.
const STAGING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What the mark of a clean stop says of the numbers.
#[derive(Debug, Deserialize)]
struct CleanNumbers {
    epoch: fleetmend_event::SpoolEpoch,
    next_critical: u64,
    next_events: u64,
    next_metrics: u64,
}

/// Walks every segment of the spool in `folder` and says what is there and what is not as it should be.
///
/// # Errors
/// When the folder is not there, may not be read, or is no spool. What cannot be read inside it is a fault in
/// the report.
pub fn inspect(folder: &Path) -> Result<SpoolReport, InspectError> {
    let found = SpoolFolder::list(folder)?;
    let clean = clean_numbers(folder);
    let mut epochs = Vec::new();
    let count = found.epochs.len();
    for (index, epoch) in found.epochs.iter().enumerate() {
        let newest = index.saturating_add(1) == count;
        let lanes = Lane::ALL.iter().map(|lane| settled(epoch, *lane, newest));
        let mut lanes: Vec<LaneReport> = lanes.collect::<Result<_, _>>()?;
        if let Some(clean) = clean.as_ref().filter(|clean| clean.epoch == epoch.epoch) {
            lanes
                .iter_mut()
                .for_each(|lane| lane.compare(clean.next(lane.lane)));
        }
        epochs.push(EpochReport {
            ordinal: epoch.ordinal,
            epoch: epoch.epoch,
            lanes,
            foreign: epoch.entries()?.foreign,
        });
    }
    let (staged_ticks, staged_bytes) = staged(folder);
    Ok(SpoolReport {
        folder: folder.to_owned(),
        epochs,
        stopped_cleanly: clean.is_some(),
        staged_ticks,
        staged_bytes,
        set_aside_files: found.set_aside.0,
        set_aside_bytes: found.set_aside.1,
        foreign: found.foreign,
    })
}

/// Looks again at a lane that seems damaged: files may have been renamed or deleted while it was read.
fn settled(epoch: &EpochFolder, lane: Lane, newest: bool) -> Result<LaneReport, InspectError> {
    let mut report = judge(epoch, lane, newest)?;
    for _ in 1..LOOKS_MAX {
        if report.faults.is_empty() {
            break;
        }
        report = judge(epoch, lane, newest)?;
    }
    Ok(report)
}

fn judge(epoch: &EpochFolder, lane: Lane, newest: bool) -> Result<LaneReport, InspectError> {
    let mut judge = Judge::new(lane);
    let entries = epoch.entries()?.of(lane);
    let expected = Expected {
        epoch: epoch.epoch,
        lane,
    };
    for (index, entry) in entries.iter().enumerate() {
        match *entry {
            Entry::Shed { first, next, .. } => judge.shed(first, next),
            Entry::Segment { first, .. } => {
                let path = epoch.segment(lane, first);
                let last = newest && index.saturating_add(1) == entries.len();
                match read_segment(&path) {
                    // Acknowledged and deleted since the folder was listed.
                    Ok(None) => {}
                    Ok(Some((bytes, cut))) => {
                        judge.segment(&path, first, &bytes, &scan(&bytes, expected), cut, last)
                    }
                    Err(error) => judge.unreadable(&path, &error),
                }
            }
        }
    }
    Ok(judge.finish())
}

fn clean_numbers(folder: &Path) -> Option<CleanNumbers> {
    let bytes = list::read_bounded(&folder.join("clean"), CLEAN_BYTES_MAX).ok()??;
    serde_json::from_slice(&bytes).ok()
}

impl CleanNumbers {
    fn next(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Critical => self.next_critical,
            Lane::Events => self.next_events,
            Lane::Metrics => self.next_metrics,
        }
    }
}

/// Ticks of metrics that wait for their batch, and the bytes of their file.
fn staged(folder: &Path) -> (u64, u64) {
    let read = list::read_bounded(&folder.join("staging"), STAGING_BYTES_MAX);
    let bytes = Bytes::from(read.ok().flatten().unwrap_or_default());
    let (mut rest, mut ticks) = (bytes.clone(), 0);
    while let Ok(frame) = Frame::decode(&rest) {
        rest = rest.slice(frame.encoded_len()..);
        ticks += 1;
    }
    (ticks, u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
