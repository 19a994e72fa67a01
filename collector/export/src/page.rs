//! Records a page at a time, for whoever asks: in the order in which the store took them.

use fleetmend_event::{HostId, HostScope, TimeMicros};
use serde_json::Value;

use crate::config::RecordFormat;
use crate::error::SourceError;
use crate::record::{Record, Rows, records_of};
use crate::source::{FactSource, RowKey, RowSpan};
use crate::stream::render;

/// Rows of one page at most.
pub const PAGE_MAX: usize = 5_000;
/// Rows of one place that are told apart: more of one host, of one time and stored at once, are told at once.
const PLACE_MAX: usize = 100_000;
/// Rows may become visible a little after rows that were stored later: what is so new is told by the next page.
const SETTLE_MICROS: i64 = 1_000_000;

/// Where a reader stands: after the record at this place with this hash. As text it is opaque to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    key: RowKey,
    /// None before the first of the place.
    told: Option<u64>,
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
            told: None,
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
        self.told.map_or(Ok(()), |hash| write!(formatter, ".{hash:x}"))
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
        let told = parts.next().map(|hash| u64::from_str_radix(hash, 16));
        if parts.next().is_some() {
            return Err(WRONG);
        }
        let told = told.transpose().map_err(|_| WRONG)?;
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
    let names = source.hosts().await?;
    let mut rows_max = limit.saturating_add(1);
    loop {
        let span = RowSpan::Stored {
            from: request.from.key,
        };
        let (batches, more) = source
            .rows(&request.table, span, &request.scope, rows_max)
            .await?;
        let table = request.table.clone();
        let read = tokio::task::spawn_blocking(move || records_of(&table, &batches)).await;
        let rows = read.map_err(|error| SourceError::Unavailable(error.to_string()))??;
        let whole = Read {
            rows,
            more,
            is_all: rows_max >= PLACE_MAX,
        };
        let Some(told) = next_of(whole, &request.from, settled, limit) else {
            rows_max = rows_max.saturating_mul(4).min(PLACE_MAX);
            continue;
        };
        let work = move || told.rendered(&request, &names);
        let done = tokio::task::spawn_blocking(work).await;
        return done.map_err(|error| SourceError::Unavailable(error.to_string()));
    }
}

/// What was read from a cursor on.
struct Read {
    rows: Rows,
    /// Whether there is more than was read.
    more: bool,
    /// Whether no more than that can be read at once.
    is_all: bool,
}

/// What a page tells.
struct Told {
    rows: Vec<(RowKey, u64, Option<Record>)>,
    next: Cursor,
    more: bool,
}

/// The first `limit` rows after a cursor, in the order of their places and, within one, of their hashes: which order
/// the store has there may differ from reading to reading. None when more has to be read to tell.
fn next_of(read: Read, from: &Cursor, settled: TimeMicros, limit: usize) -> Option<Told> {
    let last = read.rows.last;
    let understood = read.rows.records.into_iter();
    let understood = understood.map(|record| (record.key(), record.hash, Some(record)));
    let others = read.rows.unreadable.into_iter();
    let mut rows: Vec<(RowKey, u64, Option<Record>)> = understood
        .chain(others.map(|(hash, key)| (key, hash, None)))
        .filter(|(key, ..)| key.ingested_at <= settled)
        .filter(|(key, hash, _)| (*key, Some(*hash)) > (from.key, from.told))
        .collect();
    let unsettled = last.is_some_and(|last| last.ingested_at > settled);
    // More may stand at the last place, with lesser hashes.
    if read.more && !read.is_all && !unsettled {
        rows.retain(|(key, ..)| Some(*key) != last);
        if rows.is_empty() {
            return None;
        }
    }
    rows.sort_unstable_by_key(|(key, hash, _)| (*key, *hash));
    let more = (read.more && !unsettled) || rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().map_or_else(
        || from.clone(),
        |(key, hash, _)| Cursor {
            key: *key,
            told: Some(*hash),
        },
    );
    Some(Told { rows, next, more })
}

impl Told {
    fn rendered(
        self,
        request: &RecordsRequest,
        names: &std::collections::BTreeMap<HostId, Option<String>>,
    ) -> RecordsPage {
        let records = self.rows.into_iter().filter_map(|(.., record)| record);
        let wanted = records.filter(|record| request.host.is_none_or(|host| host == record.host));
        let rendered = |record: Record| {
            let name = names.get(&record.host).and_then(Option::as_deref);
            render(request.format, &record, name)
        };
        RecordsPage {
            records: wanted.map(rendered).collect(),
            next: self.next,
            more: self.more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_comes_back_as_it_was() {
        let mut cursor = Cursor::at(TimeMicros(5));
        assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor.clone()));
        cursor.key.host = HostId::random();
        cursor.told = Some(u64::MAX);
        assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        for wrong in [
            "",
            "1",
            "1.x.1",
            "x.00000000-0000-0000-0000-000000000000.1",
            "1.00000000-0000-0000-0000-000000000000.1.g",
            "1.00000000-0000-0000-0000-000000000000.1.1.1",
        ] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
