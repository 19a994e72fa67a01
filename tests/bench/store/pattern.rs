//! Metrics of a fleet, made cheaply: some made-up hosts are simulated for an hour, and every host repeats the hour of
//! one of them, moved in time.
//!
//! So a counter falls back once an hour, as at a restart. One series differs from host to host, so that a query
//! over hosts has a known answer: [`Pattern::known`] is `host / 100 + (second of the minute) / 10,000`.

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{
    ArrayRef, Float64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{MetricChunk, table_by_id};
use fleetmend_event::{Frame, RecordId, SeriesSet, Table as _, TimeMicros, batch};

use crate::ingest::data::{Host, SERIES};

/// Seconds that are simulated.
const HOUR_S: usize = 3_600;
/// Name and labels of the series that is known.
pub(super) const KNOWN_NAME: &str = "system.cpu.utilization";
pub(super) const KNOWN_LABELS: &str = r#"{"cpu.mode":"user"}"#;
const SECOND_US: i64 = 1_000_000;
/// zstd level of a frame of a history: what it holds is the same, and made in a fifth of the time.
const QUICK_LEVEL: i32 = 1;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// As an agent does.
    AsSent,
    /// Quicker, and without the dictionary.
    Quick,
}

/// An hour of one made-up host.
#[derive(Debug)]
pub(super) struct Pattern {
    series: SeriesSet,
    columns: [ArrayRef; 3],
    /// By series, then by second.
    values: Vec<Vec<f64>>,
    known: usize,
}

impl Pattern {
    /// Simulates the hour.
    pub(super) fn new(seed: u64) -> Result<Self> {
        let mut host = Host::new(seed);
        let mut values = vec![Vec::with_capacity(HOUR_S); SERIES as usize];
        let mut series = None;
        for second in 0..HOUR_S {
            let tick = host.tick(TimeMicros(i64::try_from(second)?.saturating_mul(SECOND_US)));
            for (values, value) in values.iter_mut().zip(&tick.values) {
                values.push(*value);
            }
            series = Some(tick.series);
        }
        let series = series.context("simulate a host")?;
        let labels: Vec<String> = series.iter().map(|key| key.labels_json()).collect();
        let known = series.iter().zip(&labels);
        let known = known
            .into_iter()
            .position(|(key, labels)| key.name == KNOWN_NAME && labels == KNOWN_LABELS)
            .context("find the known series")?;
        let text = |texts: Vec<&str>| Arc::new(StringArray::from(texts)) as ArrayRef;
        let columns = [
            text(series.iter().map(|key| key.name.as_str()).collect()),
            text(series.iter().map(|key| key.unit.as_str()).collect()),
            text(labels.iter().map(String::as_str).collect()),
        ];
        Ok(Self {
            series,
            columns,
            values,
            known,
        })
    }

    /// Value of the known series.
    pub(super) fn known(host: usize, second: i64) -> f64 {
        (host as f64) / 100.0 + (second.rem_euclid(60) as f64) / 10_000.0
    }

    /// How many of its series have one of these names.
    pub(super) fn count(&self, names: &[&str]) -> usize {
        let named = |key: &&fleetmend_event::SeriesKey| names.contains(&key.name.as_str());
        self.series.iter().filter(named).count()
    }

    /// A frame of `host` with `ticks` seconds from `second` on, counted from 1970.
    pub(super) fn frame(
        &self,
        id: RecordId,
        host: usize,
        second: i64,
        ticks: usize,
        body: Body,
    ) -> Result<Frame> {
        let from = TimeMicros(second.saturating_mul(SECOND_US));
        let to = from.plus_micros(i64::try_from(ticks)?.saturating_sub(1).saturating_mul(SECOND_US));
        let rows = self.batch(host, second, ticks)?;
        let table = table_by_id(MetricChunk::ID).context("find the table of metrics")?;
        let body = match body {
            Body::AsSent => batch::encode(&rows).context("encode a batch")?,
            Body::Quick => {
                let plain = batch::plain(&rows).context("encode a batch")?;
                zstd::bulk::compress(&plain, QUICK_LEVEL).context("compress a batch")?
            }
        };
        let stamp = Stamp {
            wall: to,
            boot_us: id.sequence.0,
        };
        Ok(Frame {
            id,
            table: table.id,
            schema_version: table.version,
            tombstone: false,
            rows: u32::try_from(rows.num_rows())?,
            made_at: stamp.wall,
            made_boot_us: stamp.boot_us,
            from_time: from,
            to_time: to,
            body: body.into(),
        })
    }

    fn batch(&self, host: usize, second: i64, ticks: usize) -> Result<RecordBatch> {
        let rows = self.values.len();
        let start = usize::try_from(second.rem_euclid(i64::try_from(HOUR_S)?))?;
        let mut values = Vec::with_capacity(rows.saturating_mul(ticks));
        for (of_series, index) in self.values.iter().zip(0_usize..) {
            if index == self.known {
                let seconds = (second..).take(ticks);
                values.extend(seconds.map(|second| Self::known(host, second)));
                continue;
            }
            let (head, tail) = of_series.split_at(start.min(of_series.len()));
            values.extend(tail.iter().chain(head).take(ticks));
        }
        let field = |name: &str| -> Result<Arc<arrow::datatypes::Field>> {
            match MetricChunk::schema().field_with_name(name)?.data_type() {
                DataType::List(item) => Ok(item.clone()),
                other => anyhow::bail!("column {name} is {other}"),
            }
        };
        let micros = second.saturating_mul(SECOND_US);
        let step = u32::try_from(SECOND_US / 1_000)?;
        let [name, unit, labels] = self.columns.clone();
        let columns: Vec<ArrayRef> = vec![
            name,
            unit,
            labels,
            Arc::new(TimestampMicrosecondArray::from_value(micros, rows).with_timezone("UTC")),
            Arc::new(UInt32Array::from_value(step, rows)),
            Arc::new(ListArray::new(
                field("offset_ms")?,
                OffsetBuffer::from_lengths(std::iter::repeat_n(0, rows)),
                Arc::new(UInt32Array::from(Vec::<u32>::new())),
                None,
            )),
            Arc::new(ListArray::new(
                field("value")?,
                OffsetBuffer::from_lengths(std::iter::repeat_n(ticks, rows)),
                Arc::new(Float64Array::from(values)),
                None,
            )),
        ];
        RecordBatch::try_new(MetricChunk::schema(), columns).context("make a batch")
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::{Lane, Sequence, SpoolEpoch};

    use super::*;

    #[test]
    fn frame_holds_the_samples_of_every_series_and_the_known_ones() {
        let pattern = Pattern::new(7).unwrap();
        let id = RecordId {
            epoch: SpoolEpoch::random(),
            lane: Lane::Metrics,
            sequence: Sequence(1),
        };
        for body in [Body::AsSent, Body::Quick] {
            let frame = pattern.frame(id, 3, 7_190, 120, body).unwrap();
            assert!(frame.fits());
            let rows = MetricChunk::from_batch(&frame.batch().unwrap().unwrap()).unwrap();
            assert_eq!(rows.len(), SERIES as usize);
            assert!(
                rows.iter()
                    .all(|row| row.value.len() == 120 && row.step_ms == 1_000)
            );
            let known = rows
                .iter()
                .find(|row| row.name == KNOWN_NAME && row.labels == KNOWN_LABELS)
                .unwrap();
            assert_eq!(known.value[11], Pattern::known(3, 7_201));
        }
    }
}
