//! The whole room on real files below a temporary root. Events are made by the test for what it really does, with its
//! own process and the file's own inode; nothing else touches these paths.

mod deeds;
mod packages;
mod restarts;

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::table::{
    Actor, FileEvent, FileEventKind, Finding, FindingState, IntegrityEvent, ProbeState, ProbeStatus, Source,
};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::Tasks;

use super::*;
use crate::who::start_of;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct Sink(SyncSender<Fact>);

impl Outlet for Sink {
    fn offer(&self, fact: Fact) -> Result<(), Fact> {
        self.0.send(fact).map_err(|gone| gone.0)
    }
}

struct Nobody;

impl Ancestry for Nobody {
    fn chain(&self, _: u32, _: u64) -> Vec<Ancestor> {
        Vec::new()
    }
}

/// A host's tree, and where the agent keeps its state.
struct Host {
    folder: tempfile::TempDir,
    root: PathBuf,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        for below in [
            "etc/cron.d",
            "etc/systemd/system",
            "usr/bin",
            "root/.ssh",
            "home/ann/.ssh",
            "tmp",
        ] {
            std::fs::create_dir_all(root.join(below)).unwrap();
        }
        Self { folder, root }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn config(&self) -> Config {
        Config {
            root: self.root.clone(),
            settle: HumanDuration::from_millis(200),
            read_bytes_per_s: ByteSize::from_mib(512),
            scan_files_per_s: 100_000,
            ..Config::default()
        }
    }
}

/// The room at work.
struct Room {
    eye: Option<Eye>,
    control: Control,
    tasks: Tasks,
    facts: Receiver<Fact>,
    seen: VecDeque<Fact>,
    runtime: tokio::runtime::Runtime,
}

impl Room {
    /// Started, with the kernel's events delivered, and the baseline made.
    fn start(host: &Host) -> Self {
        let mut room = Self::begin(&host.config(), host.state());
        room.deliver();
        room.wait_until_ready();
        room
    }

    fn begin(config: &Config, state: PathBuf) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let tasks = runtime.block_on(async { Tasks::new() });
        let (sender, facts) = sync_channel(100_000);
        let parts = Parts {
            outlet: Box::new(Sink(sender)),
            ancestry: Box::new(Nobody),
            paused: Arc::new(|| false),
        };
        let (eye, control) = start(config, state, &tasks, parts).unwrap();
        Self {
            eye: Some(eye),
            control,
            tasks,
            facts,
            seen: VecDeque::new(),
            runtime,
        }
    }

    fn deliver(&mut self) {
        self.see(
            ProbeStatus {
                time: TimeMicros::now(),
                probe: "bpf.file".to_owned(),
                state: ProbeState::Real,
                reason: String::new(),
                hint: String::new(),
                seen: 0,
                delivered: 0,
                lost: 0,
            }
            .into(),
        );
    }

    fn see(&mut self, fact: Fact) {
        self.eye.as_mut().unwrap().observe(&fact);
    }

    /// Waits for a fact, and prints the last ones when it does not come.
    fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Fact) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.seen.iter().find_map(&wanted) {
                return found;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.facts.recv_timeout(left) {
                Ok(fact) => self.seen.push_back(fact),
                Err(error) => panic!("{what} did not come ({error}): {:#?}", self.seen),
            }
        }
    }

    fn wait_until_ready(&mut self) {
        self.wait("a complete baseline", |fact| match fact {
            Fact::ProbeStatus(status) if status.state == ProbeState::Real => Some(()),
            _ => None,
        });
    }

    /// Takes the state of the last status that mentions the text.
    fn wait_for_status(&mut self, text: &str) -> ProbeStatus {
        self.wait(text, |fact| match fact {
            Fact::ProbeStatus(status) if status.reason.contains(text) => Some((**status).clone()),
            _ => None,
        })
    }

    /// The next row of a path.
    fn row(&mut self, path: &Path) -> IntegrityEvent {
        let text = path.to_string_lossy().into_owned();
        let row = self.wait(&format!("a row of {text}"), |fact| match fact {
            Fact::IntegrityEvent(row) if row.path == text => Some((**row).clone()),
            _ => None,
        });
        let at = self
            .seen
            .iter()
            .position(|fact| matches!(fact, Fact::IntegrityEvent(known) if **known == row));
        self.seen.remove(at.unwrap());
        row
    }

    fn finding(&mut self, path: &Path, state: FindingState) -> Finding {
        let text = path.to_string_lossy().into_owned();
        self.wait(
            &format!("a finding of {text} that is {state}"),
            |fact| match fact {
                Fact::Finding(finding) if finding.subject == text && finding.state == state => {
                    Some((**finding).clone())
                }
                _ => None,
            },
        )
    }

    /// Everything that was told of a path so far.
    fn told(&mut self, path: &Path) -> Vec<Fact> {
        self.seen.extend(self.facts.try_iter());
        let text = path.to_string_lossy();
        let of_path = |fact: &&Fact| match fact {
            Fact::IntegrityEvent(row) => row.path == text,
            Fact::Finding(finding) => finding.subject == text,
            _ => false,
        };
        self.seen.iter().filter(of_path).cloned().collect()
    }

    fn list(&self) -> serde_json::Value {
        self.runtime.block_on(self.control.list()).unwrap()
    }

    /// Ends in order.
    fn stop(mut self) -> Vec<Fact> {
        drop(self.eye.take());
        let report = self.runtime.block_on(self.tasks.drain(Duration::from_secs(30)));
        assert!(report.is_clean(), "{report}");
        self.seen.extend(self.facts.try_iter());
        self.seen.into()
    }
}

/// This process, as the kernel would name it.
fn own_actor() -> Actor {
    let pid = std::process::id();
    Actor {
        pid,
        start_boot_ns: start_of(pid).unwrap(),
        comm: "integrity-test".to_owned(),
        exe: std::env::current_exe()
            .ok()
            .map(|path| path.display().to_string()),
        ..Actor::default()
    }
}

/// A process that is not this one, and has ended: nothing of it can be asked any more.
fn other_actor(pid: u32) -> Actor {
    Actor {
        pid,
        start_boot_ns: 7,
        comm: format!("other-{pid}"),
        exe: Some("/usr/bin/other".to_owned()),
        ..Actor::default()
    }
}

/// An event of a file, with the inode that it has now.
fn event(actor: Actor, kind: FileEventKind, path: &Path) -> FileEvent {
    let found = std::fs::symlink_metadata(path).ok();
    let device = |dev| u64::from(rustix::fs::major(dev)) << 32 | u64::from(rustix::fs::minor(dev));
    FileEvent {
        path: path.display().to_string(),
        inode: found.as_ref().map(std::fs::Metadata::ino),
        device: found.as_ref().map(|found| device(found.dev())),
        mode: found.as_ref().map(std::fs::Metadata::mode),
        ..FileEvent::by(actor, kind, TimeMicros::now(), 1, Source::Ebpf)
    }
}
