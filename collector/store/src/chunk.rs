//! Chunks: the samples of one series over a span, as one row of a Parquet file. Specification of the files of
//! metrics, layout 1.
//!
//! # The file
//! A Parquet file whose key-value metadata hold `fleetmend.chunks` = `1`, and a label (`label.rs`). It has no Arrow schema. A row is a chunk;
//! rows are sorted by name, labels, host, unit and first time. Columns, none of them null but the clock:
//!
//! | column | type | what |
//! |---|---|---|
//! | `name`, `unit`, `labels` | UTF-8 | the series; dictionary |
//! | `host_id` | 16 bytes | its host; dictionary |
//! | `from_time`, `to_time` | i64 | first and last time, in microseconds since 1970 by the host's clock |
//! | `count` | i32 | samples, 1 to [`CHUNK_SAMPLES_MAX`] |
//! | `ingested_at` | i64 | when the store took the latest of them |
//! | `clock_ahead_us` | i64, null | least that the host's clock was ahead while they were made; null: nobody knows |
//! | `clock_range_us` | i32 | how much more it was ahead at most; at most one second |
//! | `times` | bytes, zstd | below |
//! | `values` | bytes, not compressed again | below |
//!
//! A row group has up to 4,096 chunks and a page of values about 64 KiB, with an offset index, so that whoever wants
//! one series of one host reads the heads of some row groups and the pages that hold it. Names, hosts and times have
//! statistics, the bytes none.
//!
//! # Bytes of a chunk
//! *varint*: 7 bits a byte, lowest first. *zigzag*: a signed number as a varint. *packed*: the wrapped format of `pco`,
//! header, one chunk, one page; mode classic, integer multiples, float multiples or float quantiles; differences none or
//! consecutive.
//!
//! - *integers* begin with a byte: 0, all the same: zigzag. 1, zigzag `base`, varint `divisor`, then for each number the
//!   zigzag of what its multiple differs from the last one's, a number being `base + divisor × multiple`. 2, the same
//!   head and the multiples packed as i64.
//! - `times`: empty, at equal distances from `from_time` to `to_time`. Else a byte: 1, a varint of runs, then three
//!   columns, each a varint of bytes and *integers*: from the first time of one run to that of the next, beginning
//!   with 0; the steps; the counts. 2, all times as *integers*. Times do not fall.
//! - `values` begin with a byte: 0, all the same: 8 bytes. 1, a byte of decimal places (0, 1, 2, 3, 6) and *integers*:
//!   each divided by that power of ten. 2, packed as f64. 3, 8 bytes each. All bits of a value come back, those of NaN
//!   too. Numbers are little-endian.
//!
//! # What a chunk holds
//! About [`CHUNK_SAMPLES`] samples, as far as there are so many. It ends where the clock's estimate would range over
//! more than a second. Samples of one time stay, in the order in which they were taken; of two chunks that overlap,
//! the samples of the one with the later `ingested_at` count as the later.
//!
//! # The former layout
//! One row per sample (`rows.rs`); such files are read beside these and become chunks when they are merged.

mod codec;
mod footer;
mod join;
mod merge;
mod pack;
mod prune;
mod read;
mod row;
mod rows;
mod write;

pub(crate) use codec::{CHUNK_SAMPLES_MAX, CodecError};
pub(crate) use footer::{FileError, Footers, OpenFile};
pub(crate) use join::{Joiner, Span};
pub(crate) use merge::{Source, merge, merge_spans};
pub(crate) use prune::Wanted;
pub(crate) use read::{BytesCursor, Heads};
pub use row::ChunkBytes;
pub(crate) use row::{Chunk, ClockSpan, Extent};
pub(crate) use rows::{SampleRows, read_rows};
pub(crate) use write::ChunkWriter;

/// Samples that a chunk is filled up to: twice as many save a twentieth, and a reader of one minute pays for them.
pub(crate) const CHUNK_SAMPLES: usize = 3_600;
