//! The writer: the one thread that appends to segments.
//!
//! It takes whatever waits in the queue, up to [`GROUP_BYTES_MAX`], as one group: judges the identities, writes all
//! entries with one call and one fsync, and only then raises marks, shows the rows to queries, tells subscribers
//! and answers. While it waits for the disk the next group gathers by itself. When the disk refuses, nothing of
//! the group counts, every caller gets the reason, and the next group tries again.

mod group;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;
use metrics::{counter, histogram};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::Committed;
use crate::commit::Command;
use crate::error::CommitError;
use crate::inner::{Health, Inner};
use crate::metrics as names;
use crate::own::{Maker, is_own_epoch};
use crate::segment::{SegmentFile, SegmentWriter};
use crate::shape::{Origin, Rows, sql_tables};
use crate::view::HotFrame;
pub(crate) use group::Group;

/// Bytes of entries that one group holds at most, unless a single commit is larger.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Decoded bytes of a frame whose rows subscribers are told; they hold many at once.
const TOLD_BYTES_MAX: u64 = 1 << 20;
/// How often the free space of the file system is looked at.
const FREE_SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the catalogue may take to close; whatever it does not write then, the next start finds in its log.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the writer sleeps without work before it looks at the segment's age.
const IDLE: Duration = Duration::from_secs(1);

/// The writer's own state.
pub(crate) struct Writer {
    inner: Arc<Inner>,
    commands: mpsc::Receiver<Command>,
    active: Option<SegmentWriter>,
    next_number: u64,
    space_checked: Option<(Instant, Result<(), String>)>,
}

impl Writer {
    /// A writer whose first segment has the number `next_number`.
    pub(crate) fn new(inner: Arc<Inner>, commands: mpsc::Receiver<Command>, next_number: u64) -> Self {
        Self {
            inner,
            commands,
            active: None,
            next_number,
            space_checked: None,
        }
    }

    /// Works until `token` is cancelled, then finishes what is queued and seals.
    pub(crate) fn run(mut self, runtime: &Handle, token: &CancellationToken) {
        self.inner.set_health(Health::Ready);
        while let Some(first) = runtime.block_on(self.next(token)) {
            if let Some(first) = first {
                self.work(first);
            }
            self.seal_when_due();
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.work(command);
        }
        self.seal();
        if runtime
            .block_on(async { tokio::time::timeout(CLOSE_TIME_MAX, self.inner.catalogue.close()).await })
            .is_err()
        {
            tracing::warn!("somebody still uses the catalogue; it is left open");
        }
        self.inner
            .set_health(Health::NotReady("store is closed".to_owned()));
    }

    /// The next command; `Some(None)` when there was none for a while, `None` at the end.
    async fn next(&mut self, token: &CancellationToken) -> Option<Option<Command>> {
        tokio::select! {
            biased;
            () = token.cancelled() => None,
            command = self.commands.recv() => command.map(Some),
            () = tokio::time::sleep(IDLE) => Some(None),
        }
    }

    fn work(&mut self, first: Command) {
        let started = Instant::now();
        let mut group = Group::new(TimeMicros::now());
        let mut seals = Vec::new();
        self.stage(&mut group, &mut seals, first);
        while group.bytes() < GROUP_BYTES_MAX {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.stage(&mut group, &mut seals, command);
        }
        self.settle(group);
        histogram!(names::GROUP_SECONDS).record(started.elapsed().as_secs_f64());
        if !seals.is_empty() {
            self.seal();
        }
        for reply in seals {
            answer(reply, ());
        }
    }

    fn stage(&self, group: &mut Group, seals: &mut Vec<oneshot::Sender<()>>, command: Command) {
        match command {
            Command::Commit {
                host,
                frames,
                gaps,
                reply,
                room,
            } => group.commit(&self.inner, host, (frames, gaps), reply, room),
            Command::Own { host, frames, reply } => group.own(&self.inner, host, frames, reply),
            Command::Seal { reply } => seals.push(reply),
        }
    }

    fn settle(&mut self, group: Group) {
        let written = if group.bytes() == 0 {
            Ok(None)
        } else {
            self.write(&group).map(Some)
        };
        match written {
            Ok(place) => {
                // A group with nothing to write says nothing about the disk.
                if let Some((offset, segment)) = place {
                    self.show(&group, offset, &segment);
                    self.inner.set_health(Health::Ready);
                }
                group.acknowledge(&self.inner);
            }
            Err(reason) => {
                counter!(names::REFUSED, "reason" => "unavailable").increment(1);
                self.inner.set_health(Health::NotReady(reason.clone()));
                group.refuse(&CommitError::Unavailable { reason });
            }
        }
    }

    /// Makes the group durable; returns where it begins.
    fn write(&mut self, group: &Group) -> Result<(u64, Arc<SegmentFile>), String> {
        self.check_space()?;
        let active = match &mut self.active {
            Some(active) => active,
            None => {
                let folder = self.inner.config.segments_folder();
                // A number is used once, also when the attempt fails and leaves something behind.
                let number = self.next_number;
                self.next_number = number.saturating_add(1);
                let made = SegmentWriter::create(&folder, number);
                let made = made.map_err(|error| format!("cannot make a segment: {error}"))?;
                self.inner.add_segment(&made);
                self.active.insert(made)
            }
        };
        match active.append(group.buffer()) {
            Ok(offset) => {
                counter!(names::SEGMENT_BYTES).increment(group.bytes() as u64);
                Ok((offset, active.reader.clone()))
            }
            Err(error) => {
                let reason = format!("cannot write segment {}: {}", active.reader.number, error.source);
                if !error.usable {
                    self.abandon();
                }
                Err(reason)
            }
        }
    }

    /// Shows what became durable: marks, rows, subscribers.
    fn show(&self, group: &Group, offset: u64, segment: &Arc<SegmentFile>) {
        let mut hot = Vec::with_capacity(group.placed().len());
        let mut rows_shown = 0_u64;
        for placed in group.placed() {
            if let Some((table, rows)) = &placed.rows {
                let at = offset.saturating_add(placed.offset);
                let frame = HotFrame::new(segment, at, placed.length, origin_of(group, placed), rows);
                histogram!(names::LATE_SECONDS).record(frame.late_seconds());
                rows_shown = rows_shown.saturating_add(rows.count);
                hot.push((*table, frame));
            }
        }
        counter!(names::FRAMES).increment(group.placed().len() as u64);
        counter!(names::ROWS).increment(rows_shown);
        self.inner.note_durable(group, segment.number);
        self.inner.view.add_hot(hot);
        for placed in group.placed() {
            if let Some((table, rows)) = &placed.rows {
                self.inner.gaps.note(placed.host, *table, &rows.batch);
                tell(&self.inner.committed, &origin_of(group, placed), *table, rows);
            }
        }
    }

    fn seal_when_due(&mut self) {
        let config = &self.inner.config;
        let due = self.active.as_ref().is_some_and(|active| {
            let age = TimeMicros::now().micros_since(active.made_at) / 1_000_000;
            active.len() >= config.segment_bytes_max
                || u64::try_from(age).is_ok_and(|age| age >= config.segment_age_s_max)
        });
        if due {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if self.active.as_ref().is_some_and(|active| !active.is_empty())
            && let Some(active) = self.active.take()
        {
            self.inner.seal_segment(active.reader.number, active.len());
        }
    }

    /// Gives up a segment that must not be written again.
    fn abandon(&mut self) {
        let Some(active) = self.active.take() else { return };
        let SegmentFile { number, path, .. } = active.reader.as_ref();
        if !active.is_empty() {
            self.inner.seal_segment(*number, active.len());
            return;
        }
        self.inner.segments.lock().remove(number);
        if let Err(error) = std::fs::remove_file(path) {
            // Nothing of it was acknowledged; the next start reads it as any other.
            tracing::warn!(segment = number, %error, "cannot delete a segment that was never written");
        }
    }

    /// Refuses early while too little space is left for compaction and catalogue.
    fn check_space(&mut self) -> Result<(), String> {
        if let Some((at, result)) = &self.space_checked
            && at.elapsed() < FREE_SPACE_INTERVAL
            && result.is_ok()
        {
            return Ok(());
        }
        let least = self.inner.config.free_bytes_min;
        let result = match rustix::fs::statvfs(&self.inner.config.folder) {
            Ok(stat) if stat.f_bavail.saturating_mul(stat.f_frsize) < least => {
                Err(format!("less than {least} bytes are free on the file system"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("cannot read the free space of the file system: {error}")),
        };
        self.space_checked = Some((Instant::now(), result.clone()));
        result
    }
}

fn origin_of(group: &Group, placed: &group::Placed) -> Origin {
    Origin {
        host: placed.host,
        record: placed.id,
        ingested_at: group.now(),
        clock: placed.clock,
    }
}

/// Tells subscribers of rows that have become durable.
pub(crate) fn tell(
    committed: &broadcast::Sender<Arc<Committed>>,
    origin: &Origin,
    table: usize,
    rows: &Rows,
) {
    if committed.receiver_count() == 0 {
        return;
    }
    let withheld = rows.bytes > TOLD_BYTES_MAX;
    if withheld {
        counter!(names::UNTOLD).increment(1);
    }
    if let Some(table) = sql_tables().get(table).map(|table| table.info) {
        let facts = Committed {
            host: origin.host,
            table,
            batch: if withheld {
                RecordBatch::new_empty(rows.batch.schema())
            } else {
                rows.batch.clone()
            },
            withheld,
            ingested_at: origin.ingested_at,
            maker: if is_own_epoch(origin.record.epoch) {
                Maker::Store
            } else {
                Maker::Host
            },
        };
        // Fails only when the last subscriber has just gone.
        drop(committed.send(Arc::new(facts)));
    }
}

/// Answers a caller that may have gone.
pub(crate) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::debug!("caller did not wait for the store's answer");
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::Fact;
    use fleetmend_event::table::{Exactness, Gap, GapStage};

    use super::*;
    use crate::own::{OWN_HOST, own_frames};

    fn group(
        inner: &Inner,
    ) -> (
        Group,
        oneshot::Receiver<Result<Vec<fleetmend_event::Mark>, CommitError>>,
    ) {
        let now = TimeMicros::now();
        let gap = Gap {
            time: now,
            table: "*".to_owned(),
            lane: fleetmend_event::Lane::Events,
            from_time: now,
            to_time: now,
            count: 1,
            exactness: Exactness::Exact,
            stage: GapStage::Store,
            reason: "a test".to_owned(),
        };
        let frames = own_frames(inner.own_epoch, vec![Fact::from(gap)]).unwrap();
        let (reply, answer) = oneshot::channel();
        let mut group = Group::new(now);
        group.own(inner, OWN_HOST, frames, reply);
        (group, answer)
    }

    #[tokio::test]
    async fn segment_that_must_not_be_written_again_is_given_up_even_when_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::StoreConfig {
            folder: folder.path().to_owned(),
            free_bytes_min: 0,
            ..crate::StoreConfig::default()
        };
        let inner = crate::Store::open(config).await.unwrap().inner;
        let mut writer = Writer::new(inner.clone(), mpsc::channel(1).1, 1);
        let mut made = SegmentWriter::create(&inner.config.segments_folder(), 1).unwrap();
        let path = made.reader.path.clone();
        made.break_for_good();
        inner.add_segment(&made);
        writer.active = Some(made);
        writer.next_number = 2;
        let (refused, mut answer) = group(&inner);
        writer.settle(refused);
        assert!(matches!(
            answer.try_recv().unwrap(),
            Err(CommitError::Unavailable { .. })
        ));
        assert!(writer.active.is_none() && inner.segments.lock().is_empty() && !path.exists());
        let (taken, mut answer) = group(&inner);
        writer.settle(taken);
        answer.try_recv().unwrap().unwrap();
        assert!(writer.active.is_some_and(|active| active.reader.number == 2));
    }
}
