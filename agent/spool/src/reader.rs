//! Reading frames back for sending: strictly by lane, within a lane the oldest epoch first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::frame::HEADER_BYTES;
use fleetmend_event::table::{Gap, MetricChunk, ProcessEvent, Table};
use fleetmend_event::{Frame, Lane, Mark, RecordId, Sequence, SpoolEpoch};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;
use crate::disk::{Access, DiskFile};
use crate::error::ReadError;
use crate::index::{Extent, ExtentKind};
use crate::recovery::is_damage;
use crate::spool::{Progress, Shared};

/// A frame as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledFrame {
    /// Its identity.
    pub id: RecordId,
    /// The encoded frame, checked.
    pub bytes: Bytes,
}

/// How much one read may return. The first frame is always returned.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Most frames.
    pub frames: usize,
    /// Most bytes of all frames together.
    pub bytes: usize,
}

/// A place in every lane of every epoch. Each reader has its own.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    cursor: Arc<Mutex<Cursor>>,
    progress: watch::Receiver<Progress>,
}

#[derive(Debug, Default)]
struct Cursor {
    /// The next number of (ordinal of the epoch, lane); without an entry the one after the acknowledged.
    next: BTreeMap<(u32, Lane), u64>,
    open: Option<OpenRead>,
}

#[derive(Debug)]
struct OpenRead {
    place: (u32, Lane),
    extent: Extent,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    number: u64,
}

/// What a lane of an epoch has at a number.
struct Step {
    ordinal: u32,
    epoch: SpoolEpoch,
    folder: PathBuf,
    lane: Lane,
    number: u64,
    extent: Extent,
}

enum Fault {
    Io(PathBuf, io::Error),
    /// Bytes that are no frame, not the one expected, or gone with their sector.
    Damaged,
}

impl Fault {
    fn of_read(path: &Path, error: io::Error) -> Self {
        if is_damage(&error) {
            tracing::error!(%error, path = %path.display(), "a spool segment cannot be read");
            return Self::Damaged;
        }
        Self::Io(path.to_owned(), error)
    }
}

impl SpoolReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let progress = shared.progress.subscribe();
        Self {
            shared,
            cursor: Arc::default(),
            progress,
        }
    }

    /// The next frames, at most `limit`; none when everything was read.
    ///
    /// # Errors
    /// When the disk refuses. Damage is no error: it is repaired, and read as tombstones by a later call.
    ///
    /// # Cancel safety
    /// Not safe: frames of a dropped call may count as read. [`SpoolReader::resume`] sets the place anew.
    pub async fn next_frames(&mut self, limit: ReadLimit) -> Result<Vec<SpooledFrame>, ReadError> {
        self.next_frames_of(Lane::ALL, limit).await
    }

    /// As [`SpoolReader::next_frames`], of the critical lane alone: for a sender that holds the others back.
    ///
    /// # Errors
    /// As [`SpoolReader::next_frames`].
    ///
    /// # Cancel safety
    /// As [`SpoolReader::next_frames`].
    pub async fn next_critical_frames(&mut self, limit: ReadLimit) -> Result<Vec<SpooledFrame>, ReadError> {
        self.next_frames_of(&[Lane::Critical], limit).await
    }

    async fn next_frames_of(
        &mut self,
        lanes: &'static [Lane],
        limit: ReadLimit,
    ) -> Result<Vec<SpooledFrame>, ReadError> {
        self.progress.mark_unchanged();
        let (shared, cursor) = (self.shared.clone(), self.cursor.clone());
        let read = tokio::task::spawn_blocking(move || cursor.lock().read(&shared, lanes, limit));
        read.await.map_err(|_| ReadError::Cancelled)?
    }

    /// As [`SpoolReader::next_frames`], on this thread.
    #[cfg(test)]
    pub(crate) fn read_here(&self, limit: ReadLimit) -> Result<Vec<SpooledFrame>, ReadError> {
        self.cursor.lock().read(&self.shared, Lane::ALL, limit)
    }

    /// Sets the place after what the collector says it has, which becomes what counts as acknowledged: a
    /// restored collector gets again what is still here.
    pub fn resume(&mut self, durable: &[Mark]) {
        // One lock after the other: a read holds the cursor and takes the index.
        self.shared.index.lock().resume(durable, Instant::now());
        *self.cursor.lock() = Cursor::default();
    }

    /// Waits until something may have changed since the last [`SpoolReader::next_frames`] began. `false` when
    /// the writer has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok() && !self.progress.borrow().ended
    }
}

impl Cursor {
    fn read(
        &mut self,
        shared: &Shared,
        lanes: &[Lane],
        limit: ReadLimit,
    ) -> Result<Vec<SpooledFrame>, ReadError> {
        let frames = self.collect(shared, lanes, limit)?;
        let epochs: Vec<SpoolEpoch> = shared
            .index
            .lock()
            .epochs
            .iter()
            .map(|epoch| epoch.epoch)
            .collect();
        // A disk that refuses must not keep frames from being sent: that is what makes room on it.
        if let Err(error) = shared
            .sent
            .lock()
            .reserve(frames.iter().map(|frame| frame.id), &epochs)
        {
            tracing::debug!(%error, "could not note how far frames were sent");
        }
        Ok(frames)
    }

    fn collect(
        &mut self,
        shared: &Shared,
        lanes: &[Lane],
        limit: ReadLimit,
    ) -> Result<Vec<SpooledFrame>, ReadError> {
        let mut frames = Vec::new();
        let mut bytes = 0_usize;
        let places: Vec<u32> = shared
            .index
            .lock()
            .epochs
            .iter()
            .map(|epoch| epoch.ordinal)
            .collect();
        self.next.retain(|(ordinal, _), _| places.contains(ordinal));
        for lane in lanes.iter().copied() {
            for ordinal in places.iter().copied() {
                loop {
                    if frames.len() >= limit.frames {
                        return Ok(frames);
                    }
                    let Some(step) = self.step(shared, ordinal, lane) else {
                        break;
                    };
                    match self.frame_at(shared, &step) {
                        Ok(frame) => {
                            let more = bytes.saturating_add(frame.bytes.len());
                            if !frames.is_empty() && more > limit.bytes {
                                return Ok(frames);
                            }
                            bytes = more;
                            self.next.insert((ordinal, lane), step.number.saturating_add(1));
                            frames.push(frame);
                        }
                        // The writer looks at it, and says so when there is something to read again.
                        Err(Fault::Damaged) => {
                            self.open = None;
                            let damaged = (ordinal, lane, step.extent.first);
                            shared.intake.request(|requests| requests.repair = Some(damaged));
                            break;
                        }
                        Err(Fault::Io(path, source)) => return Err(ReadError::Io { path, source }),
                    }
                }
            }
        }
        Ok(frames)
    }

    /// Where the lane goes on, which counts as sent from here on; `None` when everything durable was read, or the
    /// writer is about to replace what comes next.
    fn step(&mut self, shared: &Shared, ordinal: u32, lane: Lane) -> Option<Step> {
        let mut index = shared.index.lock();
        let epoch = index.find_mut(ordinal)?;
        let lane_index = epoch.lanes.get_mut(lane);
        let number = self
            .next
            .get(&(ordinal, lane))
            .copied()
            .unwrap_or(lane_index.acknowledged.saturating_add(1));
        let extent = lane_index.at_or_after(number)?;
        // Numbers before the first extent were deleted after they were acknowledged.
        let number = number.max(extent.first);
        if lane_index.yields(number) {
            return None;
        }
        lane_index.sent = lane_index.sent.max(number);
        lane_index.handed = lane_index.handed.max(number);
        Some(Step {
            ordinal,
            epoch: epoch.epoch,
            folder: epoch.folder.clone(),
            lane,
            number,
            extent,
        })
    }

    fn frame_at(&mut self, shared: &Shared, step: &Step) -> Result<SpooledFrame, Fault> {
        let id = RecordId {
            epoch: step.epoch,
            lane: step.lane,
            sequence: Sequence(step.number),
        };
        let ExtentKind::Segment { .. } = step.extent.kind else {
            return Ok(tombstone(id));
        };
        let open = self.open_at(shared, step)?;
        let bytes = open.read_frame(step.extent.bytes())?;
        let frame = Frame::decode(&bytes).map_err(|_| Fault::Damaged)?;
        if frame.id != id {
            return Err(Fault::Damaged);
        }
        Ok(SpooledFrame { id, bytes })
    }

    /// The open file, placed at the step's number.
    fn open_at(&mut self, shared: &Shared, step: &Step) -> Result<&mut OpenRead, Fault> {
        let place = (step.ordinal, step.lane);
        let usable = self.open.as_ref().is_some_and(|open| {
            open.place == place && open.is_same_file(&step.extent) && open.number <= step.number
        });
        if !usable {
            let path = step.extent.path(&step.folder, step.lane);
            let file = match shared.layout.disk().open(&path, Access::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Fault::Damaged),
                other => other.map_err(|error| Fault::of_read(&path, error))?,
            };
            let number = step.extent.first;
            self.open = Some(OpenRead {
                place,
                extent: step.extent,
                file,
                path,
                offset: 0,
                number,
            });
        }
        let open = self.open.as_mut().ok_or(Fault::Damaged)?;
        while open.number < step.number {
            open.skip_frame(step.extent.bytes())?;
        }
        Ok(open)
    }
}

impl OpenRead {
    fn is_same_file(&self, extent: &Extent) -> bool {
        let version = |extent: &Extent| match extent.kind {
            ExtentKind::Segment { version, .. } => Some(version),
            ExtentKind::Shed => None,
        };
        self.extent.first == extent.first && version(&self.extent) == version(extent)
    }

    fn frame_len(&self, durable: u64) -> Result<usize, Fault> {
        let mut header = [0; HEADER_BYTES];
        self.read_at(&mut header, durable)?;
        Frame::peek_len(&header).map_err(|_| Fault::Damaged)
    }

    fn skip_frame(&mut self, durable: u64) -> Result<(), Fault> {
        let length = self.frame_len(durable)?;
        self.advance(length);
        Ok(())
    }

    /// Reads the frame at the offset without moving: the caller may not take it.
    fn read_frame(&mut self, durable: u64) -> Result<Bytes, Fault> {
        let mut bytes = vec![0; self.frame_len(durable)?];
        self.read_at(&mut bytes, durable)?;
        Ok(bytes.into())
    }

    fn advance(&mut self, length: usize) {
        self.offset = self
            .offset
            .saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.number = self.number.saturating_add(1);
    }

    fn read_at(&self, buffer: &mut [u8], durable: u64) -> Result<(), Fault> {
        let end = self
            .offset
            .saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        if end > durable {
            return Err(Fault::Damaged);
        }
        match self.file.read_exact_at(buffer, self.offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Damaged),
            other => other.map_err(|error| Fault::of_read(&self.path, error)),
        }
    }
}

/// The record of a number whose body is gone. What it held is in a gap row.
fn tombstone(id: RecordId) -> SpooledFrame {
    let now = clock::wall();
    // A tombstone that stands for no single frame names a table of its lane, so that it stays in its lane.
    let (table, schema_version) = match id.lane {
        Lane::Critical => (Gap::ID, Gap::VERSION),
        Lane::Events => (ProcessEvent::ID, ProcessEvent::VERSION),
        Lane::Metrics => (MetricChunk::ID, MetricChunk::VERSION),
    };
    let frame = Frame {
        id,
        table,
        schema_version,
        tombstone: true,
        rows: 0,
        made_at: now,
        made_boot_us: 0,
        from_time: now,
        to_time: now,
        body: Bytes::new(),
    };
    SpooledFrame {
        id,
        bytes: frame.encode(),
    }
}
