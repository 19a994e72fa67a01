//! The processes of this host: who runs, since when, from what, and whose child it is.
//!
//! A process is (pid, moment it began): that moment is rounded down to the kernel's 10 ms tick, which is all that
//! /proc shows, so that events of the kernel and readings of /proc name a process alike.
//!
//! [`Inventory`] is filled three ways: by a scan of /proc at the start, by exec, fork and exit events as they are
//! drained (`bpf`), and by the observer, which reads /proc every few seconds for what no event carries (CPU,
//! memory, storage bytes, descriptors) and mends what events have missed. Without BPF the observer is the only
//! source: it then reads every second and makes the events itself, and short-lived processes are missed.
//!
//! Invariants:
//! - arguments are masked before they enter the inventory;
//! - a process that ended stays known for a while (a bounded number of them), so that its children can still
//!   name their parent;
//! - both the running and the ended are bounded; what does not fit is counted in
//!   `fleetmend_agent_collect_processes_dropped_total`;
//! - the lock is never held while a file is read.
//!
//! Tasks: `process-observer`, a thread of its own, because it reads files. It sends [`fleetmend_event::Fact`]s to the channel
//! that wiring gives it and drops and counts what the channel does not take.
//!
//! Limits: a program that replaces itself without changing its name is seen by the observer only at the next full
//! reading; container ids are those that a control group's path names.

mod observer;
mod placement;
pub(crate) mod proc_fs;
pub mod signs;
mod table;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub(crate) use observer::{EventSource, Observer};
pub use placement::Placement;
use proc_fs::ProcFs;
pub(crate) use table::Exec;
use table::Table;

/// How the inventory is kept. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Where /proc is mounted.
    pub proc_path: PathBuf,
    /// Time between two readings of all processes.
    pub observe_interval_s: u64,
    /// Time between two snapshots of all processes; in between only new and changed ones are sent.
    pub full_snapshot_interval_s: u64,
    /// Longest command line, in bytes, that is kept of one process.
    pub args_bytes_max: usize,
    /// Processes that are kept while they run.
    pub running_max: usize,
    /// Processes that are remembered after they ended.
    pub ended_max: usize,
    /// Rows of one snapshot.
    pub snapshot_rows_max: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            proc_path: PathBuf::from("/proc"),
            observe_interval_s: 5,
            full_snapshot_interval_s: 60,
            // Above this only generated command lines go, class paths for example.
            args_bytes_max: 4096,
            running_max: 16_384,
            // At 500 processes a second this remembers for four seconds, longer than any child waits for its exec.
            ended_max: 2048,
            snapshot_rows_max: 4096,
        }
    }
}

impl ProcessConfig {
    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (key, is_zero) in [
            ("observe_interval_s", self.observe_interval_s == 0),
            ("full_snapshot_interval_s", self.full_snapshot_interval_s == 0),
            ("running_max", self.running_max == 0),
            ("ended_max", self.ended_max == 0),
            ("snapshot_rows_max", self.snapshot_rows_max == 0),
        ] {
            if is_zero {
                faults.push((key.to_owned(), "must be at least 1".to_owned()));
            }
        }
        if !self.proc_path.is_absolute() {
            faults.push(("proc_path".to_owned(), "must be an absolute path".to_owned()));
        }
        faults
    }
}

/// Identity of a process on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// When it began: nanoseconds on the boot clock, rounded down to 10 ms.
    pub start_boot_ns: u64,
}

impl ProcessKey {
    /// The process `pid` that began at `boot_ns`, in whatever precision.
    pub const fn new(pid: u32, boot_ns: u64) -> Self {
        Self {
            pid,
            start_boot_ns: proc_fs::floor_to_tick(boot_ns),
        }
    }
}

/// What a process runs. Shared between a process and the children it forked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// Path of the program, when known.
    pub exe: Option<String>,
    /// Whether that program has been deleted since.
    pub exe_deleted: bool,
    /// Arguments, secrets masked.
    pub args: Vec<String>,
    /// Whether there were more.
    pub args_truncated: bool,
}

impl Program {
    /// The arguments joined by spaces.
    pub fn command_line(&self) -> String {
        self.args.join(" ")
    }
}

/// A process as the inventory knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Its identity.
    pub key: ProcessKey,
    /// Process id of its parent.
    pub ppid: u32,
    /// Identity of its parent, when that is known.
    pub parent: Option<ProcessKey>,
    /// What it runs.
    pub program: Arc<Program>,
    /// Where it belongs, when known.
    pub placement: Option<Arc<Placement>>,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Whether it has ended.
    pub ended: bool,
}

/// The processes of this host; clones share one inventory.
#[derive(Clone)]
pub struct Inventory {
    table: Arc<Mutex<Table>>,
    proc: ProcFs,
    config: Arc<ProcessConfig>,
}

impl Inventory {
    /// An empty inventory.
    pub fn new(config: ProcessConfig) -> Self {
        let proc = ProcFs::new(&config.proc_path);
        let table = Arc::new(Mutex::new(Table::new(&config)));
        Self {
            table,
            proc,
            config: Arc::new(config),
        }
    }

    /// The process with this identity, running or lately ended.
    pub fn get(&self, key: ProcessKey) -> Option<Process> {
        self.table.lock().get(key)
    }

    /// The process that runs as `pid` now.
    pub fn running(&self, pid: u32) -> Option<Process> {
        self.table.lock().running(pid)
    }

    /// The processes above `key`, its parent first, at most `depth_max` of them.
    pub fn ancestors(&self, key: ProcessKey, depth_max: usize) -> Vec<Process> {
        self.table.lock().ancestors(key, depth_max)
    }

    /// Processes that run.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn proc(&self) -> &ProcFs {
        &self.proc
    }

    pub(crate) fn config(&self) -> &ProcessConfig {
        &self.config
    }

    pub(crate) fn with_table<R>(&self, body: impl FnOnce(&mut Table) -> R) -> R {
        body(&mut self.table.lock())
    }
}
