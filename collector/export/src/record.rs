//! Rows of tables on their way: typed, with whose they are.

use arrow::array::{Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::row::{RowConverter, SortField};
use fleetmend_event::table::{TableInfo, table_by_name};
use fleetmend_event::{Fact, HostId, TimeMicros};
use serde_json::{Map, Value};

use crate::deliver::Parcel;
use crate::error::SourceError;
use crate::sample::Names;
use crate::source::RowKey;

/// A stored row.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its table.
    pub table: &'static TableInfo,
    /// Whose.
    pub host: HostId,
    /// When the collector took it.
    pub ingested_at: TimeMicros,
    /// When it was true, by the host's clock.
    pub time: TimeMicros,
    /// Of all its columns: the same row has the same in every reading.
    pub hash: u64,
    /// The row.
    pub fact: Fact,
}

/// Rows of one request, all of one table.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
    pub(crate) names: Names,
}

impl Record {
    /// Its place in the order of reading.
    pub(crate) fn key(&self) -> RowKey {
        RowKey {
            ingested_at: self.ingested_at,
            host: self.host,
            time: self.time,
        }
    }

    /// An id that is the same however often the record is sent.
    pub fn id(&self) -> String {
        let host = self.host.to_string();
        let short: String = host.chars().filter(|c| *c != '-').take(12).collect();
        format!("{short}-{:x}-{:016x}", self.ingested_at.0, self.hash)
    }

    /// The columns of the row as JSON.
    pub fn columns(&self) -> Map<String, Value> {
        let value = match &self.fact {
            Fact::Metrics(_) => Ok(Value::Null),
            Fact::ProcessEvent(row) => serde_json::to_value(row),
            Fact::NetworkEvent(row) => serde_json::to_value(row),
            Fact::ProcessSnapshot(row) => serde_json::to_value(row),
            Fact::UnitState(row) => serde_json::to_value(row),
            Fact::SiteProbe(row) => serde_json::to_value(row),
            Fact::ProbeStatus(row) => serde_json::to_value(row),
            Fact::Finding(row) => serde_json::to_value(row),
            Fact::Action(row) => serde_json::to_value(row),
            Fact::Ledger(row) => serde_json::to_value(row),
            Fact::Gap(row) => serde_json::to_value(row),
            Fact::HostInfo(row) => serde_json::to_value(row),
            Fact::ModelStatus(row) => serde_json::to_value(row),
            Fact::FileEvent(row) => serde_json::to_value(row),
            Fact::CredentialEvent(row) => serde_json::to_value(row),
            Fact::MemoryEvent(row) => serde_json::to_value(row),
            Fact::KernelEvent(row) => serde_json::to_value(row),
            Fact::SignalEvent(row) => serde_json::to_value(row),
            Fact::SensorAccount(row) => serde_json::to_value(row),
            Fact::IntegrityEvent(row) => serde_json::to_value(row),
            Fact::SyscallProfile(row) => serde_json::to_value(row),
            Fact::LogRecord(row) => serde_json::to_value(row),
            Fact::AuthEvent(row) => serde_json::to_value(row),
        };
        match value {
            Ok(Value::Object(columns)) => columns,
            _ => Map::new(),
        }
    }
}

/// Rows as they were read.
#[derive(Debug, Default)]
pub struct Rows {
    /// Those that this build understands.
    pub records: Vec<Record>,
    /// Hash and place of those that it does not.
    pub unreadable: Vec<(u64, RowKey)>,
    /// Place of the last, understood or not.
    pub last: Option<RowKey>,
    /// How many they are.
    pub count: usize,
}

/// The rows of batches of `table` as the source answers them.
///
/// # Errors
/// When the batches are not of the table.
pub fn records_of(table: &str, batches: &[RecordBatch]) -> Result<Rows, SourceError> {
    let shape = |reason: String| SourceError::Shape {
        table: table.to_owned(),
        reason,
    };
    let info = table_by_name(table).ok_or_else(|| shape("there is no such table".to_owned()))?;
    let mut rows = Rows::default();
    for batch in batches {
        let hashes = hashes(batch).map_err(|error| shape(error.to_string()))?;
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| shape(format!("there is no column {name}")))
        };
        let hosts = column("host_id")?.as_any().downcast_ref::<StringArray>();
        let hosts = hosts.ok_or_else(|| shape("host_id is no text".to_owned()))?;
        let ingested = times(column("ingested_at")?.as_ref())
            .ok_or_else(|| shape("ingested_at is no time".to_owned()))?;
        let made = times(column("time")?.as_ref()).ok_or_else(|| shape("time is no time".to_owned()))?;
        rows.count = rows.count.saturating_add(batch.num_rows());
        for (row, fact) in facts(info, batch).into_iter().enumerate() {
            let host: Option<HostId> = (!hosts.is_null(row))
                .then(|| hosts.value(row).parse().ok())
                .flatten();
            let host = host.ok_or_else(|| shape("host_id is no id".to_owned()))?;
            let (ingested_at, time) = (TimeMicros(ingested.value(row)), TimeMicros(made.value(row)));
            let hash = hashes.get(row).copied().unwrap_or_default();
            let key = RowKey {
                ingested_at,
                host,
                time,
            };
            rows.last = Some(key);
            let Some(fact) = fact else {
                rows.unreadable.push((hash, key));
                continue;
            };
            rows.records.push(Record {
                table: info,
                host,
                ingested_at,
                time,
                hash,
                fact,
            });
        }
    }
    Ok(rows)
}

fn times(array: &dyn Array) -> Option<&TimestampMicrosecondArray> {
    array.as_any().downcast_ref::<TimestampMicrosecondArray>()
}

fn hashes(batch: &RecordBatch) -> Result<Vec<u64>, arrow::error::ArrowError> {
    let schema = batch.schema();
    let fields = schema.fields().iter();
    let converter = RowConverter::new(
        fields
            .map(|field| SortField::new(field.data_type().clone()))
            .collect(),
    )?;
    let rows = converter.convert_columns(batch.columns())?;
    let hash = |row: arrow::row::Row<'_>| twox_hash::XxHash64::oneshot(0, row.as_ref());
    Ok(rows.iter().map(hash).collect())
}

/// Each row as a fact; none where it holds what this build does not know.
fn facts(info: &TableInfo, batch: &RecordBatch) -> Vec<Option<Fact>> {
    let read = |batch: &RecordBatch| Fact::from_batch(info, batch)?.ok();
    if let Some(facts) = read(batch) {
        return facts.into_iter().map(Some).collect();
    }
    // One row that a newer agent wrote does not take the others with it.
    let one = |row: usize| read(&batch.slice(row, 1))?.pop();
    (0..batch.num_rows()).map(one).collect()
}

impl Parcel for Records {
    fn count(&self) -> u64 {
        self.records.len() as u64
    }

    fn oldest(&self) -> Option<TimeMicros> {
        self.records.iter().map(|record| record.ingested_at).min()
    }

    fn halve(mut self) -> Result<(Self, Self), Self> {
        if self.records.len() < 2 {
            return Err(self);
        }
        let records = self.records.split_off(self.records.len() / 2);
        let names = self.names.clone();
        Ok((self, Self { records, names }))
    }

    fn since(mut self, floor: TimeMicros) -> Self {
        self.records.retain(|record| record.ingested_at >= floor);
        self
    }
}
