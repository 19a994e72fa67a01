//! Frame: the one record format of spool, wire and store segment. This text is its specification.
//!
//! All numbers little-endian. A frame is a header of 80 bytes and a body:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `46 4D 52 01`: "FMR" and the version, 1 |
//! | 4 | 4 | CRC32C of everything after this field, header and body |
//! | 8 | 4 | length of the body, at most [`FRAME_BODY_BYTES_MAX`] |
//! | 12 | 1 | lane: 0 critical, 1 events, 2 metrics |
//! | 13 | 1 | codec of the body: 1 = Arrow IPC stream in one zstd frame; 2 = the same relative to an earlier body, on a stream only: see [`crate::relative`] |
//! | 14 | 2 | table |
//! | 16 | 2 | version of the table's schema |
//! | 18 | 2 | flags: bit 0 tombstone (the record was shed; the body is empty and `rows` is what it held) |
//! | 20 | 4 | rows |
//! | 24 | 16 | epoch |
//! | 40 | 8 | sequence, from 1 |
//! | 48 | 8 | system clock when it was made, microseconds since 1970, signed |
//! | 56 | 8 | boot clock when it was made, microseconds |
//! | 64 | 8 | earliest time of its rows, microseconds since 1970, signed |
//! | 72 | 8 | latest time of its rows |
//! | 80 | | body |
//!
//! A reader that meets another version, lane, codec or flag refuses the frame; unknown tables and newer schema
//! versions are not the frame's concern. (host, epoch, lane, sequence) is the identity: two frames with one
//! identity and different digests are a fault that is audited. A digest is made over [`Frame::fixed_head`] and the
//! body as it is before compression, so that the way a body was compressed makes no difference.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{self, BatchError};
use crate::table::{MetricChunk, Table as _, TableInfo};
use crate::{Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};

/// Magic and version at the head of every frame.
pub const MAGIC: [u8; 4] = [b'F', b'M', b'R', 1];

/// Bytes before the body.
pub const HEADER_BYTES: usize = 80;

/// Largest body; with the header a frame stays below 256 KiB, so that a critical record never waits long.
pub const FRAME_BODY_BYTES_MAX: usize = 256 * 1024 - HEADER_BYTES;

const CODEC_ARROW_ZSTD: u8 = 1;
pub(crate) const CODEC_RELATIVE: u8 = 2;
const CODEC_OFFSET: usize = 13;
/// What of the header depends on the way the body is compressed: checksum and length.
const COMPRESSED_FIELDS: std::ops::Range<usize> = 4..12;
const FLAG_TOMBSTONE: u16 = 1;

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header, or than the header says.
    #[error("frame is cut short: {found} bytes where {wanted} are needed")]
    Truncated {
        /// Bytes needed.
        wanted: usize,
        /// Bytes there are.
        found: usize,
    },
    /// No frame begins here.
    #[error("no frame begins here: magic is {found:02x?}")]
    Magic {
        /// What stands there instead.
        found: [u8; 4],
    },
    /// The bytes changed since they were written.
    #[error("frame is corrupt: its checksum does not match")]
    Checksum,
    /// A body longer than allowed.
    #[error("frame body of {bytes} bytes is longer than the {FRAME_BODY_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A lane, codec or flag this version does not know.
    #[error("frame has unknown {field} {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u16,
    },
}

/// A numbered batch of rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its identity within the host.
    pub id: RecordId,
    /// Number of the table.
    pub table: u16,
    /// Version of the table's schema.
    pub schema_version: u16,
    /// Whether the record was shed: its body is empty, its number is not skipped.
    pub tombstone: bool,
    /// Rows it holds, or held.
    pub rows: u32,
    /// System clock when it was made.
    pub made_at: TimeMicros,
    /// Boot clock when it was made, microseconds.
    pub made_boot_us: u64,
    /// Earliest time of its rows.
    pub from_time: TimeMicros,
    /// Latest time of its rows.
    pub to_time: TimeMicros,
    /// The encoded batch; see [`crate::batch`].
    pub body: Bytes,
}

/// When a frame was made, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// System clock.
    pub wall: TimeMicros,
    /// Boot clock, microseconds.
    pub boot_us: u64,
}

impl Frame {
    /// A frame of `batch`.
    ///
    /// # Errors
    /// When the batch cannot be encoded. A body longer than [`FRAME_BODY_BYTES_MAX`] is the caller's to
    /// avoid by splitting the batch; see [`Frame::fits`].
    pub fn of_batch(
        id: RecordId,
        table: &TableInfo,
        batch: &arrow::array::RecordBatch,
        stamp: Stamp,
        span: (TimeMicros, TimeMicros),
    ) -> Result<Self, BatchError> {
        Ok(Self {
            id,
            table: table.id,
            schema_version: table.version,
            tombstone: false,
            rows: u32::try_from(batch.num_rows()).unwrap_or(u32::MAX),
            made_at: stamp.wall,
            made_boot_us: stamp.boot_us,
            from_time: span.0,
            to_time: span.1,
            body: batch::encode(batch)?.into(),
        })
    }

    /// Whether the body is within the limit.
    pub fn fits(&self) -> bool {
        self.body.len() <= FRAME_BODY_BYTES_MAX
    }

    /// Rows that SQL shows for it: a row of metrics holds many samples, and each is one. `None` when the body is gone
    /// or cannot be read.
    pub fn facts(&self) -> Option<u64> {
        if self.tombstone {
            return None;
        }
        if self.table != MetricChunk::ID {
            return Some(self.rows.into());
        }
        let chunks = MetricChunk::from_batch(&self.batch().ok()??).ok()?;
        let samples = chunks.iter().map(|chunk| chunk.value.len()).sum::<usize>();
        u64::try_from(samples).ok()
    }

    /// The same record, shed: identity, table, rows and times stay, the body goes.
    pub fn shed(&self) -> Self {
        Self {
            tombstone: true,
            body: Bytes::new(),
            ..self.clone()
        }
    }

    /// Bytes of the encoded frame.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES.saturating_add(self.body.len())
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Bytes {
        self.encode_as(CODEC_ARROW_ZSTD)
    }

    /// The header without what depends on how the body is compressed: checksum and length are 0, the codec is 1.
    pub fn fixed_head(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        let bare = Self {
            body: Bytes::new(),
            ..self.clone()
        };
        for (byte, encoded) in head.iter_mut().zip(bare.encode()) {
            *byte = encoded;
        }
        if let Some(fields) = head.get_mut(COMPRESSED_FIELDS) {
            fields.fill(0);
        }
        head
    }

    /// The codec that encoded bytes name.
    pub(crate) fn codec_of(encoded: &[u8]) -> Option<u8> {
        encoded.get(CODEC_OFFSET).copied()
    }

    /// The frame as bytes, with a body of this codec.
    pub(crate) fn encode_as(&self, codec: u8) -> Bytes {
        let mut rest = BytesMut::with_capacity(self.encoded_len());
        rest.put_u32_le(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        rest.put_u8(self.id.lane.code());
        rest.put_u8(codec);
        rest.put_u16_le(self.table);
        rest.put_u16_le(self.schema_version);
        rest.put_u16_le(if self.tombstone { FLAG_TOMBSTONE } else { 0 });
        rest.put_u32_le(self.rows);
        rest.put_slice(self.id.epoch.as_bytes());
        rest.put_u64_le(self.id.sequence.0);
        rest.put_i64_le(self.made_at.0);
        rest.put_u64_le(self.made_boot_us);
        rest.put_i64_le(self.from_time.0);
        rest.put_i64_le(self.to_time.0);
        rest.put_slice(&self.body);
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(crc32c::crc32c(&rest));
        bytes.put_slice(&rest);
        bytes.freeze()
    }

    /// How long the frame at the head of `bytes` is, from its header alone.
    ///
    /// # Errors
    /// [`FrameError`] when no frame begins there or it is longer than allowed.
    pub fn peek_len(bytes: &[u8]) -> Result<usize, FrameError> {
        let mut reader = Reader { bytes };
        let magic: [u8; 4] = reader.array()?;
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        reader.array::<4>()?;
        let body = usize::try_from(u32::from_le_bytes(reader.array()?)).unwrap_or(usize::MAX);
        if body > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLong { bytes: body });
        }
        Ok(HEADER_BYTES.saturating_add(body))
    }

    /// The frame at the head of `bytes`; what follows it is left alone.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong with the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        Self::decode_as(CODEC_ARROW_ZSTD, bytes)
    }

    /// The frame at the head of `bytes`, whose body has to be of this codec.
    pub(crate) fn decode_as(expected: u8, bytes: &Bytes) -> Result<Self, FrameError> {
        let length = Self::peek_len(bytes)?;
        let frame = bytes.get(..length).ok_or(FrameError::Truncated {
            wanted: length,
            found: bytes.len(),
        })?;
        let mut reader = Reader { bytes: frame };
        reader.array::<4>()?;
        let checksum = u32::from_le_bytes(reader.array()?);
        if crc32c::crc32c(reader.bytes) != checksum {
            return Err(FrameError::Checksum);
        }
        reader.array::<4>()?;
        let [lane_code, codec] = reader.array()?;
        let lane = Lane::from_code(lane_code).ok_or(FrameError::Unknown {
            field: "lane",
            value: lane_code.into(),
        })?;
        if codec != expected {
            return Err(FrameError::Unknown {
                field: "codec",
                value: codec.into(),
            });
        }
        let table = u16::from_le_bytes(reader.array()?);
        let schema_version = u16::from_le_bytes(reader.array()?);
        let flags = u16::from_le_bytes(reader.array()?);
        if flags & !FLAG_TOMBSTONE != 0 {
            return Err(FrameError::Unknown {
                field: "flags",
                value: flags,
            });
        }
        let rows = u32::from_le_bytes(reader.array()?);
        let epoch = SpoolEpoch::from_bytes(reader.array()?);
        let sequence = Sequence(u64::from_le_bytes(reader.array()?));
        Ok(Self {
            id: RecordId {
                epoch,
                lane,
                sequence,
            },
            table,
            schema_version,
            tombstone: flags & FLAG_TOMBSTONE != 0,
            rows,
            made_at: TimeMicros(i64::from_le_bytes(reader.array()?)),
            made_boot_us: u64::from_le_bytes(reader.array()?),
            from_time: TimeMicros(i64::from_le_bytes(reader.array()?)),
            to_time: TimeMicros(i64::from_le_bytes(reader.array()?)),
            body: bytes.slice(HEADER_BYTES..length),
        })
    }

    /// The batch it holds; `None` for a tombstone.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong with the body.
    pub fn batch(&self) -> Result<Option<arrow::array::RecordBatch>, BatchError> {
        if self.tombstone {
            Ok(None)
        } else {
            batch::decode(&self.body).map(Some)
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let short = FrameError::Truncated {
            wanted: HEADER_BYTES,
            found: self.bytes.len(),
        };
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(short)?;
        self.bytes = tail;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests;
