//! The writer's thread: intake → batches → frames → disk; then quotas, retention and repair.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Exactness, Gap, GapStage, Table, TableInfo, table_by_id};
use fleetmend_event::{Fact, Frame, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use fleetmend_shutdown::CancellationToken;

use crate::batcher::{Batcher, Encoded, Waiting, encode_split};
use crate::clock;
use crate::config::SpoolConfig;
use crate::disk::DiskFile;
use crate::gaps::{Loss, PendingGaps};
use crate::index::PerLane;
use crate::intake::{Requests, Taken};
use crate::recovery::{CleanMark, Leftover, Marker};
use crate::reserve::Reserve;
use crate::segment::{Appended, Appender};
use crate::spool::{Progress, Shared};
use crate::staging::{Staged, Staging};
use crate::thin::Thinned;

/// Longest sleep: how soon a cancelled token and retention are noticed.
const ROUND_MAX: Duration = Duration::from_millis(200);
/// Losses of a second become one row.
const GAPS_AGE: Duration = Duration::from_secs(1);
/// How often files are counted and deleted.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// Pause after the disk refused, so that a full disk does not become a busy loop.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Encoded frames that wait for a disk which refuses, per lane.
const UNWRITTEN_BYTES_MAX: usize = 1024 * 1024;
/// Events that wake the writer before its deadline.
const WAKE_AT_FACTS: usize = 2048;

/// What the writer begins with.
#[derive(Debug)]
pub(crate) struct WriterStart {
    pub(crate) lock: Box<dyn DiskFile>,
    pub(crate) next: PerLane<u64>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) markers: Vec<Marker>,
    pub(crate) staged: VecDeque<Staged>,
    pub(crate) staged_bytes: u64,
}

/// Owner of all writing.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) epoch: SpoolEpoch,
    pub(crate) appenders: PerLane<Appender>,
    pub(crate) gaps: PendingGaps,
    /// Segment of each lane, by ordinal and first number, whose loss waits in the gaps.
    pub(crate) counted: PerLane<Option<(u32, u64)>>,
    /// Kept until the gaps are durable.
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) markers: Vec<Marker>,
    pub(crate) batcher: Batcher,
    /// Of the last tick that was staged.
    tick_stamp: Option<Stamp>,
    pub(crate) unwritten: PerLane<VecDeque<Frame>>,
    pub(crate) staging: Staging,
    pub(crate) reserve: Reserve,
    /// Batches of the last run that its epoch does not have yet.
    pub(crate) staged: VecDeque<Staged>,
    /// First number of the staged batch whose missing neighbours have their gap row, and are no tombstones yet.
    pub(crate) missing_said: Option<u64>,
    /// Aggregates that are not in the lane yet.
    pub(crate) thinned: Option<Thinned>,
    /// Aggregates that do not count and are to be removed.
    pub(crate) thin_rest: Option<PathBuf>,
    gaps_written: Option<Instant>,
    tidied: Option<Instant>,
    refused: Option<Instant>,
    /// The flush that somebody waits for.
    ticket: u64,
    /// Kept until the last write: then another agent may have the folder.
    lock: Box<dyn DiskFile>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, opened: WriterStart) -> Self {
        let (epoch, folder) = {
            let index = shared.index.lock();
            (
                index.current_epoch(),
                index
                    .epochs
                    .last()
                    .map(|current| current.folder.clone())
                    .unwrap_or_default(),
            )
        };
        let config = &shared.config;
        let disk = shared.layout.disk();
        let appender = |lane| {
            Appender::new(
                disk,
                &folder,
                lane,
                config.segment_bytes(lane),
                *opened.next.get(lane),
            )
        };
        let mut writer = Self {
            epoch,
            appenders: PerLane::from_fn(appender),
            gaps: PendingGaps::default(),
            counted: PerLane::default(),
            leftovers: opened.leftovers,
            markers: opened.markers,
            batcher: Batcher::default(),
            tick_stamp: None,
            unwritten: PerLane::default(),
            staging: Staging::new(disk.clone(), shared.layout.staging()),
            reserve: Reserve::open(&shared.layout),
            staged: opened.staged,
            missing_said: None,
            thinned: None,
            thin_rest: None,
            gaps_written: None,
            tidied: None,
            refused: None,
            ticket: 0,
            lock: opened.lock,
            shared,
        };
        for loss in &opened.losses {
            writer.gaps.add(loss);
        }
        if !writer.staged.is_empty() {
            writer.staging.hold(opened.staged_bytes);
        }
        writer.complete_staged(Instant::now());
        writer
    }

    /// Runs until the token is cancelled, then writes everything and marks the stop as clean.
    pub(crate) fn run(mut self, token: &CancellationToken) {
        loop {
            let stop = token.is_cancelled();
            if stop {
                self.shared.intake.close();
            }
            self.round(stop);
            if stop && self.shared.intake.len() == 0 {
                break;
            }
        }
        self.finish(Instant::now());
    }

    fn round(&mut self, stop: bool) {
        let wake_at = if self.batcher.len(Lane::Events) == 0 {
            1
        } else {
            WAKE_AT_FACTS
        };
        let deadline = if stop { Instant::now() } else { self.deadline() };
        let taken = self.shared.intake.take(deadline, wake_at);
        self.work(taken, Instant::now(), stop);
    }

    /// One round with what was taken out of the intake.
    pub(crate) fn work(&mut self, taken: Taken, now: Instant, stop: bool) {
        let lost = std::mem::take(&mut self.shared.index.lock().lost);
        for loss in taken.losses.iter().chain(&lost) {
            self.gaps.add(loss);
        }
        for fact in taken.facts {
            self.take_in(fact, now);
        }
        let all = stop || taken.requests.flush_ticket > 0;
        for lane in Lane::ALL.iter().copied() {
            let due = self
                .batcher
                .due(lane, &self.shared.config)
                .is_some_and(|due| due <= now);
            // What waits for the disk is tried again, and makes no batch smaller.
            if all || due {
                self.encode(lane);
            }
            if all || due || !self.unwritten.get(lane).is_empty() {
                self.flush(lane, now, all);
            }
        }
        if !self.gaps.is_empty() && (all || self.gaps_written.is_none_or(|last| now >= last + GAPS_AGE)) {
            self.write_gaps(now);
        }
        self.answer(&taken.requests, now);
    }

    fn answer(&mut self, requests: &Requests, now: Instant) {
        if let Some(damaged) = requests.repair {
            self.repair(damaged);
        }
        if requests.tidy || self.tidied.is_none_or(|last| now >= last + TIDY_EVERY) {
            self.tidied = Some(now);
            self.tidy(now);
        }
        self.ticket = self.ticket.max(requests.flush_ticket);
        // Durable, or its loss is: what the disk refused waits, and so does who asked for it.
        let durable =
            self.gaps.is_empty() && Lane::ALL.iter().all(|lane| self.unwritten.get(*lane).is_empty());
        if durable && self.ticket > 0 {
            let ticket = std::mem::take(&mut self.ticket);
            self.shared
                .progress
                .send_modify(|progress| progress.flushed_ticket = progress.flushed_ticket.max(ticket));
        }
    }

    fn deadline(&self) -> Instant {
        let latest = Instant::now() + ROUND_MAX;
        let due = Lane::ALL
            .iter()
            .filter_map(|lane| self.batcher.due(*lane, &self.shared.config))
            .min();
        // While the disk refuses nothing is gained by being early.
        due.filter(|_| self.refused.is_none())
            .map_or(latest, |due| due.min(latest))
    }

    pub(crate) fn take_in(&mut self, fact: Fact, now: Instant) {
        let lane = fact.lane();
        if let Fact::Metrics(tick) = &fact
            // The batch of this tick comes behind frames that wait for the disk, which nothing on it would tell of.
            && self.unwritten.get(lane).is_empty()
        {
            let waiting = self.thinned.as_ref().map_or(0, Thinned::len);
            let number = self.appenders.get(lane).next().saturating_add(waiting);
            let (of, stamp) = ((self.epoch, number), self.stamp());
            self.tick_stamp = Some(stamp);
            if let Err(error) = self.staging.append(tick, of, stamp) {
                tracing::debug!(%error, "tick of metrics could not be staged");
            }
        }
        self.batcher.push(fact, now);
        if self.batcher.len(lane) >= SpoolConfig::batch_facts_max(lane) {
            self.encode(lane);
            self.flush(lane, now, false);
        }
    }

    pub(crate) fn clear_staging(&mut self) {
        if let Err(error) = self.staging.clear() {
            tracing::warn!(%error, "could not empty the staging file");
        }
    }

    /// Writes what waits of the metrics; whether nothing of them waits any more.
    pub(crate) fn flush_metrics(&mut self, now: Instant) -> bool {
        if self.batcher.len(Lane::Metrics) > 0 {
            self.encode(Lane::Metrics);
        }
        self.flush(Lane::Metrics, now, false);
        self.batcher.len(Lane::Metrics) == 0 && self.unwritten.get(Lane::Metrics).is_empty()
    }

    /// Makes frames of the facts that wait in `lane`.
    fn encode(&mut self, lane: Lane) {
        // A batch of ticks is the same whether this run makes it or the next one does, of what was staged.
        let staged = self.tick_stamp.take_if(|_| lane == Lane::Metrics);
        let stamp = staged.unwrap_or(self.stamp());
        let Encoded { frames, losses } = self.batcher.encode(lane, self.epoch, stamp);
        for loss in &losses {
            self.gaps.add(loss);
        }
        self.unwritten.get_mut(lane).extend(frames);
    }

    /// Writes the frames of `lane`, unless the disk refused a moment ago and they can wait.
    fn flush(&mut self, lane: Lane, now: Instant, force: bool) {
        let free = lane != Lane::Metrics || self.thinned.is_none() || self.place_thinned();
        if free && (force || self.refused.is_none_or(|refused| now >= refused + REFUSED_PAUSE)) {
            let mut frames = std::mem::take(self.unwritten.get_mut(lane));
            if let Err(error) = self.write(lane, frames.make_contiguous(), now) {
                *self.unwritten.get_mut(lane) = frames;
                self.disk_refused(lane, &error, now);
            }
        }
        self.bound_unwritten(lane);
        if lane == Lane::Metrics && self.unwritten.get(lane).is_empty() && self.batcher.len(lane) == 0 {
            self.clear_staging();
        }
    }

    pub(crate) fn write(&mut self, lane: Lane, frames: &mut [Frame], now: Instant) -> io::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let Appended {
            segment,
            segment_bytes,
            next,
            bytes,
        } = self.appenders.get_mut(lane).append(frames, now)?;
        if let Some(current) = self.shared.index.lock().epochs.last_mut() {
            current.lanes.get_mut(lane).grow(segment, next, segment_bytes);
        }
        if self.refused.take().is_some() {
            tracing::info!("the disk takes the spool's frames again");
            self.shared.disk_refuses.store(false, Ordering::Relaxed);
            crate::metrics::disk_refuses(false);
        }
        crate::metrics::written(lane, u64::try_from(frames.len()).unwrap_or(u64::MAX), bytes);
        crate::metrics::flush_took(started.elapsed().as_secs_f64());
        self.shared.notify();
        Ok(())
    }

    /// Writes the pending gaps; they stay pending when the disk refuses.
    pub(crate) fn write_gaps(&mut self, now: Instant) {
        self.gaps_written = Some(now);
        let mut encoded = self.encode_gaps(self.gaps.rows());
        if encoded.frames.is_empty() {
            return;
        }
        let mut written = self.write(Lane::Critical, &mut encoded.frames, now);
        if let Err(error) = &written
            && self.reserve.give(error, now)
        {
            written = self.write(Lane::Critical, &mut encoded.frames, now);
        }
        match written {
            Ok(()) => {
                self.gaps.clear();
                self.counted = PerLane::default();
                self.remove_leftovers();
            }
            // They can wait in memory: no other record has to go for them.
            Err(error) => self.disk_refused(Lane::Metrics, &error, now),
        }
    }

    /// Frames of gap rows, without their numbers.
    pub(crate) fn encode_gaps(&self, rows: &[Gap]) -> Encoded {
        let mut encoded = Encoded::default();
        let (Ok(batch), Some(table)) = (Gap::to_batch(rows), table_by_id(Gap::ID)) else {
            return encoded;
        };
        let stamp = self.stamp();
        let time = |pick: fn(&Gap) -> TimeMicros| rows.iter().map(pick);
        let span = (
            time(|gap| gap.time).min().unwrap_or(stamp.wall),
            time(|gap| gap.time).max().unwrap_or(stamp.wall),
        );
        let waiting = Waiting {
            span,
            rows: u64::try_from(batch.num_rows()).unwrap_or(u64::MAX),
        };
        let id = RecordId {
            epoch: self.epoch,
            lane: Lane::Critical,
            sequence: Sequence(0),
        };
        encode_split(&mut encoded, id, table, batch, stamp, waiting);
        encoded
    }

    /// Whether the disk refused the last frames.
    pub(crate) fn disk_refuses(&self) -> bool {
        self.refused.is_some()
    }

    fn disk_refused(&mut self, lane: Lane, error: &io::Error, now: Instant) {
        if self.refused.replace(now).is_none() {
            tracing::error!(%lane, %error, "the disk refuses the spool's frames: they wait in memory, then they are lost and counted");
            self.shared.disk_refuses.store(true, Ordering::Relaxed);
            crate::metrics::disk_refuses(true);
        }
        self.make_room(lane, now);
    }

    /// Drops the oldest unwritten frames beyond the limit, and counts their rows.
    fn bound_unwritten(&mut self, lane: Lane) {
        let waiting = self.unwritten.get_mut(lane);
        let mut bytes: usize = waiting.iter().map(Frame::encoded_len).sum();
        let mut dropped = false;
        while bytes > UNWRITTEN_BYTES_MAX {
            let Some(frame) = waiting.pop_front() else { break };
            bytes = bytes.saturating_sub(frame.encoded_len());
            self.gaps.add(&loss_of(&frame, "disk_full"));
            dropped = true;
        }
        if dropped && lane == Lane::Metrics {
            // Staged ticks were given the numbers behind them, which others get now.
            self.clear_staging();
        }
    }

    /// Writes what is left, or that it is lost, and marks the stop as clean when both is durable.
    pub(crate) fn finish(mut self, now: Instant) {
        // What was staged is written by the next start.
        for lane in [Lane::Critical, Lane::Events] {
            for frame in std::mem::take(self.unwritten.get_mut(lane)) {
                self.gaps.add(&loss_of(&frame, "disk_full"));
            }
        }
        if !self.gaps.is_empty() {
            self.write_gaps(now);
        }
        let unwritten = Lane::ALL.iter().any(|lane| !self.unwritten.get(*lane).is_empty());
        if unwritten || !self.gaps.is_empty() || self.thinned.is_some() || !self.staged.is_empty() {
            tracing::error!("the spool ends with frames that the disk refused: they are lost");
        } else {
            let next = PerLane::from_fn(|lane| self.appenders.get(lane).next());
            if let Err(error) =
                CleanMark::new(&**self.shared.layout.disk(), self.epoch, &next).write(&self.shared.layout)
            {
                tracing::warn!(%error, "could not mark the stop as clean; the next start begins a new epoch");
            }
        }
        // Said, not left to the closing of the file: a process being started may hold a copy of it for a moment.
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "spool could not be unlocked");
        }
        self.shared
            .progress
            .send_modify(|progress: &mut Progress| progress.ended = true);
    }

    /// Frames' bytes and gap rows that wait in memory.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> (usize, usize) {
        let frames = Lane::ALL.iter().flat_map(|lane| self.unwritten.get(*lane));
        (frames.map(Frame::encoded_len).sum(), self.gaps.rows().len())
    }

    /// Facts of `lane` that wait to become frames.
    #[cfg(test)]
    pub(crate) fn batched(&self, lane: Lane) -> usize {
        self.batcher.len(lane)
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            wall: clock::wall(),
            boot_us: clock::boot_micros(),
        }
    }
}

/// The loss of a frame's rows.
pub(crate) fn loss_of(frame: &Frame, reason: &'static str) -> Loss {
    // A row of metrics holds many samples.
    let facts = frame.facts();
    Loss {
        table: table_by_id(frame.table).map_or("*", |table: &TableInfo| table.name),
        lane: frame.id.lane,
        span: (frame.from_time, frame.to_time),
        count: facts.unwrap_or(frame.rows.into()),
        exactness: if facts.is_some() {
            Exactness::Exact
        } else {
            Exactness::AtLeast
        },
        stage: GapStage::Spool,
        reason,
    }
}
