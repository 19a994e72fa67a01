//! Calls that act on credentials, memory, the kernel and other processes.

use fleetmend_event::table::{
    CredentialEvent, CredentialEventKind, KernelEvent, KernelEventKind, MemoryEvent, MemoryEventKind,
    SignalEvent, SignalEventKind, Source,
};

use super::files;
use super::record::AuditRecord;
use super::rows::{Call, Translator};

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

/// Records beside a call that changed the clock or how it runs.
const CLOCK_CHANGED: [&str; 2] = ["TIME_ADJNTPVAL", "TIME_INJOFFSET"];

impl Translator {
    pub(super) fn fault(&self, record: &AuditRecord) -> Option<SignalEvent> {
        let boot_ns = self.boot_ns(record.time);
        let actor = self.actor_of(record, boot_ns);
        let (pid, start, comm, exe) = (
            actor.pid,
            actor.start_boot_ns,
            actor.comm.clone(),
            actor.exe.clone(),
        );
        let mut row = SignalEvent::by(actor, SignalEventKind::Fault, record.time, boot_ns, Source::Audit);
        row.signal = record.number("sig")?;
        row.target_pid = pid;
        row.target_start_boot_ns = Some(start).filter(|start| *start > 0);
        row.target_comm = Some(comm);
        row.target_exe = exe;
        Some(row)
    }

    pub(super) fn signal(&self, call: &Call<'_>) -> Option<SignalEvent> {
        let index = if call.name == "tgkill" { 2 } else { 1 };
        let signal = i32::try_from(call.int(index)?)
            .ok()
            .filter(|signal| *signal > 0)?;
        let object = call.event.record("OBJ_PID");
        let target = object
            .and_then(|object| object.number("opid"))
            .or_else(|| call.pid_argument(0))?;
        let known = self.process(target, call.boot_ns);
        let mut row = SignalEvent::by(
            self.actor(call),
            SignalEventKind::Signal,
            call.time,
            call.boot_ns,
            Source::Audit,
        );
        row.signal = signal;
        row.error = call.error;
        row.target_pid = target;
        row.target_comm = object
            .and_then(|object| object.field("ocomm"))
            .map(str::to_owned)
            .or_else(|| known.as_ref().map(|known| known.program.comm.clone()));
        row.target_start_boot_ns = known.as_ref().map(|known| known.key.start_boot_ns);
        row.target_unit = known
            .as_ref()
            .and_then(|known| known.placement.as_ref()?.unit.clone());
        row.target_exe = known.and_then(|known| known.program.exe.clone());
        Some(row)
    }

    pub(super) fn credential(&self, call: &Call<'_>) -> Option<CredentialEvent> {
        let kind = credential(call.name)?;
        // A refusal changed nothing.
        if call.error.is_some() {
            return None;
        }
        let mut row = CredentialEvent::by(self.actor(call), kind, call.time, call.boot_ns, Source::Audit);
        row.call = Some(call.name.to_owned());
        row.gid = call.record.number("gid");
        row.egid = call.record.number("egid");
        row.capabilities = call
            .event
            .record("CAPSET")
            .and_then(|record| capability(record, "cap_pe"));
        Some(row)
    }

    pub(super) fn capabilities_of_exec(&self, call: &Call<'_>) -> Option<CredentialEvent> {
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

    pub(super) fn memory(&self, call: &Call<'_>) -> Option<MemoryEvent> {
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

    pub(super) fn kernel(&self, call: &Call<'_>) -> Option<KernelEvent> {
        let command = call.argument(0).unwrap_or(0);
        let kind = kernel_kind(call.name, command)?;
        // These read the clock, too, and what they were asked is behind a pointer.
        let reads = matches!(call.name.trim_end_matches("64"), "adjtimex" | "clock_adjtime");
        if reads
            && !CLOCK_CHANGED
                .iter()
                .any(|change| call.event.record(change).is_some())
        {
            return None;
        }
        let mut row = KernelEvent::by(self.actor(call), kind, call.time, call.boot_ns, Source::Audit);
        row.error = call.error;
        let path = files::first_path(call);
        match kind {
            KernelEventKind::ModuleLoad | KernelEventKind::ModuleUnload => {
                let module = call.event.record("KERN_MODULE");
                row.name = module.and_then(|module| module.field("name")).map(str::to_owned);
                row.path = path;
            }
            // Its flags are beyond the arguments that are logged.
            KernelEventKind::Mount if call.name == "move_mount" => {
                row.path = files::last_path(call);
                row.detail = Some(call.name.to_owned());
            }
            KernelEventKind::Mount => {
                row.path = path;
                row.flags = call.argument(3);
            }
            KernelEventKind::Umount => row.path = path,
            KernelEventKind::ChangeRoot => {
                row.path = path;
                row.detail = Some(call.name.to_owned());
            }
            KernelEventKind::Kexec | KernelEventKind::ClockSet | KernelEventKind::HostNameSet => {
                row.detail = Some(call.name.to_owned());
            }
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

pub(super) fn credential(name: &str) -> Option<CredentialEventKind> {
    Some(match name.trim_end_matches("32") {
        "setuid" | "setreuid" | "setresuid" | "setfsuid" => CredentialEventKind::User,
        "setgid" | "setregid" | "setresgid" | "setfsgid" | "setgroups" => CredentialEventKind::Group,
        "capset" => CredentialEventKind::Capabilities,
        _ => return None,
    })
}

/// `command` is the first argument of bpf(2); any for the question whether a call is one of these at all.
pub(super) fn kernel_kind(name: &str, command: u64) -> Option<KernelEventKind> {
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
        "clock_settime" | "clock_settime64" | "settimeofday" | "stime" | "adjtimex" | "clock_adjtime"
        | "clock_adjtime64" => KernelEventKind::ClockSet,
        "io_uring_setup" => KernelEventKind::Uring,
        "sethostname" | "setdomainname" => KernelEventKind::HostNameSet,
        _ => return None,
    })
}

fn capability(record: &AuditRecord, key: &str) -> Option<u64> {
    u64::from_str_radix(record.field(key)?, 16).ok()
}
