//! One chunk, encoded, and what a file says of all its chunks.

use std::sync::Arc;

use fleetmend_event::TimeMicros;

use super::codec::{CodecError, decode_times, decode_values, encode_times, encode_values};
use crate::clock::ClockAhead;
use crate::select::SeriesKey;

/// How far estimates of a clock may range within one chunk.
const CLOCK_RANGE_MAX: u32 = 1_000_000;

/// What is known of the clock that made the samples of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockSpan {
    least: Option<i64>,
    range: u32,
}

impl ClockSpan {
    /// Nobody knows.
    pub(crate) const UNKNOWN: Self = Self {
        least: None,
        range: 0,
    };

    /// One estimate.
    pub(crate) fn of(clock: ClockAhead) -> Self {
        Self {
            least: clock.micros(),
            range: 0,
        }
    }

    /// As a file says it; a range beyond what is written is cut.
    pub(crate) fn from_file(least: Option<i64>, range: i32) -> Self {
        Self {
            least,
            range: u32::try_from(range).unwrap_or(0).min(CLOCK_RANGE_MAX),
        }
    }

    /// Least that it was ahead.
    pub(crate) fn least(self) -> Option<i64> {
        self.least
    }

    /// How much more at most.
    pub(crate) fn range(self) -> i32 {
        i32::try_from(self.range).unwrap_or(0)
    }

    /// What to tell of all samples: the middle.
    pub(crate) fn middle(self) -> ClockAhead {
        let half = i64::from(self.range / 2);
        ClockAhead::from_micros(self.least.map(|least| least.saturating_add(half)))
    }

    /// Both together, when they are near enough.
    pub(crate) fn join(self, other: Self) -> Option<Self> {
        let (one, two) = match (self.least, other.least) {
            (None, None) => return Some(self),
            (Some(one), Some(two)) => (one, two),
            _ => return None,
        };
        let least = one.min(two);
        let most = one
            .saturating_add(i64::from(self.range))
            .max(two.saturating_add(i64::from(other.range)));
        let range = u32::try_from(most.checked_sub(least)?).ok()?;
        (range <= CLOCK_RANGE_MAX).then_some(Self {
            least: Some(least),
            range,
        })
    }

    fn true_span(self, from: i64, to: i64, taken: i64) -> (TimeMicros, TimeMicros) {
        let most = self
            .least
            .map(|least| least.saturating_add(i64::from(self.range)));
        let first = ClockAhead::from_micros(most).true_time(TimeMicros(from), TimeMicros(taken));
        let last = ClockAhead::from_micros(self.least).true_time(TimeMicros(to), TimeMicros(taken));
        (first, last)
    }
}

/// Samples of one series over a span.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) key: Arc<SeriesKey>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) count: usize,
    pub(crate) ingested_at: i64,
    pub(crate) clock: ClockSpan,
    pub(crate) times: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

impl Chunk {
    /// Encodes samples in rising time.
    pub(crate) fn encode(
        key: &Arc<SeriesKey>,
        (times, values): (&[i64], &[f64]),
        (ingested_at, clock): (i64, ClockSpan),
    ) -> Result<Self, CodecError> {
        Ok(Self {
            key: key.clone(),
            from: times.first().copied().unwrap_or(0),
            to: times.last().copied().unwrap_or(0),
            count: times.len(),
            ingested_at,
            clock,
            times: encode_times(times)?,
            values: encode_values(values)?,
        })
    }
}

/// The samples of a chunk. A compressor that panics over damaged bytes has found damage.
pub(crate) fn decode(
    (times, values): (&[u8], &[u8]),
    span: (i64, i64),
    count: usize,
) -> Result<(Vec<i64>, Vec<f64>), CodecError> {
    let decode = || Ok((decode_times(times, span, count)?, decode_values(values, count)?));
    std::panic::catch_unwind(decode).unwrap_or(Err(CodecError::Foreign))
}

/// Samples as the bytes of a chunk with what a row says of them, in one piece: for those who test the decoder.
#[doc(hidden)]
#[derive(Debug)]
pub struct ChunkBytes;

impl ChunkBytes {
    /// Count, first and last time, bytes of times, times, values.
    pub fn encode(times: &[i64], values: &[f64]) -> Option<Vec<u8>> {
        let (times_bytes, values_bytes) = (encode_times(times).ok()?, encode_values(values).ok()?);
        let mut bytes = u16::try_from(times.len()).ok()?.to_le_bytes().to_vec();
        bytes.extend(times.first()?.to_le_bytes());
        bytes.extend(times.last()?.to_le_bytes());
        bytes.extend(u32::try_from(times_bytes.len()).ok()?.to_le_bytes());
        bytes.extend(times_bytes);
        bytes.extend(values_bytes);
        Some(bytes)
    }

    /// The samples, when the bytes are a chunk.
    pub fn decode(bytes: &[u8]) -> Option<(Vec<i64>, Vec<f64>)> {
        let (count, bytes) = bytes.split_first_chunk()?;
        let (from, bytes) = bytes.split_first_chunk()?;
        let (to, bytes) = bytes.split_first_chunk()?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let (times, values) = bytes.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let span = (i64::from_le_bytes(*from), i64::from_le_bytes(*to));
        decode((times, values), span, usize::from(u16::from_le_bytes(*count))).ok()
    }
}

/// What the catalogue is told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Rows that SQL shows.
    pub(crate) rows: u64,
    /// Chunks; none in files of rows.
    pub(crate) chunks: Option<u64>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) ingested_to: i64,
    pub(crate) true_from: TimeMicros,
    pub(crate) true_to: TimeMicros,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            rows: 0,
            chunks: None,
            from: i64::MAX,
            to: i64::MIN,
            ingested_to: i64::MIN,
            true_from: TimeMicros(i64::MAX),
            true_to: TimeMicros(i64::MIN),
        }
    }
}

impl Extent {
    /// Counts a chunk in.
    pub(crate) fn add(&mut self, chunk: &Chunk) {
        self.rows = self.rows.saturating_add(chunk.count as u64);
        self.chunks = Some(self.chunks.unwrap_or(0).saturating_add(1));
        self.from = self.from.min(chunk.from);
        self.to = self.to.max(chunk.to);
        self.ingested_to = self.ingested_to.max(chunk.ingested_at);
        let (from, to) = chunk.clock.true_span(chunk.from, chunk.to, chunk.ingested_at);
        self.true_from = self.true_from.min(from);
        self.true_to = self.true_to.max(to);
    }
}
