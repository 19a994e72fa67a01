//! The store, as export reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use collector_export::{FactSource, Live, LiveRows, NewRows, RowSpan, SampleSpan, Series, SourceError, sql};
use collector_ingest::enrol::Enroller;
use collector_store::{
    Committed, FactStore, KeepSeries, OWN_HOST, QueryClass, QueryError, QueryLimits, SeriesSelect,
    to_json_rows,
};
use fleetmend_event::{HostId, HostScope, TimeMicros};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::adapt::host_names::host_names;

/// How long a reading may take: export waits, nobody waits for export.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Series that are read at once.
const SERIES_MAX: usize = 1_000_000;
/// Gaps of one span.
const GAPS_MAX: usize = 10_000;
const MEMORY_BYTES_MAX: usize = 128 << 20;

/// Names of hosts hold so long.
const NAMES_EVERY: Duration = Duration::from_secs(10);

type Named = Option<(Instant, BTreeMap<HostId, Option<String>>)>;

/// Reads the store; which hosts there are is known from their enrolment.
pub(crate) struct ExportAdapter {
    store: Arc<dyn FactStore>,
    enroller: Option<Enroller>,
    names: tokio::sync::Mutex<Named>,
}

impl ExportAdapter {
    /// An adapter over `store`; without an enroller the hosts are those that told their names.
    pub(crate) fn new(store: Arc<dyn FactStore>, enroller: Option<Enroller>) -> Self {
        Self {
            store,
            enroller,
            names: tokio::sync::Mutex::default(),
        }
    }

    async fn sql(
        &self,
        query: &str,
        scope: &HostScope,
        rows_max: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError> {
        let limits = QueryLimits {
            rows_max,
            timeout: TIMEOUT,
            memory_bytes_max: MEMORY_BYTES_MAX,
            class: QueryClass::System,
            hosts: scope.clone(),
            asker: Arc::from("export"),
        };
        let answer = self.store.sql(query, limits).await;
        let answer = answer.map_err(|error| SourceError::Unavailable(error.to_string()))?;
        // What has no rows still has columns.
        let batches = if answer.batches.is_empty() {
            vec![RecordBatch::new_empty(answer.schema)]
        } else {
            answer.batches
        };
        Ok((batches, answer.truncated))
    }

    /// What hosts last called themselves, the same as in PromQL, asked for again after a while.
    async fn names(&self) -> Result<BTreeMap<HostId, Option<String>>, SourceError> {
        let mut known = self.names.lock().await;
        if let Some((at, names)) = known.as_ref()
            && at.elapsed() < NAMES_EVERY
        {
            return Ok(names.clone());
        }
        let names = host_names(self.store.as_ref(), TIMEOUT).await;
        let names = names.map_err(|error| SourceError::Unavailable(error.to_string()))?;
        let names: BTreeMap<HostId, Option<String>> = names
            .into_iter()
            .map(|(host, name)| (host, Some(name.to_string())))
            .collect();
        *known = Some((Instant::now(), names.clone()));
        Ok(names)
    }
}

/// Rows as the store tells them.
struct LiveStore(broadcast::Receiver<Arc<Committed>>);

#[async_trait]
impl LiveRows for LiveStore {
    async fn next(&mut self) -> Live {
        match self.0.recv().await {
            Ok(committed) => Live::Rows(Arc::new(NewRows {
                host: committed.host,
                table: committed.table.name,
                batch: committed.batch.clone(),
                withheld: committed.withheld,
            })),
            Err(RecvError::Lagged(missed)) => Live::Missed(missed),
            Err(RecvError::Closed) => Live::Closed,
        }
    }
}

#[async_trait]
impl FactSource for ExportAdapter {
    fn live(&self) -> Box<dyn LiveRows> {
        Box::new(LiveStore(self.store.subscribe()))
    }

    fn tells_all(&self) -> bool {
        !self.store.is_shared()
    }

    async fn hosts(&self) -> Result<BTreeMap<HostId, Option<String>>, SourceError> {
        let mut hosts = self.names().await?;
        if let Some(enroller) = &self.enroller {
            let enrolled = enroller.hosts().await;
            let enrolled = enrolled.map_err(|error| SourceError::Unavailable(error.to_string()))?;
            for host in enrolled {
                hosts.entry(host.host).or_insert(Some(host.hostname));
            }
        }
        hosts
            .entry(OWN_HOST)
            .or_insert_with(|| Some("collector".to_owned()));
        Ok(hosts)
    }

    async fn samples(&self, span: SampleSpan) -> Result<Vec<Series>, SourceError> {
        let wants = span.wants.clone();
        let keep: KeepSeries = Arc::new(move |key| (wants.0)(&key.name));
        let select = SeriesSelect {
            hosts: Some(span.hosts.clone()),
            keep: Some(keep),
            samples_max: span.samples_max,
            series_max: SERIES_MAX,
            timeout: TIMEOUT,
            class: QueryClass::System,
            ..SeriesSelect::between(span.after, span.until)
        };
        let answer = self.store.select(select).await.map_err(|error| match error {
            QueryError::TooMuch { most, .. } => SourceError::TooMany(most),
            other => SourceError::Unavailable(other.to_string()),
        })?;
        let series = answer.series.into_iter().map(|stored| {
            let key = &stored.key;
            let of = [key.name.as_str(), key.unit.as_str(), key.labels.as_str()];
            Series::new(key.host, of, stored.times, stored.values)
        });
        Ok(series.collect())
    }

    async fn rows(
        &self,
        table: &str,
        span: RowSpan,
        scope: &HostScope,
        rows_max: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError> {
        self.sql(&sql::rows_query(table, &span), scope, rows_max).await
    }

    async fn gaps(
        &self,
        table: &str,
        from: TimeMicros,
        to: TimeMicros,
        scope: &HostScope,
    ) -> Result<Vec<Value>, SourceError> {
        let (batches, _) = self
            .sql(&sql::gaps_query(table, from, to), scope, GAPS_MAX)
            .await?;
        let rows = to_json_rows(&batches).map_err(|error| SourceError::Unavailable(error.to_string()))?;
        Ok(rows.into_iter().map(Value::Object).collect())
    }
}
