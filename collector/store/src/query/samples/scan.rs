//! Row groups become rows.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray, UInt64Array};
use arrow::compute::take;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use fleetmend_event::{HostId, TimeMicros};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::{Group, SampleFilter, SamplePartition};
use crate::chunk::{BytesCursor, FileError, Heads, SampleRows};
use crate::clock::ClockAhead;
use crate::inner::Inner;
use crate::shape::{Sample, SampleBuilder, TIME};

/// What is held beside heads while bytes of chunks are read and expanded.
const WORK_BYTES: usize = 4 << 20;

/// What a step of a scan gave.
pub(super) enum Step {
    /// Rows.
    Rows(RecordBatch),
    /// None yet.
    Nothing,
    /// There is no more.
    End,
}

/// A scan of row groups.
pub(super) struct Scan {
    groups: std::vec::IntoIter<Group>,
    filter: Arc<SampleFilter>,
    inner: Arc<Inner>,
    builder: SampleBuilder,
    /// Whether rows show times or values.
    shows_samples: bool,
    now: Now,
    memory: MemoryReservation,
}

/// What is being read.
enum Now {
    Nothing,
    Chunks(Box<ChunkGroup>),
    Rows(ParquetRecordBatchReader),
}

/// A row group of chunks.
struct ChunkGroup {
    heads: Heads,
    /// Chunks that are wanted, the next one last, and whether their bytes are needed.
    rows: Vec<(usize, bool)>,
    bytes: Option<BytesCursor>,
    /// A chunk of which only the first samples are in rows yet.
    open: Option<OpenChunk>,
}

struct OpenChunk {
    row: usize,
    host: String,
    samples: Samples,
    at: usize,
}

/// Samples of a chunk.
enum Samples {
    /// As many, whatever they are.
    Count(usize),
    Decoded(Vec<i64>, Vec<f64>),
}

impl Samples {
    fn len(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Decoded(times, _) => times.len(),
        }
    }
}

impl Scan {
    pub(super) fn new(partition: &SamplePartition, memory: MemoryReservation) -> Self {
        let shows = |name: &str| partition.schema.field_with_name(name).is_ok();
        Self {
            groups: partition.groups.clone().into_iter(),
            filter: partition.filter.clone(),
            inner: partition.inner.clone(),
            builder: SampleBuilder::new(partition.schema.clone()),
            shows_samples: shows(TIME) || shows("value"),
            now: Now::Nothing,
            memory,
        }
    }

    /// Reads on, for a short time.
    pub(super) fn step(&mut self) -> Result<Step> {
        match std::mem::replace(&mut self.now, Now::Nothing) {
            Now::Nothing => self.begin(),
            Now::Chunks(mut group) => {
                if group.expand(&self.filter, &mut self.builder).map_err(external)? {
                    self.now = Now::Chunks(group);
                }
                self.rows()
            }
            Now::Rows(mut reader) => match reader.next().transpose()? {
                None => Ok(Step::Nothing),
                Some(batch) => {
                    let rows = SampleRows::of(&batch).map_err(external)?;
                    self.take_rows(&rows)?;
                    self.now = Now::Rows(reader);
                    self.rows()
                }
            },
        }
    }

    fn begin(&mut self) -> Result<Step> {
        let Some(Group { file, group }) = self.groups.next() else {
            self.memory.free();
            return Ok(if self.builder.len() > 0 {
                Step::Rows(self.builder.finish()?)
            } else {
                Step::End
            });
        };
        let open = self.inner.footers.open(&file).map_err(external)?;
        if !open.holds_chunks().map_err(external)? {
            self.memory.try_resize(WORK_BYTES)?;
            self.now = Now::Rows(open.rows(group).map_err(external)?);
            return Ok(Step::Nothing);
        }
        let heads = open.heads(group).map_err(external)?;
        self.memory
            .try_resize(heads.batch.get_array_memory_size().saturating_add(WORK_BYTES))?;
        let rows = self.wanted(&heads)?;
        if rows.is_empty() {
            return Ok(Step::Nothing);
        }
        let mut needed = vec![false; heads.len()];
        for (row, _) in rows.iter().filter(|(_, is_needed)| *is_needed) {
            if let Some(needed) = needed.get_mut(*row) {
                *needed = true;
            }
        }
        let needed = BooleanArray::from(needed);
        let bytes = (needed.true_count() > 0)
            .then(|| open.bytes(group, &needed))
            .transpose();
        self.now = Now::Chunks(Box::new(ChunkGroup {
            heads,
            rows,
            bytes: bytes.map_err(external)?,
            open: None,
        }));
        Ok(Step::Nothing)
    }

    /// The chunks that matter, the first one last, and whether their bytes are needed.
    fn wanted(&self, heads: &Heads) -> Result<Vec<(usize, bool)>> {
        let wanted = &self.filter.wanted;
        let mut rows = Vec::new();
        for row in 0..heads.len() {
            let head = heads.get(row).map_err(external)?;
            if wanted.touches(head.from, head.to) && wanted.wants(head.name, head.host) {
                let is_whole = wanted.from <= head.from && head.to <= wanted.to;
                rows.push((row, self.shows_samples || !is_whole));
            }
        }
        if !rows.is_empty()
            && let Some(kept) = self
                .filter
                .keeps(heads.texts(), heads.host_texts().map_err(external)?)?
        {
            rows.retain(|(row, _)| *row < kept.len() && kept.value(*row));
        }
        rows.reverse();
        Ok(rows)
    }

    fn rows(&mut self) -> Result<Step> {
        if self.builder.is_full() {
            Ok(Step::Rows(self.builder.finish()?))
        } else {
            Ok(Step::Nothing)
        }
    }

    fn take_rows(&mut self, rows: &SampleRows<'_>) -> Result<()> {
        let wanted = &self.filter.wanted;
        let mut runs = rows.runs();
        runs.retain(|(first, _)| {
            let host: Result<HostId, _> = rows.hosts.value(*first).parse();
            wanted.wants_name(rows.names.value(*first)) && host.is_ok_and(|host| wanted.wants_host(host))
        });
        let firsts = UInt64Array::from_iter_values(runs.iter().map(|(first, _)| *first as u64));
        let texts =
            [rows.names, rows.units, rows.labels, rows.hosts].map(|column| take(column, &firsts, None));
        let [name, unit, labels, host] = texts;
        let texts = [name?, unit?, labels?, host?];
        let texts = texts
            .each_ref()
            .map(|column| column.as_any().downcast_ref::<StringArray>());
        let [Some(name), Some(unit), Some(labels), Some(host)] = texts else {
            return Err(external(FileError::shape("texts of another type")));
        };
        let kept = self.filter.keeps([name, unit, labels], host.clone())?;
        for (index, (first, end)) in (0..).zip(runs) {
            if kept.as_ref().is_some_and(|kept| !kept.value(index)) {
                continue;
            }
            let sample = Sample {
                name: rows.names.value(first),
                labels: rows.labels.value(first),
                host: rows.hosts.value(first),
                unit: rows.units.value(first),
            };
            for row in first..end {
                let time = rows.times.value(row);
                if wanted.touches(time, time) {
                    let taken = TimeMicros(rows.ingested.value(row));
                    let clock = ClockAhead::from_micros(rows.clock(row));
                    self.builder.push(sample, (time, rows.value(row)), (taken, clock));
                }
            }
        }
        Ok(())
    }
}

impl ChunkGroup {
    /// Fills `builder`; says whether anything is left.
    fn expand(&mut self, filter: &SampleFilter, builder: &mut SampleBuilder) -> Result<bool, FileError> {
        while !builder.is_full() {
            let open = match self.open.take() {
                Some(open) => open,
                None => match self.next(filter)? {
                    Some(open) => open,
                    None => return Ok(false),
                },
            };
            let head = self.heads.get(open.row)?;
            let sample = Sample {
                name: head.name,
                labels: head.labels,
                host: &open.host,
                unit: head.unit,
            };
            let end = open
                .samples
                .len()
                .min(open.at.saturating_add(builder.room(sample)));
            let whose = (sample, TimeMicros(head.ingested_at), head.clock.middle());
            match &open.samples {
                Samples::Count(_) => builder.push_count(whose, end.saturating_sub(open.at)),
                Samples::Decoded(times, values) => {
                    let range = open.at..end;
                    let times = times.get(range.clone()).unwrap_or_default();
                    builder.push_all(whose, times, values.get(range).unwrap_or_default());
                }
            }
            if end < open.samples.len() {
                self.open = Some(OpenChunk { at: end, ..open });
            }
        }
        Ok(true)
    }

    fn next(&mut self, filter: &SampleFilter) -> Result<Option<OpenChunk>, FileError> {
        let Some((row, is_needed)) = self.rows.pop() else {
            return Ok(None);
        };
        let head = self.heads.get(row)?;
        let samples = match &mut self.bytes {
            Some(bytes) if is_needed => {
                let (times, values) = bytes.next(|times, values| head.decode((times, values)))?;
                filter.wanted.cut(times, values).into()
            }
            _ => Samples::Count(head.count),
        };
        Ok(Some(OpenChunk {
            row,
            host: head.host.to_string(),
            samples,
            at: 0,
        }))
    }
}

impl From<(Vec<i64>, Vec<f64>)> for Samples {
    fn from((times, values): (Vec<i64>, Vec<f64>)) -> Self {
        Self::Decoded(times, values)
    }
}

fn external(error: FileError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
