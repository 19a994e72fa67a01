//! Signs of hidden code that /proc alone shows: programs without a file, executable memory without a file, packed
//! programs.
//!
//! A second look, slow and cheap, beside the kernel's events: it finds what began before the probes were loaded, and
//! works where nothing can be loaded at all. [`PROCESSES_PER_LOOK`] processes are looked at each second, round after
//! round; each sign of a process is told once. Rows: `memory_events` with source `proc`.
//!
//! | sign | kind | detail |
//! |---|---|---|
//! | program in memory, or its file deleted and nothing in its place | `fileless_exec` | what /proc/PID/exe says |
//! | executable mappings without a file | `executable_mapping` | how many, how many of them writable |
//! | packed program | `executable_mapping` | `packed: ` and why it is thought so |
//!
//! Task: `process-signs`, a thread. Bounded: [`TOLD_MAX`] told signs and [`PROGRAMS_MAX`] judged programs are
//! remembered; a map of memory is read up to [`MAPS_BYTES_MAX`].
//!
//! Limits: what a just-in-time compiler makes looks like injected code, so such a row is a sign and no verdict; a
//! process that comes and goes between two looks is not seen.

mod elf;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use fleetmend_event::table::{Actor, MemoryEvent, MemoryEventKind, Source};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::mpsc::Sender;

use super::{Inventory, ProcessKey};
use crate::bpf::{BootClock, Outlet};
use crate::masking::mask_args;
use crate::pace::{Pace, PaceHandle};

/// Processes that are looked at each second.
const PROCESSES_PER_LOOK: usize = 3;
/// Time between two looks, in naps so that the end comes soon.
const NAPS: u32 = 4;
const NAP: Duration = Duration::from_millis(250);
/// Most bytes of a process' map of memory.
const MAPS_BYTES_MAX: u64 = 512 * 1024;
/// Signs that are remembered as told.
const TOLD_MAX: usize = 8_192;
/// Program files whose judgement is remembered.
const PROGRAMS_MAX: usize = 512;
/// Longest command line of a row.
const ARGS_BYTES_MAX: usize = 4_096;

/// A sign, as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    Fileless,
    Mapping,
    Packed,
}

/// Starts the thread.
///
/// # Errors
/// When the system refuses a thread.
pub fn spawn(tasks: &Tasks, sender: Sender<Fact>, inventory: Inventory, pace: PaceHandle) -> io::Result<()> {
    let mut outlet = Outlet::new(sender, "process-signs");
    let mut scanner = Scanner::new(inventory);
    tasks.spawn_thread("process-signs", TaskKind::BestEffort, move |token| {
        while !token.is_cancelled() {
            // Over the agent's budget the slowest source rests.
            if pace.get() < Pace::Executions {
                for row in scanner.look(PROCESSES_PER_LOOK) {
                    outlet.send(row.into());
                }
                outlet.flush_gaps();
            }
            for _ in 0..NAPS {
                if token.is_cancelled() {
                    break;
                }
                std::thread::sleep(NAP);
            }
        }
        Ok(())
    })
}

/// See the module.
pub(crate) struct Scanner {
    inventory: Inventory,
    /// Processes of this round that are still to be looked at.
    waiting: Vec<u32>,
    told: BTreeSet<(ProcessKey, Sign)>,
    /// Why a program file, by device, inode and change, is thought packed.
    programs: HashMap<(u64, u64, i64), Option<String>>,
}

impl Scanner {
    pub(crate) fn new(inventory: Inventory) -> Self {
        Self {
            inventory,
            waiting: Vec::new(),
            told: BTreeSet::new(),
            programs: HashMap::new(),
        }
    }

    /// Looks at the next few processes.
    pub(crate) fn look(&mut self, count: usize) -> Vec<MemoryEvent> {
        if self.waiting.is_empty() {
            self.begin_round();
        }
        let mut rows = Vec::new();
        for _ in 0..count {
            let Some(pid) = self.waiting.pop() else { break };
            if pid != std::process::id() {
                self.look_at(pid, &mut rows);
            }
        }
        rows
    }

    fn begin_round(&mut self) {
        self.waiting = self.inventory.proc().pids().unwrap_or_default();
        let alive: BTreeSet<u32> = self.waiting.iter().copied().collect();
        self.told.retain(|(key, _)| alive.contains(&key.pid));
        if self.told.len() > TOLD_MAX {
            // So many at once are no single process' doing; all are told anew rather than none remembered.
            self.told.clear();
        }
    }

    /// Signs of one process.
    pub(crate) fn look_at(&mut self, pid: u32, rows: &mut Vec<MemoryEvent>) {
        let proc = self.inventory.proc().clone();
        let Some(stat) = proc.stat(pid).filter(|stat| !stat.is_kernel_thread) else {
            return;
        };
        let key = ProcessKey::new(pid, stat.start_boot_ns);
        let mut found = Vec::new();
        if let Some(detail) = self.fileless(pid) {
            found.push((Sign::Fileless, Finding::of(detail)));
        }
        if let Some(finding) = self.mappings(pid) {
            found.push((Sign::Mapping, finding));
        }
        if let Some(reason) = self.packed(pid) {
            found.push((Sign::Packed, Finding::of(format!("packed: {reason}"))));
        }
        for (sign, finding) in found {
            if self.told.insert((key, sign)) {
                rows.push(self.row(key, &stat.comm, stat.ppid, sign, finding));
            }
        }
    }

    /// What /proc/PID/exe says of a program that has no file. One that an upgrade replaced has a file in its place.
    fn fileless(&self, pid: u32) -> Option<String> {
        let proc = self.inventory.proc();
        let exe = proc.executable(pid)?;
        if exe.path.starts_with("/memfd:") {
            return Some(exe.path);
        }
        let in_place = proc.path(pid, "root").join(exe.path.trim_start_matches('/'));
        (exe.deleted && fs::symlink_metadata(in_place).is_err()).then(|| format!("{} (deleted)", exe.path))
    }

    fn mappings(&self, pid: u32) -> Option<Finding> {
        let file = File::open(self.inventory.proc().path(pid, "maps")).ok()?;
        let lines = BufReader::new(file.take(MAPS_BYTES_MAX))
            .lines()
            .map_while(Result::ok);
        executable_without_file(lines)
    }

    fn packed(&mut self, pid: u32) -> Option<String> {
        let path = self.inventory.proc().path(pid, "exe");
        let about = fs::metadata(&path).ok()?;
        let key = (about.dev(), about.ino(), about.mtime());
        if let Some(judged) = self.programs.get(&key) {
            return judged.clone();
        }
        let judged = File::open(&path)
            .ok()
            .and_then(|file| elf::packed(file, about.len()));
        if self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        self.programs.insert(key, judged.clone());
        judged
    }

    fn row(&self, key: ProcessKey, comm: &str, ppid: u32, sign: Sign, finding: Finding) -> MemoryEvent {
        let kind = match sign {
            Sign::Fileless => MemoryEventKind::FilelessExec,
            Sign::Mapping | Sign::Packed => MemoryEventKind::ExecutableMapping,
        };
        let clock = BootClock::now();
        let actor = self.actor(key, comm, ppid);
        MemoryEvent {
            detail: Some(finding.detail),
            address: finding.address,
            length: finding.length,
            protection: finding.protection,
            ..MemoryEvent::by(actor, kind, TimeMicros::now(), clock.boot_ns(), Source::Proc)
        }
    }

    fn actor(&self, key: ProcessKey, comm: &str, ppid: u32) -> Actor {
        let proc = self.inventory.proc();
        let parent = self.inventory.running(ppid);
        let placement = proc.placement(key.pid);
        let (mut args, _) = proc.args(key.pid, ARGS_BYTES_MAX).unwrap_or_default();
        mask_args(&mut args);
        Actor {
            pid: key.pid,
            start_boot_ns: key.start_boot_ns,
            ppid: Some(ppid),
            comm: comm.to_owned(),
            exe: proc.executable(key.pid).map(|exe| exe.path),
            command_line: Some(args.join(" ")).filter(|line| !line.is_empty()),
            parent_comm: parent.as_ref().map(|parent| parent.program.comm.clone()),
            parent_exe: parent.as_ref().and_then(|parent| parent.program.exe.clone()),
            uid: proc.owner(key.pid).map_or(u32::MAX, |(uid, _)| uid),
            euid: None,
            login_uid: None,
            cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
            unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
            container_id: placement.and_then(|placement| placement.container_id),
        }
    }
}

/// What a row says of a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    detail: String,
    address: Option<u64>,
    length: Option<u64>,
    protection: Option<u32>,
}

impl Finding {
    const fn of(detail: String) -> Self {
        Self {
            detail,
            address: None,
            length: None,
            protection: None,
        }
    }
}

/// Executable mappings that no file backs: anonymous ones, and those of memfds and deleted files.
fn executable_without_file(lines: impl Iterator<Item = String>) -> Option<Finding> {
    let mut first = None;
    let (mut count, mut writable, mut length) = (0_u32, 0_u32, 0_u64);
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        let (inode, name) = (words.nth(2), words.next().unwrap_or_default());
        let is_kernels = name.starts_with("[v") || name == "[uprobes]";
        let has_file = inode.is_some_and(|inode| inode != "0") && !name.starts_with("/memfd:");
        if !rights.contains('x') || is_kernels || has_file {
            continue;
        }
        let bounds = range.split_once('-').and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        let Some((from, to)) = bounds else { continue };
        let writes = rights.contains('w');
        count += 1;
        writable += u32::from(writes);
        length = length.saturating_add(to.saturating_sub(from));
        let read = u32::from(rights.contains('r')) * libc::PROT_READ.unsigned_abs();
        let write = u32::from(writes) * libc::PROT_WRITE.unsigned_abs();
        first.get_or_insert((from, read | write | libc::PROT_EXEC.unsigned_abs()));
    }
    let (address, protection) = first?;
    Some(Finding {
        detail: format!("{count} executable mappings without a file, {writable} of them writable"),
        address: Some(address),
        length: Some(length),
        protection: Some(protection),
    })
}

#[cfg(test)]
mod tests;
