//! Reading a segment that cannot be trusted: what in it is frames, and what is not.

use bytes::Bytes;
use fleetmend_event::frame::MAGIC;
use fleetmend_event::{Frame, FrameError, Lane, SpoolEpoch, TimeMicros};

/// Bytes of one segment that may be checked in vain: a crafted file must not cost more than a good one. What
/// follows is taken as bad.
const VAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A run of bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Frames `first..next`, one after the other.
    Good {
        offset: usize,
        bytes: usize,
        first: u64,
        next: u64,
        span: (TimeMicros, TimeMicros),
    },
    /// No frame of this epoch and lane in rising order.
    Bad { offset: usize, bytes: usize },
    /// The beginning of a frame whose end is missing, at the end of the file.
    Torn { offset: usize, bytes: usize },
}

/// Whose frames are expected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) epoch: SpoolEpoch,
    pub(crate) lane: Lane,
}

/// Cuts a segment's bytes into pieces that cover all of them, in order.
pub(crate) fn scan(bytes: &Bytes, expected: Expected) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut offset = 0;
    let mut from = 1;
    let mut vain = 0_usize;
    while offset < bytes.len() {
        let rest = bytes.slice(offset..);
        match Frame::decode(&rest) {
            Ok(frame) if ours(&frame, expected, from) => {
                from = frame.id.sequence.next().0;
                append_good(&mut pieces, offset, &frame);
                offset = offset.saturating_add(frame.encoded_len());
            }
            Err(FrameError::Truncated { .. }) if is_torn(&rest) => {
                pieces.push(Piece::Torn {
                    offset,
                    bytes: rest.len(),
                });
                break;
            }
            _ => {
                vain = vain.saturating_add(Frame::peek_len(&rest).unwrap_or(0));
                let length = if vain > VAIN_BYTES_MAX {
                    rest.len()
                } else {
                    to_next_magic(&rest)
                };
                append_bad(&mut pieces, offset, length);
                offset = offset.saturating_add(length);
            }
        }
    }
    pieces
}

fn ours(frame: &Frame, expected: Expected, from: u64) -> bool {
    frame.id.epoch == expected.epoch && frame.id.lane == expected.lane && frame.id.sequence.0 >= from
}

/// Whether these bytes are the head of a frame and nothing that looks like one follows inside them.
fn is_torn(rest: &Bytes) -> bool {
    let head = rest.get(..MAGIC.len().min(rest.len())).unwrap_or_default();
    MAGIC.starts_with(head) && to_next_magic(rest) == rest.len()
}

fn append_good(pieces: &mut Vec<Piece>, at: usize, frame: &Frame) {
    let number = frame.id.sequence.0;
    if let Some(Piece::Good {
        bytes, next, span, ..
    }) = pieces.last_mut()
        && *next == number
    {
        *bytes = bytes.saturating_add(frame.encoded_len());
        *next = number.saturating_add(1);
        *span = (span.0.min(frame.from_time), span.1.max(frame.to_time));
        return;
    }
    pieces.push(Piece::Good {
        offset: at,
        bytes: frame.encoded_len(),
        first: number,
        next: number.saturating_add(1),
        span: (frame.from_time, frame.to_time),
    });
}

fn append_bad(pieces: &mut Vec<Piece>, at: usize, length: usize) {
    if let Some(Piece::Bad { bytes, .. }) = pieces.last_mut() {
        *bytes = bytes.saturating_add(length);
        return;
    }
    pieces.push(Piece::Bad {
        offset: at,
        bytes: length,
    });
}

/// Bytes up to the next place where a frame could begin, not counting the first byte.
fn to_next_magic(rest: &[u8]) -> usize {
    let tail = rest.get(1..).unwrap_or_default();
    let found = tail.windows(MAGIC.len()).position(|window| window == MAGIC);
    found.map_or(rest.len(), |position| position.saturating_add(1))
}
