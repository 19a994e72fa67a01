//! The store's samples, read by SQL.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::record_batch::RecordBatch;
use collector_store::{Answer, FactStore, HostGap, QueryClass, QueryError, QueryLimits};
use fleetmend_event::{HostId, TimeMicros};

/// Decides whether a series is wanted, beyond its name and host.
pub(super) type KeepSeries = Arc<dyn Fn(&SeriesKey) -> bool + Send + Sync>;

/// What a series is told by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeriesKey {
    pub(crate) name: String,
    pub(crate) labels: String,
    pub(crate) host: HostId,
    pub(crate) unit: String,
}

/// Which series, and which of their samples.
pub(super) struct SeriesSelect {
    pub(super) names: Option<BTreeSet<String>>,
    pub(super) hosts: Option<BTreeSet<HostId>>,
    pub(super) keep: Option<KeepSeries>,
    pub(super) after: TimeMicros,
    pub(super) until: TimeMicros,
    pub(super) samples_max: usize,
    pub(super) series_max: usize,
    pub(super) timeout: Duration,
    pub(super) class: QueryClass,
}

impl SeriesSelect {
    pub(super) fn between(after: TimeMicros, until: TimeMicros) -> Self {
        Self {
            names: None,
            hosts: None,
            keep: None,
            after,
            until,
            samples_max: usize::MAX,
            series_max: usize::MAX,
            timeout: Duration::from_secs(30),
            class: QueryClass::User,
        }
    }

    fn conditions(&self) -> String {
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let list = |items: Vec<String>| {
            if items.is_empty() {
                "NULL".to_owned()
            } else {
                items.join(", ")
            }
        };
        let stamp =
            |time: TimeMicros| format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", time.0);
        let mut all = vec!["true".to_owned()];
        if self.after.0 > i64::MIN / 2 {
            all.push(format!("time > {}", stamp(self.after)));
        }
        if self.until.0 < i64::MAX / 2 {
            all.push(format!("time <= {}", stamp(self.until)));
        }
        if let Some(names) = &self.names {
            all.push(format!(
                "name IN ({})",
                list(names.iter().map(|name| literal(name)).collect())
            ));
        }
        if let Some(hosts) = &self.hosts {
            let hosts = hosts.iter().map(|host| literal(&host.to_string())).collect();
            all.push(format!("host_id IN ({})", list(hosts)));
        }
        all.join(" AND ")
    }
}

/// One series with its samples.
pub(super) struct StoredSeries {
    pub(super) key: Arc<SeriesKey>,
    pub(super) times: Vec<TimeMicros>,
    pub(super) values: Vec<f64>,
}

/// What is selected.
pub(super) struct SeriesAnswer {
    pub(super) series: Vec<StoredSeries>,
    pub(super) gaps: Vec<HostGap>,
}

/// The samples of series.
pub(super) async fn select(store: &dyn FactStore, wanted: SeriesSelect) -> Result<SeriesAnswer, QueryError> {
    let query = format!(
        "SELECT name, unit, labels, host_id, arrow_cast(time, 'Int64') AS at, value FROM metrics WHERE {} \
         ORDER BY name, labels, host_id, unit, time, ingested_at",
        wanted.conditions()
    );
    let answer = ask(store, &query, &wanted, wanted.samples_max).await?;
    let mut series: Vec<StoredSeries> = Vec::new();
    let mut skipped: Option<SeriesKey> = None;
    for batch in &answer.batches {
        let times = batch.column(4).as_primitive::<Int64Type>();
        let values = batch.column(5).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let key = key_of(batch, row);
            if series.last().is_none_or(|last| *last.key != key) {
                if skipped.as_ref() == Some(&key) {
                    continue;
                }
                if wanted.keep.as_ref().is_some_and(|keep| !keep(&key)) {
                    skipped = Some(key);
                    continue;
                }
                series.push(StoredSeries {
                    key: Arc::new(key),
                    times: Vec::new(),
                    values: Vec::new(),
                });
            }
            if let Some(last) = series.last_mut() {
                let time = TimeMicros(times.value(row));
                if last.times.last() == Some(&time) {
                    last.times.pop();
                    last.values.pop();
                }
                last.times.push(time);
                last.values.push(values.value(row));
            }
        }
    }
    if series.len() > wanted.series_max {
        return Err(QueryError::Refused {
            reason: format!(
                "the query selects {} series, {} are allowed",
                series.len(),
                wanted.series_max
            ),
        });
    }
    Ok(SeriesAnswer {
        series,
        gaps: answer.gaps,
    })
}

/// The series that have samples, shown to `keep`.
pub(super) async fn series_keys(
    store: &dyn FactStore,
    wanted: SeriesSelect,
) -> Result<Vec<SeriesKey>, QueryError> {
    let query = format!(
        "SELECT name, unit, labels, host_id FROM metrics WHERE {} GROUP BY name, unit, labels, host_id",
        wanted.conditions()
    );
    let answer = ask(store, &query, &wanted, wanted.series_max).await?;
    let mut keys = Vec::new();
    for batch in &answer.batches {
        let of_batch = (0..batch.num_rows()).map(|row| key_of(batch, row));
        keys.extend(of_batch.filter(|key| wanted.keep.as_ref().is_none_or(|keep| keep(key))));
    }
    Ok(keys)
}

async fn ask(
    store: &dyn FactStore,
    query: &str,
    wanted: &SeriesSelect,
    rows_max: usize,
) -> Result<Answer, QueryError> {
    let limits = QueryLimits {
        rows_max,
        timeout: wanted.timeout,
        class: wanted.class,
        ..QueryLimits::default()
    };
    let answer = store.sql(query, limits).await?;
    if answer.truncated {
        return Err(QueryError::Refused {
            reason: "the query reads more samples than are allowed".to_owned(),
        });
    }
    Ok(answer)
}

fn key_of(batch: &RecordBatch, row: usize) -> SeriesKey {
    let text = |column: usize| {
        let column = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8);
        column.map_or_else(
            |_| String::new(),
            |column| {
                column
                    .as_string_opt::<i32>()
                    .filter(|texts| texts.is_valid(row))
                    .map_or_else(String::new, |texts| texts.value(row).to_owned())
            },
        )
    };
    SeriesKey {
        name: text(0),
        unit: text(1),
        labels: text(2),
        host: text(3).parse().unwrap_or(collector_store::OWN_HOST),
    }
}
