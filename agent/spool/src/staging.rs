//! Ticks of metrics that wait for their batch, on disk already.
//!
//! Each tick is one frame of the metrics lane in the file `staging`, with the epoch and the number that its
//! batch will begin with. When that number is found in the lane, the batch was written and the tick is not
//! needed; otherwise it is taken back. So a tick is neither lost by kill −9 nor stored twice.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{MetricChunk, Table, TableInfo};
use fleetmend_event::{Fact, Frame, Lane, MetricFrame, RecordId, Sequence, SeriesKey, SeriesSet, SpoolEpoch};

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
}

impl Staging {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self {
            disk,
            path,
            file: None,
            bytes: 0,
            stale: true,
            table: TableInfo::of::<MetricChunk>(),
        }
    }

    /// Replaces what lies there by `ticks`, at once or not at all.
    pub(crate) fn replace(
        &mut self,
        ticks: &[&MetricFrame],
        of: (SpoolEpoch, u64),
        stamp: Stamp,
    ) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = self.disk.open(&fresh, Access::Create)?;
        self.bytes = 0;
        for tick in ticks {
            let bytes = self.encode(tick, of, stamp)?;
            file.write_all(&bytes)?;
            self.bytes = self.bytes.saturating_add(length_of(&bytes));
        }
        file.sync_all()?;
        self.disk.rename(&fresh, &self.path)?;
        self.file = Some(self.disk.open(&self.path, Access::Append)?);
        self.path
            .parent()
            .map_or(Ok(()), |folder| self.disk.sync_folder(folder))?;
        self.stale = false;
        Ok(())
    }

    /// Adds one tick, durably.
    pub(crate) fn append(
        &mut self,
        tick: &MetricFrame,
        of: (SpoolEpoch, u64),
        stamp: Stamp,
    ) -> io::Result<()> {
        let bytes = self.encode(tick, of, stamp)?;
        let file = match &mut self.file {
            Some(file) => file,
            None => self
                .file
                .insert(self.disk.open(&self.path, Access::AppendOrCreate)?),
        };
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        match &written {
            Ok(()) => self.bytes = self.bytes.saturating_add(length_of(&bytes)),
            // A part of it would hide the ticks that follow.
            Err(_) => {
                if let Err(error) = file.set_len(self.bytes) {
                    tracing::debug!(%error, "could not take a part of a tick back");
                }
            }
        }
        written
    }

    /// Its ticks are in the lane now. Durably: while the lane holds their batch they are known to be there, and
    /// it may be deleted once the collector has it.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if self.bytes == 0 && !self.stale {
            return Ok(());
        }
        self.stale = true;
        let file = match &self.file {
            Some(file) => file,
            None => self
                .file
                .insert(self.disk.open(&self.path, Access::AppendOrCreate)?),
        };
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

/// The ticks whose batch was never written. What cannot be read is left out: a torn tail is what a power cut
/// may cost.
pub(crate) fn recover(disk: &dyn Disk, path: &Path, epochs: &[EpochIndex]) -> Vec<Fact> {
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
    let mut ticks = Vec::new();
    let mut series: Option<SeriesSet> = None;
    while let Ok(frame) = Frame::decode(&rest) {
        rest = rest.slice(frame.encoded_len()..);
        let epoch = epochs.iter().find(|epoch| epoch.epoch == frame.id.epoch);
        let batched = epoch.is_some_and(|epoch| epoch.lanes.get(Lane::Metrics).next > frame.id.sequence.0);
        if let (true, Some(tick)) = (epoch.is_some() && !batched, tick_of(&frame, &mut series)) {
            ticks.push(Fact::Metrics(tick));
        }
    }
    ticks
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

fn key_of(row: MetricChunk) -> SeriesKey {
    let labels = serde_json::from_str(&row.labels).unwrap_or_default();
    SeriesKey {
        name: row.name,
        unit: row.unit,
        labels,
    }
}
