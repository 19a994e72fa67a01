//! Thinning: between raw samples and a mere count there is one sample per series and minute.
//!
//! When the unacknowledged part of the metrics lane comes near its quota, its oldest raw segment of which nothing was
//! sent is read, reduced and written again as new records at the end of the lane; then the old numbers become
//! tombstones and a gap row says how many samples are gone. In this order, so that a crash at any point leaves either
//! the raw samples or the aggregates:
//!
//! 1. The aggregates, numbered as they will come next, go to a file `….thin` in the folder of the epoch. Its name says
//!    their first number, the number of the gap row, and what they stand for.
//! 2. The gap row is written to the critical lane under the number that was named. From here on they count: a start
//!    that finds the file without the row removes it, one that finds both goes on with 3.
//! 3. The raw segment becomes tombstones.
//! 4. The file gets the name of a segment.
//!
//! Readers do not see the raw segment meanwhile. Between 2 and 4 nothing else is appended to the lane: when the disk
//! refuses, frames of metrics wait in memory as they do on any disk that refuses.

mod reduce;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::frame::HEADER_BYTES;
use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, Table, table_by_id};
use fleetmend_event::{Frame, Lane, RecordId, Sequence, TimeMicros};

use crate::batcher::{Encoded, Waiting, encode_split};
use crate::disk::{Access, Disk, DiskFile};
use crate::gaps::{Loss, gap_of};
use crate::index::{Extent, ExtentKind};
use crate::layout::{self, ThinName};
use crate::task::Writer;
use reduce::{Reduced, Reducer};

/// What the gap row of thinned samples gives as reason.
pub(crate) const REASON: &str = "thinned";
/// Segments that one tidying may read: each has at most a mebibyte.
pub(crate) const SEGMENTS_PER_ROUND: usize = 2;
/// Thinning has to leave at most this part of the bytes, or is not worth it.
const WORTH: u64 = 2;

/// Aggregates whose gap row is durable and which are not in the lane yet.
#[derive(Debug)]
pub(crate) struct Thinned {
    name: ThinName,
    /// Where they lie.
    folder: PathBuf,
    next: u64,
    bytes: u64,
    source: Source,
}

#[derive(Debug, Clone)]
struct Source {
    ordinal: u32,
    folder: PathBuf,
    extent: Extent,
}

struct Aggregates {
    frames: VecDeque<Frame>,
    loss: Loss,
}

impl Thinned {
    /// How many numbers they take.
    pub(crate) fn len(&self) -> u64 {
        self.next.saturating_sub(self.name.first)
    }
}

impl Writer {
    /// Thins the oldest raw segment of metrics of which nothing was sent; `false` when there is none, or the disk
    /// refuses.
    pub(crate) fn thin_oldest(&mut self, now: Instant) -> bool {
        if self.thinned.is_some() {
            return self.place_thinned();
        }
        for _ in 0..SEGMENTS_PER_ROUND {
            if !self.is_metrics_settled(now) {
                return false;
            }
            let Some(source) = self.oldest_raw() else {
                return false;
            };
            let made = self.aggregate(&source, now);
            match made {
                Ok(Some(thinned)) => {
                    self.thinned = Some(thinned);
                    return self.place_thinned();
                }
                Ok(None) => self.give_back(&source, true),
                Err(error) => {
                    tracing::warn!(%error, "samples could not be thinned");
                    self.give_back(&source, false);
                    return false;
                }
            }
        }
        false
    }

    /// Whether the number that comes next in the lane belongs to nothing yet: neither to frames that wait nor to
    /// staged ticks. Those that wait for their batch become a smaller one.
    fn is_metrics_settled(&mut self, now: Instant) -> bool {
        if let Some(path) = self.thin_rest.take()
            && layout::remove_if_there(&**self.shared.layout.disk(), &path).is_err()
        {
            self.thin_rest = Some(path);
            return false;
        }
        self.flush_metrics(now) && self.staging.is_empty() && self.staged.is_empty()
    }

    /// Keeps the readers from it until it is given back or replaced.
    fn oldest_raw(&self) -> Option<Source> {
        let mut index = self.shared.index.lock();
        let (current, open) = (self.epoch, self.appenders.get(Lane::Metrics).open_segment());
        index.epochs.iter_mut().find_map(|epoch| {
            let written = open.filter(|_| epoch.epoch == current);
            let lane = epoch.lanes.get_mut(Lane::Metrics);
            let raw = |extent: &&Extent| {
                extent.kind != ExtentKind::Shed
                    && !extent.thin
                    && !lane.yields(extent.first)
                    && lane.is_unsent(extent)
                    && Some(extent.first) != written
            };
            let extent = *lane.extents.iter().find(raw)?;
            lane.yielding.push((extent.first, extent.next));
            Some(Source {
                ordinal: epoch.ordinal,
                folder: epoch.folder.clone(),
                extent,
            })
        })
    }

    fn give_back(&self, source: &Source, thin: bool) {
        if let Some(epoch) = self.shared.index.lock().find_mut(source.ordinal) {
            let lane = epoch.lanes.get_mut(Lane::Metrics);
            lane.yielded(source.extent.first);
            let same = |extent: &&mut Extent| extent.first == source.extent.first;
            if let Some(extent) = lane.extents.iter_mut().find(same) {
                extent.thin |= thin;
            }
        }
        self.shared.notify();
    }

    /// Steps 1 and 2; nothing when the segment holds nothing that thinning would make smaller.
    fn aggregate(&mut self, source: &Source, now: Instant) -> io::Result<Option<Thinned>> {
        let first = self.appenders.get(Lane::Metrics).next();
        let path = source.extent.path(&source.folder, Lane::Metrics);
        let file = self.shared.layout.disk().open(&path, Access::Read)?;
        let Some(mut made) = self.reduce(&*file, source, first)? else {
            return Ok(None);
        };
        let frames = made.frames.make_contiguous();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().to_vec()).collect();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if frames.is_empty() || length.saturating_mul(WORTH) > source.extent.bytes() {
            return Ok(None);
        }
        let name = ThinName {
            first,
            gap: self.appenders.get(Lane::Critical).next(),
            of_ordinal: source.ordinal,
            of: (source.extent.first, source.extent.next),
        };
        let folder = self.appenders.get(Lane::Metrics).folder().to_owned();
        let path = folder.join(name.name());
        let written = write_whole(&**self.shared.layout.disk(), &folder, &path, &bytes)
            .and_then(|()| self.write_gap(gap_of(&made.loss), now));
        if let Err(error) = written {
            // Without its gap row it does not count, and before another one is begun it must be gone.
            self.thin_rest = Some(path);
            return Err(error);
        }
        crate::metrics::dropped(Lane::Metrics, REASON, made.loss.count);
        crate::metrics::thinned(source.extent.bytes(), length);
        Ok(Some(Thinned {
            name,
            folder,
            next: first.saturating_add(u64::try_from(frames.len()).unwrap_or(u64::MAX)),
            bytes: length,
            source: source.clone(),
        }))
    }

    /// Frame by frame, so that one of them is in memory; nothing when some of it is no samples.
    fn reduce(&self, file: &dyn DiskFile, source: &Source, first: u64) -> io::Result<Option<Aggregates>> {
        let mut reducer = Reducer::default();
        let mut span: Option<(TimeMicros, TimeMicros)> = None;
        let mut offset = 0;
        while offset < source.extent.bytes() {
            let Some(frame) = frame_at(file, &mut offset)? else {
                return Ok(None);
            };
            let batch = frame
                .batch()
                .ok()
                .flatten()
                .filter(|_| frame.table == MetricChunk::ID);
            let Some(rows) = batch.and_then(|batch| MetricChunk::from_batch(&batch).ok()) else {
                return Ok(None);
            };
            let (from, to) = span.unwrap_or((frame.from_time, frame.to_time));
            span = Some((from.min(frame.from_time), to.max(frame.to_time)));
            rows.into_iter().for_each(|row| reducer.take(row));
        }
        let Reduced { rows, taken, kept } = reducer.finish();
        let Some(span) = span.filter(|_| kept < taken) else {
            return Ok(None);
        };
        let table = table_by_id(MetricChunk::ID).ok_or(io::ErrorKind::Unsupported)?;
        let batch = MetricChunk::to_batch(&rows).map_err(io::Error::other)?;
        let id = RecordId {
            epoch: self.epoch,
            lane: Lane::Metrics,
            sequence: Sequence(first),
        };
        let waiting = Waiting {
            span,
            rows: u64::try_from(rows.len()).unwrap_or(u64::MAX),
        };
        let mut encoded = Encoded::default();
        encode_split(&mut encoded, id, table, batch, self.stamp(), waiting);
        if !encoded.losses.is_empty() {
            return Ok(None);
        }
        for (frame, number) in encoded.frames.iter_mut().zip(first..) {
            frame.id.sequence = Sequence(number);
        }
        Ok(Some(Aggregates {
            frames: encoded.frames.into(),
            loss: Loss {
                table: table.name,
                lane: Lane::Metrics,
                span,
                count: taken.saturating_sub(kept),
                exactness: Exactness::Exact,
                stage: GapStage::Spool,
                reason: REASON,
            },
        }))
    }

    /// The gap row at once and alone: those that wait for others have no number yet.
    pub(crate) fn write_gap(&mut self, gap: Gap, now: Instant) -> io::Result<()> {
        let mut encoded = self.encode_gaps(&[gap]);
        self.write(Lane::Critical, &mut encoded.frames, now)
    }

    /// Steps 3 and 4; tried again until the disk takes them.
    pub(crate) fn place_thinned(&mut self) -> bool {
        let Some(thinned) = self.thinned.take() else {
            return false;
        };
        let source = &thinned.source;
        let placed = self
            .bury(source.ordinal, &source.folder, Lane::Metrics, thinned.name.of)
            .and_then(|()| place(&**self.shared.layout.disk(), &thinned.folder, &thinned.name));
        if let Err(error) = placed {
            tracing::warn!(%error, "thinned samples wait for the disk");
            self.thinned = Some(thinned);
            return false;
        }
        self.appenders.get_mut(Lane::Metrics).go_on_after(thinned.next);
        let mut index = self.shared.index.lock();
        if let Some(epoch) = index.find_mut(source.ordinal) {
            let lane = epoch.lanes.get_mut(Lane::Metrics);
            lane.yielded(source.extent.first);
        }
        if let Some(current) = index.epochs.last_mut() {
            current
                .lanes
                .get_mut(Lane::Metrics)
                .place(thinned.name.first, thinned.next, thinned.bytes);
        }
        drop(index);
        self.shared.notify();
        true
    }
}

/// Gives the file of aggregates the name of a segment.
pub(crate) fn place(disk: &dyn Disk, folder: &Path, name: &ThinName) -> io::Result<()> {
    let target = folder.join(layout::segment_name(Lane::Metrics, name.first));
    match disk.rename(&folder.join(name.name()), &target) {
        // Renamed the last time, and then the disk refused to say that it is durable.
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.length(&target).map(|_| ()),
        other => other,
    }?;
    disk.sync_folder(folder)
}

fn write_whole(disk: &dyn Disk, folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written = disk.open(&fresh, Access::Create).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        disk.rename(&fresh, path)
    });
    // On a full disk half a file would keep the room that others need, and the next one has another name.
    written.inspect_err(|_| drop(layout::remove_if_there(disk, &fresh)))?;
    disk.sync_folder(folder)
}

/// The frame at `offset`, which goes on behind it; nothing when no frame is there.
fn frame_at(file: &dyn DiskFile, offset: &mut u64) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, *offset)?;
    let Ok(length) = Frame::peek_len(&header) else {
        return Ok(None);
    };
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, *offset)?;
    *offset = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    Ok(Frame::decode(&Bytes::from(bytes)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn refused_aggregates_leave_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics-1.thin");
        // A name that cannot be taken.
        std::fs::create_dir_all(path.join("inside")).unwrap();
        write_whole(&RealDisk, folder.path(), &path, b"bytes").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
