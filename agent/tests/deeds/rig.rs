//! The sensor, and a detector for each deed.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_collect::bpf::{BpfConfig, BpfSensor};
use agent_collect::process::{Inventory, ProcessConfig};
use agent_detect::{DetectConfig, Detector};
use fleetmend_event::table::{FindingState, ProbeState, ProcessEventKind, ProcessSnapshot, Severity};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::Tasks;
use tokio::sync::mpsc::{self, Receiver};

use crate::DEED;
use crate::list::Deed;

/// Longest wait for what a deed is to raise.
const PATIENCE: Duration = Duration::from_secs(30);
const CHANNEL: usize = 400_000;

pub(crate) struct Rig {
    facts: Receiver<Fact>,
    /// What was told since the deed began.
    told: Vec<Fact>,
    tables: Vec<String>,
    folder: tempfile::TempDir,
    // The threads of the sensor end with these.
    _tasks: Tasks,
}

impl Rig {
    pub(crate) fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("COULD NOT RUN: no privilege to load BPF programs");
            return None;
        }
        let (sensor, statuses) = BpfSensor::load(BpfConfig::default());
        let runs = |name: &str| {
            statuses
                .iter()
                .any(|status| status.probe.contains(name) && status.state != ProbeState::Broken)
        };
        assert!(
            runs("process"),
            "the kernel refused the process family: {statuses:?}"
        );
        let families = [
            "process",
            "network",
            "file",
            "credential",
            "memory",
            "kernel",
            "signal",
        ];
        let tables = families
            .iter()
            .filter(|family| runs(family))
            .map(|family| (*family).to_owned());
        let tables = tables.collect();
        let tasks = Tasks::new();
        let (sender, facts) = mpsc::channel(CHANNEL);
        sensor
            .run(&tasks, sender, Inventory::new(ProcessConfig::default()))
            .unwrap();
        Some(Self {
            facts,
            told: Vec::new(),
            tables,
            folder: tempfile::Builder::new().prefix("deeds").tempdir().unwrap(),
            _tasks: tasks,
        })
    }

    pub(crate) fn delivers(&self, family: &str) -> bool {
        self.tables.iter().any(|known| known == family)
    }

    pub(crate) fn last_facts(&self) -> String {
        format!(
            "the last facts were {:#?}",
            self.told.iter().rev().take(3).collect::<Vec<_>>()
        )
    }

    /// Does a deed and returns what it raised: all of it, or as soon as that is what is wanted.
    pub(crate) fn judge(
        &mut self,
        deed: &Deed,
        wanted: impl Fn(&[(String, Severity)]) -> bool,
    ) -> Vec<(String, Severity)> {
        self.told.clear();
        let folder = self.folder.path().join(deed.name);
        std::fs::create_dir(&folder).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_does_its_deed", "--nocapture"])
            .env(DEED, deed.name)
            .env("FOLDER", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let words = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{} could not be done: {words}", deed.name);
        self.wait_for_exit(pid, deed.name);
        let end = Instant::now() + PATIENCE;
        loop {
            // The families are read one after the other: when the exits of two processes that began one after the
            // other were read, everything that was done before the first was read as well.
            for _ in 0..2 {
                let mut sentinel = Command::new("/bin/true").spawn().unwrap();
                let pid = sentinel.id();
                sentinel.wait().unwrap();
                self.wait_for_exit(pid, deed.name);
            }
            let found = self.findings(pid);
            if wanted(&found) || Instant::now() > end {
                return found;
            }
        }
    }

    fn wait_for_exit(&mut self, pid: u32, what: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Ok(fact) = self.facts.try_recv() {
                self.told.push(fact);
            }
            let ended = |fact: &Fact| matches!(fact, Fact::ProcessEvent(row) if row.pid == pid && row.kind == ProcessEventKind::Exit);
            if self.told.iter().any(ended) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{what}: the end of {pid} was not told; {}",
                self.last_facts()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a fresh detector finds in what `root` and its descendants did.
    fn findings(&self, root: u32) -> Vec<(String, Severity)> {
        let mut config = DetectConfig {
            rule_dirs: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/detect/rules").into()],
            ..DetectConfig::default()
        };
        config.anomaly.enabled = false;
        let mut detector = Detector::new(&config, None, &Tasks::new());
        let mut rows = Vec::new();
        let own = std::process::id();
        let exe = std::env::current_exe().unwrap().to_string_lossy().into_owned();
        for (pid, ppid, exe) in [(1, 0, "/usr/lib/systemd/systemd"), (own, 1, &exe)] {
            rows.extend(detector.observe(&running(pid, ppid, exe).into()));
        }
        // The rings are read one after the other: in order of time a process is known before it acts.
        let mut told: Vec<&Fact> = self.told.iter().collect();
        told.sort_by_key(|fact| fact.time());
        let mut family = HashSet::from([root]);
        for fact in told {
            if let Fact::ProcessEvent(row) = fact
                && family.contains(&row.ppid)
            {
                family.insert(row.pid);
            }
            let by = match fact {
                Fact::ProcessEvent(row) => row.pid,
                Fact::NetworkEvent(row) => row.pid,
                Fact::FileEvent(row) => row.pid,
                Fact::CredentialEvent(row) => row.pid,
                Fact::MemoryEvent(row) => row.pid,
                Fact::KernelEvent(row) => row.pid,
                Fact::SignalEvent(row) => row.pid,
                _ => 0,
            };
            if family.contains(&by) {
                rows.extend(detector.observe(fact));
            }
        }
        rows.extend(detector.tick());
        let found = rows.into_iter().filter_map(|row| match row {
            Fact::Finding(finding) if finding.state == FindingState::Open => {
                Some((finding.rule, finding.severity))
            }
            _ => None,
        });
        found.collect()
    }
}

fn running(pid: u32, ppid: u32, exe: &str) -> ProcessSnapshot {
    ProcessSnapshot {
        time: TimeMicros::now(),
        pid,
        start_boot_ns: 1,
        ppid,
        comm: exe.rsplit('/').next().unwrap().to_owned(),
        exe: Some(exe.to_owned()),
        exe_deleted: false,
        command_line: String::new(),
        uid: 0,
        state: "S".to_owned(),
        cgroup: None,
        unit: None,
        container_id: None,
        cpu_core_pct: 0.0,
        rss_bytes: 0,
        read_bytes: 0,
        write_bytes: 0,
        fd_count: None,
        thread_count: 1,
    }
}
