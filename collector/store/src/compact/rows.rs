//! Frames as sorted rows.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};

use super::part::Part;
use crate::catalogue::FileRow;
use crate::error::{MaintenanceError, ReadError};
use crate::inner::Inner;
use crate::shape::{Chunks, HOST_ID, SampleBuilder, SqlTable, TIME, sql_tables, typed, with_system_columns};
use crate::view::HotFrame;

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 32 * 1024;

/// Bytes of names, units and labels handed to the Parquet writer at once, however few rows they are.
const BATCH_TEXT_BYTES: usize = 16 << 20;

/// Writes frames of one table and day as one file; `None` when they hold no rows.
pub(crate) fn write_frames(
    inner: &Arc<Inner>,
    index: usize,
    day: i64,
    frames: &[Arc<HotFrame>],
) -> Result<Option<FileRow>, MaintenanceError> {
    let Some(table) = sql_tables().get(index) else {
        return Ok(None);
    };
    let mut read = Vec::with_capacity(frames.len());
    for frame in frames.iter().filter(|frame| !frame.is_lost()) {
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
    let mut part = Part::begin(&inner.config.parquet_folder(), table, day)?;
    if table.is_metrics() {
        write_samples(&mut part, table, &read)?;
    } else {
        write_rows(&mut part, table, &read)?;
    }
    part.finish()
}

struct Read {
    batch: RecordBatch,
    host: String,
    frame: Arc<HotFrame>,
}

fn write_rows(part: &mut Part, table: &'static SqlTable, read: &[Read]) -> Result<(), MaintenanceError> {
    let of_frame = |read: &Read| with_system_columns(table, &read.batch, &read.frame.origin());
    let batches = read.iter().map(of_frame).collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&table.schema, &batches)?;
    drop(batches);
    let order = order_of(&all)?;
    let mut at = 0;
    while at < order.len() {
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

/// Samples are sorted chunk by chunk: a chunk is one series, its samples stand in order.
fn write_samples(part: &mut Part, table: &'static SqlTable, read: &[Read]) -> Result<(), MaintenanceError> {
    let mut frames = Vec::with_capacity(read.len());
    for read in read {
        frames.push((Chunks::of(&read.batch)?, read));
    }
    let mut order = Vec::new();
    for (chunks, read) in &frames {
        for row in 0..chunks.len() {
            order.push((
                chunks.sample_of(row, &read.host),
                chunks.start(row),
                chunks,
                row,
                &read.frame,
            ));
        }
    }
    order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let mut builder = SampleBuilder::new(table.schema.clone());
    for (sample, _, chunks, row, frame) in order {
        for (time, value) in chunks.samples(row) {
            builder.push(sample, (time, value), (frame.ingested_at, frame.clock));
            if builder.len() >= BATCH_ROWS || builder.text_bytes() >= BATCH_TEXT_BYTES {
                part.write(&builder.finish()?)?;
            }
        }
    }
    if builder.len() > 0 {
        part.write(&builder.finish()?)?;
    }
    Ok(())
}
