//! Ticks of metrics that wait for their batch, on disk already.
//!
//! Each tick is one frame of the metrics lane in the file `staging`, with the epoch and the number that its
//! batch will begin with. When that number is found in the lane, the batch was written and the tick is not
//! needed; otherwise the next start writes the batch under that very number, with nothing in it of its own. So a
//! tick is neither lost by kill −9 nor stored twice, not even when the disk was cloned and both copies start. When the
//! original ran on, its batch has more ticks: the first that comes to the collector stays, the other is a gap row.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{MetricChunk, Table, TableInfo};
use fleetmend_event::{
    Fact, Frame, Lane, MetricFrame, RecordId, Sequence, SeriesKey, SeriesSet, SpoolEpoch, TimeMicros,
};

use crate::batcher::Batcher;
use crate::disk::{Access, Disk, DiskFile};
use crate::index::EpochIndex;

/// A minute of ticks has about half a megabyte; more is not ours.
const STAGING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The staging file.
#[derive(Debug)]
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    table: TableInfo,
    /// Bytes of whole ticks in it.
    bytes: u64,
    /// Ticks lie there that are in the lane already, because the disk refused to forget them.
    stale: bool,
    /// Ticks of the last run lie there that are in no lane yet.
    held: bool,
}

impl Staging {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self {
            disk,
            path,
            file: None,
            bytes: 0,
            stale: true,
            held: false,
            table: TableInfo::of::<MetricChunk>(),
        }
    }

    /// The first `bytes` are ticks of the last run, which stay until [`Staging::release`].
    pub(crate) fn hold(&mut self, bytes: u64) {
        (self.held, self.bytes) = (true, bytes);
    }

    /// Nothing of the last run is needed any more.
    pub(crate) fn release(&mut self) {
        self.held = false;
    }

    /// Whether no tick lies there.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.stale
    }

    /// The file, without what the last run left beyond what is to stay.
    fn open(&mut self) -> io::Result<&mut Box<dyn DiskFile>> {
        if self.file.is_none() {
            let file = self.disk.open(&self.path, Access::AppendOrCreate)?;
            file.set_len(self.bytes)?;
            file.sync_all()?;
            self.path
                .parent()
                .map_or(Ok(()), |folder| self.disk.sync_folder(folder))?;
            self.stale = self.held;
            self.file = Some(file);
        }
        self.file.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Adds one tick, durably.
    pub(crate) fn append(
        &mut self,
        tick: &MetricFrame,
        of: (SpoolEpoch, u64),
        stamp: Stamp,
    ) -> io::Result<()> {
        let bytes = self.encode(tick, of, stamp)?;
        let before = self.bytes;
        let file = self.open()?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        match &written {
            Ok(()) => self.bytes = before.saturating_add(length_of(&bytes)),
            // A part of it would hide the ticks that follow.
            Err(_) => {
                if let Err(error) = file.set_len(before) {
                    tracing::debug!(%error, "could not take a part of a tick back");
                }
            }
        }
        written
    }

    /// Its ticks are in the lane now. Durably: while the lane holds their batch they are known to be there, and
    /// it may be deleted once the collector has it.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if self.held || (self.bytes == 0 && !self.stale) {
            return Ok(());
        }
        self.stale = true;
        let file = self.open()?;
        file.set_len(0)?;
        file.sync_data()?;
        (self.bytes, self.stale) = (0, false);
        Ok(())
    }

    /// Whether a tick lies there beside its batch, so that the batch has to stay.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    fn encode(
        &self,
        tick: &MetricFrame,
        (epoch, number): (SpoolEpoch, u64),
        stamp: Stamp,
    ) -> io::Result<Bytes> {
        let rows = fleetmend_event::metric::chunks(std::slice::from_ref(tick));
        let batch = MetricChunk::to_batch(&rows).map_err(io::Error::other)?;
        let id = RecordId {
            epoch,
            lane: Lane::Metrics,
            sequence: Sequence(number),
        };
        let frame = Frame::of_batch(id, &self.table, &batch, stamp, (tick.time, tick.time))
            .map_err(io::Error::other)?;
        Ok(frame.encode())
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Frames that the last run would have written.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) epoch: SpoolEpoch,
    /// Number of the first.
    pub(crate) first: u64,
    pub(crate) frames: VecDeque<Frame>,
    pub(crate) ticks: usize,
    pub(crate) last: Option<TimeMicros>,
}

/// The batches that were never written, or not all of them, as the run that staged them would have numbered them:
/// whoever starts from the same file makes the same frames of it, and the store takes them once. What cannot be read
/// is left out: a torn tail is what a power cut may cost.
/// With the bytes of the file that are whole.
pub(crate) fn recover(disk: &dyn Disk, path: &Path, epochs: &[EpochIndex]) -> (VecDeque<Staged>, u64) {
    let read = disk
        .open(path, Access::Read)
        .and_then(|file| file.read_whole(STAGING_BYTES_MAX));
    let bytes = read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, path = %path.display(), "staged ticks cannot be read");
        }
        Vec::new()
    });
    let mut rest = Bytes::from(bytes);
    let mut found: Vec<Frame> = Vec::new();
    let mut whole = 0_u64;
    while let Ok(frame) = Frame::decode(&rest) {
        whole = whole.saturating_add(u64::try_from(frame.encoded_len()).unwrap_or(u64::MAX));
        rest = rest.slice(frame.encoded_len()..);
        found.push(frame);
    }
    let staged = found
        .chunk_by(|one, other| one.id == other.id)
        .filter_map(|ticks| unwritten(ticks, epochs))
        .collect();
    (staged, whole)
}

/// What the lane does not have of the batch of these ticks.
fn unwritten(ticks: &[Frame], epochs: &[EpochIndex]) -> Option<Staged> {
    let last = ticks.last()?;
    let RecordId { epoch, sequence, .. } = last.id;
    let lane = epochs
        .iter()
        .find(|of| of.epoch == epoch)?
        .lanes
        .get(Lane::Metrics);
    let mut batcher = Batcher::default();
    let mut series: Option<SeriesSet> = None;
    let facts = ticks.iter().filter_map(|tick| tick_of(tick, &mut series));
    facts.for_each(|tick| batcher.push(Fact::Metrics(tick), Instant::now()));
    let ticks = batcher.len(Lane::Metrics);
    let stamp = Stamp {
        wall: last.made_at,
        boot_us: last.made_boot_us,
    };
    let mut frames = batcher.encode(Lane::Metrics, epoch, stamp).frames;
    // Of a batch of several frames a power cut may have left the first.
    let written = lane.next.saturating_sub(sequence.0);
    let written = usize::try_from(written).unwrap_or(usize::MAX).min(frames.len());
    for (frame, number) in frames.iter_mut().zip(sequence.0..) {
        frame.id.sequence = Sequence(number);
    }
    let frames: VecDeque<Frame> = frames.drain(written..).collect();
    let first = frames.front()?.id.sequence.0;
    Some(Staged {
        epoch,
        first,
        frames,
        ticks,
        last: Some(last.to_time),
    })
}

fn tick_of(frame: &Frame, series: &mut Option<SeriesSet>) -> Option<MetricFrame> {
    let rows = MetricChunk::from_batch(&frame.batch().ok()??).ok()?;
    let time = rows.first()?.start_time;
    let values = rows
        .iter()
        .map(|row| row.value.first().copied().unwrap_or(f64::NAN))
        .collect();
    let keys: Vec<SeriesKey> = rows.into_iter().map(key_of).collect();
    // One set for all ticks of the same series, as the collector makes them: they become one batch.
    let same = series.as_ref().filter(|set| ***set == *keys).cloned();
    let series = series.insert(same.unwrap_or_else(|| Arc::from(keys))).clone();
    Some(MetricFrame { time, series, values })
}

pub(crate) fn key_of(row: MetricChunk) -> SeriesKey {
    let labels = serde_json::from_str(&row.labels).unwrap_or_default();
    SeriesKey {
        name: row.name,
        unit: row.unit,
        labels,
    }
}
