//! A fleet root, a state folder, a healer over them, and processes that run away.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleetmend_event::healer::{HealerReply, Proposal};
use fleetmend_event::remedy::{Ending, ProcessRef, Remedy};
use fleetmend_event::table::{
    ActionEvent, ActionStage, Finding, FindingKind, FindingState, Severity, SubjectKind,
};
use fleetmend_event::{ActionId, FindingId, HostId, TimeMicros};
use fleetmend_healer::clock::Clock;
use fleetmend_healer::engine::{Healer, Options};
use fleetmend_healer::interrupt::{Interrupt, Never};
use fleetmend_healer::policy::{Breaker, Grant, HostScope, Limits, Mode, Policy, ProcessScope};
use fleetmend_healer::procfs::Procfs;
use fleetmend_healer::remedy::{Host, cgroup::Hierarchy};
use fleetmend_identity::bundle::RootEntry;
use fleetmend_identity::{Context, FleetRoot, TrustBundle};

/// Processes that run away take turns: two of them on a small machine would measure each other.
static HOGS: Mutex<()> = Mutex::new(());

/// The system clock, moved.
#[derive(Default)]
pub(super) struct MovedClock(AtomicI64);

impl MovedClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0
            .fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn set_back(&self, by: Duration) {
        self.0
            .fetch_sub(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> TimeMicros {
        TimeMicros::now().plus_micros(self.0.load(Ordering::SeqCst))
    }
}

pub(super) struct Fleet {
    pub(super) folder: tempfile::TempDir,
    pub(super) root: FleetRoot,
    pub(super) host: HostId,
    pub(super) clock: Arc<MovedClock>,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = FleetRoot::create(&folder.path().join("root"), "test-fleet".parse().unwrap()).unwrap();
        let bundle = TrustBundle {
            fleet: root.fleet().clone(),
            version: 1,
            created: TimeMicros::now(),
            roots: vec![RootEntry {
                certificate: root.certificate().to_vec(),
                key: root.public(),
            }],
            collectors: Vec::new(),
        };
        let signed = root.sign(Context::Bundle, &bundle).unwrap();
        TrustBundle::write(&folder.path().join("trust-bundle.json"), &signed).unwrap();
        let host = HostId::random();
        std::fs::write(folder.path().join("host-id"), format!("{host}\n")).unwrap();
        Self {
            folder,
            root,
            host,
            clock: Arc::default(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn options(&self) -> Options {
        Options {
            state_dir: self.path("state"),
            trust_bundle: self.path("trust-bundle.json"),
            host_file: Some(self.path("host-id")),
            ledger_bytes_max: 1 << 24,
        }
    }

    pub(super) fn healer(&self) -> Healer {
        self.healer_with(Arc::new(Never))
    }

    pub(super) fn healer_with(&self, interrupt: Arc<dyn Interrupt>) -> Healer {
        self.healer_from(self.options(), interrupt)
    }

    pub(super) fn healer_from(&self, options: Options, interrupt: Arc<dyn Interrupt>) -> Healer {
        let host = Host {
            cpu_window: Duration::from_millis(700),
            ..Host::here()
        };
        let healer = Healer::open(options, host, self.clock.clone(), interrupt).unwrap();
        healer.recover();
        healer
    }

    pub(super) fn policy(&self, version: u64, mode: Mode, grants: Vec<Grant>) -> Policy {
        let now = TimeMicros::now();
        Policy {
            format: 1,
            version,
            issued_at: now,
            not_after: now.plus_millis(3_600_000),
            scope: HostScope::Hosts {
                hosts: vec![self.host],
            },
            mode,
            kill_switch_path: None,
            actions_per_hour_max: 50,
            breaker: Breaker {
                failures: 20,
                window_s: 3600,
                open_s: 60,
            },
            grants,
        }
    }

    pub(super) fn envelope(&self, policy: &Policy) -> Vec<u8> {
        self.root
            .sign(Context::Policy, policy)
            .unwrap()
            .to_bytes()
            .unwrap()
    }

    pub(super) fn enforcing(&self, grants: Vec<Grant>) -> Healer {
        let healer = self.healer();
        healer
            .install_policy(&self.envelope(&self.policy(1, Mode::Enforce, grants)))
            .unwrap();
        healer
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        cooldown_s: 0,
        attempts_max: 50,
        attempts_window_s: 3600,
        verify_deadline_s: 10,
    }
}

pub(super) fn throttle_grant(cgroup: &str) -> Grant {
    let scope = ProcessScope {
        cgroup_prefixes: vec![cgroup.to_owned()],
        executables: Vec::new(),
        cpu_core_pct_min: 8,
    };
    Grant::ThrottleProcess {
        scope,
        cpu_core_pct_floor: 1,
        hold_s: 600,
        limits: limits(),
    }
}

pub(super) fn kill_grant(cgroup: &str) -> Grant {
    let scope = ProcessScope {
        cgroup_prefixes: vec![cgroup.to_owned()],
        executables: Vec::new(),
        cpu_core_pct_min: 8,
    };
    Grant::KillProcess {
        scope,
        irreversible_allowed: true,
        grace_s: 1,
        limits: limits(),
    }
}

/// A shell in a control group of its own; ended and cleared away when dropped.
pub(super) struct Hog {
    child: Child,
    pub(super) cgroup: String,
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Hog {
    pub(super) fn busy() -> Self {
        Self::running("while :; do :; done")
    }

    pub(super) fn running(script: &str) -> Self {
        let turn = HOGS.lock().unwrap_or_else(PoisonError::into_inner);
        let host = Host::here();
        let (_, root) = host
            .cgroups
            .cpu()
            .expect("this machine has no cpu controller to throttle with");
        let cgroup = format!("/fleetmend-test-{}", ActionId::random());
        let folder = root.join(cgroup.trim_start_matches('/'));
        std::fs::create_dir(&folder).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut procs = std::fs::OpenOptions::new()
            .write(true)
            .open(folder.join("cgroup.procs"))
            .unwrap();
        procs.write_all(child.id().to_string().as_bytes()).unwrap();
        Self {
            child,
            cgroup,
            folder,
            _turn: turn,
        }
    }

    pub(super) fn process(&self) -> ProcessRef {
        let sight = Procfs::default().see_pid(self.child.id()).unwrap();
        let start_boot_ns = sight.start_ticks * 10_000_000;
        assert_eq!(
            Procfs::default().ticks_of(start_boot_ns),
            sight.start_ticks,
            "this test assumes 100 ticks a second"
        );
        ProcessRef {
            pid: sight.pid,
            start_boot_ns,
            comm: sight.comm,
        }
    }

    /// The group that limits it now.
    pub(super) fn group(&self) -> String {
        let sight = Procfs::default().see_pid(self.child.id()).unwrap();
        let wanted = match Host::here().cgroups.cpu().unwrap().0 {
            Hierarchy::V1 => "cpu",
            Hierarchy::V2 => "",
        };
        let is_it = |controllers: &str| controllers.split(',').any(|controller| controller == wanted);
        sight
            .cgroups
            .into_iter()
            .find(|(controllers, _)| is_it(controllers))
            .unwrap()
            .1
    }

    pub(super) fn groups_below(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).unwrap().flatten();
        entries
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.path())
            .collect()
    }

    pub(super) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(super) fn cpu_core_pct(&self) -> f64 {
        Procfs::default()
            .cpu_core_pct(&self.process(), Duration::from_secs(1))
            .unwrap()
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let groups = self.groups_below().into_iter().chain([self.folder.clone()]);
        for group in groups {
            let deadline = Instant::now() + Duration::from_secs(5);
            while std::fs::remove_dir(&group).is_err() && group.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub(super) fn finding(rule: &str, subject_kind: SubjectKind, subject: &str) -> Finding {
    let now = TimeMicros::now();
    Finding {
        time: now,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: rule.to_owned(),
        title: format!("{rule} on {subject}"),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: now,
        count: 1,
        score: None,
        subject_kind,
        subject: subject.to_owned(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

fn proposal(finding: Finding, remedy: Remedy) -> Proposal {
    let not_after = TimeMicros::now().plus_millis(60_000);
    Proposal {
        action_id: ActionId::random(),
        finding,
        remedy,
        not_after,
    }
}

pub(super) fn runaway(process: &ProcessRef) -> Finding {
    let mut found = finding("runaway-process", SubjectKind::Process, &process.comm);
    (found.pid, found.start_boot_ns) = (Some(process.pid), Some(process.start_boot_ns));
    found
}

pub(super) fn throttle(process: &ProcessRef, cpu_core_pct: u32) -> Proposal {
    proposal(
        runaway(process),
        Remedy::ThrottleProcess {
            process: process.clone(),
            cpu_core_pct,
        },
    )
}

pub(super) fn kill(process: &ProcessRef) -> Proposal {
    proposal(
        runaway(process),
        Remedy::KillProcess {
            process: process.clone(),
        },
    )
}

pub(super) fn free_disk(path: &Path, used_pct_target: u32) -> Proposal {
    let path = path.display().to_string();
    proposal(
        finding("filesystem-full", SubjectKind::Filesystem, &path),
        Remedy::FreeDisk {
            path: path.clone(),
            used_pct_target,
        },
    )
}

pub(super) fn restart(unit: &str) -> Proposal {
    proposal(
        finding("unit-failed", SubjectKind::Unit, unit),
        Remedy::RestartUnit {
            unit: unit.to_owned(),
        },
    )
}

/// Proposes, runs what follows to its end, and gives the steps.
pub(super) fn heal(healer: &Healer, proposal: Proposal) -> Vec<ActionEvent> {
    let action_id = proposal.action_id;
    let (reply, job) = healer.propose(proposal);
    assert!(matches!(reply, HealerReply::Decided { .. }), "{reply:?}");
    if let Some(job) = job {
        healer.run(job);
    }
    steps(healer, action_id)
}

pub(super) fn steps(healer: &Healer, action_id: ActionId) -> Vec<ActionEvent> {
    let mut from = 0;
    let mut found = Vec::new();
    loop {
        let page = healer.page(from).unwrap().read().unwrap();
        if page.is_empty() {
            return found;
        }
        from += u64::try_from(page.len()).unwrap();
        found.extend(
            page.into_iter()
                .filter_map(|(_, event)| event)
                .filter(|event| event.action_id == action_id),
        );
    }
}

pub(super) fn stages(steps: &[ActionEvent]) -> Vec<ActionStage> {
    steps.iter().map(|step| step.stage).collect()
}

pub(super) fn ending(steps: &[ActionEvent]) -> Option<Ending> {
    steps.iter().rev().find_map(|step| step.ending)
}

pub(super) const HEALED: [ActionStage; 6] = [
    ActionStage::Proposed,
    ActionStage::Journalled,
    ActionStage::Checked,
    ActionStage::Applied,
    ActionStage::Verified,
    ActionStage::Ended,
];
