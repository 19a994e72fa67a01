//! Segment files: one writer, any number of readers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fleetmend_event::{Frame, FrameError, TimeMicros};

use super::{SEGMENT_HEADER_BYTES, file_name, header};
use crate::error::ReadError;

/// A segment that can be read. Readers hold the open file, so that deleting it does not disturb them.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// Its number.
    pub(crate) number: u64,
    /// Where it lies.
    pub(crate) path: PathBuf,
    file: File,
}

impl SegmentFile {
    /// Opens the segment at `path`.
    pub(crate) fn open(number: u64, path: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            number,
            path: path.to_owned(),
            file: File::open(path)?,
        }))
    }

    /// Makes durable what can be read of it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads and checks the frame at `offset`.
    pub(crate) fn frame_at(&self, offset: u64, length: u32) -> Result<Frame, ReadError> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| self.unreadable(offset, length, source))?;
        Frame::decode(&Bytes::from(bytes)).map_err(|source| ReadError::Frame {
            segment: self.number,
            offset,
            source,
        })
    }

    /// A file that ends before the frame is damaged; any other error says nothing about what stands in it.
    fn unreadable(&self, offset: u64, length: u32, source: io::Error) -> ReadError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            let there = self.file.metadata().map_or(0, |file| file.len());
            ReadError::Frame {
                segment: self.number,
                offset,
                source: FrameError::Truncated {
                    wanted: usize::try_from(length).unwrap_or(usize::MAX),
                    found: usize::try_from(there.saturating_sub(offset)).unwrap_or(usize::MAX),
                },
            }
        } else {
            ReadError::Io {
                segment: self.number,
                source,
            }
        }
    }
}

/// The one segment that is being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: File,
    /// Bytes that are durable; the next group begins here.
    durable: u64,
    /// When it was made.
    pub(crate) made_at: TimeMicros,
    /// The same file for readers.
    pub(crate) reader: Arc<SegmentFile>,
}

impl SegmentWriter {
    /// Makes segment `number` in `folder`, durable with its header and its name.
    pub(crate) fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = folder.join(file_name(number));
        let made_at = TimeMicros::now();
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = file
            .write_all(&header(number, made_at))
            .and_then(|()| file.sync_data());
        if let Err(error) = made.and_then(|()| File::open(folder)?.sync_all()) {
            // Nothing refers to it yet; left behind it would only stand in the way of the next attempt.
            std::fs::remove_file(&path).or_else(ignore_missing)?;
            return Err(error);
        }
        let reader = SegmentFile::open(number, &path)?;
        Ok(Self {
            file,
            durable: SEGMENT_HEADER_BYTES as u64,
            made_at,
            reader,
        })
    }

    /// Bytes that are durable.
    pub(crate) fn len(&self) -> u64 {
        self.durable
    }

    /// Whether nothing was written to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.durable <= SEGMENT_HEADER_BYTES as u64
    }

    /// Makes every write and every cut from now on fail.
    #[cfg(test)]
    pub(crate) fn break_for_good(&mut self) {
        self.file = File::open(&self.reader.path).unwrap();
    }

    /// Writes `bytes` and makes them durable; returns where they begin. After an error the file is cut back to
    /// what was durable before. A segment whose cut failed too must not be written again.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<u64, AppendError> {
        let offset = self.durable;
        let written = self
            .file
            .write_all_at(bytes, offset)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.durable = offset.saturating_add(bytes.len() as u64);
                Ok(offset)
            }
            Err(source) => {
                let cut = self.file.set_len(offset).and_then(|()| self.file.sync_data());
                Err(AppendError {
                    source,
                    usable: cut.is_ok(),
                })
            }
        }
    }
}

/// A group could not be made durable.
#[derive(Debug)]
pub(crate) struct AppendError {
    /// Why.
    pub(crate) source: io::Error,
    /// Whether the segment was cut back and may be written again.
    pub(crate) usable: bool,
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
