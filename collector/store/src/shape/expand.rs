//! Metric chunks as samples.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Float64Builder, Int64Builder, ListArray, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::SchemaRef;
use fleetmend_event::TimeMicros;

use super::typed;
use crate::clock::ClockAhead;
use crate::error::ReadError;

/// Bytes of a sample but for its name, unit and labels: the host, two times, the clock, the value, offsets of the texts.
const SAMPLE_BYTES: usize = 84;

/// Rows given at once.
const BATCH_ROWS: usize = 8 * 1024;
/// Bytes of names, units and labels given at once, however few rows they are.
const BATCH_TEXT_BYTES: usize = 4 << 20;

/// A series, when the store took samples of it, and by which clock they were made.
pub(crate) type Whose<'a> = (Sample<'a>, TimeMicros, ClockAhead);

/// The columns of an aligned batch of chunks.
pub(crate) struct Chunks<'a> {
    name: &'a StringArray,
    unit: &'a StringArray,
    labels: &'a StringArray,
    start: &'a TimestampMicrosecondArray,
    step_ms: &'a UInt32Array,
    offset_ms: &'a ListArray,
    offsets: &'a UInt32Array,
    value: &'a ListArray,
    values: &'a Float64Array,
}

/// Who a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sample<'a> {
    /// Metric.
    pub(crate) name: &'a str,
    /// Attributes as JSON.
    pub(crate) labels: &'a str,
    /// Host.
    pub(crate) host: &'a str,
    /// Unit.
    pub(crate) unit: &'a str,
}

impl<'a> Chunks<'a> {
    /// The columns of `batch`, which must be aligned.
    pub(crate) fn of(batch: &'a RecordBatch) -> Result<Self, ReadError> {
        let inner = |list: &'a ListArray| list.values().as_any();
        let wrong = || ReadError::Shape {
            table: "metrics",
            reason: "a list column has another type".to_owned(),
        };
        let offset_ms = typed::<ListArray>(batch, "offset_ms")?;
        let value = typed::<ListArray>(batch, "value")?;
        Ok(Self {
            name: typed(batch, "name")?,
            unit: typed(batch, "unit")?,
            labels: typed(batch, "labels")?,
            start: typed(batch, "start_time")?,
            step_ms: typed(batch, "step_ms")?,
            offset_ms,
            offsets: inner(offset_ms).downcast_ref().ok_or_else(wrong)?,
            value,
            values: inner(value).downcast_ref().ok_or_else(wrong)?,
        })
    }

    /// Bytes of the longest name, unit or labels.
    pub(crate) fn text_bytes_max(&self) -> usize {
        let columns = [self.name, self.unit, self.labels].into_iter();
        let texts = columns.flat_map(|column| column.iter().flatten());
        texts.map(str::len).max().unwrap_or(0)
    }

    /// Bytes that its samples take as SQL shows them, each with the text of its series.
    pub(crate) fn samples_bytes(&self) -> u64 {
        let of_chunk = |row: usize| {
            let text = [self.name, self.unit, self.labels].map(|column| column.value(row).len());
            let sample = text.into_iter().fold(SAMPLE_BYTES, usize::saturating_add) as u64;
            let count = u64::try_from(self.value.value_length(row)).unwrap_or(0);
            sample.saturating_mul(count)
        };
        (0..self.len()).map(of_chunk).fold(0, u64::saturating_add)
    }

    /// How many chunks.
    pub(crate) fn len(&self) -> usize {
        self.name.len()
    }

    /// Names, units and labels of all chunks.
    pub(crate) fn texts(&self) -> [&'a StringArray; 3] {
        [self.name, self.unit, self.labels]
    }

    /// Name of the metric of chunk `row`.
    pub(crate) fn name(&self, row: usize) -> &'a str {
        self.name.value(row)
    }

    /// When chunk `row` begins, in microseconds.
    pub(crate) fn start(&self, row: usize) -> i64 {
        self.start.value(row)
    }

    /// Who the samples of chunk `row` belong to.
    pub(crate) fn sample_of(&self, row: usize, host: &'a str) -> Sample<'a> {
        Sample {
            name: self.name.value(row),
            labels: self.labels.value(row),
            host,
            unit: self.unit.value(row),
        }
    }

    /// The samples of chunk `row`: time in microseconds and value, NaN where none could be taken.
    pub(crate) fn samples(&self, row: usize) -> impl Iterator<Item = (i64, f64)> + '_ {
        let range = |list: &ListArray| {
            let offsets = list.value_offsets();
            let at = |index: usize| {
                offsets
                    .get(index)
                    .and_then(|offset| usize::try_from(*offset).ok())
                    .unwrap_or(0)
            };
            at(row)..at(row.saturating_add(1))
        };
        let start = self.start.value(row);
        let step = i64::from(self.step_ms.value(row)).saturating_mul(1_000);
        let values = self.values.values().get(range(self.value)).unwrap_or_default();
        let offsets = self
            .offsets
            .values()
            .get(range(self.offset_ms))
            .unwrap_or_default();
        values.iter().zip(0_i64..).map(move |(value, index)| {
            let after = if step > 0 {
                index.saturating_mul(step)
            } else {
                let millis = usize::try_from(index)
                    .ok()
                    .and_then(|index| offsets.get(index))
                    .copied();
                i64::from(millis.unwrap_or(0)).saturating_mul(1_000)
            };
            (start.saturating_add(after), *value)
        })
    }

    /// Earliest and latest time, and the number of samples.
    pub(crate) fn extent(&self) -> (TimeMicros, TimeMicros, u64) {
        let (mut from, mut to, mut count) = (i64::MAX, i64::MIN, 0_u64);
        for row in 0..self.len() {
            for (time, _) in self.samples(row) {
                from = from.min(time);
                to = to.max(time);
                count = count.saturating_add(1);
            }
        }
        if count == 0 {
            (TimeMicros(0), TimeMicros(0), 0)
        } else {
            (TimeMicros(from), TimeMicros(to), count)
        }
    }
}

/// Builds rows of the SQL table `metrics`, of only some of its columns.
pub(crate) struct SampleBuilder {
    schema: SchemaRef,
    columns: Vec<SampleColumn>,
    rows: usize,
    /// Bytes of texts so far.
    text_bytes: usize,
}

enum SampleColumn {
    Time(Int64Builder),
    Host(StringBuilder),
    Name(StringBuilder),
    Unit(StringBuilder),
    Labels(StringBuilder),
    Value(Float64Builder),
    IngestedAt(Int64Builder),
    ClockAhead(Int64Builder),
}

impl SampleBuilder {
    /// For the columns of `schema`, which is a projection of the table's.
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let column = |name: &str| match name {
            "time" => SampleColumn::Time(Int64Builder::new()),
            "host_id" => SampleColumn::Host(StringBuilder::new()),
            "name" => SampleColumn::Name(StringBuilder::new()),
            "unit" => SampleColumn::Unit(StringBuilder::new()),
            "labels" => SampleColumn::Labels(StringBuilder::new()),
            "value" => SampleColumn::Value(Float64Builder::new()),
            "ingested_at" => SampleColumn::IngestedAt(Int64Builder::new()),
            _ => SampleColumn::ClockAhead(Int64Builder::new()),
        };
        let columns = schema.fields().iter().map(|field| column(field.name())).collect();
        Self {
            schema,
            columns,
            rows: 0,
            text_bytes: 0,
        }
    }

    /// Rows so far.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Adds one sample: whose it is, its time and value, when the store took it and by which clock it was made.
    pub(crate) fn push(
        &mut self,
        sample: Sample<'_>,
        (time, value): (i64, f64),
        (ingested_at, clock): (TimeMicros, ClockAhead),
    ) {
        for column in &mut self.columns {
            match column {
                SampleColumn::Time(builder) => builder.append_value(time),
                SampleColumn::Host(builder) => builder.append_value(sample.host),
                SampleColumn::Name(builder) => builder.append_value(sample.name),
                SampleColumn::Unit(builder) => builder.append_value(sample.unit),
                SampleColumn::Labels(builder) => builder.append_value(sample.labels),
                SampleColumn::Value(builder) if value.is_nan() => builder.append_null(),
                SampleColumn::Value(builder) => builder.append_value(value),
                SampleColumn::IngestedAt(builder) => builder.append_value(ingested_at.0),
                SampleColumn::ClockAhead(builder) => builder.append_option(clock.micros()),
            }
        }
        self.rows = self.rows.saturating_add(1);
        let text = [sample.name, sample.unit, sample.labels].map(str::len);
        self.text_bytes = text.into_iter().fold(self.text_bytes, usize::saturating_add);
    }

    /// Whether it holds as many rows as are given at once.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.text_bytes >= BATCH_TEXT_BYTES
    }

    /// Samples of this series until it is full; at least one.
    pub(crate) fn room(&self, sample: Sample<'_>) -> usize {
        let text = [sample.name, sample.unit, sample.labels]
            .map(str::len)
            .iter()
            .sum::<usize>();
        let by_text = BATCH_TEXT_BYTES.saturating_sub(self.text_bytes) / text.max(1);
        by_text.min(BATCH_ROWS.saturating_sub(self.rows)).max(1)
    }

    /// Adds samples of one series that were taken together.
    pub(crate) fn push_all(&mut self, whose: Whose<'_>, times: &[i64], values: &[f64]) {
        self.push_count(whose, times.len());
        for column in &mut self.columns {
            match column {
                SampleColumn::Time(builder) => builder.append_slice(times),
                SampleColumn::Value(builder) => {
                    if values.iter().any(|value| value.is_nan()) {
                        builder.extend(values.iter().map(|value| (!value.is_nan()).then_some(*value)));
                    } else {
                        builder.append_slice(values);
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds what so many samples of one series share. Their times and values are not shown, or added elsewhere.
    pub(crate) fn push_count(&mut self, (sample, ingested_at, clock): Whose<'_>, count: usize) {
        for column in &mut self.columns {
            match column {
                SampleColumn::Time(_) | SampleColumn::Value(_) => {}
                SampleColumn::Host(builder) => builder.append_value_n(sample.host, count),
                SampleColumn::Name(builder) => builder.append_value_n(sample.name, count),
                SampleColumn::Unit(builder) => builder.append_value_n(sample.unit, count),
                SampleColumn::Labels(builder) => builder.append_value_n(sample.labels, count),
                SampleColumn::IngestedAt(builder) => builder.append_value_n(ingested_at.0, count),
                SampleColumn::ClockAhead(builder) => match clock.micros() {
                    Some(ahead) => builder.append_value_n(ahead, count),
                    None => builder.append_nulls(count),
                },
            }
        }
        self.rows = self.rows.saturating_add(count);
        let text = [sample.name, sample.unit, sample.labels]
            .map(str::len)
            .iter()
            .sum::<usize>();
        self.text_bytes = self.text_bytes.saturating_add(text.saturating_mul(count));
    }

    /// The rows since the last call.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch, arrow::error::ArrowError> {
        let time = |builder: &mut Int64Builder| -> ArrayRef {
            let micros = builder.finish();
            Arc::new(
                micros
                    .reinterpret_cast::<arrow::datatypes::TimestampMicrosecondType>()
                    .with_timezone("UTC"),
            )
        };
        let column = |column: &mut SampleColumn| -> ArrayRef {
            match column {
                SampleColumn::Time(builder) | SampleColumn::IngestedAt(builder) => time(builder),
                SampleColumn::Host(builder)
                | SampleColumn::Name(builder)
                | SampleColumn::Unit(builder)
                | SampleColumn::Labels(builder) => Arc::new(builder.finish()),
                SampleColumn::Value(builder) => Arc::new(builder.finish()),
                SampleColumn::ClockAhead(builder) => Arc::new(builder.finish()),
            }
        };
        let columns = self.columns.iter_mut().map(column).collect();
        self.text_bytes = 0;
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }
}
