//! One day of all tiers is made anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Float64Builder, Int64Array, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use fleetmend_event::table::MetricChunk;
use fleetmend_event::{Table, TimeMicros};

use super::window::{Window, windows};
use super::{DAY_MICROS, SAMPLES_MAX, TIERS, Tier};
use crate::catalogue::{Built, Change, DirtyDay, FileRow};
use crate::chunk::{FileError, Source, Span, merge_spans};
use crate::compact::{Part, clear_unregistered, register};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::label::Origins;
use crate::select::{Deadline, Piece, SeriesKey, merge};
use crate::shape::{SqlTable, sql_tables, table_index, table_index_by_name};
use crate::view::ParquetFile;

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 8 * 1024;

/// Makes every day anew that was dirty for `interval`.
pub(super) async fn build_due(inner: &Arc<Inner>, interval: Duration) -> Result<(), MaintenanceError> {
    let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    for dirty in inner.catalogue.dirty_days().await? {
        let now = TimeMicros::now();
        if now.micros_since(dirty.since) >= interval {
            build(inner, dirty, now).await?;
        }
    }
    Ok(())
}

async fn build(inner: &Arc<Inner>, dirty: DirtyDay, now: TimeMicros) -> Result<(), MaintenanceError> {
    let Some(raw) = table_index(MetricChunk::ID) else {
        return Ok(());
    };
    let start = dirty.day.saturating_mul(DAY_MICROS);
    let retention = &inner.config.retention;
    let kept = retention
        .tables
        .get(MetricChunk::NAME)
        .and_then(|own| own.age_days);
    let kept = i64::from(kept.unwrap_or(retention.age_days)).saturating_mul(DAY_MICROS);
    if start < now.0.saturating_sub(kept) {
        tracing::info!(
            day = dirty.day,
            "samples came too late for the tiers of their day"
        );
        return settle(inner, dirty, Made::default()).await;
    }
    // The last window of the day before says what the first samples grew from.
    let reach = TIERS.iter().map(|tier| tier.window_micros).max().unwrap_or(0);
    let (from, to) = (start.saturating_sub(reach), start.saturating_add(DAY_MICROS));
    let mut files = {
        let _settled = inner.settling.lock().await;
        inner.view.table(raw).files
    };
    files.retain(|file| file.from.0 < to && file.to.0 >= from);
    clear_unregistered(inner).await?;
    let maker = inner.clone();
    let make = move |deadline: &Deadline| make(&maker, (start, now.0), &files, deadline);
    let made = inner.steps.run(make).await??;
    settle(inner, dirty, made).await
}

/// What was made of a day.
#[derive(Debug, Default)]
struct Made {
    /// None where nothing is to change.
    files: Option<Vec<FileRow>>,
    /// Whether windows were left out because they are not over.
    is_partial: bool,
}

/// Puts what was made in the place of what was there.
async fn settle(inner: &Arc<Inner>, dirty: DirtyDay, made: Made) -> Result<(), MaintenanceError> {
    let of_tier = |file: &Arc<ParquetFile>| {
        let table = sql_tables().get(file.table);
        file.day == dirty.day && table.is_some_and(|table| table.kept_days.is_some())
    };
    let removed: Vec<i64> = match made.files {
        Some(_) => inner
            .view
            .files()
            .iter()
            .filter(|file| of_tier(file))
            .map(|file| file.id)
            .collect(),
        None => Vec::new(),
    };
    let change = Change {
        added: made.files.unwrap_or_default(),
        removed: removed.clone(),
        built: Some(Built {
            dirty,
            is_partial: made.is_partial,
        }),
        ..Change::default()
    };
    let new = register(inner, &change).await?;
    let removed: HashSet<i64> = removed.into_iter().collect();
    for file in inner.view.replace(&HashSet::new(), &removed, new) {
        file.doomed.store(true, Ordering::Release);
    }
    Ok(())
}

/// Writes the files of a day's tiers. Blocks.
fn make(
    inner: &Inner,
    (start, now): (i64, i64),
    files: &[Arc<ParquetFile>],
    deadline: &Deadline,
) -> Result<Made, MaintenanceError> {
    let open = |file: &Arc<ParquetFile>| Source::of(inner.footers.open(file)?);
    let sources = files.iter().map(open).collect::<Result<Vec<_>, FileError>>()?;
    let mut day = Day {
        start,
        now,
        series: None,
        pieces: Vec::new(),
        samples: 0,
        is_partial: false,
        writers: Vec::new(),
    };
    let origins = Arc::new(Origins::tier(inner.store_id));
    for tier in &TIERS {
        let table = table_index_by_name(tier.name).and_then(|index| sql_tables().get(index));
        let Some(table) = table else { continue };
        let part = Part::begin(
            &inner.config.parquet_folder(),
            table,
            start.div_euclid(DAY_MICROS),
            &origins,
        )?;
        day.writers.push(Writer {
            tier: *tier,
            rows: Columns::new(table),
            part,
        });
    }
    merge_spans::<MaintenanceError>(sources, |span| {
        deadline.check()?;
        day.take(span)
    })?;
    day.end_series()?;
    let mut written = Vec::new();
    for mut writer in day.writers {
        writer.rows.flush(&mut writer.part)?;
        written.extend(writer.part.finish()?);
    }
    Ok(Made {
        files: Some(written),
        is_partial: day.is_partial,
    })
}

/// A day while it is made.
struct Day {
    start: i64,
    /// Windows that end later are not over.
    now: i64,
    series: Option<Arc<SeriesKey>>,
    pieces: Vec<Piece>,
    samples: usize,
    is_partial: bool,
    writers: Vec<Writer>,
}

struct Writer {
    tier: Tier,
    rows: Columns,
    part: Part,
}

impl Day {
    fn take(&mut self, span: Span) -> Result<(), MaintenanceError> {
        if self.series.as_ref() != Some(&span.key) || self.samples >= SAMPLES_MAX {
            self.end_series()?;
            self.series = Some(span.key);
        }
        self.samples = self.samples.saturating_add(span.times.len());
        self.pieces.push(Piece {
            ingested_at: span.ingested_at,
            times: span.times,
            values: span.values,
        });
        Ok(())
    }

    fn end_series(&mut self) -> Result<(), MaintenanceError> {
        let pieces = std::mem::take(&mut self.pieces);
        self.samples = 0;
        let Some(series) = self.series.take() else {
            return Ok(());
        };
        let taken = pieces.iter().map(|piece| piece.ingested_at).max().unwrap_or(0);
        let (times, values) = merge(pieces);
        let first = times.partition_point(|time| *time < self.start);
        let end = times.partition_point(|time| *time < self.start.saturating_add(DAY_MICROS));
        let before = times
            .iter()
            .zip(&values)
            .take(first)
            .rfind(|(_, value)| !value.is_nan());
        let before = before.map(|(time, value)| (*time, *value));
        let (times, values) = (times.get(first..end), values.get(first..end));
        let (times, values) = (times.unwrap_or_default(), values.unwrap_or_default());
        for writer in &mut self.writers {
            let length = writer.tier.window_micros;
            for window in windows(times, values, length, before) {
                if window.start.saturating_add(length) > self.now {
                    self.is_partial = true;
                    continue;
                }
                writer.rows.push(&series, &window, taken);
                if writer.rows.count >= BATCH_ROWS {
                    writer.rows.flush(&mut writer.part)?;
                }
            }
        }
        Ok(())
    }
}

/// Windows as columns.
struct Columns {
    table: &'static SqlTable,
    texts: [StringBuilder; 4],
    times: [Int64Builder; 4],
    counts: [Int64Builder; 2],
    values: [Float64Builder; 6],
    count: usize,
}

impl Columns {
    fn new(table: &'static SqlTable) -> Self {
        Self {
            table,
            texts: std::array::from_fn(|_| StringBuilder::new()),
            times: std::array::from_fn(|_| Int64Builder::new()),
            counts: std::array::from_fn(|_| Int64Builder::new()),
            values: std::array::from_fn(|_| Float64Builder::new()),
            count: 0,
        }
    }

    fn push(&mut self, series: &SeriesKey, window: &Window, taken: i64) {
        let host = series.host.to_string();
        let texts = [&series.name, &series.unit, &series.labels, &host];
        for (builder, text) in self.texts.iter_mut().zip(texts) {
            builder.append_value(text);
        }
        let times = [window.start, window.first.0, window.last.0, taken];
        for (builder, time) in self.times.iter_mut().zip(times) {
            builder.append_value(time);
        }
        for (builder, count) in self.counts.iter_mut().zip([window.count, window.resets]) {
            builder.append_value(count);
        }
        let values = [
            window.sum,
            window.min,
            window.max,
            window.first.1,
            window.last.1,
            window.increase,
        ];
        for (builder, value) in self.values.iter_mut().zip(values) {
            builder.append_value(value);
        }
        self.count = self.count.saturating_add(1);
    }

    /// Hands the rows over.
    fn flush(&mut self, part: &mut Part) -> Result<(), MaintenanceError> {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return Ok(());
        }
        let [name, unit, labels, host] = self
            .texts
            .each_mut()
            .map(|builder| Arc::new(builder.finish()) as ArrayRef);
        let [time, first_time, last_time, taken] = self.times.each_mut().map(|builder| {
            let micros: TimestampMicrosecondArray = builder.finish().reinterpret_cast();
            Arc::new(micros.with_timezone("UTC")) as ArrayRef
        });
        let [samples, resets] = self
            .counts
            .each_mut()
            .map(|builder| Arc::new(builder.finish()) as ArrayRef);
        let [sum, min, max, first, last, increase] = self
            .values
            .each_mut()
            .map(|builder| Arc::new(builder.finish()) as ArrayRef);
        let clock: ArrayRef = Arc::new(Int64Array::new_null(count));
        let columns = vec![
            time, name, unit, labels, samples, sum, min, max, first, first_time, last, last_time, resets,
            increase, host, taken, clock,
        ];
        part.write(&RecordBatch::try_new(self.table.schema.clone(), columns)?)
    }
}
