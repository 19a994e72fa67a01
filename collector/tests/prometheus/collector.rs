//! A collector as its own process, over a store that was filled before.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use collector_store::config::RetentionConfig;
use collector_store::{FactStore, Store, StoreConfig};
use fleetmend_shutdown::Tasks;
use serde_json::Value;

use crate::data::{self, Series};

const READY: Duration = Duration::from_secs(60);

pub(crate) struct Collector {
    child: Child,
    /// Base URL with user and password, as promtool takes it.
    pub(crate) url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The samples are of a fixed time, long ago.
const KEPT_DAYS: u32 = 36_500;

impl Collector {
    pub(crate) async fn start(series: &[Series], client: &reqwest::Client) -> Self {
        Self::start_with(series, client, "").await
    }

    /// `rules` is a rule file of Prometheus.
    pub(crate) async fn start_with(series: &[Series], client: &reqwest::Client, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fill(&path("store"), series).await;
        let [carrier, enrolment, api] = free_ports();
        let config = format!(
            "state_dir = \"{}\"\ncarrier_listen = \"127.0.0.1:{carrier}\"\nenrolment_listen = \"127.0.0.1:{enrolment}\"\n\
             [enrolment]\naddress = \"localhost:{enrolment}\"\ncollectors = [\"localhost:{carrier}\"]\n\
             [store]\nfolder = \"{}\"\n[store.retention]\nage_days = {KEPT_DAYS}\n[api]\nlisten = \"127.0.0.1:{api}\"\nrate_burst = 100000\n",
            path("state"),
            path("store"),
        );
        let alerting = if rules.is_empty() {
            String::new()
        } else {
            std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
            format!(
                "[alert]\nmetrics_every = \"200ms\"\nprometheus_rules = [\"{}\"]\n",
                path("rules.yml")
            )
        };
        let config = format!("{config}{alerting}");
        std::fs::write(folder.path().join("collector.toml"), config).unwrap();
        let program = env!("CARGO_BIN_EXE_fleetmend-collector");
        let init = Command::new(program)
            .args(["init", "--json", "--config", &path("collector.toml")])
            .output()
            .unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let made: Value = serde_json::from_slice(&init.stdout).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["run", "--config", &path("collector.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let collector = Self {
            child,
            url: format!(
                "http://{}:{}@127.0.0.1:{api}/prometheus",
                made["user"].as_str().unwrap(),
                made["password"].as_str().unwrap()
            ),
            _folder: folder,
        };
        let begun = Instant::now();
        loop {
            let ready = client.get(format!("http://127.0.0.1:{api}/readyz")).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return collector;
            }
            let log = std::fs::read_to_string(collector._folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < READY, "the collector is not ready: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn fill(folder: &str, series: &[Series]) {
    let config = StoreConfig {
        folder: folder.into(),
        retention: RetentionConfig {
            age_days: KEPT_DAYS,
            ..RetentionConfig::default()
        },
        ..StoreConfig::default()
    };
    let tasks = Tasks::new();
    let store = Store::open(config).await.unwrap();
    store.run(&tasks).unwrap();
    let store: Box<dyn FactStore> = Box::new(store);
    data::fill(store.as_ref(), series).await;
    tasks.drain(READY).await;
}

fn free_ports<const N: usize>() -> [u16; N] {
    let bound: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    std::array::from_fn(|place| bound[place].local_addr().unwrap().port())
}
