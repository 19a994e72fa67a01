//! The policy: what this host's healer may do, where, how often. Signed by the fleet root, never widened here.
//!
//! A document of format 1 is JSON, strict (an unknown key is an error), and refused whole when anything in it
//! is empty where emptiness could be read as "everything".

mod store;

use std::path::PathBuf;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::FleetId;
use serde::{Deserialize, Serialize};

use crate::words::words;

pub use store::{InstallError, PolicyStore, WhoWeAre};

/// Format of the documents this healer reads.
pub const FORMAT: u32 = 1;

/// A limit that should stay longer is a person's to set: a week.
const HOLD_S_MAX: u64 = 7 * 24 * 3600;
/// A remedy that needs longer to show is not verified by measuring again: an hour.
const VERIFY_DEADLINE_S_MAX: u64 = 3600;
/// A process that needs longer to end is not ended by us.
const GRACE_S_MAX: u64 = 600;

words! {
    /// Whether the healer acts, or says what it would do.
    pub enum Mode {
        /// Says it.
        Observe = "observe",
        /// Acts.
        Enforce = "enforce",
    }
}

/// What the healer may do on the hosts of its scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`FORMAT`].
    pub format: u32,
    /// Grows with every change; a lower one than the one installed is refused.
    pub version: u64,
    /// When it was made.
    pub issued_at: TimeMicros,
    /// From then on the healer only observes.
    pub not_after: TimeMicros,
    /// Hosts it is for.
    pub scope: HostScope,
    /// Whether to act.
    pub mode: Mode,
    /// A file whose existence stops all acting, beside the healer's own.
    #[serde(default)]
    pub kill_switch_path: Option<PathBuf>,
    /// Actions of all kinds that this host may see in an hour.
    pub actions_per_hour_max: u32,
    /// When to stop after failures.
    pub breaker: Breaker,
    /// What is allowed; all else is denied.
    pub grants: Vec<Grant>,
}

/// Hosts a policy is for: never empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HostScope {
    /// These hosts.
    Hosts {
        /// At least one.
        hosts: Vec<HostId>,
    },
    /// Any host of this fleet.
    Fleet {
        /// The fleet.
        fleet: FleetId,
    },
}

/// After `failures` transactions within `window_s` that did not heal, nothing is done for `open_s`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failures that open it.
    pub failures: u32,
    /// Seconds in which they are counted.
    pub window_s: u64,
    /// Seconds it stays open after the last of them.
    pub open_s: u64,
}

/// How often a remedy may be tried on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Seconds between two attempts on the same target.
    pub cooldown_s: u64,
    /// Attempts on the same target within the window.
    pub attempts_max: u32,
    /// The window, in seconds.
    pub attempts_window_s: u64,
    /// Seconds within which the measurement has to show that it helped.
    pub verify_deadline_s: u64,
}

/// Which processes may be acted on: those that fit every list that is not empty; one of the two is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessScope {
    /// Control groups, by path: the group itself and everything below it.
    #[serde(default)]
    pub cgroup_prefixes: Vec<String>,
    /// Patterns of executables, by absolute path.
    #[serde(default)]
    pub executables: Vec<String>,
    /// CPU use, in percent of one core, from which a process counts as running away.
    pub cpu_core_pct_min: u32,
}

/// A folder in which files may be deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Absolute path, without symbolic links.
    pub path: PathBuf,
    /// Patterns of file names; at least one.
    pub patterns: Vec<String>,
    /// Levels of folders below it that are searched too.
    #[serde(default)]
    pub depth_max: u8,
    /// A younger file is left alone.
    pub age_s_min: u64,
    /// The newest files that fit are kept, this many.
    pub keep_newest: usize,
    /// Bytes that one action may delete.
    pub bytes_max: u64,
}

/// One remedy that is allowed, and how far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "remedy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Grant {
    /// Limit the CPU time of a process.
    ThrottleProcess {
        /// Which.
        scope: ProcessScope,
        /// No harder limit than this is set, in percent of one core.
        cpu_core_pct_floor: u32,
        /// Seconds after which the limit is taken off again.
        hold_s: u64,
        /// How often.
        limits: Limits,
    },
    /// End a process.
    KillProcess {
        /// Which.
        scope: ProcessScope,
        /// It cannot be undone; without this the grant is void.
        irreversible_allowed: bool,
        /// Seconds between SIGTERM and SIGKILL.
        grace_s: u64,
        /// How often.
        limits: Limits,
    },
    /// Delete files.
    FreeDisk {
        /// Where.
        places: Vec<Place>,
        /// Used space, in percent, from which it may begin.
        used_pct_min: u32,
        /// It never goes on below this, whatever is asked.
        used_pct_floor: u32,
        /// It cannot be undone; without this the grant is void.
        irreversible_allowed: bool,
        /// How often.
        limits: Limits,
    },
    /// Restart a unit that failed.
    RestartUnit {
        /// Patterns of the names that systemd itself gives units; an alias fits none.
        units: Vec<String>,
        /// How often.
        limits: Limits,
    },
}

impl Grant {
    /// Name of the remedy it is for.
    pub fn remedy(&self) -> &'static str {
        match self {
            Grant::ThrottleProcess { .. } => "throttle-process",
            Grant::KillProcess { .. } => "kill-process",
            Grant::FreeDisk { .. } => "free-disk",
            Grant::RestartUnit { .. } => "restart-unit",
        }
    }

    /// How often.
    pub fn limits(&self) -> &Limits {
        match self {
            Grant::ThrottleProcess { limits, .. }
            | Grant::KillProcess { limits, .. }
            | Grant::FreeDisk { limits, .. }
            | Grant::RestartUnit { limits, .. } => limits,
        }
    }

    /// Whether it needs, and lacks, the word for what cannot be undone.
    pub fn is_void(&self) -> bool {
        matches!(
            self,
            Grant::KillProcess {
                irreversible_allowed: false,
                ..
            } | Grant::FreeDisk {
                irreversible_allowed: false,
                ..
            }
        )
    }
}

impl Policy {
    /// What is wrong with it, if anything: a policy is installed whole or not at all.
    pub fn fault(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!(
                "format {} is not known here; this healer reads {FORMAT}",
                self.format
            ));
        }
        if self.version == 0 {
            return Some("version must be 1 or more".to_owned());
        }
        if self.not_after <= self.issued_at {
            return Some("not_after must be later than issued_at".to_owned());
        }
        if matches!(&self.scope, HostScope::Hosts { hosts } if hosts.is_empty()) {
            return Some("scope names no host".to_owned());
        }
        if self.breaker.failures == 0 {
            return Some("breaker.failures must be 1 or more".to_owned());
        }
        if self
            .kill_switch_path
            .as_ref()
            .is_some_and(|path| !path.is_absolute())
        {
            return Some("kill_switch_path must be absolute".to_owned());
        }
        self.grants.iter().enumerate().find_map(|(index, grant)| {
            grant_fault(grant).map(|fault| format!("grants[{index}] ({}): {fault}", grant.remedy()))
        })
    }
}

fn grant_fault(grant: &Grant) -> Option<String> {
    let limits = grant.limits();
    if limits.attempts_max == 0 || limits.attempts_window_s == 0 || limits.verify_deadline_s == 0 {
        return Some("attempts_max, attempts_window_s and verify_deadline_s must be 1 or more".to_owned());
    }
    if limits.verify_deadline_s > VERIFY_DEADLINE_S_MAX {
        return Some(format!(
            "verify_deadline_s must be at most {VERIFY_DEADLINE_S_MAX}"
        ));
    }
    match grant {
        Grant::ThrottleProcess { hold_s, .. } if *hold_s > HOLD_S_MAX => {
            Some(format!("hold_s must be at most {HOLD_S_MAX}"))
        }
        Grant::KillProcess { grace_s, .. } if *grace_s > GRACE_S_MAX => {
            Some(format!("grace_s must be at most {GRACE_S_MAX}"))
        }
        Grant::ThrottleProcess {
            scope,
            cpu_core_pct_floor,
            hold_s,
            ..
        } => {
            if *cpu_core_pct_floor == 0 || *hold_s == 0 {
                return Some("cpu_core_pct_floor and hold_s must be 1 or more".to_owned());
            }
            process_scope_fault(scope)
        }
        Grant::KillProcess { scope, .. } => process_scope_fault(scope),
        Grant::FreeDisk {
            places, used_pct_min, ..
        } => {
            if places.is_empty() || *used_pct_min == 0 || *used_pct_min > 100 {
                return Some("needs a place, and used_pct_min from 1 to 100".to_owned());
            }
            places.iter().find_map(place_fault)
        }
        Grant::RestartUnit { units, .. } => pattern_fault("units", units),
    }
}

fn process_scope_fault(scope: &ProcessScope) -> Option<String> {
    if scope.cpu_core_pct_min == 0 {
        return Some("scope.cpu_core_pct_min must be 1 or more".to_owned());
    }
    if scope.cgroup_prefixes.is_empty() && scope.executables.is_empty() {
        return Some("scope names neither a control group nor an executable".to_owned());
    }
    if scope
        .cgroup_prefixes
        .iter()
        .chain(&scope.executables)
        .any(|text| !text.starts_with('/'))
    {
        return Some("scope: control groups and executables begin with /".to_owned());
    }
    None
}

fn place_fault(place: &Place) -> Option<String> {
    let plain = |component| {
        matches!(
            component,
            std::path::Component::RootDir | std::path::Component::Normal(_)
        )
    };
    if !place.path.is_absolute() || !place.path.components().all(plain) {
        return Some(format!(
            "place {} must be absolute and plain",
            place.path.display()
        ));
    }
    if place.bytes_max == 0 {
        return Some(format!(
            "place {}: bytes_max must be 1 or more",
            place.path.display()
        ));
    }
    pattern_fault("patterns", &place.patterns)
}

fn pattern_fault(key: &str, patterns: &[String]) -> Option<String> {
    (patterns.is_empty() || patterns.iter().any(String::is_empty)).then(|| format!("{key} must not be empty"))
}
