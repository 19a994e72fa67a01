//! Cutting a segment at a moment.
//!
//! Entries stand in the order in which they were taken. A clock that was set back makes their times fall; then the
//! cut comes after the last entry that was taken by the moment, so that what is kept is always a beginning, and no
//! number of a stream is skipped.

use bytes::Bytes;
use fleetmend_event::TimeMicros;

use crate::segment::{SEGMENT_HEADER_BYTES, scan};

/// How many bytes of a segment were taken by `until`; 0 for none of its entries.
pub(super) fn bytes_until(segment: &Bytes, until: TimeMicros) -> usize {
    let found = scan(segment);
    let last = found
        .entries
        .iter()
        .rev()
        .find(|entry| entry.ingested_at <= until);
    last.map_or(0, |entry| {
        let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        start
            .saturating_add(entry.frame.encoded_len())
            .min(segment.len())
            .max(SEGMENT_HEADER_BYTES)
    })
}
