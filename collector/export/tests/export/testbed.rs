//! A store, its export and a receiver.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use collector_export::{
    Export, ExportConfig, FactSource, Live, LiveRows, NewRows, RowSpan, SampleSpan, Series, SourceError, sql,
};
use collector_store::{
    Committed, KeepSeries, QueryClass, QueryError, QueryLimits, SeriesSelect, Store, StoreConfig,
};
use fleetmend_control::{Control, Engine};
use fleetmend_event::{Fact, HostId, HostScope, MetricFrame, SeriesKey, SeriesSet, TimeMicros};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::TestControl;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::receiver::Receiver;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The store as the collector's wiring adapts it.
struct StoreSource {
    store: Store,
    hosts: BTreeMap<HostId, Option<String>>,
    is_shared: bool,
}

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

impl StoreSource {
    async fn ask(
        &self,
        query: &str,
        scope: &HostScope,
        rows_max: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError> {
        let limits = QueryLimits {
            rows_max,
            class: QueryClass::System,
            hosts: scope.clone(),
            ..QueryLimits::default()
        };
        let answer = self.store.sql(query, limits).await;
        let answer = answer.map_err(|error| SourceError::Unavailable(error.to_string()))?;
        let batches = if answer.batches.is_empty() {
            vec![RecordBatch::new_empty(answer.schema)]
        } else {
            answer.batches
        };
        Ok((batches, answer.truncated))
    }
}

#[async_trait]
impl FactSource for StoreSource {
    fn live(&self) -> Box<dyn LiveRows> {
        Box::new(LiveStore(self.store.subscribe()))
    }

    fn tells_all(&self) -> bool {
        !self.is_shared
    }

    async fn hosts(&self) -> Result<BTreeMap<HostId, Option<String>>, SourceError> {
        Ok(self.hosts.clone())
    }

    async fn samples(&self, span: SampleSpan) -> Result<Vec<Series>, SourceError> {
        let wants = span.wants.clone();
        let keep: KeepSeries = Arc::new(move |key| (wants.0)(&key.name));
        let select = SeriesSelect {
            hosts: Some(span.hosts.clone()),
            keep: Some(keep),
            samples_max: span.samples_max,
            class: QueryClass::System,
            ..SeriesSelect::between(span.after, span.until)
        };
        let selected = self.store.select(select).await;
        let selected = selected.map_err(|error| match error {
            QueryError::TooMuch { most, .. } => SourceError::TooMany(most),
            other => SourceError::Unavailable(other.to_string()),
        })?;
        let series = selected.series.into_iter().map(|stored| {
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
        self.ask(&sql::rows_query(table, &span), scope, rows_max).await
    }

    async fn gaps(
        &self,
        table: &str,
        from: TimeMicros,
        to: TimeMicros,
        scope: &HostScope,
    ) -> Result<Vec<Value>, SourceError> {
        let (batches, _) = self.ask(&sql::gaps_query(table, from, to), scope, 1_000).await?;
        let rows = collector_store::to_json_rows(&batches).unwrap();
        Ok(rows.into_iter().map(Value::Object).collect())
    }
}

/// A store with two hosts and a receiver; its export can be started, ended and killed.
pub(crate) struct Testbed {
    pub(crate) store: Store,
    pub(crate) hosts: [HostId; 2],
    pub(crate) receiver: Receiver,
    pub(crate) source: Arc<dyn FactSource>,
    control: TestControl,
    series: SeriesSet,
    folder: tempfile::TempDir,
    _tasks: Tasks,
}

/// A running export.
pub(crate) struct Running {
    pub(crate) export: Export,
    tasks: Tasks,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    /// Ends in order.
    pub(crate) async fn end(self) {
        let report = self.tasks.drain(DEADLINE).await;
        assert!(report.is_clean(), "{report:?}");
    }

    /// Ends at once, wherever it is: nothing more is kept.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Testbed {
    pub(crate) async fn start() -> Self {
        Self::start_on(TestControl::of(Engine::Sqlite).unwrap(), false).await
    }

    /// With state in `control`, and a store that several collectors share or not.
    pub(crate) async fn start_on(control: TestControl, is_shared: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let config = StoreConfig {
            folder: folder.path().join("store"),
            ..StoreConfig::default()
        };
        let store = Store::open(config).await.unwrap();
        store.run(&tasks.child("store")).unwrap();
        let receiver = Receiver::start(&tasks.child("receiver")).await;
        let hosts = [HostId::random(), HostId::random()];
        let source = StoreSource {
            store: store.clone(),
            hosts: BTreeMap::from([(hosts[0], Some("web-1".to_owned())), (hosts[1], None)]),
            is_shared,
        };
        let series = ["system.load.1m", "system.cpu.time", "bad.series"];
        let key = |name: &&str| SeriesKey::new(name, "1", [("cpu.mode", "user")]);
        Self {
            store,
            hosts,
            receiver,
            source: Arc::new(source),
            control,
            series: series.iter().map(key).collect(),
            folder,
            _tasks: tasks,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `more` are keys of the target beside its name and URL.
    pub(crate) fn remote_write(&self, more: Value) -> ExportConfig {
        let mut target = json!({ "name": "there", "url": self.receiver.url, "flush_every": "50ms" });
        target
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({ "remote_write": [target] })).unwrap()
    }

    /// Starts export on a runtime of its own, so that it can be killed.
    pub(crate) async fn run(&self, config: &ExportConfig) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (config, source) = (config.clone(), self.source.clone());
        let (of_control, path) = (self.control.config().clone(), self.folder.path().join("unused"));
        let opened = runtime.spawn(async move {
            let control = Control::open(&of_control, &path).await.unwrap();
            let export = Export::open(&config, control, source).await.unwrap();
            let tasks = Tasks::new();
            export.spawn(&tasks);
            (export, tasks)
        });
        let (export, tasks) = opened.await.unwrap();
        Running {
            export,
            tasks,
            runtime: Some(runtime),
        }
    }

    /// Stores a sample of every series at each of these times, of both hosts; the value is told by the time.
    pub(crate) async fn add(&self, millis: impl IntoIterator<Item = i64>) {
        for time in millis {
            let value = |index: usize| time as f64 + index as f64 / 8.0;
            for host in self.hosts {
                let frame = MetricFrame {
                    time: TimeMicros(time * 1_000),
                    series: self.series.clone(),
                    values: (0..self.series.len()).map(value).collect(),
                };
                self.store
                    .append_for(host, vec![Fact::Metrics(frame)])
                    .await
                    .unwrap();
            }
        }
    }

    /// Stores samples of one series of the first host.
    pub(crate) async fn add_one(&self, name: &str, millis: i64) {
        let series = [SeriesKey::new(name, "1", [("cpu.mode", "user")])];
        let frame = MetricFrame {
            time: TimeMicros(millis * 1_000),
            series: series.into_iter().collect(),
            values: vec![1.0],
        };
        let facts = vec![Fact::Metrics(frame)];
        self.store.append_for(self.hosts[0], facts).await.unwrap();
    }

    /// What a target has to have of these times, of every series.
    pub(crate) fn expected(&self, millis: impl IntoIterator<Item = i64>) -> BTreeMap<(String, i64), f64> {
        let mut expected = BTreeMap::new();
        for time in millis {
            for host in self.hosts {
                for (index, key) in self.series.iter().enumerate() {
                    let name = key.name.replace('.', "_");
                    let id = host.to_string();
                    let instance = if host == self.hosts[0] {
                        "web-1"
                    } else {
                        id.as_str()
                    };
                    let labels = format!(
                        "__name__={name},cpu_mode=user,host_id={id},instance={instance},job=fleetmend"
                    );
                    expected.insert((labels, time), time as f64 + index as f64 / 8.0);
                }
            }
        }
        expected
    }

    /// Waits until the receiver has all of these times, and says how often each sample came.
    pub(crate) async fn arrived(&self, millis: impl IntoIterator<Item = i64>) -> Vec<usize> {
        let expected = self.expected(millis);
        let there = fleetmend_testkit::wait_for(
            DEADLINE,
            async || self.receiver.samples(),
            |samples| expected.keys().all(|key| samples.contains_key(key)),
        );
        let samples = there.await.unwrap();
        assert_eq!(
            samples.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "nothing else arrives"
        );
        for (key, values) in &samples {
            assert!(
                values.iter().all(|value| *value == expected[key]),
                "{key:?}: {values:?}"
            );
        }
        samples.values().map(Vec::len).collect()
    }

    /// The status of the only signal.
    pub(crate) async fn signal(&self, running: &Running) -> collector_export::SignalStatus {
        running.export.status().await.unwrap()[0].signals[0].clone()
    }
}

/// Milliseconds since the epoch, a little while ago.
pub(crate) fn lately() -> i64 {
    TimeMicros::now().0 / 1_000 - 60_000
}
