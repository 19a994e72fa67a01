//! The real agent without the kernel's probes: the process connector and the socket tables tell instead, and the
//! status says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of a test fail loudly, as the test does, and say what could not run"
)]

#[path = "enrolled/agent.rs"]
mod enrolled;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a state.
const PATIENCE: Duration = Duration::from_secs(60);

/// An enrolled agent without a collector and without probes.
struct Agent {
    folder: tempfile::TempDir,
    child: Child,
}

impl Agent {
    fn start(sources: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().display();
        let sections = format!(
            "[bpf]\nprocess = false\nnetwork = false\nfile = false\ncredential = false\nmemory = false\n\
             kernel = false\nsignal = false\nresource = false\n\
             [integrity]\nenabled = false\n\
             [sources]\naudit_log = \"{state}/no-audit.log\"\nsocket_poll_ms = 100\nstatus_interval_s = 1\n{sources}"
        );
        enrolled::prepare(folder.path(), &sections);
        let mut agent = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"));
        agent
            .args(["run", "--config"])
            .arg(folder.path().join("agent.toml"));
        let child = enrolled::spawn(&mut agent, folder.path());
        Self { folder, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET /status HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits for a row of `probe` that is what is wanted.
    fn wait_for(&mut self, probe: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended, {ended:?}: {}", self.log());
            let rows = self
                .status()
                .and_then(|status| status["probes"].as_array().cloned());
            let row = rows.into_iter().flatten().find(|row| row["probe"] == probe);
            if let Some(row) = row {
                if wanted(&row) {
                    return row;
                }
                last = Some(row);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{probe} is not as wanted: {last:?}: {}", self.log());
    }

    /// Every row in the spool, a frame a line.
    fn spooled(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"))
            .args(["spool", "dump", "--rows", "--json", "--limit", "0", "--folder"])
            .arg(self.folder.path().join("spool"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn agent_without_probes_tells_what_processes_do_from_the_connector() {
    if !nix::unistd::geteuid().is_root() {
        println!("COULD NOT RUN: the connector needs CAP_NET_ADMIN");
        return;
    }
    let mut agent = Agent::start("");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let processes = agent.wait_for("source.processes", |_| true);
    assert_eq!(processes["state"], "DEGRADED");
    assert!(
        text(&processes, "reason").starts_with("told by connector"),
        "{processes}"
    );
    let network = agent.wait_for("source.network", |_| true);
    assert!(
        text(&network, "reason").starts_with("told by socket_table"),
        "{network}"
    );
    let files = agent.wait_for("source.files", |_| true);
    assert_eq!(files["state"], "BROKEN");
    assert!(!text(&files, "hint").is_empty(), "{files}");
    agent.wait_for("bpf.process", |row| row["state"] != "REAL");
    // The right to join was given up with the rest.
    assert!(
        agent.log().contains("sandbox") && !agent.log().contains("CAP_NET_ADMIN "),
        "{}",
        agent.log()
    );

    let marker = format!("marker-{}", std::process::id());
    let mut child = Command::new("sh")
        .args(["-c", "read line", &marker])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let begun = Instant::now();
    // Its row reaches the disk with the next batch.
    let row = loop {
        let all = agent.spooled();
        if let Some(row) = find_row(&all, pid, &marker) {
            break row;
        }
        assert!(begun.elapsed() < PATIENCE, "no row of {pid}: {}", agent.log());
        std::thread::sleep(Duration::from_millis(200));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(row["source"], "connector", "{row}");
    agent.wait_for("source.processes", |row| {
        row["delivered"].as_u64().is_some_and(|count| count > 0)
    });
}

/// The execution of the process among the frames of a dump.
fn find_row(dump: &str, pid: u32, marker: &str) -> Option<Value> {
    let frames = dump
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let rows = frames
        .filter(|frame| frame["table"] == "process_events")
        .filter_map(|frame| frame["rows"].as_array().cloned())
        .flatten();
    let mut of_process = rows.filter(|row| row["pid"] == pid && row["kind"] == "exec");
    of_process.find(|row| row["args"].to_string().contains(marker))
}

#[test]
fn source_that_was_asked_for_and_cannot_be_had_is_explained_by_check_and_status() {
    let mut agent = Agent::start("processes = \"audit\"\n");
    let row = agent.wait_for("source.processes", |row| row["state"] == "BROKEN");
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("audit was asked for") && reason.contains("no-audit.log"),
        "{row}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"))
        .args(["config", "check", "--config"])
        .arg(agent.folder.path().join("agent.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("warning: source.processes") && said.contains("no-audit.log"),
        "{said}"
    );
}
