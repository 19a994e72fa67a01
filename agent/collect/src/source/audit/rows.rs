//! Events of the log become rows.

use fleetmend_event::table::{
    Actor, CredentialEvent, CredentialEventKind, KernelEvent, KernelEventKind, MemoryEvent, MemoryEventKind,
    ProcessEvent, ProcessEventKind, SignalEvent, SignalEventKind, Source,
};
use fleetmend_event::{Fact, TimeMicros};

use std::sync::Arc;

use super::join::AuditEvent;
use super::record::AuditRecord;
use super::{connections, files, value};
use crate::bpf::BootClock;
use crate::masking::mask_args;
use crate::process::{Exec, Inventory, Process, ProcessKey, Program};
use crate::source::Kind;

/// "No user": the value of an unset login session.
const UNSET: u32 = u32::MAX;
/// `CLONE_THREAD` of clone(2).
const CLONE_THREAD: u64 = 0x0001_0000;
/// `PROT_EXEC` and `MAP_ANONYMOUS` of mmap(2).
const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
/// Requests of ptrace(2) that attach to another process or write into it.
const PTRACE_REQUESTS: &[(u64, &str)] = &[
    (4, "PTRACE_POKETEXT"),
    (5, "PTRACE_POKEDATA"),
    (6, "PTRACE_POKEUSR"),
    (13, "PTRACE_SETREGS"),
    (15, "PTRACE_SETFPREGS"),
    (16, "PTRACE_ATTACH"),
    (0x4205, "PTRACE_SETREGSET"),
    (0x4206, "PTRACE_SEIZE"),
];
/// `BPF_PROG_LOAD` and the commands of bpf(2) that attach or pin (`enum bpf_cmd`).
const BPF_PROG_LOAD: u64 = 5;
const BPF_CHANGING: &[(u64, &str)] = &[
    (6, "BPF_OBJ_PIN"),
    (8, "BPF_PROG_ATTACH"),
    (9, "BPF_PROG_DETACH"),
    (17, "BPF_RAW_TRACEPOINT_OPEN"),
    (28, "BPF_LINK_CREATE"),
    (29, "BPF_LINK_UPDATE"),
    (34, "BPF_LINK_DETACH"),
];

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

    fn pid_argument(&self, index: usize) -> Option<u32> {
        self.int(index).filter(|pid| (1..=i32::MAX.unsigned_abs()).contains(pid))
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
            error: i32::try_from(exit.saturating_neg()).ok().filter(|error| failed && *error > 0),
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
            _ if files::is_file_call(name) => rows.extend(files::row(&call, self.actor(&call)).map(Fact::from)),
            _ => {
                rows.extend(self.credential(&call).map(Fact::from));
                rows.extend(self.memory(&call).map(Fact::from));
                rows.extend(self.kernel(&call).map(Fact::from));
            }
        }
        rows
    }

    fn boot_ns(&self, time: TimeMicros) -> u64 {
        let now = self.clock.time_of(self.clock.boot_ns());
        let ago = u64::try_from(now.micros_since(time)).unwrap_or(0).saturating_mul(1_000);
        self.clock.boot_ns().saturating_sub(ago)
    }

    /// The process that ran as `pid` then: one that began later is another.
    fn process(&self, pid: u32, boot_ns: u64) -> Option<Process> {
        let process = self.inventory.running(pid)?;
        (process.key.start_boot_ns <= boot_ns.saturating_add(crate::process::proc_fs::TICK_NS)).then_some(process)
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

    fn actor_of(&self, record: &AuditRecord, boot_ns: u64) -> Actor {
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
            container_id: placement.as_ref().and_then(|placement| placement.container_id.clone()),
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
        row.working_directory = call.event.record("CWD").and_then(|cwd| cwd.field("cwd")).map(str::to_owned);
        row.fileless = row.exe.as_deref().map(|exe| exe.starts_with("/memfd:") || exe.ends_with(" (deleted)"));
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

    fn fault(&self, record: &AuditRecord) -> Option<SignalEvent> {
        let boot_ns = self.boot_ns(record.time);
        let actor = self.actor_of(record, boot_ns);
        let (pid, start, comm, exe) = (actor.pid, actor.start_boot_ns, actor.comm.clone(), actor.exe.clone());
        let mut row = SignalEvent::by(actor, SignalEventKind::Fault, record.time, boot_ns, Source::Audit);
        row.signal = record.number("sig")?;
        row.target_pid = pid;
        row.target_start_boot_ns = Some(start).filter(|start| *start > 0);
        row.target_comm = Some(comm);
        row.target_exe = exe;
        Some(row)
    }

    fn signal(&self, call: &Call<'_>) -> Option<SignalEvent> {
        let index = if call.name == "tgkill" { 2 } else { 1 };
        let signal = i32::try_from(call.int(index)?).ok().filter(|signal| *signal > 0)?;
        let object = call.event.record("OBJ_PID");
        let target = object.and_then(|object| object.number("opid")).or_else(|| call.pid_argument(0))?;
        let known = self.process(target, call.boot_ns);
        let mut row = SignalEvent::by(self.actor(call), SignalEventKind::Signal, call.time, call.boot_ns, Source::Audit);
        row.signal = signal;
        row.error = call.error;
        row.target_pid = target;
        row.target_comm = object
            .and_then(|object| object.field("ocomm"))
            .map(str::to_owned)
            .or_else(|| known.as_ref().map(|known| known.program.comm.clone()));
        row.target_start_boot_ns = known.as_ref().map(|known| known.key.start_boot_ns);
        row.target_unit = known.as_ref().and_then(|known| known.placement.as_ref()?.unit.clone());
        row.target_exe = known.and_then(|known| known.program.exe.clone());
        Some(row)
    }

    fn credential(&self, call: &Call<'_>) -> Option<CredentialEvent> {
        let kind = credential(call.name)?;
        // A refusal changed nothing.
        if call.error.is_some() {
            return None;
        }
        let mut row = CredentialEvent::by(self.actor(call), kind, call.time, call.boot_ns, Source::Audit);
        row.call = Some(call.name.to_owned());
        row.gid = call.record.number("gid");
        row.egid = call.record.number("egid");
        row.capabilities = call.event.record("CAPSET").and_then(|record| capability(record, "cap_pe"));
        Some(row)
    }

    fn capabilities_of_exec(&self, call: &Call<'_>) -> Option<CredentialEvent> {
        let record = call.event.record("BPRM_FCAPS")?;
        let mut row = CredentialEvent::by(
            self.actor(call),
            CredentialEventKind::Capabilities,
            call.time,
            call.boot_ns,
            Source::Audit,
        );
        row.call = Some(call.name.to_owned());
        row.gid = call.record.number("gid");
        row.egid = call.record.number("egid");
        row.old_capabilities = capability(record, "old_pe");
        row.capabilities = capability(record, "pe").or_else(|| capability(record, "new_pe"));
        Some(row)
    }

    fn memory(&self, call: &Call<'_>) -> Option<MemoryEvent> {
        let mut detail = None;
        let mut target = None;
        let kind = match call.name {
            "ptrace" => {
                let request = call.argument(0)?;
                let (_, name) = PTRACE_REQUESTS.iter().find(|(number, _)| *number == request)?;
                detail = Some((*name).to_owned());
                target = call.pid_argument(1);
                MemoryEventKind::Ptrace
            }
            "process_vm_readv" | "process_vm_writev" => {
                target = call.pid_argument(0);
                if call.name.ends_with("readv") {
                    MemoryEventKind::ProcessVmRead
                } else {
                    MemoryEventKind::ProcessVmWrite
                }
            }
            "memfd_create" => MemoryEventKind::Memfd,
            "mmap" if call.argument(2)? & PROT_EXEC != 0 && call.argument(3)? & MAP_ANONYMOUS != 0 => {
                MemoryEventKind::ExecutableMapping
            }
            _ => return None,
        };
        let object = call.event.record("OBJ_PID");
        let known = target.and_then(|target| self.process(target, call.boot_ns));
        let mut row = MemoryEvent::by(self.actor(call), kind, call.time, call.boot_ns, Source::Audit);
        row.error = call.error;
        row.detail = detail;
        row.target_pid = target;
        row.target_comm = object
            .and_then(|object| object.field("ocomm"))
            .map(str::to_owned)
            .or_else(|| known.as_ref().map(|known| known.program.comm.clone()));
        row.target_start_boot_ns = known.as_ref().map(|known| known.key.start_boot_ns);
        row.target_uid = object
            .and_then(|object| object.number("ouid"))
            .or_else(|| known.as_ref().map(|known| known.uid));
        row.target_exe = known.and_then(|known| known.program.exe.clone());
        if kind == MemoryEventKind::ExecutableMapping {
            row.length = call.argument(1);
            row.protection = call.int(2);
        }
        Some(row)
    }

    fn kernel(&self, call: &Call<'_>) -> Option<KernelEvent> {
        let command = call.argument(0).unwrap_or(0);
        let kind = kernel_kind(call.name, command)?;
        let mut row = KernelEvent::by(self.actor(call), kind, call.time, call.boot_ns, Source::Audit);
        row.error = call.error;
        let path = files::first_path(call);
        match kind {
            KernelEventKind::ModuleLoad | KernelEventKind::ModuleUnload => {
                let module = call.event.record("KERN_MODULE");
                row.name = module.and_then(|module| module.field("name")).map(str::to_owned);
                row.path = path;
            }
            KernelEventKind::Mount => {
                row.path = path;
                row.flags = call.argument(3);
            }
            KernelEventKind::Umount | KernelEventKind::ChangeRoot => row.path = path,
            KernelEventKind::Setns => row.flags = call.argument(1),
            KernelEventKind::Unshare => row.flags = call.argument(0),
            KernelEventKind::Bpf => {
                let name = BPF_CHANGING.iter().find(|(number, _)| *number == command);
                row.detail = name.map(|(_, name)| (*name).to_owned());
            }
            _ => {}
        }
        Some(row)
    }
}

fn credential(name: &str) -> Option<CredentialEventKind> {
    Some(match name.trim_end_matches("32") {
        "setuid" | "setreuid" | "setresuid" | "setfsuid" => CredentialEventKind::User,
        "setgid" | "setregid" | "setresgid" | "setfsgid" | "setgroups" => CredentialEventKind::Group,
        "capset" => CredentialEventKind::Capabilities,
        _ => return None,
    })
}

/// `command` is the first argument of bpf(2); any for the question whether a call is one of these at all.
fn kernel_kind(name: &str, command: u64) -> Option<KernelEventKind> {
    Some(match name {
        "init_module" | "finit_module" => KernelEventKind::ModuleLoad,
        "delete_module" => KernelEventKind::ModuleUnload,
        "bpf" if command == BPF_PROG_LOAD => KernelEventKind::BpfLoad,
        "bpf" if BPF_CHANGING.iter().any(|(number, _)| *number == command) => KernelEventKind::Bpf,
        "mount" | "move_mount" => KernelEventKind::Mount,
        "umount" | "umount2" => KernelEventKind::Umount,
        "setns" => KernelEventKind::Setns,
        "unshare" => KernelEventKind::Unshare,
        "pivot_root" | "chroot" => KernelEventKind::ChangeRoot,
        "kexec_load" | "kexec_file_load" => KernelEventKind::Kexec,
        "clock_settime" | "settimeofday" | "stime" => KernelEventKind::ClockSet,
        "io_uring_setup" => KernelEventKind::Uring,
        _ => return None,
    })
}

fn capability(record: &AuditRecord, key: &str) -> Option<u64> {
    u64::from_str_radix(record.field(key)?, 16).ok()
}

/// The arguments out of all EXECVE records of an event, and whether some are missing. Without such a record the
/// title of the process has to do, which the kernel cuts at 128 bytes.
fn arguments(event: &AuditEvent, bytes_max: usize) -> (Vec<String>, bool) {
    let mut args: Vec<Vec<u8>> = Vec::new();
    let (mut wanted, mut left, mut truncated) = (None, bytes_max, event.truncated);
    for record in event.all("EXECVE") {
        wanted = wanted.or_else(|| record.number::<usize>("argc"));
        for ((number, part), bytes) in &record.arguments {
            let expected = if *part > 0 { args.len().checked_sub(1) } else { Some(args.len()) };
            if expected != Some(*number) {
                truncated = true;
                continue;
            }
            let kept = bytes.get(..bytes.len().min(left)).unwrap_or_default();
            truncated |= kept.len() < bytes.len();
            left -= kept.len();
            if *part > 0
                && let Some(last) = args.last_mut()
            {
                last.extend_from_slice(kept);
            } else if left > 0 || kept.len() == bytes.len() {
                args.push(kept.to_vec());
            }
        }
    }
    if let Some(wanted) = wanted {
        truncated |= args.len() < wanted;
        let args = args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        return (args, truncated);
    }
    let title = event.record("PROCTITLE").and_then(|record| record.title.as_deref());
    match title {
        Some(title) => (value::arguments(title), title.len() >= TITLE_BYTES_MAX),
        None => (Vec::new(), true),
    }
}

/// `MAX_PROCTITLE_AUDIT_LEN` of kernel/audit.h.
const TITLE_BYTES_MAX: usize = 127;
