//! Frames that travel relative to what the same stream carried before: the bodies of one table repeat each other.
//!
//! Both ends of a stream keep [`Bases`]: for each lane and table the last body that travelled, as it is before
//! compression. The sender compresses the next body with that as a prefix; the receiver undoes it and makes the
//! frame again that stands for itself, before anything else is done with it. So a relative frame exists on one stream
//! only, and neither a spool nor a store ever needs a frame to read another.
//!
//! A relative frame has the header of every [`Frame`] (checksum and length are those of the relative form), codec 2
//! and this body, all numbers little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC32C of the body before compression |
//! | 4 | 8 | sequence of the frame that is its base: of the same epoch, lane and table |
//! | 12 | | one zstd frame that states its content size, with the base's body before compression as prefix |
//!
//! # Invariants
//! - Both ends keep the same bases, for both do [`Bases::keep`] with the same frames in the same order: each frame
//!   that is no tombstone and whose body takes at most [`Limits::plain_bytes`] before compression replaces the
//!   one of its lane and table; beyond [`Limits::slots`] the one that was replaced longest ago goes.
//! - No relative body takes more than [`Limits::plain_bytes`] once it is decompressed, and one of that length, however
//!   little it can be compressed, fits into a frame that stands for itself.
//! - A body is believed only when its checksum holds: with another base than the sender's it is refused.
//! - Sending a frame as it is stored is always allowed, whatever the bases.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::batch;
use crate::frame::CODEC_RELATIVE;
use crate::{Frame, FrameError, Lane, RecordId, Sequence};

/// zstd level of relative bodies: nearly as small as with level 3, most of which is what the prefix already says, in
/// less time ([ADR 5](../../../docs/adr/0005-relative-frames.md)).
const LEVEL: i32 = 1;

/// Bytes of a relative body before its zstd frame.
pub const PREFACE_BYTES: usize = 12;

/// What one end of a stream keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pairs of lane and table whose last body is kept.
    pub slots: usize,
    /// Largest body, before compression, that is kept or made relative.
    pub plain_bytes: usize,
}

impl Limits {
    /// What this build offers and takes: an agent sends some six tables often, and a minute of its metrics takes less
    /// than the length.
    pub const OWN: Self = Self {
        slots: 8,
        plain_bytes: 240 * 1024,
    };

    /// What both ends can keep; `None` when that is nothing.
    pub fn common(self, other: Self) -> Option<Self> {
        let both = Self {
            slots: self.slots.min(other.slots),
            plain_bytes: self.plain_bytes.min(other.plain_bytes),
        };
        (both.slots > 0 && both.plain_bytes > 0).then_some(both)
    }
}

/// A relative frame could not be made whole. Sending it as it is stored helps against each of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelativeError {
    /// It is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Something stands where nothing should, or too little.
    #[error("relative frame is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The frame it refers to is not kept.
    #[error("frame {sequence} refers to frame {base}, which is not kept")]
    NoBase {
        /// Its number.
        sequence: Sequence,
        /// The number of its base.
        base: Sequence,
    },
    /// It would take more than was agreed on.
    #[error("relative body would take {bytes} bytes where {max} are allowed")]
    TooLong {
        /// Bytes that it states; the most there are when it states none.
        bytes: u64,
        /// Bytes that were agreed on.
        max: usize,
    },
    /// zstd refused it.
    #[error("relative body cannot be decompressed: {reason}")]
    Zstd {
        /// What zstd says.
        reason: &'static str,
    },
    /// It is not what was sent: the base is another one.
    #[error("relative body does not give what was sent: its base is another one")]
    WrongBase,
}

/// The last bodies of one stream, at one of its ends.
#[derive(Debug)]
pub struct Bases {
    limits: Limits,
    /// In the order in which they came.
    slots: Vec<Base>,
    bytes: usize,
}

#[derive(Debug)]
struct Base {
    id: RecordId,
    table: u16,
    plain: Vec<u8>,
}

impl Bases {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            bytes: 0,
        }
    }

    /// Bytes of all bodies that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all. The other end has to do so at the same frame, or send what it sends as it is stored.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
        self.bytes = 0;
    }

    /// The encoded frame as it is to be sent: relative when that is shorter, otherwise as it is.
    pub fn shorten(&mut self, encoded: &Bytes) -> Bytes {
        let Some((frame, plain)) = self.whole(encoded) else {
            return encoded.clone();
        };
        let base = self.base(frame.id.lane, frame.table);
        let base = base.filter(|base| base.id.epoch == frame.id.epoch);
        let short = base
            .and_then(|base| relative_body(base, &plain))
            .filter(|body| body.len() < frame.body.len())
            .map(|body| {
                let relative = Frame {
                    body,
                    ..frame.clone()
                };
                relative.encode_as(CODEC_RELATIVE)
            });
        self.keep(frame.id, frame.table, plain);
        short.unwrap_or_else(|| encoded.clone())
    }

    /// The encoded frame that stands for itself, of what came: the other end's [`Bases::shorten`] undone. What is no
    /// relative frame is given back as it is, whatever it is.
    ///
    /// # Errors
    /// [`RelativeError`] says why the frame cannot be made whole. Frames after it may refer to it: none of the stream's
    /// relative frames can be read from here on, until both ends have cleared their bases.
    pub fn restore(&mut self, encoded: &Bytes) -> Result<Bytes, RelativeError> {
        if !is_relative(encoded) {
            if let Some((frame, plain)) = self.whole(encoded) {
                self.keep(frame.id, frame.table, plain);
            }
            return Ok(encoded.clone());
        }
        let mut frame = Frame::decode_as(CODEC_RELATIVE, encoded)?;
        let malformed = |reason| RelativeError::Malformed { reason };
        if frame.encoded_len() != encoded.len() {
            return Err(malformed("something follows it"));
        }
        if frame.tombstone {
            return Err(malformed("a tombstone has no body"));
        }
        let mut body = frame.body.clone();
        if body.len() < PREFACE_BYTES {
            return Err(malformed("its body is cut short"));
        }
        let (checksum, number) = (body.get_u32_le(), Sequence(body.get_u64_le()));
        let base = self
            .base(frame.id.lane, frame.table)
            .filter(|base| base.id.epoch == frame.id.epoch && base.id.sequence == number);
        let base = base.ok_or(RelativeError::NoBase {
            sequence: frame.id.sequence,
            base: number,
        })?;
        let plain = decompress(&body, &base.plain, self.limits.plain_bytes)?;
        if crc32c::crc32c(&plain) != checksum {
            return Err(RelativeError::WrongBase);
        }
        frame.body = batch::compress(&plain)
            .map_err(|_| malformed("it cannot be compressed again"))?
            .into();
        self.keep(frame.id, frame.table, plain);
        Ok(frame.encode())
    }

    /// A frame that stands for itself and what its body is before compression, when that may be kept.
    fn whole(&self, encoded: &Bytes) -> Option<(Frame, Vec<u8>)> {
        let frame = Frame::decode(encoded).ok()?;
        let kept = !frame.tombstone
            && frame.encoded_len() == encoded.len()
            && batch::plain_bytes_max(&frame.body) <= self.limits.plain_bytes;
        kept.then_some(())?;
        let plain = batch::decompress(&frame.body).ok()?;
        Some((frame, plain))
    }

    fn base(&self, lane: Lane, table: u16) -> Option<&Base> {
        self.slots
            .iter()
            .find(|base| base.id.lane == lane && base.table == table)
    }

    /// Takes a body in the place of the one before it.
    fn keep(&mut self, id: RecordId, table: u16, plain: Vec<u8>) {
        let same = |base: &Base| base.id.lane == id.lane && base.table == table;
        self.slots.retain(|base| !same(base));
        self.slots.push(Base { id, table, plain });
        let over = self.slots.len().saturating_sub(self.limits.slots);
        self.slots.drain(..over);
        self.bytes = self.slots.iter().map(|base| base.plain.capacity()).sum();
    }
}

/// Whether encoded bytes say that they are a relative frame.
pub fn is_relative(encoded: &[u8]) -> bool {
    Frame::codec_of(encoded) == Some(CODEC_RELATIVE)
}

/// `None` when zstd cannot: then the frame is sent as it is.
fn relative_body(base: &Base, plain: &[u8]) -> Option<Bytes> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).ok()?;
    compressor.context_mut().ref_prefix(&base.plain).ok()?;
    let compressed = compressor.compress(plain).ok()?;
    let mut body = BytesMut::with_capacity(PREFACE_BYTES.saturating_add(compressed.len()));
    body.put_u32_le(crc32c::crc32c(plain));
    body.put_u64_le(base.id.sequence.0);
    body.put_slice(&compressed);
    Some(body.freeze())
}

/// The bytes that one zstd frame with this prefix gives, at most `max`. It has to state how many that are.
///
/// # Errors
/// [`RelativeError::TooLong`] before anything is decompressed, [`RelativeError::Zstd`] when it is no such frame.
pub fn decompress(compressed: &[u8], prefix: &[u8], max: usize) -> Result<Vec<u8>, RelativeError> {
    let stated = zstd::zstd_safe::get_frame_content_size(compressed)
        .ok()
        .flatten()
        .unwrap_or(u64::MAX);
    let bytes = usize::try_from(stated).ok().filter(|bytes| *bytes <= max);
    let bytes = bytes.ok_or(RelativeError::TooLong { bytes: stated, max })?;
    let zstd = |code| RelativeError::Zstd {
        reason: zstd::zstd_safe::get_error_name(code),
    };
    let mut plain = Vec::with_capacity(bytes);
    let mut context = zstd::zstd_safe::DCtx::try_create().ok_or(RelativeError::Zstd {
        reason: "no memory for it",
    })?;
    context.ref_prefix(prefix).map_err(zstd)?;
    context.decompress(&mut plain, compressed).map_err(zstd)?;
    if plain.len() != bytes {
        return Err(RelativeError::Zstd {
            reason: "it is shorter than it states",
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
