//! A collector and an enrolled agent in a temporary folder, as their own processes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for a program to become ready.
const READY: Duration = Duration::from_secs(60);

pub(crate) struct Instance {
    folder: tempfile::TempDir,
    api: u16,
    client: reqwest::Client,
    login: Value,
    collector: Option<Child>,
    agent: Option<Child>,
}

/// How agents reach their collector.
pub(crate) struct Way {
    /// Where its listeners are, in brackets when that is IPv6.
    pub(crate) listen: &'static str,
    /// What they are called.
    pub(crate) name: &'static str,
    /// More of the agent's section `stream`.
    pub(crate) stream: String,
    /// More of the collector's section `store`.
    pub(crate) store: String,
    /// More sections of the collector.
    pub(crate) more: String,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1",
            name: "localhost",
            stream: String::new(),
            store: String::new(),
            more: String::new(),
        }
    }
}

impl Instance {
    /// A running collector and a host that is enrolled.
    pub(crate) async fn start() -> Self {
        Self::start_by(Way::default()).await
    }

    /// As [`Instance::start`], with another way between them.
    pub(crate) async fn start_by(way: Way) -> Self {
        let Way {
            listen,
            name,
            stream,
            store,
            more,
        } = way;
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let folder = tempfile::tempdir().unwrap();
        let [carrier, enrolment] = free_ports(listen);
        let [api] = free_ports("127.0.0.1");
        let state = folder.path().display().to_string();
        let collector = format!(
            "state_dir = \"{state}/collector\"\ncarrier_listen = \"{listen}:{carrier}\"\nenrolment_listen = \"{listen}:{enrolment}\"\n\
             [enrolment]\naddress = \"{name}:{enrolment}\"\ncollectors = [\"{name}:{carrier}\"]\n\
             [store]\nfolder = \"{state}/collector/store\"\n{store}[api]\nlisten = \"127.0.0.1:{api}\"\n{more}"
        );
        std::fs::write(folder.path().join("collector.toml"), collector).unwrap();
        let agent = format!(
            "state_dir = \"{state}/agent\"\nadmin_socket = \"{state}/admin.sock\"\n\
             [detect]\nrule_dirs = [\"{rules}\"]\n[detect.anomaly]\nenabled = false\n\
             [heal]\npropose = false\nsocket = \"{state}/no-healer.sock\"\ncursor_file = \"{state}/agent/heal-cursor\"\n\
             [spool]\nfolder = \"{state}/agent/spool\"\nmetrics_flush = \"1s\"\n\
             [stream]\nretry_max = \"2s\"\n{stream}",
            rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/detect/rules"),
        );
        std::fs::write(folder.path().join("agent.toml"), agent).unwrap();
        std::fs::create_dir(folder.path().join("agent")).unwrap();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let init = program("fleetmend-collector")
            .args(["init", "--json", "--config"])
            .arg(folder.path().join("collector.toml"))
            .output()
            .unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let made: Value = serde_json::from_slice(&init.stdout).unwrap();
        let login = json!({"user": made["user"], "password": made["password"]});
        let mut instance = Self {
            folder,
            api,
            client,
            login,
            collector: None,
            agent: None,
        };
        instance.start_collector().await;
        instance.enrol().await;
        instance
    }

    /// Starts the collector and waits until it answers.
    pub(crate) async fn start_collector(&mut self) {
        self.collector = Some(self.spawn("fleetmend-collector", "collector.toml"));
        let url = self.url("/readyz");
        let begun = Instant::now();
        loop {
            if let Ok(answer) = self.client.get(&url).send().await
                && answer.status().is_success()
            {
                return;
            }
            assert!(
                begun.elapsed() < READY,
                "the collector is not ready: {}",
                self.log("fleetmend-collector")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the agent and waits until it is connected.
    pub(crate) async fn start_agent(&mut self) {
        self.agent = Some(self.spawn("fleetmend-agent", "agent.toml"));
        let begun = Instant::now();
        while !self
            .ask_agent("/readyz")
            .is_some_and(|answer| answer.contains(" 200 "))
        {
            assert!(
                begun.elapsed() < READY,
                "the agent is not ready: {}",
                self.log("fleetmend-agent")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the collector is ready, and the conditions as it tells them. Nobody has to log in for that.
    pub(crate) async fn readiness(&self) -> (bool, String) {
        match self.client.get(self.url("/readyz")).send().await {
            Ok(answer) => (answer.status().is_success(), answer.text().await.unwrap()),
            Err(error) => (false, error.to_string()),
        }
    }

    /// Waits until the collector is ready, or says with `part` why it is not; gives what it says.
    pub(crate) async fn wait_until_ready(&self, wanted: bool, part: &str) -> String {
        let begun = Instant::now();
        loop {
            let (ready, told) = self.readiness().await;
            if ready == wanted && told.contains(part) {
                return told;
            }
            assert!(
                begun.elapsed() < READY,
                "ready = {ready}, and not for {part:?}: {told}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the doctor says of the agent's host.
    pub(crate) fn doctor(&self) -> String {
        let config = self.path("agent.toml");
        let out = program("fleetmend-agent")
            .args(["doctor", "--config"])
            .arg(config)
            .output();
        String::from_utf8(out.unwrap().stdout).unwrap()
    }

    /// kill −9.
    pub(crate) fn kill_collector(&mut self) {
        kill(&mut self.collector);
    }

    /// kill −9.
    pub(crate) fn kill_agent(&mut self) {
        kill(&mut self.agent);
    }

    /// Waits until events that happened by now have reached the disk: the spool's numbers have moved twice.
    pub(crate) async fn wait_until_spooled(&self) {
        let events = || {
            let answer = self.ask_agent("/status")?;
            let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
            Some(status["spool"].to_string())
        };
        let begun = Instant::now();
        let mut changes = 0;
        let mut last = events();
        while changes < 3 {
            assert!(begun.elapsed() < READY, "the spool does not move: {last:?}");
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = events();
            changes += usize::from(now != last);
            last = now;
        }
    }

    /// Rows of a query, each an object.
    pub(crate) async fn sql(&self, query: &str) -> Vec<Value> {
        let token = self.token().await;
        let answer = self
            .client
            .post(self.url("/api/v1/sql"))
            .bearer_auth(token)
            .json(&json!({"query": query}))
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        let columns = answer["columns"]
            .as_array()
            .unwrap_or_else(|| panic!("{query}: {answer}"));
        let names: Vec<String> = columns
            .iter()
            .map(|column| column["name"].as_str().unwrap().to_owned())
            .collect();
        let object = |row: &Value| {
            names
                .iter()
                .cloned()
                .zip(row.as_array().unwrap().iter().cloned())
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        answer["rows"].as_array().unwrap().iter().map(object).collect()
    }

    /// Asks until there is a row.
    pub(crate) async fn wait_for_rows(&self, query: &str, within: Duration) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let rows = self.sql(query).await;
            if !rows.is_empty() {
                return rows;
            }
            assert!(begun.elapsed() < within, "no row within {within:?}: {query}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn token(&self) -> String {
        let answer = self
            .client
            .post(self.url("/api/v1/login"))
            .json(&self.login)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("login: {answer}"))
            .to_owned()
    }

    /// What a route answers to the administrator.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.client.get(self.url(&format!("/api/v1/{path}")));
        let answer = request.bearer_auth(self.token().await).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// The answer to a query in PromQL: labels and value of each series.
    pub(crate) async fn promql(&self, query: &str) -> Vec<Value> {
        let request = self.client.get(self.url("/prometheus/api/v1/query"));
        let request = request.query(&[("query", query)]).bearer_auth(self.token().await);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let result = answer["data"]["result"].as_array();
        result.unwrap_or_else(|| panic!("{query}: {answer}")).clone()
    }

    /// The collector's own metrics.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.client.get(self.url("/metrics")).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// The command line of the operator.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Output {
        program("fleetmend")
            .args(arguments)
            .env("FLEETMEND_URL", self.url(""))
            .env("FLEETMEND_USER", self.login["user"].as_str().unwrap())
            .env("FLEETMEND_PASSWORD", self.login["password"].as_str().unwrap())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `fleetmend-agent unenrol`.
    pub(crate) fn unenrol(&self, more: &[&str]) -> Output {
        program("fleetmend-agent")
            .args(["unenrol", "--config"])
            .arg(self.path("agent.toml"))
            .arg("--healer-dir")
            .arg(self.path("healer"))
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) async fn enrol(&self) {
        let token = self.token().await;
        let request = json!({"lifetime_s": 600, "uses": 1});
        let answer = self
            .client
            .post(self.url("/api/v1/enrolment-tokens"))
            .bearer_auth(token)
            .json(&request)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        let secret = answer["token"]
            .as_str()
            .unwrap_or_else(|| panic!("token: {answer}"));
        let mut enroll = program("fleetmend-agent")
            .args(["enroll", "--config"])
            .arg(self.path("agent.toml"))
            .arg("--healer-dir")
            .arg(self.path("healer"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        enroll.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
        assert!(enroll.wait().unwrap().success());
    }

    pub(crate) fn ask_agent(&self, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.path("admin.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn spawn(&self, name: &str, config: &str) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let errors = log.try_clone().unwrap();
        program(name)
            .args(["run", "--config"])
            .arg(self.path(config))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        kill(&mut self.agent);
        kill(&mut self.collector);
    }
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().ok();
        child.wait().ok();
    }
}

/// A program that was built beside this test.
fn program(name: &str) -> Command {
    let folder = std::env::var_os("FLEETMEND_BIN_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let test = std::env::current_exe().unwrap();
            test.ancestors().nth(2).map(Path::to_path_buf).unwrap()
        });
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run cargo xtask test",
        path.display()
    );
    Command::new(path)
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>(address: &str) -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind(format!("{address}:0")).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
