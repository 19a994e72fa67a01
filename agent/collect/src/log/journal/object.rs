//! Reading and checking the fixed parts of a journal file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::file::JournalError;

/// First bytes of every journal file.
const SIGNATURE: &[u8; 8] = b"LPKSHHRH";
/// Bytes of the header that every version has.
pub(super) const HEADER_BYTES_MIN: usize = 208;
/// Bytes of the fixed part that every object begins with.
pub(super) const OBJECT_BYTES: u64 = 16;

/// Objects that are needed to read forward.
pub(super) const TYPE_DATA: u8 = 1;
pub(super) const TYPE_ENTRY: u8 = 3;
pub(super) const TYPE_ENTRY_ARRAY: u8 = 6;

/// Flags without which a reader cannot read on.
const XZ: u32 = 1;
const LZ4: u32 = 1 << 1;
const KEYED_HASH: u32 = 1 << 2;
const ZSTD: u32 = 1 << 3;
const COMPACT: u32 = 1 << 4;

/// State byte of a file that will not grow.
const STATE_ARCHIVED: u8 = 2;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) file_id: [u8; 16],
    pub(super) seqnum_id: [u8; 16],
    pub(super) compact: bool,
    pub(super) archived: bool,
    pub(super) header_bytes: u64,
    pub(super) entries: u64,
    pub(super) entry_array: u64,
    pub(super) head_realtime: u64,
    pub(super) tail_realtime: u64,
}

impl Header {
    /// Reads and checks the header.
    pub(super) fn read(file: &File) -> Result<Self, JournalError> {
        let mut bytes = [0_u8; HEADER_BYTES_MIN];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|source| JournalError::Read { offset: 0, source })?;
        if bytes.get(..8) != Some(SIGNATURE.as_slice()) {
            return Err(JournalError::Signature);
        }
        let incompatible = u32_at(&bytes, 12);
        let unknown = incompatible & !(XZ | LZ4 | KEYED_HASH | ZSTD | COMPACT);
        if unknown != 0 {
            return Err(JournalError::Flags(unknown));
        }
        let header_bytes = u64_at(&bytes, 88);
        if header_bytes < HEADER_BYTES_MIN as u64
            || !header_bytes.is_multiple_of(8)
            || header_bytes > 64 * 1024
        {
            return Err(JournalError::Damaged {
                what: "the header's size",
                offset: 88,
            });
        }
        Ok(Self {
            file_id: id_at(&bytes, 24),
            seqnum_id: id_at(&bytes, 72),
            compact: incompatible & COMPACT != 0,
            archived: bytes.get(16) == Some(&STATE_ARCHIVED),
            header_bytes,
            entries: u64_at(&bytes, 152),
            entry_array: u64_at(&bytes, 176),
            head_realtime: u64_at(&bytes, 184),
            tail_realtime: u64_at(&bytes, 192),
        })
    }
}

/// The fixed part of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObjectHead {
    pub(super) flags: u8,
    pub(super) bytes: u64,
}

/// Reads the fixed part at `offset`, which has to be an object of `wanted` that lies in the file.
pub(super) fn object_at(
    file: &File,
    header: &Header,
    offset: u64,
    wanted: u8,
    bytes_min: u64,
) -> Result<ObjectHead, JournalError> {
    let damaged = |what| Err(JournalError::Damaged { what, offset });
    if !offset.is_multiple_of(8) || offset < header.header_bytes {
        return damaged("an offset");
    }
    let mut head = [0_u8; 16];
    read_at(file, &mut head, offset)?;
    let [kind, flags, ..] = head;
    let bytes = u64_at(&head, 8);
    if kind != wanted {
        return damaged("the type of an object");
    }
    if bytes < bytes_min || bytes > i64::MAX.unsigned_abs() - offset {
        return damaged("the size of an object");
    }
    Ok(ObjectHead { flags, bytes })
}

pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), JournalError> {
    file.read_exact_at(bytes, offset)
        .map_err(|source| JournalError::Read { offset, source })
}

/// The integer at byte `at`; 0 beyond the end, which callers exclude.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let taken = bytes
        .get(at..at.saturating_add(8))
        .and_then(|part| part.try_into().ok());
    taken.map_or(0, u64::from_le_bytes)
}

/// See [`u64_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let taken = bytes
        .get(at..at.saturating_add(4))
        .and_then(|part| part.try_into().ok());
    taken.map_or(0, u32::from_le_bytes)
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes
        .get(at..at.saturating_add(16))
        .and_then(|part| part.try_into().ok())
        .unwrap_or_default()
}
