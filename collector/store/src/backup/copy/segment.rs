//! Segments: of each the chunks that the repository does not have.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use bytes::Bytes;

use super::Copy;
use crate::backup::error::{BackupError, io_error};
use crate::backup::manifest::{Blob, CHUNK_BYTES_MAX, SegmentEntry};
use crate::backup::seal::{Squeeze, digest_of};
use crate::backup::source::OpenSegment;
use crate::segment::{SEGMENT_HEADER_BYTES, scan};

impl Copy<'_> {
    /// Copies what is new in the segments.
    pub(super) fn segments(&mut self, open: Vec<OpenSegment>) -> Result<Vec<SegmentEntry>, BackupError> {
        let mut entries = Vec::with_capacity(open.len());
        for segment in open {
            self.go_on()?;
            entries.extend(self.segment(&segment)?);
        }
        Ok(entries)
    }

    fn segment(&mut self, segment: &OpenSegment) -> Result<Option<SegmentEntry>, BackupError> {
        let state = segment
            .file
            .metadata()
            .map_err(io_error("inspect", &segment.path))?;
        let seen = (
            state.len(),
            state.ino(),
            state
                .mtime_nsec()
                .saturating_add(state.mtime().saturating_mul(1_000_000_000)),
        );
        let before = self.previous.and_then(|previous| {
            previous
                .segments
                .iter()
                .find(|entry| entry.number == segment.number)
        });
        if let Some(before) = before
            && before.seen == seen
        {
            return Ok(Some(before.clone()));
        }
        if state.len() > CHUNK_BYTES_MAX {
            let path = segment.path.display().to_string();
            self.miss(
                &path,
                "the segment has more bytes than a backup takes; see store.segment_bytes_max",
            );
        }
        let length = usize::try_from(state.len().min(CHUNK_BYTES_MAX)).unwrap_or(0);
        let mut bytes = vec![0; length];
        let read = read_at_most(&segment.file, &mut bytes).map_err(io_error("read", &segment.path))?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let found = scan(&bytes);
        // What comes after the last whole entry is being written, or was never finished.
        let whole = found.entries.last().map_or(0, |entry| {
            usize::try_from(entry.offset)
                .unwrap_or(0)
                .saturating_add(entry.frame.encoded_len())
        });
        if whole <= SEGMENT_HEADER_BYTES {
            return Ok(None);
        }
        let mut chunks =
            before.map_or_else(Vec::new, |before| self.same_chunks(&before.chunks, &bytes, whole));
        let held: u64 = chunks.iter().map(|chunk| chunk.bytes).sum();
        let rest = bytes
            .get(usize::try_from(held).unwrap_or(usize::MAX)..whole)
            .unwrap_or_default();
        if !rest.is_empty() {
            chunks.push(self.bytes(rest, Squeeze::Yes)?);
        }
        let times = || found.entries.iter().map(|entry| entry.ingested_at);
        Ok(Some(SegmentEntry {
            number: segment.number,
            bytes: whole as u64,
            oldest: times().min().unwrap_or_default(),
            newest: times().max().unwrap_or_default(),
            chunks,
            seen,
        }))
    }

    /// The chunks of the previous backup that the segment still begins with.
    fn same_chunks(&self, chunks: &[Blob], bytes: &Bytes, whole: usize) -> Vec<Blob> {
        let mut at = 0_usize;
        let is_same = |chunk: &&Blob| {
            let end = at.saturating_add(usize::try_from(chunk.bytes).unwrap_or(usize::MAX));
            let here = bytes.get(at..end).filter(|_| end <= whole);
            at = end;
            here.is_some_and(|here| self.repository.name_of(&digest_of(here)) == chunk.name)
        };
        chunks.iter().take_while(is_same).cloned().collect()
    }
}

fn read_at_most(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at as u64)? {
            0 => break,
            count => at = at.saturating_add(count),
        }
    }
    Ok(at)
}
