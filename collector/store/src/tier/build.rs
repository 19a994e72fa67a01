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

use super::read::{OfSeries, Taken, WindowCursor};
use super::window::{Window, renewed, windows};
use super::{DAY_MICROS, LONGEST_MICROS, SAMPLES_MAX, TIERS, Tier};
use crate::catalogue::{Built, Change, DirtyDay, FileRow};
use crate::chunk::{FileError, OpenFile, Source, Span, Wanted, merge_spans};
use crate::compact::{Part, clear_unregistered, register};
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::label::Origins;
use crate::select::{Deadline, Piece, SeriesKey, is_damaged, merge};
use crate::shape::{SqlTable, sql_tables, table_index, table_index_by_name};
use crate::view::ParquetFile;

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 8 * 1024;

/// Makes every day anew that was dirty for `interval`. A day that cannot be made keeps no other from being made; the
/// first fault is given back.
pub(super) async fn build_due(inner: &Arc<Inner>, interval: Duration) -> Result<(), MaintenanceError> {
    let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    let mut outcome = Ok(());
    for dirty in inner.catalogue.dirty_days().await? {
        let now = TimeMicros::now();
        // Of a day to come nothing is over.
        let has_begun = dirty.day.saturating_mul(DAY_MICROS) <= now.0;
        if has_begun && now.micros_since(dirty.since) >= interval {
            let built = build(inner, dirty, now).await;
            outcome = outcome.and(built);
        }
    }
    outcome
}

async fn build(inner: &Arc<Inner>, dirty: DirtyDay, now: TimeMicros) -> Result<(), MaintenanceError> {
    let Some(raw) = table_index(MetricChunk::ID) else {
        return Ok(());
    };
    let start = dirty.day.saturating_mul(DAY_MICROS);
    if start < oldest_kept(inner, now) {
        tracing::info!(
            day = dirty.day,
            "samples came of a day that no tier is kept of any more"
        );
        return settle(inner, dirty, Made::default(), &[]).await;
    }
    // The last window of the day before says what the first samples grew from.
    let from = start.saturating_sub(LONGEST_MICROS);
    let to = start.saturating_add(DAY_MICROS);
    let (mut files, kept) = {
        let _settled = inner.settling.lock().await;
        (inner.view.table(raw).files, tier_files(inner, dirty.day))
    };
    files.retain(|file| file.from.0 < to && file.to.0 >= from);
    clear_unregistered(inner).await?;
    let maker = inner.clone();
    let sources = (files.clone(), kept.clone());
    let make = move |deadline: &Deadline| make(&maker, (start, now.0), &sources, deadline);
    let made = inner.steps.run(make).await?;
    if let Err(MaintenanceError::Chunk(_)) = &made {
        set_aside_damaged(inner, files.into_iter().chain(kept.clone()).collect()).await?;
    }
    settle(inner, dirty, made?, &kept).await
}

/// The first time that any tier is kept of.
fn oldest_kept(inner: &Inner, now: TimeMicros) -> i64 {
    let days = TIERS.iter().map(|tier| {
        let own = inner.config.retention.tables.get(tier.name);
        own.and_then(|own| own.age_days).unwrap_or(tier.age_days)
    });
    let most = i64::from(days.max().unwrap_or(0));
    now.0
        .saturating_sub(most.saturating_add(1).saturating_mul(DAY_MICROS))
}

/// The files of a day's tiers.
fn tier_files(inner: &Inner, day: i64) -> Vec<Arc<ParquetFile>> {
    let of_tier = |file: &Arc<ParquetFile>| {
        let table = sql_tables().get(file.table);
        file.day == day && table.is_some_and(|table| table.kept_days.is_some())
    };
    let mut files = inner.view.files();
    files.retain(of_tier);
    files
}

/// Looks for damage in the files of which a day could not be made: what is damaged is told as lost, and the day is made of
/// the others the next time.
async fn set_aside_damaged(inner: &Arc<Inner>, files: Vec<Arc<ParquetFile>>) -> Result<(), MaintenanceError> {
    let looker = inner.clone();
    let look = move |deadline: &Deadline| {
        let damaged = files.iter().filter(|file| is_damaged(&looker, file, deadline));
        damaged.count()
    };
    let damaged = inner.steps.run(look).await?;
    if damaged > 0 {
        tracing::warn!(
            files = damaged,
            "files of metrics are damaged; their day is made without them"
        );
    }
    Ok(())
}

/// What was made of a day.
#[derive(Debug, Default)]
struct Made {
    files: Vec<FileRow>,
    /// Whether windows were left out because they are not over.
    is_partial: bool,
}

/// Puts what was made in the place of `kept`, which it was made from too.
async fn settle(
    inner: &Arc<Inner>,
    dirty: DirtyDay,
    made: Made,
    kept: &[Arc<ParquetFile>],
) -> Result<(), MaintenanceError> {
    let removed: Vec<i64> = kept.iter().map(|file| file.id).collect();
    let change = Change {
        added: made.files,
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

/// Whether a file has samples of the day, or of the window before it. One host whose clock is wrong stretches a file's span
/// over days of which it holds nothing; it is not decoded for these.
fn holds(file: &OpenFile, start: i64) -> Result<bool, FileError> {
    let wanted = Wanted {
        names: None,
        hosts: None,
        from: start.saturating_sub(LONGEST_MICROS),
        to: start.saturating_add(DAY_MICROS - 1),
    };
    let groups = file.groups(&wanted)?;
    if !file.holds_chunks()? {
        return Ok(!groups.is_empty());
    }
    for group in groups {
        let heads = file.heads(group)?;
        for row in 0..heads.len() {
            let head = heads.get(row)?;
            if wanted.touches(head.from, head.to) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Writes the files of a day's tiers. Blocks.
fn make(
    inner: &Inner,
    (start, now): (i64, i64),
    (files, kept): &(Vec<Arc<ParquetFile>>, Vec<Arc<ParquetFile>>),
    deadline: &Deadline,
) -> Result<Made, MaintenanceError> {
    let mut sources = Vec::new();
    for file in files {
        deadline.check()?;
        let open = inner.footers.open(file)?;
        if holds(&open, start)? {
            sources.push(Source::of(open)?);
        }
    }
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
        let Some(index) = table_index_by_name(tier.name) else {
            continue;
        };
        let Some(table) = sql_tables().get(index) else {
            continue;
        };
        let part = Part::begin(
            &inner.config.parquet_folder(),
            table,
            start.div_euclid(DAY_MICROS),
            &origins,
        )?;
        let mut held = Vec::new();
        for file in kept.iter().filter(|file| file.table == index) {
            held.push(Held::of(WindowCursor::new(inner.footers.open(file)?))?);
        }
        day.writers.push(Writer {
            tier: *tier,
            rows: Columns::new(table),
            part,
            kept: held,
        });
    }
    merge_spans::<MaintenanceError>(sources, |span| {
        deadline.check()?;
        day.take(span)
    })?;
    day.end_series(false)?;
    let mut written = Vec::new();
    for mut writer in day.writers {
        writer.keep_before(None)?;
        writer.rows.flush(&mut writer.part)?;
        written.extend(writer.part.finish()?);
    }
    Ok(Made {
        files: written,
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
    /// What there was of the day before, read beside its samples.
    kept: Vec<Held>,
}

/// A file of the day as it was made before, and the series in it that is next.
struct Held {
    cursor: WindowCursor,
    next: Option<OfSeries>,
}

impl Held {
    fn of(mut cursor: WindowCursor) -> Result<Self, FileError> {
        let next = cursor.next()?;
        Ok(Self { cursor, next })
    }

    /// The next series, if it is before `bound`, or any where there is none.
    fn next_before(&mut self, bound: Option<&SeriesKey>) -> Result<Option<OfSeries>, FileError> {
        let is_before = |key: &SeriesKey| bound.is_none_or(|bound| key < bound);
        match self.next.take_if(|(key, _)| is_before(key)) {
            Some(series) => {
                self.next = self.cursor.next()?;
                Ok(Some(series))
            }
            None => Ok(None),
        }
    }

    /// The windows of `series` up to and with the one that begins at `until`, if it is next.
    fn of_series(&mut self, series: &SeriesKey, until: i64) -> Result<Vec<Taken>, FileError> {
        let Some((_, windows)) = self.next.as_mut().filter(|(key, _)| **key == *series) else {
            return Ok(Vec::new());
        };
        let end = windows.partition_point(|(window, _)| window.start <= until);
        let rest = windows.split_off(end);
        let taken = std::mem::replace(windows, rest);
        if windows.is_empty() {
            self.next = self.cursor.next()?;
        }
        Ok(taken)
    }
}

impl Writer {
    /// Writes the kept windows of every series before `bound`, of which there are no samples any more.
    fn keep_before(&mut self, bound: Option<&SeriesKey>) -> Result<(), MaintenanceError> {
        let mut kept = std::mem::take(&mut self.kept);
        loop {
            // A day has one file of a tier; were there several, they are of the same order.
            let least = (0..kept.len()).min_by_key(|index| {
                let next = kept.get(*index).and_then(|held| held.next.as_ref());
                (next.is_none(), next.map(|(key, _)| key.clone()))
            });
            let Some(held) = least.and_then(|index| kept.get_mut(index)) else {
                break;
            };
            let Some((series, windows)) = held.next_before(bound)? else {
                break;
            };
            self.write(&series, windows)?;
        }
        self.kept = kept;
        Ok(())
    }

    /// Writes the windows of a series that were made now, and of those made before what they do not know of. Of a series
    /// that `goes_on` the later ones wait.
    fn renew(
        &mut self,
        series: &SeriesKey,
        mut windows: Vec<Taken>,
        goes_on: bool,
    ) -> Result<(), MaintenanceError> {
        self.keep_before(Some(series))?;
        let last = windows.last().map_or(i64::MIN, |(window, _)| window.start);
        let until = if goes_on { last } else { i64::MAX };
        for held in &mut self.kept {
            windows = renewed(held.of_series(series, until)?, windows);
        }
        self.write(series, windows)
    }

    fn write(&mut self, series: &SeriesKey, windows: Vec<Taken>) -> Result<(), MaintenanceError> {
        for (window, taken) in windows {
            self.rows.push(series, &window, taken);
            if self.rows.count >= BATCH_ROWS {
                self.rows.flush(&mut self.part)?;
            }
        }
        Ok(())
    }
}

impl Day {
    fn take(&mut self, span: Span) -> Result<(), MaintenanceError> {
        let goes_on = self.series.as_ref() == Some(&span.key);
        if !goes_on || self.samples >= SAMPLES_MAX {
            self.end_series(goes_on)?;
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

    /// Sums up what was gathered of a series; it `goes_on` where that is cut.
    fn end_series(&mut self, goes_on: bool) -> Result<(), MaintenanceError> {
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
            let mut made = windows(times, values, length, before);
            let all = made.len();
            made.retain(|window| window.start.saturating_add(length) <= self.now);
            self.is_partial |= made.len() < all;
            let made = made.into_iter().map(|window| (window, taken)).collect();
            writer.renew(&series, made, goes_on)?;
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
