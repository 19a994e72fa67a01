//! Stores to hold behaviours against.

use std::sync::Arc;
use std::time::Duration;

use collector_store::{
    ClickHouseStore, FactStore, MemoryStore, QueryLimits, Store, StoreConfig, StoreUrl, to_json_rows,
};
use fleetmend_control::{Control, ControlConfig};
use fleetmend_event::{Frame, HostId, Mark};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{FaultProxy, PostgresServer, TestDatabase};
use tempfile::TempDir;

use crate::hosts::timed;
use crate::server::Server;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A store that runs.
pub(crate) struct Scene {
    pub(crate) store: Arc<dyn FactStore>,
    tasks: Tasks,
    _folder: TempDir,
    /// Where the store stands on other engines.
    _engines: Option<Arc<Engines>>,
}

/// The engines that collectors share.
pub(crate) struct Engines {
    pub(crate) clickhouse: tokio::sync::Mutex<Server>,
    pub(crate) clickhouse_port: u16,
    pub(crate) database: TestDatabase,
    /// Before PostgreSQL.
    pub(crate) postgres: FaultProxy,
}

pub(crate) fn config(folder: &TempDir) -> StoreConfig {
    let mut config = StoreConfig {
        folder: folder.path().to_owned(),
        maintenance_interval_ms: 20,
        free_bytes_min: 0,
        series_per_host_max: 50,
        ..StoreConfig::default()
    };
    // The rows' times are of a day that goes by.
    config.retention.age_days = 3_650;
    config.clickhouse.gather_ms = 5;
    config.clickhouse.look_ms = 50;
    config
}

impl Scene {
    pub(crate) async fn memory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::new(config(&folder)).unwrap();
        Self::of(Arc::new(store), folder, None)
    }

    pub(crate) async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(config(&folder)).await.unwrap();
        Self::of(Arc::new(store), folder, None)
    }

    pub(crate) async fn clickhouse() -> Self {
        Engines::start().await.collector().await
    }

    pub(crate) fn of(store: Arc<dyn FactStore>, folder: TempDir, engines: Option<Arc<Engines>>) -> Self {
        let tasks = Tasks::new();
        store.run(&tasks).unwrap();
        Self {
            store,
            tasks,
            _folder: folder,
            _engines: engines,
        }
    }

    pub(crate) async fn close(self) {
        let report = self.tasks.drain(Duration::from_secs(20)).await;
        assert!(report.is_clean(), "{report:?}");
    }

    pub(crate) async fn commit(&self, host: HostId, frames: Vec<Frame>) -> Vec<Mark> {
        self.store
            .commit_timed(host, timed(frames), Vec::new())
            .await
            .unwrap()
    }

    /// The rows of an answer as JSON.
    pub(crate) async fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        let answer = self.store.sql(query, QueryLimits::default()).await.expect(query);
        let rows = to_json_rows(&answer.batches).unwrap();
        rows.into_iter().map(serde_json::Value::Object).collect()
    }

    /// The single number that a query gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let rows = self.rows(query).await;
        let row = rows.first().and_then(|row| row.as_object()).expect(query);
        row.values()
            .next()
            .and_then(serde_json::Value::as_i64)
            .expect(query)
    }
}

impl Engines {
    pub(crate) async fn start() -> Arc<Self> {
        Self::start_with(PostgresServer::shared).await
    }

    /// With a PostgreSQL that no other test uses.
    pub(crate) async fn start_alone() -> Arc<Self> {
        Self::start_with(|| PostgresServer::start().map(Arc::new)).await
    }

    async fn start_with(postgres: fn() -> anyhow::Result<Arc<PostgresServer>>) -> Arc<Self> {
        let server = Server::start().await;
        let postgres = tokio::task::spawn_blocking(postgres).await.unwrap().unwrap();
        let database = tokio::task::spawn_blocking(move || postgres.database())
            .await
            .unwrap()
            .unwrap();
        let proxy = FaultProxy::start(database.server().address()).await.unwrap();
        Arc::new(Self {
            clickhouse_port: server.port(),
            clickhouse: tokio::sync::Mutex::new(server),
            database,
            postgres: proxy,
        })
    }

    /// One more collector over them.
    pub(crate) async fn collector(self: &Arc<Self>) -> Scene {
        self.collector_with(|_| {}).await
    }

    pub(crate) async fn collector_with(self: &Arc<Self>, change: impl FnOnce(&mut StoreConfig)) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        config.clickhouse.statement_timeout_ms = 3_000;
        config.commit_timeout_ms = 10_000;
        change(&mut config);
        let store = self.open(config).await.unwrap();
        Scene::of(Arc::new(store), folder, Some(self.clone()))
    }

    pub(crate) async fn open(
        &self,
        mut config: StoreConfig,
    ) -> Result<ClickHouseStore, collector_store::OpenError> {
        if config.url == "embedded" {
            config.url = format!("clickhouse+http://127.0.0.1:{}/fleet", self.clickhouse_port);
        }
        let StoreUrl::ClickHouse(url) = config.address().unwrap() else {
            panic!("an address of ClickHouse");
        };
        let control = self.control().await;
        ClickHouseStore::open(config, url, control).await
    }

    async fn control(&self) -> Control {
        let server = self.database.server();
        let direct = server.address().port().to_string();
        let through = self.postgres.address().port().to_string();
        let config = ControlConfig {
            url: Some(self.database.url().replacen(&direct, &through, 1)),
            password_file: Some(server.password_file()),
            statement_timeout: fleetmend_config::HumanDuration::from(Duration::from_secs(2)),
            ..ControlConfig::default()
        };
        Control::open(&config, std::path::Path::new("/nonexistent"))
            .await
            .unwrap()
    }
}
