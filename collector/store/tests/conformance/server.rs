//! The ClickHouse engine as a process that can be killed. The whole way with the real programs (`tests/flow`) uses
//! it too.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Python with the `chdb` package; `cargo xtask test` installs it and says where.
const PYTHON: &str = "FLEETMEND_CHDB_PYTHON";
const PROGRAM: &str = include_str!("clickhouse_server.py");

/// A running, or killed, server with its data.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
    more: Vec<String>,
    http: reqwest::Client,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(more: &[&str]) -> Self {
        let mut server = Self {
            folder: tempfile::Builder::new()
                .prefix("fleetmend-ch-")
                .tempdir()
                .unwrap(),
            port: 0,
            process: None,
            more: more.iter().map(|argument| (*argument).to_owned()).collect(),
            http: reqwest::Client::builder()
                .tls_backend_preconfigured(no_tls())
                .no_proxy()
                .build()
                .unwrap(),
        };
        server.restart().await;
        server
    }

    /// Starts it again on its data and port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let program = self.folder.path().join("server.py");
        std::fs::write(&program, PROGRAM).unwrap();
        let mut command = Command::new(python());
        command
            .arg(program)
            .arg("--path")
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string()])
            .args(&self.more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().expect("start the ClickHouse engine");
        let out = process.stdout.take().unwrap();
        let said = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let said = said.await.unwrap().unwrap();
        let port = said
            .trim()
            .strip_prefix("PORT ")
            .and_then(|port| port.parse().ok());
        self.port = port.unwrap_or_else(|| {
            panic!(
                "the ClickHouse engine did not start and said {said:?}: `cargo xtask test` installs the package chdb, \
                 or set {PYTHON} to a Python that has it"
            )
        });
        self.process = Some(process);
    }

    /// Ends it as kill −9 does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `none`, `refuse`, `refuse_inserts`, `insert_then_fail` or `hang`.
    pub(crate) async fn fault(&self, mode: &str) {
        let url = format!("http://127.0.0.1:{}/fault?mode={mode}", self.port);
        let answer = self.http.post(url).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// Every statement, with its settings.
    pub(crate) async fn seen(&self) -> Vec<serde_json::Value> {
        let url = format!("http://127.0.0.1:{}/seen", self.port);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Asks the engine itself.
    pub(crate) async fn ask(&self, statement: &str) -> String {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let answer = self
            .http
            .post(url)
            .body(statement.to_owned())
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{statement}: {text}");
        text.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn python() -> PathBuf {
    if let Some(python) = std::env::var_os(PYTHON) {
        return python.into();
    }
    let home = std::env::var_os("HOME").expect("HOME is set");
    Path::new(&home).join(".cache/fleetmend/venv/bin/python3")
}

/// Loopback only.
fn no_tls() -> rustls::ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    builder
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
