//! The collector: the built program in a folder of its own, to be killed, upgraded and restored.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fleetmend_event::HostId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sqlx::Row as _;

/// How long it may take to answer, to end, and to be asked in the end.
const READY_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Rows of one answer; more is an error.
const ROWS_MAX: usize = 10_000;
/// Bytes of its log that are shown when it does not start.
const TAIL_BYTES: usize = 2_000;

/// The collector.
pub(super) struct Central {
    folder: PathBuf,
    config: PathBuf,
    log: PathBuf,
    api: u16,
    pub(super) carrier: u16,
    client: reqwest::Client,
    login: Value,
    child: Option<Child>,
}

impl Central {
    /// Makes one whose state lies in `folder`, below `lab`, and starts it.
    pub(super) async fn start(lab: &Path, folder: PathBuf) -> Result<Self> {
        let [api, carrier, enrolment] = free_ports()?;
        let state = folder.display();
        // Kept for ten years: facts of a clock that is a year behind are as welcome as others.
        let toml = format!(
            "state_dir = \"{state}\"\ncarrier_listen = \"127.0.0.1:{carrier}\"\nenrolment_listen = \"127.0.0.1:{enrolment}\"\n\
             [enrolment]\naddress = \"localhost:{enrolment}\"\ncollectors = [\"localhost:{carrier}\"]\n\
             [store]\nfolder = \"{state}/store\"\n[store.retention]\nage_days = 3650\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\nquery_timeout_ms = 60000\n"
        );
        let config = lab.join("collector.toml");
        std::fs::write(&config, toml).context("write the collector's configuration")?;
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .build()
            .context("make an HTTP client")?;
        let init = super::mortal(&super::program("fleetmend-collector")?)
            .args(["init", "--json", "--fleet", "chaos", "--config"])
            .arg(&config)
            .output()
            .context("run the collector's init")?;
        let said = String::from_utf8_lossy(&init.stderr);
        ensure!(init.status.success(), "the collector's init failed: {said}");
        let made: Value = serde_json::from_slice(&init.stdout).context("read what init said")?;
        let mut central = Self {
            login: json!({"user": made.get("user"), "password": made.get("password")}),
            log: lab.join("collector.log"),
            folder,
            config,
            api,
            carrier,
            client,
            child: None,
        };
        central.run().await?;
        Ok(central)
    }

    /// Starts the program and waits until it says that it is ready.
    pub(super) async fn run(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("open the collector's log")?;
        let child = super::mortal(&super::program("fleetmend-collector")?)
            .args(["run", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start the collector")?;
        self.child = Some(child);
        let url = self.url("/readyz");
        let begun = Instant::now();
        loop {
            let answer = self.client.get(&url).timeout(Duration::from_secs(5)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                bail!("the collector ended with {status}: {}", self.tail());
            }
            ensure!(
                begun.elapsed() < READY_WITHIN,
                "the collector is not ready: {}",
                self.tail()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// kill −9.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill().context("kill the collector")?;
        child.wait().context("wait for the collector")?;
        Ok(())
    }

    /// Asks it to end; whether it did in time and in order.
    pub(super) async fn stop(&mut self) -> Result<bool> {
        let Some(mut child) = self.child.take() else {
            return Ok(true);
        };
        let pid = i32::try_from(child.id()).context("read the collector's process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("ask the collector to end")?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_WITHIN {
            if let Some(status) = child.try_wait().context("look at the collector")? {
                return Ok(status.success());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        child.kill().context("kill the collector")?;
        child.wait().context("wait for the collector")?;
        Ok(false)
    }

    /// Copies the stopped collector's folder.
    pub(super) fn back_up(&self, to: &Path) -> Result<()> {
        ensure!(self.child.is_none(), "the collector runs");
        super::copy_folder(&self.folder, to)
    }

    /// Replaces the stopped collector's folder by the copy.
    pub(super) fn restore(&self, from: &Path) -> Result<()> {
        ensure!(self.child.is_none(), "the collector runs");
        // The folder itself may be a mount: its entries are replaced.
        super::empty_folder(&self.folder)?;
        super::copy_folder(from, &self.folder)
    }

    /// A token with which so many hosts may enrol.
    pub(super) async fn enrolment_token(&self, uses: usize) -> Result<String> {
        let answer = self
            .post("enrolment-tokens", &json!({"lifetime_s": 3_000, "uses": uses}))
            .await?;
        let token = answer.get("token").and_then(Value::as_str);
        Ok(token
            .with_context(|| format!("find the token in {answer}"))?
            .to_owned())
    }

    /// Rows of a query.
    pub(super) async fn sql(&self, query: &str) -> Result<Vec<Vec<Value>>> {
        let answer = self
            .post("sql", &json!({"query": query, "rows_max": ROWS_MAX}))
            .await?;
        let Some(rows) = answer.get("rows").and_then(Value::as_array) else {
            bail!("the query {query:?} was refused: {answer}");
        };
        ensure!(
            answer.get("truncated").and_then(Value::as_bool) != Some(true),
            "the answer to {query:?} was cut"
        );
        Ok(rows
            .iter()
            .map(|row| row.as_array().cloned().unwrap_or_default())
            .collect())
    }

    /// How many rows of events are stored.
    pub(super) async fn stored(&self) -> Result<u64> {
        self.count("select count(*) from units").await
    }

    /// How many rows of a host's events are stored.
    pub(super) async fn stored_of(&self, host: HostId) -> Result<u64> {
        self.count(&format!("select count(*) from units where host_id = '{host}'"))
            .await
    }

    async fn count(&self, query: &str) -> Result<u64> {
        let rows = self.sql(query).await?;
        let count = rows.first().and_then(|row| row.first()).map(ToString::to_string);
        let count = count.context("find the count")?;
        count.trim_matches('"').parse().context("read the count")
    }

    /// How often its log says so.
    pub(super) fn said(&self, words: &str) -> Result<usize> {
        super::said(&self.log, words)
    }

    /// What its audit says of streams and clones: kind, host, detail. The file is read, also while it runs.
    pub(super) async fn audited(&self) -> Result<Vec<(String, String, String)>> {
        let path = self.folder.join("control.sqlite");
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(ANSWER_WITHIN);
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .with_context(|| format!("open {}", path.display()))?;
        let rows = sqlx::query("SELECT kind, COALESCE(host_id, ''), detail FROM ingest_audit")
            .fetch_all(&pool)
            .await
            .context("read the audit")?;
        pool.close().await;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect::<Result<_, sqlx::Error>>()
            .context("read a row of the audit")
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let login: Value = self
            .client
            .post(self.url("/api/v1/login"))
            .json(&self.login)
            .send()
            .await
            .context("log in")?
            .json()
            .await
            .context("read the login's answer")?;
        let token = login
            .get("access_token")
            .and_then(Value::as_str)
            .with_context(|| format!("log in: {login}"))?;
        self.client
            .post(self.url(&format!("/api/v1/{path}")))
            .bearer_auth(token)
            .json(body)
            .send()
            .await
            .with_context(|| format!("ask {path}"))?
            .json()
            .await
            .with_context(|| format!("read the answer of {path}"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api)
    }

    fn tail(&self) -> String {
        super::tail(&self.log, TAIL_BYTES)
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            super::progress(format!("the collector may still run: {error:#}"));
        }
    }
}

/// Ports that were free a moment ago; all are held until all are known, so that they differ.
fn free_ports() -> Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let port =
        |listener: &TcpListener| Ok::<_, anyhow::Error>(listener.local_addr().context("read a port")?.port());
    let listeners = [listen()?, listen()?, listen()?];
    let [first, second, third] = &listeners;
    Ok([port(first)?, port(second)?, port(third)?])
}
