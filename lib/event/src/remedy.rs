//! Remedies as values: what may be asked of the healer. The healer's catalogue knows how each is done.

use serde::{Deserialize, Serialize};

use crate::words;

words! {
    /// The five endings of a healing transaction; there is no other.
    pub enum Ending {
        /// It was applied, measured again, and the cause is gone.
        Healed = "healed",
        /// There was nothing to do.
        NoOp = "no-op",
        /// It did not help and was undone.
        Reverted = "reverted",
        /// It could not be done, or did not help and cannot be undone; nothing more is tried.
        FailedSafe = "failed-safe",
        /// What was done cannot be told; a person must look.
        Unknown = "unknown",
    }
}

/// Identity of a process: a pid alone may have been given to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRef {
    /// Process id.
    pub pid: u32,
    /// When it began: nanoseconds on the boot clock, as /proc/PID/stat gives it (in clock ticks × 10⁹ / HZ).
    pub start_boot_ns: u64,
    /// Command name, for people.
    pub comm: String,
}

/// A remedy with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "remedy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Remedy {
    /// Limit the CPU time of a process through a control group of its own; undone by moving it back.
    ThrottleProcess {
        /// The process.
        process: ProcessRef,
        /// Allowed CPU time, in percent of one core.
        cpu_core_pct: u32,
    },
    /// End a process by pidfd: SIGTERM, then SIGKILL. Irreversible.
    KillProcess {
        /// The process.
        process: ProcessRef,
    },
    /// Delete files that a configured rule of the healer's policy allows, oldest first, until enough is free.
    /// Irreversible.
    FreeDisk {
        /// Folder of the policy's place, on the filesystem that is full.
        path: String,
        /// Used space to get below, in percent.
        used_pct_target: u32,
    },
    /// Restart a systemd unit. Compensable: the restart cannot be taken back, the unit is put back to active.
    RestartUnit {
        /// Name, such as `nginx.service`.
        unit: String,
    },
}

impl Remedy {
    /// Its name in policies, tables and commands.
    pub const fn name(&self) -> &'static str {
        match self {
            Remedy::ThrottleProcess { .. } => "throttle-process",
            Remedy::KillProcess { .. } => "kill-process",
            Remedy::FreeDisk { .. } => "free-disk",
            Remedy::RestartUnit { .. } => "restart-unit",
        }
    }

    /// What it acts on, for a person.
    pub fn target(&self) -> String {
        match self {
            Remedy::ThrottleProcess { process, .. } | Remedy::KillProcess { process } => {
                format!("pid {} ({})", process.pid, process.comm)
            }
            Remedy::FreeDisk { path, .. } => path.clone(),
            Remedy::RestartUnit { unit } => unit.clone(),
        }
    }
}
