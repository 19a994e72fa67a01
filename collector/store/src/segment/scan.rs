//! Reading a segment that may be damaged.

use bytes::Bytes;
use fleetmend_event::{Frame, HostId, TimeMicros};

use super::{
    ENTRY_HEAD_BYTES, ENTRY_HEAD_BYTES_1, ENTRY_MAGIC, ENTRY_VERSION, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC,
};
use crate::clock::ClockAhead;

/// One whole entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Whose frame it is.
    pub(crate) host: HostId,
    /// When the store took it.
    pub(crate) ingested_at: TimeMicros,
    /// How its host's clock stood to the store's.
    pub(crate) clock: ClockAhead,
    /// Where the frame begins in the segment.
    pub(crate) offset: u64,
    /// The frame.
    pub(crate) frame: Frame,
}

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where they begin.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) bytes: u64,
    /// Whether they reach the end of the file.
    pub(crate) is_tail: bool,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Its entries, in order.
    pub(crate) entries: Vec<Entry>,
    /// Its damage, in order; at most one of them, the last, is a tail.
    pub(crate) damage: Vec<Damage>,
}

/// Reads a whole segment.
pub(crate) fn scan(bytes: &Bytes) -> Scan {
    let mut result = Scan::default();
    let mut at = SEGMENT_HEADER_BYTES;
    if !header_is_whole(bytes) {
        // Nothing but the number and the date stands there; the entries carry everything else.
        let first = next_entry(bytes, 0).unwrap_or(bytes.len());
        push_damage(&mut result, bytes, 0, first);
        at = first;
    }
    while at < bytes.len() {
        match entry_at(bytes, at) {
            Some((entry, next)) => {
                result.entries.push(entry);
                at = next;
            }
            None => {
                let next = next_entry(bytes, at.saturating_add(1)).unwrap_or(bytes.len());
                push_damage(&mut result, bytes, at, next);
                at = next;
            }
        }
    }
    result
}

fn header_is_whole(bytes: &Bytes) -> bool {
    let field = |range: std::ops::Range<usize>| bytes.get(range);
    field(0..4) == Some(&SEGMENT_MAGIC)
        && field(8..SEGMENT_HEADER_BYTES)
            .is_some_and(|rest| field(4..8) == Some(&crc32c::crc32c(rest).to_le_bytes()))
}

fn push_damage(result: &mut Scan, bytes: &Bytes, from: usize, to: usize) {
    if from >= to {
        return;
    }
    result.damage.push(Damage {
        offset: from as u64,
        bytes: to.saturating_sub(from) as u64,
        is_tail: to >= bytes.len(),
    });
}

/// Where the next whole entry begins, from `from` on.
fn next_entry(bytes: &Bytes, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(rest) = bytes.get(at..) {
        let found = rest
            .windows(ENTRY_MAGIC.len())
            .position(|window| window == ENTRY_MAGIC)?;
        at = at.saturating_add(found);
        if entry_at(bytes, at).is_some() {
            return Some(at);
        }
        at = at.saturating_add(1);
    }
    None
}

fn entry_at(bytes: &Bytes, at: usize) -> Option<(Entry, usize)> {
    let (magic, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let head_bytes = match magic.strip_prefix(&ENTRY_MAGIC)? {
        [1] => ENTRY_HEAD_BYTES_1,
        [ENTRY_VERSION] => ENTRY_HEAD_BYTES,
        _ => return None,
    };
    let body = at.checked_add(head_bytes)?;
    let (checksum, rest) = bytes
        .get(at.checked_add(magic.len())?..body)?
        .split_first_chunk::<4>()?;
    if *checksum != crc32c::crc32c(rest).to_le_bytes() {
        return None;
    }
    let (host, rest) = rest.split_first_chunk::<16>()?;
    let (ingested_at, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (frame_checksum, rest) = rest.split_first_chunk::<4>()?;
    let clock = rest.first_chunk::<8>().map_or(ClockAhead::UNKNOWN, |code| {
        ClockAhead::from_code(i64::from_le_bytes(*code))
    });
    let end = body.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let encoded = bytes.get(body..end).map(|_| bytes.slice(body..end))?;
    if encoded.get(4..8) != Some(frame_checksum) {
        return None;
    }
    let frame = Frame::decode(&encoded)
        .ok()
        .filter(|frame| frame.encoded_len() == encoded.len())?;
    let entry = Entry {
        host: HostId::from_bytes(*host),
        ingested_at: TimeMicros(i64::from_le_bytes(*ingested_at)),
        clock,
        offset: body as u64,
        frame,
    };
    Some((entry, end))
}
