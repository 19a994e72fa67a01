//! Batches that the last run had staged and not written: this one writes them into that run's epoch.

use std::io;
use std::time::Instant;

use fleetmend_event::Lane;
use fleetmend_event::table::{Exactness, GapStage};

use crate::clock;
use crate::gaps::{Loss, gap_of};
use crate::segment::Appender;
use crate::staging::Staged;
use crate::task::Writer;

impl Writer {
    /// Writes the batches that the last run had staged, under the numbers that it would have given them; what the
    /// disk refuses stays staged.
    pub(crate) fn complete_staged(&mut self, now: Instant) {
        while let Some(mut staged) = self.staged.pop_front() {
            if let Err(error) = self.complete(&mut staged, now) {
                tracing::warn!(%error, "staged ticks of the last run wait for the disk");
                self.staged.push_front(staged);
                return;
            }
        }
        self.staging.release();
        if self.batcher.len(Lane::Metrics) == 0 && self.unwritten.get(Lane::Metrics).is_empty() {
            self.clear_staging();
        }
    }

    fn complete(&mut self, staged: &mut Staged, now: Instant) -> io::Result<()> {
        if staged.epoch == self.epoch {
            return self.write(Lane::Metrics, staged.frames.make_contiguous(), now);
        }
        let found = {
            let index = self.shared.index.lock();
            let epoch = index.epochs.iter().find(|epoch| epoch.epoch == staged.epoch);
            epoch.map(|epoch| {
                let lane = epoch.lanes.get(Lane::Metrics);
                (epoch.ordinal, epoch.folder.clone(), lane.next)
            })
        };
        // Nothing of that epoch is left, and what was staged there neither.
        let Some((ordinal, folder, next)) = found else {
            return Ok(());
        };
        // Nothing is there of numbers that were deleted, and those were sent.
        let deleted = next == 0 && self.shared.sent.lock().knows(staged.epoch, Lane::Metrics);
        let next = if deleted { staged.first } else { next.max(1) };
        if next < staged.first {
            // Frames that waited for the disk when the run ended had these numbers, or damage took them. Their row
            // first: a tombstone says on disk that it was written, and a kill would take it with it.
            if self.missing_said != Some(staged.first) {
                let loss = missing(staged, staged.first.saturating_sub(next));
                self.write_gap(gap_of(&loss), now)?;
                crate::metrics::dropped(loss.lane, loss.reason, loss.count);
                self.missing_said = Some(staged.first);
            }
            self.bury(ordinal, &folder, Lane::Metrics, (next, staged.first))?;
            self.missing_said = None;
            // Said once, also when the disk refuses what follows and this is tried again.
            if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
                epoch.lanes.get_mut(Lane::Metrics).next = staged.first;
            }
        }
        let disk = self.shared.layout.disk();
        let mut appender = Appender::new(disk, &folder, Lane::Metrics, u64::MAX, staged.first);
        let appended = appender.append(staged.frames.make_contiguous(), now)?;
        if let Some(epoch) = self.shared.index.lock().find_mut(ordinal) {
            let lane = epoch.lanes.get_mut(Lane::Metrics);
            if deleted {
                lane.acknowledged = staged.first.saturating_sub(1);
            }
            lane.grow(appended.segment, appended.next, appended.segment_bytes);
        }
        self.shared.notify();
        Ok(())
    }
}

/// Frames that a killed run had in memory only; their ticks were not staged.
fn missing(before: &Staged, count: u64) -> Loss {
    let time = before
        .frames
        .front()
        .map_or(clock::wall(), |frame| frame.from_time);
    Loss {
        table: "*",
        lane: Lane::Metrics,
        span: (time, time),
        count,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "missing",
    }
}
