//! The catalogue of remedies. A [`Plan`] is a remedy with all it needs to be done, measured and undone, as a
//! value: it is journalled before anything is done, and read back after a crash.
//!
//! To add a remedy: its parameters in `fleetmend_event::remedy`, its grant in [`crate::policy`], a file here
//! with a plan that is a [`Treatment`], and a line in [`plan`], [`see`] and [`support`].

pub mod cgroup;
mod files;
mod free_disk;
mod kill;
mod restart;
mod throttle;
pub mod units;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::healer::{Proposal, RemedySupport};
use fleetmend_event::remedy::{Ending, Remedy};
use serde::{Deserialize, Serialize};

use crate::guard::Sight;
use crate::policy::Grant;
use crate::procfs::Procfs;
use cgroup::CgroupFs;
use units::Units;

pub use free_disk::FreeDiskPlan;
pub use kill::KillPlan;
pub use restart::RestartPlan;
pub use throttle::ThrottlePlan;

/// CPU use from which a process counts as running away where no policy says so: only to say what would be done.
const CPU_CORE_PCT_MIN_DEFAULT: u32 = 50;
/// How long a limit would be held where no policy says so.
const HOLD_S_DEFAULT: u64 = 3600;

/// What remedies work on: this host, through handles that tests can replace.
#[derive(Clone)]
pub struct Host {
    /// /proc.
    pub procfs: Procfs,
    /// Control groups.
    pub cgroups: CgroupFs,
    /// systemd.
    pub units: Arc<dyn Units>,
    /// How long CPU use is measured.
    pub cpu_window: Duration,
}

impl Host {
    /// This host.
    pub fn here() -> Self {
        Self {
            procfs: Procfs::default(),
            cgroups: CgroupFs::detect(),
            units: Arc::new(units::Systemd),
            cpu_window: Duration::from_secs(1),
        }
    }
}

/// Three-valued: what cannot be told is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// It cannot be told.
    Unknown,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Whether what was asked holds.
    pub truth: Truth,
    /// In words.
    pub detail: String,
    /// As an object.
    pub measured: serde_json::Value,
}

impl Reading {
    fn new(truth: Truth, detail: String, measured: serde_json::Value) -> Self {
        Self {
            truth,
            detail,
            measured,
        }
    }
}

/// What came of undoing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It is as it was before.
    Done(String),
    /// Nothing of it was there.
    Nothing(String),
    /// It cannot be taken back.
    Impossible(String),
}

/// A remedy could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ApplyError(pub String);

/// How a planned remedy is done, measured and undone. All is read again each time; nothing is remembered but
/// the plan itself.
pub trait Treatment {
    /// What it would do, for a person.
    fn describe(&self) -> String;
    /// Whether there is what the finding says. Changes nothing.
    fn check(&self, host: &Host) -> Reading;
    /// Does it, and keeps in the plan what of it was done where that cannot be seen later. `halted` says why
    /// acting is stopped; it is asked before each step that cannot be taken back.
    ///
    /// # Errors
    /// Why it could not be done, or not wholly.
    fn apply(&mut self, host: &Host, halted: &dyn Fn() -> Option<String>) -> Result<(), ApplyError>;
    /// Whether the cause is gone. Changes nothing.
    fn verify(&self, host: &Host) -> Reading;
    /// Takes it back. May be called again, and where nothing was done.
    fn undo(&self, host: &Host) -> Undone;
    /// Brings it to rest when it is not known whether, or how far, it was done.
    fn settle(&self, host: &Host) -> (Ending, String);
    /// Seconds for which what was done stays, when it is to be taken back by itself.
    fn hold_s(&self) -> Option<u64> {
        None
    }
    /// Whether something of it is still in force that undoing would take off.
    fn is_in_force(&self) -> bool {
        false
    }
    /// Whether what stays has lost its object, and can be cleared away.
    fn is_moot(&self, _host: &Host) -> bool {
        false
    }
}

/// A planned remedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Plan {
    /// Limit a process.
    Throttle(ThrottlePlan),
    /// End a process.
    Kill(KillPlan),
    /// Delete files.
    FreeDisk(FreeDiskPlan),
    /// Restart a unit.
    Restart(RestartPlan),
}

impl Plan {
    /// How it is carried out.
    pub fn treatment(&self) -> &dyn Treatment {
        match self {
            Plan::Throttle(plan) => plan,
            Plan::Kill(plan) => plan,
            Plan::FreeDisk(plan) => plan,
            Plan::Restart(plan) => plan,
        }
    }

    /// How it is carried out, by whoever does it.
    pub fn treatment_mut(&mut self) -> &mut dyn Treatment {
        match self {
            Plan::Throttle(plan) => plan,
            Plan::Kill(plan) => plan,
            Plan::FreeDisk(plan) => plan,
            Plan::Restart(plan) => plan,
        }
    }
}

/// The target of a remedy as it is now. Changes nothing.
pub fn see(host: &Host, remedy: &Remedy) -> Sight {
    match remedy {
        Remedy::ThrottleProcess { .. } if host.cgroups.cpu().is_err() => {
            Sight::NotApplicable(host.cgroups.cpu().err().unwrap_or_default())
        }
        Remedy::ThrottleProcess { process, .. } | Remedy::KillProcess { process } => {
            match host.procfs.see(process) {
                Ok(sight) => Sight::Process(Box::new(sight)),
                Err(fault) => Sight::Unseen(fault.to_string()),
            }
        }
        Remedy::FreeDisk { path, .. } => match files::device_of(std::path::Path::new(path)) {
            Ok(device) => Sight::Folder {
                path: PathBuf::from(path),
                device,
            },
            Err(reason) => Sight::Unseen(reason),
        },
        Remedy::RestartUnit { unit } => match host.units.applicable().map(|()| host.units.names(unit)) {
            Ok(Ok(names)) => Sight::Unit(names),
            Ok(Err(reason)) => Sight::Unseen(reason),
            Err(reason) => Sight::NotApplicable(reason),
        },
    }
}

/// The plan for a proposal under a grant; without one, what would be done.
///
/// # Errors
/// Why there is nothing that could be done.
pub fn plan(host: &Host, proposal: &Proposal, grant: Option<&Grant>, sight: &Sight) -> Result<Plan, String> {
    match (&proposal.remedy, sight) {
        (
            Remedy::ThrottleProcess {
                process,
                cpu_core_pct,
            },
            Sight::Process(seen),
        ) => {
            let (min, floor, hold_s) = match grant {
                Some(Grant::ThrottleProcess {
                    scope,
                    cpu_core_pct_floor,
                    hold_s,
                    ..
                }) => (scope.cpu_core_pct_min, *cpu_core_pct_floor, *hold_s),
                _ => (CPU_CORE_PCT_MIN_DEFAULT, 1, HOLD_S_DEFAULT),
            };
            let limit = (*cpu_core_pct).max(floor);
            ThrottlePlan::make(host, proposal.action_id, process, seen, limit, min, hold_s)
                .map(Plan::Throttle)
        }
        (Remedy::KillProcess { process }, Sight::Process(_)) => {
            let (cpu_core_pct_min, grace_s) = match grant {
                Some(Grant::KillProcess { scope, grace_s, .. }) => (scope.cpu_core_pct_min, *grace_s),
                _ => (CPU_CORE_PCT_MIN_DEFAULT, 0),
            };
            Ok(Plan::Kill(KillPlan {
                process: process.clone(),
                cpu_core_pct_min,
                grace_s,
            }))
        }
        (
            Remedy::FreeDisk {
                path,
                used_pct_target,
            },
            Sight::Folder { .. },
        ) => match grant {
            Some(
                grant @ Grant::FreeDisk {
                    used_pct_min,
                    used_pct_floor,
                    ..
                },
            ) => {
                let places = crate::guard::places_for(grant, std::path::Path::new(path))
                    .into_iter()
                    .cloned()
                    .collect();
                let target = (*used_pct_target).max(*used_pct_floor);
                FreeDiskPlan::make(host, path, places, *used_pct_min, target).map(Plan::FreeDisk)
            }
            _ => Err("no policy names a place where files may be deleted".to_owned()),
        },
        (Remedy::RestartUnit { .. }, Sight::Unit(unit)) => Ok(Plan::Restart(RestartPlan {
            unit: unit.id.clone(),
        })),
        _ => Err("the target is not what the remedy is for".to_owned()),
    }
}

/// Which remedies this host can carry out.
pub fn support(host: &Host) -> Vec<RemedySupport> {
    let row = |remedy: &str, found: Result<String, String>| {
        let (applicable, detail) = match found {
            Ok(detail) => (true, detail),
            Err(reason) => (false, reason),
        };
        RemedySupport {
            remedy: remedy.to_owned(),
            applicable,
            detail,
        }
    };
    let throttle = host
        .cgroups
        .cpu()
        .map(|(hierarchy, root)| format!("{hierarchy} at {}", root.display()));
    let pidfd = kill::supported().map(|()| "pidfd".to_owned());
    let openat2 = files::open_folder(std::path::Path::new("/")).map(|_| "openat2".to_owned());
    let units = host.units.applicable().map(|()| "systemd over D-Bus".to_owned());
    vec![
        row("throttle-process", throttle),
        row("kill-process", pidfd),
        row("free-disk", openat2),
        row("restart-unit", units),
    ]
}
