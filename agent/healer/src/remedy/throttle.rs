//! Throttle a process: a control group of its own with a quota. Undone by moving everything in it back to where
//! the process came from; taken off by itself after the policy's `hold_s`.
//!
//! Limits: one process with its threads and later children, not its siblings. In v2 the new group lies beside
//! the old one, whose own memory and pids limits therefore do not hold for it.

use std::path::PathBuf;
use std::time::Duration;

use fleetmend_event::ActionId;
use fleetmend_event::remedy::{Ending, ProcessRef};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cgroup::{self, Hierarchy};
use super::{ApplyError, Host, Reading, Treatment, Truth, Undone};
use crate::procfs::{ProcessFault, ProcessSight};

const NAME_PREFIX: &str = "fleetmend-throttle-";
/// Above the limit a measurement may lie and still show that it holds: rounding of clock ticks, and the slice
/// of each core that the kernel hands out before it accounts for it.
const TOLERANCE: (f64, f64) = (1.15, 5.0);

/// How a process is throttled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottlePlan {
    process: ProcessRef,
    cpu_core_pct: u32,
    cpu_core_pct_min: u32,
    hold_s: u64,
    hierarchy: Hierarchy,
    root: PathBuf,
    origin: String,
    leaf: String,
}

impl ThrottlePlan {
    pub(super) fn make(
        host: &Host,
        action_id: ActionId,
        process: &ProcessRef,
        seen: &ProcessSight,
        cpu_core_pct: u32,
        cpu_core_pct_min: u32,
        hold_s: u64,
    ) -> Result<Self, String> {
        let (hierarchy, root) = host.cgroups.cpu()?;
        let origin = cgroup::origin(hierarchy, seen)
            .ok_or_else(|| format!("pid {} is in no {hierarchy} group for CPU time", process.pid))?;
        if origin
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with(NAME_PREFIX))
        {
            return Err(format!("pid {} is throttled already, in {origin}", process.pid));
        }
        let leaf = cgroup::leaf(hierarchy, &origin, &format!("{NAME_PREFIX}{action_id}"));
        cgroup::can_limit(hierarchy, root, &leaf)?;
        let (process, root) = (process.clone(), root.to_owned());
        Ok(Self {
            process,
            cpu_core_pct,
            cpu_core_pct_min,
            hold_s,
            hierarchy,
            root,
            origin,
            leaf,
        })
    }

    fn origin_folder(&self) -> PathBuf {
        let mut folder = cgroup::below(&self.root, &self.origin);
        // A group that was removed meanwhile leaves the nearest one above it.
        while !folder.is_dir() && folder.starts_with(&self.root) && folder.pop() {}
        if folder.starts_with(&self.root) {
            folder
        } else {
            self.root.clone()
        }
    }
}

impl Treatment for ThrottlePlan {
    fn describe(&self) -> String {
        format!(
            "move pid {} ({}) into {} group {} and limit it to {} % of a core for {} s",
            self.process.pid, self.process.comm, self.hierarchy, self.leaf, self.cpu_core_pct, self.hold_s
        )
    }

    fn check(&self, host: &Host) -> Reading {
        is_running_away(host, &self.process, self.cpu_core_pct_min)
    }

    fn apply(&mut self, host: &Host, _halted: &dyn Fn() -> Option<String>) -> Result<(), ApplyError> {
        let folder = cgroup::below(&self.root, &self.leaf);
        cgroup::make(self.hierarchy, &folder, self.cpu_core_pct).map_err(ApplyError)?;
        host.procfs
            .see(&self.process)
            .map_err(|fault| ApplyError(fault.to_string()))?;
        cgroup::enter(&folder, self.process.pid).map_err(ApplyError)?;
        // Had the pid changed hands in between, another process would be in there now: undo takes it out.
        host.procfs
            .see(&self.process)
            .map(|_| ())
            .map_err(|fault| ApplyError(fault.to_string()))
    }

    fn verify(&self, host: &Host) -> Reading {
        let allowed = f64::from(self.cpu_core_pct) * TOLERANCE.0 + TOLERANCE.1;
        // Several periods of the quota have to lie in the window.
        match host
            .procfs
            .cpu_core_pct(&self.process, host.cpu_window.max(Duration::from_secs(1)))
        {
            Ok(used) => {
                let truth = if used <= allowed { Truth::Yes } else { Truth::No };
                let detail = format!(
                    "uses {used:.1} % of a core under a limit of {} %",
                    self.cpu_core_pct
                );
                let measured = json!({"cpu_core_pct": round(used), "limit_core_pct": self.cpu_core_pct, "cgroup": self.leaf});
                Reading::new(truth, detail, measured)
            }
            Err(fault @ (ProcessFault::Gone(_) | ProcessFault::Another { .. })) => Reading::new(
                Truth::Yes,
                format!("the process has ended: {fault}"),
                json!({"ended": true}),
            ),
            Err(fault) => Reading::new(Truth::Unknown, fault.to_string(), json!({})),
        }
    }

    fn undo(&self, _host: &Host) -> Undone {
        let folder = cgroup::below(&self.root, &self.leaf);
        if !folder.is_dir() {
            return Undone::Nothing(format!("there is no group {}", self.leaf));
        }
        let target = self.origin_folder();
        match cgroup::dissolve(&folder, &target) {
            Ok(0) => Undone::Nothing(format!("group {} was empty and is removed", self.leaf)),
            Ok(moved) => Undone::Done(format!(
                "{moved} moved back to {}, group removed",
                target.display()
            )),
            Err(reason) => Undone::Impossible(reason),
        }
    }

    fn settle(&self, host: &Host) -> (Ending, String) {
        match self.undo(host) {
            Undone::Done(reason) => (Ending::Reverted, reason),
            Undone::Nothing(reason) => (Ending::NoOp, reason),
            Undone::Impossible(reason) => (Ending::Unknown, reason),
        }
    }

    fn hold_s(&self) -> Option<u64> {
        Some(self.hold_s)
    }

    fn is_in_force(&self) -> bool {
        // What cannot be told counts as there: undoing finds out.
        cgroup::below(&self.root, &self.leaf).try_exists().unwrap_or(true)
    }

    fn is_moot(&self, _host: &Host) -> bool {
        let members = cgroup::below(&self.root, &self.leaf).join("cgroup.procs");
        std::fs::read_to_string(members).map_or(true, |text| text.trim().is_empty())
    }
}

/// Whether the process uses at least this much CPU time, measured now.
pub(super) fn is_running_away(host: &Host, process: &ProcessRef, cpu_core_pct_min: u32) -> Reading {
    match host.procfs.cpu_core_pct(process, host.cpu_window) {
        Ok(used) => {
            let truth = if used >= f64::from(cpu_core_pct_min) {
                Truth::Yes
            } else {
                Truth::No
            };
            let detail =
                format!("uses {used:.1} % of a core; from {cpu_core_pct_min} % it counts as running away");
            Reading::new(truth, detail, json!({"cpu_core_pct": round(used)}))
        }
        Err(fault @ (ProcessFault::Gone(_) | ProcessFault::Another { .. })) => {
            Reading::new(Truth::No, fault.to_string(), json!({"ended": true}))
        }
        Err(fault) => Reading::new(Truth::Unknown, fault.to_string(), json!({})),
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
