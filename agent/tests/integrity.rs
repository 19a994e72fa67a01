//! The real agent watches a tree of its own: a change is told with who did it where the kernel tells of files, and a
//! person accepts it.

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

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a state.
const PATIENCE: Duration = Duration::from_secs(60);

/// An enrolled agent without a collector, and the tree that it watches.
struct Agent {
    folder: tempfile::TempDir,
    root: PathBuf,
    child: Child,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let root = top.join("host");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/ld.so.preload"), "/lib/one.so").unwrap();
        let sections = format!("[integrity]\nroot = \"{}\"\n", root.display());
        enrolled::prepare(&top, &sections);
        let mut agent = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"));
        agent.args(["run", "--config"]).arg(top.join("agent.toml"));
        let child = enrolled::spawn(&mut agent, &top);
        Self { folder, root, child }
    }

    /// What a person at the host would type.
    fn say(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"));
        command
            .args(words)
            .arg("--config")
            .arg(self.folder.path().join("agent.toml"));
        command.output().unwrap()
    }

    /// Waits until an answer is what is wanted; the agent must live as long.
    fn wait(&mut self, what: &str, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{what}: the agent ended, {ended:?}: {}",
                self.log()
            );
            let output = self.say(words);
            last = format!("{output:?}");
            if let Ok(value) = serde_json::from_slice::<Value>(&output.stdout)
                && wanted(&value)
            {
                return value;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what} did not come; last: {last}: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn probe<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["probes"]
        .as_array()?
        .iter()
        .find(|probe| probe["probe"] == name)
}

/// What differs at a path: programs of other tests that run with another's rights are listed, too.
fn change_of<'a>(list: &'a Value, path: &Path) -> Option<&'a Value> {
    list["changed"]
        .as_array()?
        .iter()
        .find(|changed| changed["path"] == path.display().to_string())
}

#[test]
fn change_of_a_watched_file_is_a_finding_until_a_person_accepts_it() {
    let mut agent = Agent::start();
    let status = ["status", "--json"];
    let ready = agent.wait("a watch that knows its files", &status, |status| {
        let reason = |probe: &Value| probe["reason"].as_str().unwrap_or_default().to_owned();
        probe(status, "integrity").map(reason).is_some_and(|reason| {
            let making = ["looked at", "being made", "scans only"]
                .iter()
                .any(|part| reason.contains(part));
            !making && !reason.starts_with("0 files")
        })
    });
    let path = agent.root.join("etc/ld.so.preload");
    std::fs::write(&path, "/tmp/evil.so").unwrap();
    let list = ["integrity", "list", "--json"];
    let told = agent.wait("the change", &list, |list| change_of(list, &path).is_some());
    let changed = change_of(&told, &path).unwrap();
    assert_eq!(changed["severity"], "critical");
    let title = changed["title"].as_str().unwrap();
    if probe(&ready, "integrity").is_some_and(|probe| probe["reason"].as_str().unwrap().contains("inotify")) {
        println!(
            "COULD NOT RUN with the kernel's events of files: {}",
            ready["probes"]
        );
        assert!(title.ends_with("by whom is not known"), "{title}");
    } else {
        // Only this process touches this path.
        assert!(
            title.contains(&format!("(pid {}, ", std::process::id())),
            "{title}"
        );
    }
    let accepted = agent.say(&["integrity", "accept", path.to_str().unwrap()]);
    assert!(accepted.status.success(), "{accepted:?}");
    agent.wait("a file that does not differ", &list, |list| {
        list["changed"].is_array() && change_of(list, &path).is_none()
    });
    let again = agent.say(&["integrity", "accept", path.to_str().unwrap()]);
    assert!(!again.status.success(), "{again:?}");
}
