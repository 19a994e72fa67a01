//! Events of the log become rows.

use fleetmend_event::table::{Actor, ProcessEvent, ProcessEventKind, Source};
use fleetmend_event::{Fact, TimeMicros};

use std::sync::Arc;

use super::acts::{credential, kernel_kind};
use super::arguments::arguments;
use super::join::AuditEvent;
use super::record::AuditRecord;
use super::{connections, files};
use crate::bpf::BootClock;
use crate::masking::mask_args;
use crate::process::{Exec, Inventory, Process, ProcessKey, Program};
use crate::source::Kind;

/// "No user": the value of an unset login session.
const UNSET: u32 = u32::MAX;
/// `CLONE_THREAD` of clone(2).
const CLONE_THREAD: u64 = 0x0001_0000;

/// The kind of event that a call's record is evidence of.
pub(super) fn kind_of_call(name: &str) -> Option<Kind> {
    Some(match name {
        "execve" | "execveat" => Kind::Processes,
        "connect" | "accept" | "accept4" => Kind::Network,
        "kill" | "tkill" | "tgkill" => Kind::Signals,
        "ptrace" | "process_vm_readv" | "process_vm_writev" | "memfd_create" => Kind::Memory,
        _ if credential(name).is_some() => Kind::Credentials,
        _ if kernel_kind(name, 0).is_some() => Kind::Kernel,
        _ if files::is_file_call(name) => Kind::Files,
        _ => return None,
    })
}

/// A system call that the log tells of.
pub(super) struct Call<'a> {
    pub(super) event: &'a AuditEvent,
    pub(super) record: &'a AuditRecord,
    pub(super) name: &'a str,
    /// What it returned.
    pub(super) exit: i64,
    /// Its error number, when it failed.
    pub(super) error: Option<i32>,
    pub(super) time: TimeMicros,
    pub(super) boot_ns: u64,
}

impl Call<'_> {
    pub(super) fn argument(&self, index: usize) -> Option<u64> {
        self.record.call_argument(index)
    }

    /// An argument that is an int: the upper half may hold anything.
    pub(super) fn int(&self, index: usize) -> Option<u32> {
        u32::try_from(self.argument(index)? & u64::from(u32::MAX)).ok()
    }

    pub(super) fn pid_argument(&self, index: usize) -> Option<u32> {
        self.int(index)
            .filter(|pid| (1..=i32::MAX.unsigned_abs()).contains(pid))
    }
}

/// Makes rows; knows of each process what the inventory knows.
pub struct Translator {
    inventory: Inventory,
    clock: BootClock,
}

impl Translator {
    /// A translator that looks processes up in `inventory`, and enters executions and ends there.
    pub fn new(inventory: Inventory) -> Self {
        Self {
            inventory,
            clock: BootClock::now(),
        }
    }

    /// Takes the clocks anew; call it about once a second.
    pub(crate) fn renew_clock(&mut self) {
        self.clock = BootClock::now();
    }

    /// The rows of an event; none for one that is no table's.
    pub fn rows(&self, event: &AuditEvent) -> Vec<Fact> {
        if let Some(record) = event.record("ANOM_ABEND") {
            return self.fault(record).into_iter().map(Fact::from).collect();
        }
        let Some(record) = event.record("SYSCALL") else {
            return Vec::new();
        };
        let Some(name) = record.field("SYSCALL") else {
            return Vec::new();
        };
        let exit: i64 = record.number("exit").unwrap_or(0);
        let failed = record.field("success") == Some("no");
        let call = Call {
            event,
            record,
            name,
            exit,
            error: i32::try_from(exit.saturating_neg())
                .ok()
                .filter(|error| failed && *error > 0),
            time: record.time,
            boot_ns: self.boot_ns(record.time),
        };
        let mut rows = Vec::new();
        match name {
            "execve" | "execveat" if !failed => {
                rows.push(self.exec(&call).into());
                rows.extend(self.capabilities_of_exec(&call).map(Fact::from));
            }
            "fork" | "vfork" | "clone" | "clone3" if !failed => rows.extend(self.fork(&call).map(Fact::from)),
            "exit_group" => rows.push(self.exit(&call).into()),
            "connect" | "accept" | "accept4" => {
                rows.extend(connections::row(&call, &self.actor(&call)).map(Fact::from));
            }
            "kill" | "tkill" | "tgkill" => rows.extend(self.signal(&call).map(Fact::from)),
            _ if files::is_file_call(name) => {
                rows.extend(files::row(&call, self.actor(&call)).map(Fact::from))
            }
            _ => {
                rows.extend(self.credential(&call).map(Fact::from));
                rows.extend(self.memory(&call).map(Fact::from));
                rows.extend(self.kernel(&call).map(Fact::from));
            }
        }
        rows
    }

    pub(super) fn boot_ns(&self, time: TimeMicros) -> u64 {
        let now = self.clock.time_of(self.clock.boot_ns());
        let ago = u64::try_from(now.micros_since(time))
            .unwrap_or(0)
            .saturating_mul(1_000);
        self.clock.boot_ns().saturating_sub(ago)
    }

    /// The process that ran as `pid` then: one that began later is another.
    pub(super) fn process(&self, pid: u32, boot_ns: u64) -> Option<Process> {
        let process = self.inventory.running(pid)?;
        (process.key.start_boot_ns <= boot_ns.saturating_add(crate::process::proc_fs::TICK_NS))
            .then_some(process)
    }

    fn start_boot_ns(&self, pid: u32, boot_ns: u64) -> u64 {
        if let Some(process) = self.process(pid, boot_ns) {
            return process.key.start_boot_ns;
        }
        let stat = self.inventory.proc().stat(pid);
        let began = stat.map(|stat| stat.start_boot_ns);
        began
            .filter(|began| *began <= boot_ns.saturating_add(crate::process::proc_fs::TICK_NS))
            .unwrap_or(0)
    }

    pub(super) fn actor(&self, call: &Call<'_>) -> Actor {
        self.actor_of(call.record, call.boot_ns)
    }

    pub(super) fn actor_of(&self, record: &AuditRecord, boot_ns: u64) -> Actor {
        let pid = record.number("pid").unwrap_or(0);
        let process = self.process(pid, boot_ns);
        let exe = record.field("exe").map(str::to_owned);
        let ppid: Option<u32> = record.number("ppid").filter(|ppid| *ppid != 0);
        let parent = ppid.and_then(|ppid| self.inventory.running(ppid));
        let placement = process.as_ref().and_then(|process| process.placement.clone());
        let same = process.as_ref().filter(|process| process.program.exe == exe);
        Actor {
            pid,
            start_boot_ns: self.start_boot_ns(pid, boot_ns),
            ppid,
            comm: record.field("comm").unwrap_or_default().to_owned(),
            command_line: same.map(|process| process.program.command_line()),
            exe,
            parent_comm: parent.as_ref().map(|parent| parent.program.comm.clone()),
            parent_exe: parent.and_then(|parent| parent.program.exe.clone()),
            uid: record.number("uid").unwrap_or(UNSET),
            euid: record.number("euid"),
            login_uid: record.number("auid").filter(|auid| *auid != UNSET),
            cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
            unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
            container_id: placement
                .as_ref()
                .and_then(|placement| placement.container_id.clone()),
        }
    }

    fn process_row(&self, call: &Call<'_>, kind: ProcessEventKind) -> ProcessEvent {
        let actor = self.actor(call);
        ProcessEvent {
            time: call.time,
            boot_ns: call.boot_ns,
            kind,
            pid: actor.pid,
            start_boot_ns: actor.start_boot_ns,
            ppid: actor.ppid.unwrap_or(0),
            parent_comm: actor.parent_comm,
            parent_exe: actor.parent_exe,
            parent_command_line: None,
            comm: actor.comm,
            exe: actor.exe,
            args: Vec::new(),
            args_truncated: false,
            uid: actor.uid,
            gid: call.record.number("gid").unwrap_or(UNSET),
            cgroup: actor.cgroup,
            unit: actor.unit,
            container_id: actor.container_id,
            exit_code: None,
            exit_signal: None,
            duration_us: None,
            user_us: None,
            system_us: None,
            rss_bytes_max: None,
            source: Source::Audit,
            euid: actor.euid,
            login_uid: actor.login_uid,
            working_directory: None,
            fileless: None,
        }
    }

    fn exec(&self, call: &Call<'_>) -> ProcessEvent {
        let (mut args, truncated) = arguments(call.event, self.inventory.config().args_bytes_max);
        mask_args(&mut args);
        let mut row = self.process_row(call, ProcessEventKind::Exec);
        let parent = self.inventory.running(row.ppid);
        row.parent_command_line = parent.as_ref().map(|parent| parent.program.command_line());
        row.args = args;
        row.args_truncated = truncated;
        row.working_directory = call
            .event
            .record("CWD")
            .and_then(|cwd| cwd.field("cwd"))
            .map(str::to_owned);
        row.fileless = row
            .exe
            .as_deref()
            .map(|exe| exe.starts_with("/memfd:") || exe.ends_with(" (deleted)"));
        if row.start_boot_ns > 0 {
            let program = Program {
                comm: row.comm.clone(),
                exe: row.exe.clone(),
                exe_deleted: row.fileless == Some(true),
                args: row.args.clone(),
                args_truncated: truncated,
            };
            let parent = parent.map_or_else(|| ProcessKey::new(row.ppid, 0), |parent| parent.key);
            let exec = Exec {
                key: ProcessKey::new(row.pid, row.start_boot_ns),
                parent,
                program: Arc::new(program),
                placement: self.inventory.proc().placement(row.pid).map(Arc::new),
                uid: row.uid,
                gid: row.gid,
            };
            let process = self.inventory.with_table(|table| table.executed(exec));
            if let Some(placement) = process.placement.as_deref() {
                row.cgroup = Some(placement.cgroup.clone());
                row.unit.clone_from(&placement.unit);
                row.container_id.clone_from(&placement.container_id);
            }
        }
        row
    }

    /// A thread is no process; of clone3(2) the flags are not in the log, its pid tells.
    fn fork(&self, call: &Call<'_>) -> Option<ProcessEvent> {
        if call.name == "clone" && call.argument(0)? & CLONE_THREAD != 0 {
            return None;
        }
        let pid = u32::try_from(call.exit).ok().filter(|pid| *pid > 0)?;
        if call.name == "clone3" && self.inventory.proc().stat(pid).is_none_or(|stat| stat.pid != pid) {
            return None;
        }
        let mut row = self.process_row(call, ProcessEventKind::Fork);
        row.ppid = row.pid;
        row.parent_comm = Some(row.comm.clone());
        row.parent_exe.clone_from(&row.exe);
        row.pid = pid;
        row.start_boot_ns = self.start_boot_ns(pid, call.boot_ns);
        Some(row)
    }

    fn exit(&self, call: &Call<'_>) -> ProcessEvent {
        let mut row = self.process_row(call, ProcessEventKind::Exit);
        row.exit_code = call.int(0).and_then(|code| i32::try_from(code & 0xff).ok());
        if row.start_boot_ns > 0 {
            row.duration_us = Some(call.boot_ns.saturating_sub(row.start_boot_ns) / 1_000);
            let key = ProcessKey::new(row.pid, row.start_boot_ns);
            self.inventory.with_table(|table| table.exited(key));
        }
        row
    }
}
