//! Frames as sorted rows.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};

use super::part::{ChunkPart, Part};
use crate::catalogue::FileRow;
use crate::chunk::{ClockSpan, Joiner, Span};
use crate::error::{MaintenanceError, ReadError};
use crate::inner::Inner;
use crate::label::Origins;
use crate::select::{Deadline, SeriesKey};
use crate::shape::{Chunks, HOST_ID, Sample, SqlTable, TIME, sql_tables, typed, with_system_columns};
use crate::view::HotFrame;

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 32 * 1024;

/// Writes frames of one table and day as one file, until `deadline`; `None` when they hold no rows.
pub(crate) fn write_frames(
    inner: &Arc<Inner>,
    (index, day): (usize, i64),
    frames: &[Arc<HotFrame>],
    origins: &Arc<Origins>,
    deadline: &Deadline,
) -> Result<Option<FileRow>, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(None);
    };
    let mut read = Vec::with_capacity(frames.len());
    for frame in frames.iter().filter(|frame| !frame.is_lost()) {
        deadline.check()?;
        match frame.batch(table) {
            Ok(batch) => read.push(Read {
                batch,
                host: frame.host.to_string(),
                frame: frame.clone(),
            }),
            // The disk may come back; a frame that is read whole and is no frame does not.
            Err(error @ ReadError::Io { .. }) => return Err(error.into()),
            Err(error) => inner.lose_frame(frame, index, &error),
        }
    }
    let folder = inner.config.parquet_folder();
    if table.is_metrics() {
        let mut part = ChunkPart::begin(&folder, table, day, origins)?;
        write_samples(&mut part, &read, deadline)?;
        part.finish()
    } else {
        let mut part = Part::begin(&folder, table, day, origins)?;
        write_rows(&mut part, table, &read, deadline)?;
        part.finish()
    }
}

struct Read {
    batch: RecordBatch,
    host: String,
    frame: Arc<HotFrame>,
}

fn write_rows(
    part: &mut Part,
    table: &'static SqlTable,
    read: &[Read],
    deadline: &Deadline,
) -> Result<(), MaintenanceError> {
    let of_frame = |read: &Read| with_system_columns(table, &read.batch, &read.frame.origin());
    let batches = read.iter().map(of_frame).collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&table.schema, &batches)?;
    drop(batches);
    let order = order_of(&all)?;
    let mut at = 0;
    while at < order.len() {
        deadline.check()?;
        let length = BATCH_ROWS.min(order.len().saturating_sub(at));
        part.write(&take_record_batch(&all, &order.slice(at, length))?)?;
        at = at.saturating_add(length);
    }
    Ok(())
}

/// The rows by host and time; those of one host and moment in the order in which they came.
fn order_of(all: &RecordBatch) -> Result<UInt32Array, MaintenanceError> {
    let hosts = typed::<StringArray>(all, HOST_ID)?;
    let times = typed::<TimestampMicrosecondArray>(all, TIME)?;
    let mut rows: Vec<(&str, i64, u32)> = hosts
        .iter()
        .zip(times.values())
        .zip(0_u32..)
        .map(|((host, time), row)| (host.unwrap_or_default(), *time, row))
        .collect();
    rows.sort_unstable();
    Ok(rows.into_iter().map(|(.., row)| row).collect())
}

/// Samples are sorted batch by batch: one of a series stands in order nearly always.
fn write_samples(part: &mut ChunkPart, read: &[Read], deadline: &Deadline) -> Result<(), MaintenanceError> {
    let mut frames = Vec::with_capacity(read.len());
    for read in read {
        frames.push((Chunks::of(&read.batch)?, read));
    }
    let mut order = Vec::new();
    for (chunks, read) in &frames {
        for row in 0..chunks.len() {
            let sample = chunks.sample_of(row, &read.host);
            order.push((sample, chunks.start(row), chunks, row, &read.frame));
        }
    }
    // Of one series and time the one taken first stays before the others.
    order.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let mut joiner = Joiner::default();
    let mut emit = |chunk| {
        deadline.check()?;
        part.push(&chunk)
    };
    let mut series: Option<(Sample<'_>, Arc<SeriesKey>)> = None;
    for (sample, _, chunks, row, frame) in order {
        let key = match series.take() {
            Some((last, key)) if last == sample => key,
            _ => Arc::new(SeriesKey {
                name: sample.name.to_owned(),
                labels: sample.labels.to_owned(),
                host: frame.host,
                unit: sample.unit.to_owned(),
            }),
        };
        series = Some((sample, key.clone()));
        let (times, values) = chunks.samples(row).unzip();
        let span = Span {
            key,
            ingested_at: frame.ingested_at.0,
            clock: ClockSpan::of(frame.clock),
            times,
            values,
        };
        joiner.push::<MaintenanceError>(span, &mut emit)?;
    }
    joiner.finish(&mut emit)
}
