//! Memory of other processes looked into or written, and memory that was written and is run.

use fleetmend_event::table::{MemoryEvent, MemoryEventKind, Severity};
use serde_json::{Value, json};

use crate::behaviour::{Detection, Raise, Sign, Told, declare};
use crate::lineage::{Classes, Who, base_name, is_debugger, is_fileless, is_trusted_path, is_writable_path};

declare! {
    INJECTION = "process-memory-write" ["T1055.008", "T1055.009"] ["privilege-escalation", "stealth"] false;
    DUMP = "process-memory-read" ["T1003.007"] ["credential-access"] false;
    EXECUTABLE = "executable-memory" ["T1055", "T1620"] ["stealth"] false;
}

/// Programs that hold what an intruder is after, or that guard the host.
const PROTECTED: &[&str] = &[
    "sshd",
    "sshd-session",
    "sshd-auth",
    "systemd",
    "init",
    "systemd-logind",
    "systemd-journald",
    "fleetmend-agent",
    "fleetmend-healer",
    "auditd",
    "login",
    "gdm-session-worker",
    "ssh-agent",
    "gpg-agent",
    "gnome-keyring-daemon",
    "sssd",
    "sudo",
    "su",
    "polkitd",
    "vault",
    "krb5kdc",
    "slapd",
];

/// What an act does to the other's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Reads,
    Writes,
}

fn reach(row: &MemoryEvent) -> Option<Reach> {
    match row.kind {
        // Who attaches may write; what is written by a request is told by the request.
        MemoryEventKind::Ptrace => {
            let request = row.detail.as_deref().unwrap_or_default();
            let reads = request.contains("PEEK") || request.contains("GET") || request.contains("TRACEME");
            Some(if reads { Reach::Reads } else { Reach::Writes })
        }
        MemoryEventKind::ProcessVmWrite | MemoryEventKind::ProcMemWrite => Some(Reach::Writes),
        MemoryEventKind::ProcessVmRead | MemoryEventKind::ProcMemRead => Some(Reach::Reads),
        _ => None,
    }
}

pub(super) fn concerns(row: &MemoryEvent) -> bool {
    match row.kind {
        // Compilers at run time make them without end; of programs of the system only some matter.
        MemoryEventKind::ExecutableMapping => row.exe.as_deref().is_none_or(|exe| {
            is_writable_path(exe) || is_fileless(exe) || PROTECTED.contains(&base_name(exe))
        }),
        MemoryEventKind::Memfd | MemoryEventKind::FilelessExec => row.kind == MemoryEventKind::FilelessExec,
        _ => row.target_pid.is_some_and(|target| target != row.pid),
    }
}

pub(super) fn judge(row: &MemoryEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    match row.kind {
        MemoryEventKind::ExecutableMapping => executable(row, who, raise),
        MemoryEventKind::FilelessExec => fileless(row, who, raise),
        _ => {
            if let Some((target, reach)) = row.target_pid.zip(reach(row)) {
                other(row, target, reach, who, raise);
            }
        }
    }
}

fn is_protected(row: &MemoryEvent, target: u32) -> bool {
    let name = row
        .target_exe
        .as_deref()
        .map(base_name)
        .or(row.target_comm.as_deref());
    target == 1 || target == std::process::id() || name.is_some_and(|name| PROTECTED.contains(&name))
}

fn other(row: &MemoryEvent, target: u32, reach: Reach, who: &Who<'_>, raise: &mut Raise<'_>) {
    let protected = is_protected(row, target);
    // What a debugger started itself is its own, whoever it is by now.
    if raise.lineage.descends(target, who.pid, who.start) {
        return;
    }
    if who.pid == std::process::id() || who.own.any(Classes::CRASH) {
        return;
    }
    // Processes of one program work on each other's memory: MPI ranks, wine, browsers.
    let siblings = who.exe.is_some() && row.target_exe.as_deref() == who.exe;
    let own = row.target_uid.is_some_and(|owner| owner == who.uid);
    let debugger = who.own.any(Classes::DEBUGGER);
    // Developers keep some of theirs at home.
    let named = is_debugger(who.exe.map_or(who.comm, base_name));
    let severity = if protected {
        Severity::High
    } else if who.is_risky() {
        if reach == Reach::Writes {
            Severity::High
        } else {
            Severity::Medium
        }
    } else if own && (debugger || siblings || reach == Reach::Reads) {
        return;
    } else if own && named {
        Severity::Low
    } else if own {
        Severity::Medium
    } else if debugger && who.is_root() {
        // An administrator looks into a service.
        Severity::Low
    } else if row.target_uid.is_none() {
        Severity::Low
    } else if who.is_root() {
        Severity::Medium
    } else {
        Severity::High
    };
    let name = row.target_comm.as_deref().unwrap_or("a process");
    let (what, verb): (&'static Detection, &str) = match reach {
        Reach::Writes => (&INJECTION, "can write to"),
        Reach::Reads => (&DUMP, "reads"),
    };
    let title = format!("{} {verb} the memory of {name} (pid {target})", who.comm);
    tell(row, what, severity, who, raise, title);
}

fn executable(row: &MemoryEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if who.own.any(Classes::JIT) || who.container.is_some() {
        return;
    }
    let name = who.exe.map_or(who.comm, base_name);
    // polkitd may compile its rules at run time.
    let severity = if PROTECTED.contains(&name) && name != "polkitd" {
        Severity::High
    } else if who.is_risky() && !who.above.any(Classes::BUILD | Classes::PACKAGE) {
        Severity::Low
    } else {
        return;
    };
    let title = format!("{name} made memory executable that no file stands behind");
    tell(row, &EXECUTABLE, severity, who, raise, title);
}

/// Told by the memory family where the process family has no word for it; both are one finding.
fn fileless(row: &MemoryEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let path = row.detail.as_deref().or(who.exe).unwrap_or_default();
    if super::exec::is_runtime(path, who)
        || who.container.is_some()
        || who.above.any(Classes::PACKAGE | Classes::BUILD)
    {
        return;
    }
    // As an exec is judged.
    let severity = if is_trusted_path(path) {
        Severity::Low
    } else {
        Severity::High
    };
    let title = format!("{} runs without a file: {path}", who.comm);
    tell(row, &super::exec::FILELESS, severity, who, raise, title);
}

fn tell(
    row: &MemoryEvent,
    what: &'static Detection,
    severity: Severity,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign::of(what, severity, row.time, who, row.ppid);
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("memory.act", json!(row.kind.as_str()), Value::Null),
            ("target.executable.path", json!(row.target_exe), Value::Null),
            ("target.user.id", json!(row.target_uid), json!(who.uid)),
        ],
        evidence: json!({"memory_events": row}),
    });
}
