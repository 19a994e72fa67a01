//! Records a page at a time, for whoever asks: in the order in which the store took them.

use std::collections::{BTreeSet, HashSet};

use fleetmend_event::{HostId, HostScope, TimeMicros};
use serde_json::Value;

use crate::config::RecordFormat;
use crate::error::SourceError;
use crate::record::{Record, records_of};
use crate::source::{FactSource, RowKey, RowSpan};
use crate::stream::render;

/// Rows of one page at most.
pub const PAGE_MAX: usize = 5_000;
/// Hashes that a cursor holds, of records at its very place; where more stand there, some may be told again.
const SAME_PLACE_MAX: usize = 32;
/// Rows may become visible a little after rows that were stored later: what is so new is told by the next page.
const SETTLE_MICROS: i64 = 1_000_000;

/// Where a reader stands: after these records. As text it is opaque to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    key: RowKey,
    told: Vec<u64>,
}

/// Which records.
#[derive(Debug, Clone)]
pub struct RecordsRequest {
    /// Of which table.
    pub table: String,
    /// In which words.
    pub format: RecordFormat,
    /// Only of this host.
    pub host: Option<HostId>,
    /// Whose facts whoever asks may see.
    pub scope: HostScope,
    /// Where to begin.
    pub from: Cursor,
    /// Until when, by when they were stored.
    pub to: TimeMicros,
    /// How many at most; [`PAGE_MAX`] bounds it.
    pub limit: usize,
}

/// Some of them.
#[derive(Debug, Clone)]
pub struct RecordsPage {
    /// The records.
    pub records: Vec<Value>,
    /// Where the next page begins.
    pub next: Cursor,
    /// Whether there are more now.
    pub more: bool,
}

impl Cursor {
    /// Before everything that was stored at `time` or later.
    pub fn at(time: TimeMicros) -> Self {
        Self {
            key: RowKey {
                ingested_at: time,
                host: HostId::from_bytes([0; 16]),
                time: TimeMicros(i64::MIN / 2),
            },
            told: Vec::new(),
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RowKey {
            ingested_at,
            host,
            time,
        } = self.key;
        write!(formatter, "{}.{host}.{}", ingested_at.0, time.0)?;
        self.told
            .iter()
            .try_for_each(|hash| write!(formatter, ".{hash:x}"))
    }
}

impl std::str::FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no cursor of an answer";
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(WRONG);
        let number = |text: &str| text.parse::<i64>().map(TimeMicros).map_err(|_| WRONG);
        let key = RowKey {
            ingested_at: number(part()?)?,
            host: part()?.parse().map_err(|_| WRONG)?,
            time: number(part()?)?,
        };
        let told = parts.map(|hash| u64::from_str_radix(hash, 16).map_err(|_| WRONG));
        let told: Vec<u64> = told.collect::<Result<_, _>>()?;
        if told.len() > SAME_PLACE_MAX {
            return Err(WRONG);
        }
        Ok(Self { key, told })
    }
}

/// The next records of a request.
///
/// # Errors
/// When they cannot be read now.
pub async fn records_page(
    source: &dyn FactSource,
    request: RecordsRequest,
) -> Result<RecordsPage, SourceError> {
    let limit = request.limit.clamp(1, PAGE_MAX);
    let settled = TimeMicros::now().plus_micros(-SETTLE_MICROS).min(request.to);
    let span = RowSpan::Stored {
        from: request.from.key,
    };
    // Those at the place of the cursor come again.
    let rows_max = limit.saturating_add(request.from.told.len());
    let (batches, more) = source
        .rows(&request.table, span, &request.scope, rows_max)
        .await?;
    let names = source.hosts().await?;
    let work = move || page(&request, &batches, more, settled, &names);
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| SourceError::Unavailable(error.to_string()))?
}

fn page(
    request: &RecordsRequest,
    batches: &[arrow::array::RecordBatch],
    more: bool,
    settled: TimeMicros,
    names: &std::collections::BTreeMap<HostId, Option<String>>,
) -> Result<RecordsPage, SourceError> {
    let (records, _) = records_of(&request.table, batches)?;
    let all = records.len();
    let within: Vec<Record> = records
        .into_iter()
        .take_while(|record| record.ingested_at <= settled)
        .collect();
    let more = more && within.len() == all;
    let told: HashSet<u64> = request.from.told.iter().copied().collect();
    let next = within.last().map_or_else(
        || request.from.clone(),
        |last| {
            let key = last.key();
            let here = within.iter().filter(|record| record.key() == key);
            let mut here: BTreeSet<u64> = here.map(|record| record.hash).collect();
            if key == request.from.key {
                here.extend(&told);
            }
            Cursor {
                key,
                told: here.into_iter().take(SAME_PLACE_MAX).collect(),
            }
        },
    );
    let wanted = |record: &&Record| {
        !(told.contains(&record.hash) && record.key() == request.from.key)
            && request.host.is_none_or(|host| host == record.host)
    };
    let rendered = |record: &Record| {
        let name = names.get(&record.host).and_then(Option::as_deref);
        render(request.format, record, name)
    };
    Ok(RecordsPage {
        records: within.iter().filter(wanted).map(rendered).collect(),
        next,
        more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_comes_back_as_it_was() {
        let mut cursor = Cursor::at(TimeMicros(5));
        assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor.clone()));
        cursor.key.host = HostId::random();
        cursor.told = vec![1, u64::MAX];
        assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        let many = vec!["0"; SAME_PLACE_MAX + 1].join(".");
        let many = format!("1.00000000-0000-0000-0000-000000000000.1.{many}");
        for wrong in [
            "",
            "1",
            "1.x.1",
            "x.00000000-0000-0000-0000-000000000000.1",
            many.as_str(),
        ] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
