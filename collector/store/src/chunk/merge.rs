//! Files of metrics, of either layout, become one stream of chunks.
//!
//! Each file is read through once, a chunk at a time; of each there are in memory the heads of one row group, some
//! pages and one decoded chunk.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::sync::Arc;

use fleetmend_event::HostId;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::footer::{FileError, OpenFile};
use super::join::{Joiner, Span};
use super::read::ChunkCursor;
use super::row::{Chunk, ClockSpan};
use super::rows::SampleRows;
use crate::clock::ClockAhead;
use crate::select::SeriesKey;

/// A file that is read through.
pub(crate) enum Source {
    /// Of chunks.
    Chunks(Box<ChunkCursor>),
    /// Of rows.
    Rows(Box<RowCursor>),
}

impl Source {
    /// From the beginning of `file` on.
    pub(crate) fn of(file: OpenFile) -> Result<Self, FileError> {
        Ok(if file.holds_chunks()? {
            Self::Chunks(Box::new(ChunkCursor::new(file)))
        } else {
            Self::Rows(Box::new(RowCursor::new(file)))
        })
    }

    fn next(&mut self) -> Result<Option<Span>, FileError> {
        match self {
            Self::Chunks(cursor) => cursor.next(),
            Self::Rows(cursor) => cursor.next(),
        }
    }
}

/// Gives `emit` the samples of all sources as chunks, sorted as far as the sources are.
pub(crate) fn merge<E: From<FileError>>(
    sources: Vec<Source>,
    mut emit: impl FnMut(Chunk) -> Result<(), E>,
) -> Result<(), E> {
    let mut joiner = Joiner::default();
    let mut emit = |chunk: Chunk| emit(chunk).map_err(Fault::Emit);
    let joined = merge_spans(sources, |span| joiner.push(span, &mut emit));
    let done = joined.and_then(|()| joiner.finish(&mut emit));
    done.map_err(|fault: Fault<E>| match fault {
        Fault::Read(error) => error.into(),
        Fault::Emit(error) => error,
    })
}

/// Gives `take` the samples of all sources, sorted by series and first time as far as the sources are.
pub(crate) fn merge_spans<E: From<FileError>>(
    mut sources: Vec<Source>,
    mut take: impl FnMut(Span) -> Result<(), E>,
) -> Result<(), E> {
    let mut heap = BinaryHeap::with_capacity(sources.len());
    let mut waiting: Vec<Option<Span>> = Vec::with_capacity(sources.len());
    for (source, index) in sources.iter_mut().zip(0_usize..) {
        let span = source.next()?;
        heap.extend(span.as_ref().map(|span| Reverse((place(span), index))));
        waiting.push(span);
    }
    while let Some(Reverse((_, index))) = heap.pop() {
        let (Some(source), Some(slot)) = (sources.get_mut(index), waiting.get_mut(index)) else {
            continue;
        };
        let next = source.next()?;
        heap.extend(next.as_ref().map(|span| Reverse((place(span), index))));
        if let Some(span) = std::mem::replace(slot, next) {
            take(span)?;
        }
    }
    Ok(())
}

enum Fault<E> {
    Read(FileError),
    Emit(E),
}

impl<E> From<FileError> for Fault<E> {
    fn from(error: FileError) -> Self {
        Fault::Read(error)
    }
}

impl<E> From<super::codec::CodecError> for Fault<E> {
    fn from(error: super::codec::CodecError) -> Self {
        Fault::Read(error.into())
    }
}

/// Where a span stands in the order of chunks.
fn place(span: &Span) -> (Arc<SeriesKey>, i64) {
    (span.key.clone(), span.times.first().copied().unwrap_or(0))
}

/// A file of rows, as spans of samples that were taken together.
pub(crate) struct RowCursor {
    file: OpenFile,
    group: usize,
    reader: Option<ParquetRecordBatchReader>,
    ready: VecDeque<Span>,
    key: Option<Arc<SeriesKey>>,
}

impl RowCursor {
    fn new(file: OpenFile) -> Self {
        Self {
            file,
            group: 0,
            reader: None,
            ready: VecDeque::new(),
            key: None,
        }
    }

    fn next(&mut self) -> Result<Option<Span>, FileError> {
        loop {
            if let Some(span) = self.ready.pop_front() {
                return Ok(Some(span));
            }
            if let Some(batch) = self.reader.as_mut().and_then(Iterator::next) {
                self.take(&SampleRows::of(&batch?)?)?;
            } else if self.group < self.file.metadata().num_row_groups() {
                self.reader = Some(self.file.rows(self.group)?);
                self.group = self.group.saturating_add(1);
            } else {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, rows: &SampleRows<'_>) -> Result<(), FileError> {
        for (first, end) in rows.runs() {
            let host: Result<HostId, _> = rows.hosts.value(first).parse();
            let key = SeriesKey {
                name: rows.names.value(first).to_owned(),
                labels: rows.labels.value(first).to_owned(),
                host: host.map_err(|_| FileError::shape("a host that is none"))?,
                unit: rows.units.value(first).to_owned(),
            };
            let key = match self.key.take().filter(|held| **held == key) {
                Some(held) => held,
                None => Arc::new(key),
            };
            self.key = Some(key.clone());
            let mut at = first;
            while at < end {
                let (taken, clock) = (rows.ingested.value(at), rows.clock(at));
                let is_other = |row: &usize| rows.ingested.value(*row) != taken || rows.clock(*row) != clock;
                let next = (at..end).find(is_other).unwrap_or(end);
                let mut samples: Vec<(i64, f64)> = (at..next)
                    .map(|row| (rows.times.value(row), rows.value(row)))
                    .collect();
                samples.sort_by_key(|(time, _)| *time);
                let (times, values) = samples.into_iter().unzip();
                self.ready.push_back(Span {
                    key: key.clone(),
                    ingested_at: taken,
                    clock: ClockSpan::of(ClockAhead::from_micros(clock)),
                    times,
                    values,
                });
                at = next;
            }
        }
        Ok(())
    }
}
