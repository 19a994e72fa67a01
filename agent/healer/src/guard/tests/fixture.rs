//! A proposal that every guard lets through, and its parts.

use fleetmend_event::table::{Finding, FindingKind, Severity};
use fleetmend_event::{ActionId, FindingId};

use super::*;

pub(super) const NOW: TimeMicros = TimeMicros(1_800_000_000_000_000);

pub(super) fn ago(seconds: i64) -> TimeMicros {
    NOW.plus_millis(-seconds * 1000)
}

pub(super) fn limits() -> Limits {
    Limits {
        cooldown_s: 60,
        attempts_max: 3,
        attempts_window_s: 3600,
        verify_deadline_s: 30,
    }
}

pub(super) fn throttle_grant() -> Grant {
    let scope = ProcessScope {
        cgroup_prefixes: vec!["/demo".to_owned()],
        executables: Vec::new(),
        cpu_core_pct_min: 50,
    };
    Grant::ThrottleProcess {
        scope,
        cpu_core_pct_floor: 10,
        hold_s: 600,
        limits: limits(),
    }
}

pub(super) fn kill_grant(irreversible_allowed: bool) -> Grant {
    let scope = ProcessScope {
        cgroup_prefixes: Vec::new(),
        executables: vec!["/usr/bin/*".to_owned()],
        cpu_core_pct_min: 50,
    };
    Grant::KillProcess {
        scope,
        irreversible_allowed,
        grace_s: 5,
        limits: limits(),
    }
}

pub(super) fn disk_grant(place: &str) -> Grant {
    let place = Place {
        path: PathBuf::from(place),
        patterns: vec!["*.log".to_owned()],
        depth_max: 0,
        age_s_min: 0,
        keep_newest: 0,
        bytes_max: 1 << 20,
    };
    Grant::FreeDisk {
        places: vec![place],
        used_pct_min: 80,
        used_pct_floor: 50,
        irreversible_allowed: true,
        limits: limits(),
    }
}

pub(super) fn policy(mode: Mode, grants: Vec<Grant>) -> Policy {
    Policy {
        format: 1,
        version: 7,
        issued_at: ago(1000),
        not_after: ago(-1000),
        scope: HostScope::Hosts {
            hosts: vec![fleetmend_event::HostId::random()],
        },
        mode,
        kill_switch_path: None,
        actions_per_hour_max: 10,
        breaker: Breaker {
            failures: 3,
            window_s: 3600,
            open_s: 900,
        },
        grants,
    }
}

pub(super) fn proposal(remedy: Remedy) -> Proposal {
    let (rule, subject_kind, subject, pid) = match &remedy {
        Remedy::ThrottleProcess { process, .. } | Remedy::KillProcess { process } => (
            "runaway-process",
            SubjectKind::Process,
            process.comm.clone(),
            Some(process.pid),
        ),
        Remedy::FreeDisk { path, .. } => ("filesystem-full", SubjectKind::Filesystem, path.clone(), None),
        Remedy::RestartUnit { unit } => ("unit-failed", SubjectKind::Unit, unit.clone(), None),
    };
    let finding = Finding {
        time: NOW,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: rule.to_owned(),
        title: "title".to_owned(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: NOW,
        count: 1,
        score: None,
        subject_kind,
        subject,
        pid,
        start_boot_ns: pid.map(|_| 10_000_000),
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    };
    Proposal {
        action_id: ActionId::random(),
        finding,
        remedy,
        not_after: ago(-60),
    }
}

pub(super) fn throttle() -> Proposal {
    let process = ProcessRef {
        pid: 4711,
        start_boot_ns: 10_000_000,
        comm: "stress".to_owned(),
    };
    proposal(Remedy::ThrottleProcess {
        process,
        cpu_core_pct: 20,
    })
}

pub(super) fn process(executable: &str, cgroup: &str) -> Sight {
    Sight::Process(Box::new(ProcessSight {
        pid: 4711,
        parent_pid: 10,
        comm: "stress".to_owned(),
        executable: Some(executable.to_owned()),
        state: 'R',
        start_ticks: 1,
        cpu_ticks: 0,
        cgroups: vec![("cpu".to_owned(), cgroup.to_owned())],
        kernel_thread: false,
    }))
}

pub(super) fn folder(path: &str) -> Sight {
    Sight::Folder {
        path: PathBuf::from(path),
        device: 42,
    }
}

pub(super) struct Case {
    pub(super) stopped: Option<String>,
    pub(super) policy: Option<Policy>,
    pub(super) proposal: Proposal,
    pub(super) sight: Sight,
    pub(super) protection: Protection,
    pub(super) history: History,
    pub(super) in_flight: Vec<String>,
}

impl Case {
    pub(super) fn good() -> Self {
        Self {
            stopped: None,
            policy: Some(policy(Mode::Enforce, vec![throttle_grant()])),
            proposal: throttle(),
            sight: process("/usr/bin/stress", "/demo/hog"),
            protection: Protection::default(),
            history: History::default(),
            in_flight: Vec::new(),
        }
    }

    pub(super) fn tried(mut self, times: &[(TimeMicros, Option<Ending>)]) -> Self {
        for (time, ending) in times {
            let action_id = ActionId::random();
            let (remedy, target_key) = ("throttle-process".to_owned(), self.sight.target_key());
            self.history.begin(Attempt {
                action_id,
                time: *time,
                remedy,
                target_key,
                ending: *ending,
            });
        }
        self
    }

    pub(super) fn decide(&self) -> Decision {
        decide(&Situation {
            now: NOW,
            stopped: self.stopped.clone(),
            policy: self.policy.as_ref(),
            proposal: &self.proposal,
            sight: &self.sight,
            protection: &self.protection,
            history: &self.history,
            in_flight: &self.in_flight,
        })
    }

    pub(super) fn guard(&self) -> Option<Guard> {
        match self.decide() {
            Decision::Refuse { guard, reason } => {
                assert!(reason.starts_with(&format!("{guard}: ")), "{reason}");
                Some(guard)
            }
            _ => None,
        }
    }
}
