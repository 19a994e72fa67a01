//! The one open segment file of a lane: numbers frames, appends and syncs them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use fleetmend_event::{Frame, Lane, Sequence};

use crate::disk::{Access, Disk, DiskFile};
use crate::layout;

/// Appends frames to a lane, in files that grow up to a size.
#[derive(Debug)]
pub(crate) struct Appender {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    lane: Lane,
    bytes_max: u64,
    next: u64,
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    file: Box<dyn DiskFile>,
    first: u64,
    bytes: u64,
    opened: Instant,
}

/// What one append made durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    /// First number of the segment file.
    pub(crate) segment: u64,
    /// Durable bytes of that file.
    pub(crate) segment_bytes: u64,
    /// One past the last durable number.
    pub(crate) next: u64,
    /// Bytes of this append.
    pub(crate) bytes: u64,
}

impl Appender {
    /// Continues a lane with number `next`, in a new file.
    pub(crate) fn new(disk: &Arc<dyn Disk>, folder: &Path, lane: Lane, bytes_max: u64, next: u64) -> Self {
        Self {
            disk: disk.clone(),
            folder: folder.to_owned(),
            lane,
            bytes_max,
            next,
            open: None,
        }
    }

    /// The number that the next frame gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// First number of the file that is being written.
    pub(crate) fn open_segment(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.first)
    }

    /// When the file that is being written was begun.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.opened)
    }

    /// Where its files lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Somebody put a file with the numbers before `next` here.
    pub(crate) fn go_on_after(&mut self, next: u64) {
        (self.open, self.next) = (None, next);
    }

    /// Ends the open file; the next append begins another.
    pub(crate) fn seal(&mut self) {
        self.open = None;
    }

    /// Numbers, appends and syncs `frames`: all of them or, with an error, none. Numbers that were not written
    /// are given again.
    pub(crate) fn append(&mut self, frames: &mut [Frame], now: Instant) -> io::Result<Appended> {
        let mut next = self.next;
        let mut buffer = BytesMut::with_capacity(frames.iter().map(Frame::encoded_len).sum());
        for frame in frames {
            frame.id.sequence = Sequence(next);
            next = next.saturating_add(1);
            buffer.extend_from_slice(&frame.encode());
        }
        let created = self.open.is_none();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create(now)?,
        };
        let written = open.file.write_all(&buffer).and_then(|()| open.file.sync_data());
        let written = if created {
            written.and_then(|()| self.disk.sync_folder(&self.folder))
        } else {
            written
        };
        if let Err(error) = written {
            self.undo(&open);
            return Err(error);
        }
        let bytes = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        open.bytes = open.bytes.saturating_add(bytes);
        self.next = next;
        let appended = Appended {
            segment: open.first,
            segment_bytes: open.bytes,
            next,
            bytes,
        };
        if open.bytes < self.bytes_max {
            self.open = Some(open);
        }
        Ok(appended)
    }

    fn create(&self, now: Instant) -> io::Result<OpenSegment> {
        let path = self.folder.join(layout::segment_name(self.lane, self.next));
        // A file of this name can only be the rest of an append that failed.
        layout::remove_if_there(&*self.disk, &path)?;
        let open = || self.disk.open(&path, Access::CreateNew);
        let file = match open() {
            // The disk refused the folder when the epoch began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                layout::durable_folder(&*self.disk, &self.folder)?;
                open()
            }
            other => other,
        }?;
        Ok(OpenSegment {
            file,
            first: self.next,
            bytes: 0,
            opened: now,
        })
    }

    /// Takes a failed append back. What the kernel kept of it is unknown, so the file is not written again.
    fn undo(&self, open: &OpenSegment) {
        let undone = if open.bytes == 0 {
            layout::remove_if_there(
                &*self.disk,
                &self.folder.join(layout::segment_name(self.lane, open.first)),
            )
        } else {
            open.file.set_len(open.bytes)
        };
        if let Err(error) = undone {
            tracing::warn!(lane = %self.lane, %error, "could not take a failed append back; recovery will cut it off");
        }
    }
}
