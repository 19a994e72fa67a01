//! Segment: an append-only file of frames that are durable but not compacted yet. This text is its specification.
//!
//! Segments are named by their number, 20 digits and `.seg`, and are written one after the other, frames of all
//! hosts and tables interleaved, so that one fsync makes a whole group durable. All numbers little-endian.
//!
//! A segment is a header and entries. The header has 24 bytes:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `46 4D 53 01`: "FMS" and the version, 1 |
//! | 4 | 4 | CRC32C of the 16 bytes after this field |
//! | 8 | 8 | number of the segment |
//! | 16 | 8 | when it was made, microseconds since 1970, signed |
//!
//! An entry is a head of 48 bytes and a frame as [`fleetmend_event::frame`] specifies it:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `46 4D 45 02`: "FME" and the version, 2 |
//! | 4 | 4 | CRC32C of the 40 bytes after this field |
//! | 8 | 16 | host |
//! | 24 | 8 | when the store took it, microseconds since 1970, signed |
//! | 32 | 4 | length of the frame |
//! | 36 | 4 | the frame's own CRC32C, which ties the head to it |
//! | 40 | 8 | how much the host's clock was ahead of the store's, microseconds, signed; the smallest number: unknown |
//!
//! A head of version 1 ends before the last field, and its CRC covers 32 bytes; such entries are read and no longer
//! written. Both versions may stand in one segment.
//!
//! A reader takes entries in order. Bytes that are no entry are *damage*: it looks for the next magic whose entry
//! is whole and goes on there. Damage that reaches the end of the file is a *tail*: a write that power or a kill
//! cut short, and nothing of it was acknowledged.

mod file;
mod scan;

pub(crate) use file::{SegmentFile, SegmentWriter};
pub(crate) use scan::{Damage, Entry, Scan, scan};

use bytes::{BufMut, Bytes, BytesMut};
use fleetmend_event::{HostId, TimeMicros};

use crate::clock::ClockAhead;

/// Magic and version at the head of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 4] = [b'F', b'M', b'S', 1];
/// Magic at the head of an entry; its version follows.
pub(crate) const ENTRY_MAGIC: [u8; 3] = *b"FME";
/// Version of the entries that are written.
const ENTRY_VERSION: u8 = 2;
/// Bytes before the first entry.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 24;
/// Bytes of an entry before its frame.
pub(crate) const ENTRY_HEAD_BYTES: usize = 48;
/// The same in version 1.
const ENTRY_HEAD_BYTES_1: usize = 40;
/// Name of a segment's file ends so.
pub(crate) const SUFFIX: &str = ".seg";

/// Name of the file of segment `number`.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}

/// Number of the segment with this file name.
pub(crate) fn number_of(file_name: &str) -> Option<u64> {
    file_name.strip_suffix(SUFFIX)?.parse().ok()
}

fn header(number: u64, made_at: TimeMicros) -> Bytes {
    let mut rest = BytesMut::with_capacity(16);
    rest.put_u64_le(number);
    rest.put_i64_le(made_at.0);
    let mut header = BytesMut::with_capacity(SEGMENT_HEADER_BYTES);
    header.put_slice(&SEGMENT_MAGIC);
    header.put_u32_le(crc32c::crc32c(&rest));
    header.put_slice(&rest);
    header.freeze()
}

/// A fresh header for the segment that lies at `path`.
pub(crate) fn header_of(path: &std::path::Path) -> Vec<u8> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    header(number_of(name).unwrap_or(0), TimeMicros::now()).to_vec()
}

/// Appends one entry to `buffer`. `frame` is an encoded frame, its CRC in bytes 4 to 8.
pub(crate) fn put_entry(
    buffer: &mut Vec<u8>,
    host: HostId,
    (ingested_at, clock): (TimeMicros, ClockAhead),
    frame: &[u8],
) {
    let mut rest = BytesMut::with_capacity(40);
    rest.put_slice(host.as_bytes());
    rest.put_i64_le(ingested_at.0);
    rest.put_u32_le(u32::try_from(frame.len()).unwrap_or(u32::MAX));
    rest.put_slice(frame.get(4..8).unwrap_or(&[0; 4]));
    rest.put_i64_le(clock.to_code());
    buffer.put_slice(&ENTRY_MAGIC);
    buffer.put_u8(ENTRY_VERSION);
    buffer.put_u32_le(crc32c::crc32c(&rest));
    buffer.put_slice(&rest);
    buffer.put_slice(frame);
}

#[cfg(test)]
mod tests;
