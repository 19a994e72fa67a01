//! The real agent in a real memory cgroup: it sheds before the limit bites, and a start after an OOM kill is a step
//! down the ladder.

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
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a state.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for a start with everything.
const PLENTY_BYTES: u64 = 512 << 20;
/// Records that fill what the agent remembers of processes that ended.
const STORM_RECORDS: u64 = 3_000;
/// Too little even to load the probes.
const NOTHING_BYTES: u64 = 8 << 20;

/// A group of the memory controller below this process's own.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    kills: &'static str,
}

impl Group {
    /// None where there is no controller, or no right to make a group.
    fn make() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let of = |wanted: fn(&str) -> bool| {
            let lines = groups
                .lines()
                .filter_map(|line| line.split_once(':')?.1.split_once(':'));
            lines
                .clone()
                .find(|(controllers, _)| wanted(controllers))
                .map(|(_, path)| path.to_owned())
        };
        let one = of(|names| names.split(',').any(|name| name == "memory"));
        let (top, path, limit, kills) = match (one, of(str::is_empty)) {
            (Some(path), _) => (
                "/sys/fs/cgroup/memory",
                path,
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
            (None, Some(path)) => ("/sys/fs/cgroup", path, "memory.max", "memory.events"),
            (None, None) => return None,
        };
        let name = format!("fleetmend-budget-{}", std::process::id());
        let folder = Path::new(top).join(path.trim_start_matches('/')).join(name);
        std::fs::create_dir(&folder).ok()?;
        let group = Self { folder, limit, kills };
        group.folder.join(limit).exists().then_some(group)
    }

    /// Version 1 refuses a limit while it cannot take enough of the page cache back.
    fn limit(&self, bytes: u64) {
        let begun = Instant::now();
        while let Err(error) = std::fs::write(self.folder.join(self.limit), bytes.to_string()) {
            assert!(begun.elapsed() < PATIENCE, "limit of {bytes} bytes: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let begun = Instant::now();
        while std::fs::remove_dir(&self.folder).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An enrolled agent without a collector.
struct Agent {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        enrolled::prepare(folder.path(), "");
        Self { folder, child: None }
    }

    /// Starts it as a member of the group from its first instruction on.
    fn start(&mut self, group: &Group) {
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                "echo $$ >\"$1/cgroup.procs\" && exec \"$2\" run --config \"$3\"",
                "sh",
            ])
            .arg(&group.folder)
            .arg(env!("CARGO_BIN_EXE_fleetmend-agent"))
            .arg(self.folder.path().join("agent.toml"));
        self.child = Some(enrolled::spawn(&mut shell, self.folder.path()));
    }

    /// Waits until the status is what is wanted; the agent must live as long.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{what}: the agent ended, {ended:?}: {}",
                self.log()
            );
            last = self.status().or(last);
            if let Some(status) = last.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let budget = last.map(|status| status["budget"].clone());
        panic!("{what} did not come: {budget:?}: {}", self.log());
    }

    /// Records of processes that were read from the kernel.
    fn records(&self) -> u64 {
        let metrics = self.ask("/metrics").unwrap_or_default();
        let name = "fleetmend_agent_collect_bpf_records_total{family=\"process\"} ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Waits until so many records were read; the agent must live as long. Without probes there are none to wait for.
    fn wait_for_records(&mut self, count: u64) {
        if self.log().contains("probes cannot be loaded") {
            println!("COULD NOT RUN with probes: the kernel refused them");
            return;
        }
        self.wait_for_with("records of the storm", |agent| agent.records() >= count);
    }

    fn wait_for_with(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{what}: the agent ended, {ended:?}: {}",
                self.log()
            );
            assert!(begun.elapsed() < PATIENCE, "{what} did not come: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.ask("/status")?).ok()
    }

    /// What the agent answers to a GET over its socket.
    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_for_end(&mut self) {
        let (begun, mut child) = (Instant::now(), self.child.take().unwrap());
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the agent lives on: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[test]
fn agent_sheds_before_its_cgroup_bites_and_begins_a_step_down_after_an_oom_kill() {
    let Some(group) = Group::make() else {
        println!("COULD NOT RUN: no right to make a group of the memory controller");
        return;
    };
    let mut agent = Agent::new();
    group.limit(PLENTY_BYTES);
    agent.start(&group);
    let held = |status: &Value| status["budget"]["cgroup_held_bytes"].as_u64();
    let calm = agent.wait_for("a measurement", |status| held(status).is_some());
    assert_eq!(calm["budget"]["step"], 0);
    let storms = Storms::begin();
    agent.wait_for_records(STORM_RECORDS);
    // What counts is 80 % of the limit: with this one the agent is above it, with room for what the storm adds.
    let stormy = held(&agent.status().unwrap()).unwrap();
    group.limit(stormy / 10 * 12);
    // It may give memory back meanwhile: the limit follows.
    let follow = |status: &Value, tenths: u64| {
        if let Some(held) = held(status) {
            group.limit(held / 10 * tenths);
        }
        false
    };
    agent.wait_for("a step down in the storm", |status| {
        status["budget"]["step"] != 0 || follow(status, 12)
    });
    let records = agent.records();
    agent.wait_for_records(records + STORM_RECORDS);
    drop(storms);
    let calm = agent.wait_for("the status after the storm", |status| held(status).is_some());
    group.limit(held(&calm).unwrap() / 10 * 11);
    let last = agent.wait_for("the last step", |status| {
        status["budget"]["step"] == 4 || follow(status, 11)
    });
    assert_eq!(group.kills(), 0, "the ladder came too late");
    assert!(
        last["budget"]["warning"]
            .as_str()
            .unwrap()
            .contains("budget.memory"),
        "{last}"
    );
    assert_eq!(last["budget"]["left_out"].as_array().unwrap().len(), 4);
    agent.wait_for("a degraded probe", |status| {
        let probes = status["probes"].as_array().unwrap();
        let budget = probes.iter().find(|probe| probe["probe"] == "agent.budget");
        budget.is_some_and(|probe| probe["state"] == "DEGRADED")
    });
    drop(agent);

    let mut agent = Agent::new();
    group.limit(NOTHING_BYTES);
    agent.start(&group);
    agent.wait_for_end();
    assert_eq!(group.kills(), 1, "{}", agent.log());
    group.limit(PLENTY_BYTES);
    agent.start(&group);
    let begun = agent.wait_for("the start after the kill", |status| held(status).is_some());
    assert_eq!(begun["budget"]["step"], 1, "{}", begun["budget"]);
    assert!(
        begun["budget"]["reason"].as_str().unwrap().contains("OOM kill"),
        "{}",
        begun["budget"]
    );
}

/// Programs that begin and end as fast as two shells make them.
struct Storms([Child; 2]);

impl Storms {
    fn begin() -> Self {
        Self([(); 2].map(|()| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "for number in $(seq 50000); do /bin/true; done"])
                .spawn()
                .unwrap()
        }))
    }
}

impl Drop for Storms {
    fn drop(&mut self) {
        for shell in &mut self.0 {
            shell.kill().ok();
            shell.wait().ok();
        }
    }
}
