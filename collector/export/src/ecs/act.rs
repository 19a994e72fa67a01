//! Acts, integrity, logs and authentication in the words of ECS.

use std::net::IpAddr;

use fleetmend_event::table::{
    Act, Actor, AuthEvent, AuthEventKind, AuthOutcome, CredentialEvent, FileEvent, FileEventKind,
    IntegrityChange, IntegrityEvent, KernelEvent, KernelEventKind, LogRecord, MemoryEvent, MemoryEventKind,
    SignalEvent, SignalEventKind, SyscallProfile,
};
use serde_json::{Value, json};

use super::{Fields, container, state};

/// `event` of an act, as ECS sorts it.
fn event(category: &str, kind: &str, action: &str, error: Option<i32>) -> Value {
    let outcome = if error.is_some() { "failure" } else { "success" };
    json!({ "kind": "event", "category": [category], "type": [kind], "action": action, "outcome": outcome })
}

/// Who did it.
fn by(actor: &Actor) -> Fields {
    let parent = json!({ "pid": actor.ppid, "name": actor.parent_comm, "executable": actor.parent_exe });
    let process = (actor.pid > 0).then(|| {
        json!({
            "pid": actor.pid, "name": actor.comm, "executable": actor.exe, "command_line": actor.command_line,
            "parent": parent, "user": { "id": actor.uid.to_string() },
        })
    });
    let service = actor
        .unit
        .as_ref()
        .map(|unit| json!({ "name": unit, "type": "systemd" }));
    vec![
        ("process", process.unwrap_or(Value::Null)),
        ("user", json!({ "id": actor.uid.to_string() })),
        ("container", container(actor.container_id.as_deref())),
        ("service", service.unwrap_or(Value::Null)),
    ]
}

/// Permission bits as ECS writes them.
fn mode(mode: Option<u32>) -> Option<String> {
    mode.map(|mode| format!("{:04o}", mode & 0o7777))
}

fn with(actor: &Actor, mut fields: Fields) -> Fields {
    fields.extend(by(actor));
    fields
}

pub(super) fn file(row: &FileEvent) -> Fields {
    let kind = match row.kind {
        FileEventKind::Create | FileEventKind::Link | FileEventKind::Symlink => "creation",
        FileEventKind::OpenRead => "access",
        FileEventKind::Unlink => "deletion",
        FileEventKind::OpenWrite
        | FileEventKind::Rename
        | FileEventKind::Chmod
        | FileEventKind::Chown
        | FileEventKind::Attribute
        | FileEventKind::Truncate => "change",
    };
    // The name that the act left behind; the target of ECS is what a symbolic link says.
    let (path, says) = match (row.kind, &row.target) {
        (FileEventKind::Symlink, Some(own)) => (own, Some(&row.path)),
        (FileEventKind::Rename | FileEventKind::Link, Some(left)) => (left, None),
        _ => (&row.path, None),
    };
    let file = json!({
        "path": path, "target_path": says, "mode": mode(row.mode),
        "uid": row.owner_uid.map(|id| id.to_string()), "gid": row.owner_gid.map(|id| id.to_string()),
        "inode": row.inode.map(|inode| inode.to_string()),
    });
    let event = event("file", kind, row.kind.as_str(), row.error);
    with(&row.actor(), vec![("event", event), ("file", file)])
}

pub(super) fn credential(row: &CredentialEvent) -> Fields {
    let event = event("process", "change", row.kind.as_str(), row.error);
    with(&row.actor(), vec![("event", event)])
}

pub(super) fn memory(row: &MemoryEvent) -> Fields {
    let kind = match row.kind {
        MemoryEventKind::ProcessVmRead | MemoryEventKind::ProcMemRead => "access",
        MemoryEventKind::FilelessExec => "start",
        MemoryEventKind::Ptrace
        | MemoryEventKind::ProcessVmWrite
        | MemoryEventKind::ProcMemWrite
        | MemoryEventKind::Memfd
        | MemoryEventKind::ExecutableMapping => "change",
    };
    let event = event("process", kind, row.kind.as_str(), row.error);
    with(&row.actor(), vec![("event", event)])
}

pub(super) fn kernel(row: &KernelEvent) -> Fields {
    let (category, kind) = match row.kind {
        KernelEventKind::ModuleLoad => ("driver", "start"),
        KernelEventKind::ModuleUnload => ("driver", "end"),
        KernelEventKind::BpfLoad
        | KernelEventKind::Bpf
        | KernelEventKind::Mount
        | KernelEventKind::Umount
        | KernelEventKind::Setns
        | KernelEventKind::Unshare
        | KernelEventKind::ChangeRoot
        | KernelEventKind::Kexec
        | KernelEventKind::ClockSet
        | KernelEventKind::Uring
        | KernelEventKind::Compat
        | KernelEventKind::Setting
        | KernelEventKind::HostNameSet => ("configuration", "change"),
    };
    let event = event(category, kind, row.kind.as_str(), row.error);
    let file = row
        .path
        .as_ref()
        .map_or(Value::Null, |path| json!({ "path": path }));
    with(&row.actor(), vec![("event", event), ("file", file)])
}

pub(super) fn signal(row: &SignalEvent) -> Fields {
    let kind = match row.kind {
        SignalEventKind::OomKill => "end",
        SignalEventKind::Signal | SignalEventKind::Fault => "info",
    };
    let event = event("process", kind, row.kind.as_str(), row.error);
    with(&row.actor(), vec![("event", event)])
}

pub(super) fn integrity(row: &IntegrityEvent) -> Fields {
    let kind = match row.change {
        IntegrityChange::Added => "creation",
        IntegrityChange::Content | IntegrityChange::Metadata => "change",
        IntegrityChange::Removed => "deletion",
    };
    let event = json!({
        "kind": "event", "category": ["file"], "type": [kind],
        "action": format!("integrity-{}", row.change), "reason": row.verdict,
    });
    let hash = row.new_sha256.as_ref().map(|hash| json!({ "sha256": hash }));
    let file = json!({
        "path": row.path, "mode": mode(row.new_mode), "size": row.new_size_bytes, "hash": hash,
        "uid": row.new_uid.map(|id| id.to_string()), "gid": row.new_gid.map(|id| id.to_string()),
    });
    let process = row.pid.map(|pid| {
        json!({
            "pid": pid, "name": row.comm, "executable": row.exe,
            "user": row.uid.map(|uid| json!({ "id": uid.to_string() })),
        })
    });
    let package = row.package.as_ref().map(|name| json!({ "name": name }));
    vec![
        ("event", event),
        ("file", file),
        ("process", process.unwrap_or(Value::Null)),
        ("package", package.unwrap_or(Value::Null)),
    ]
}

pub(super) fn profile(row: &SyscallProfile) -> Fields {
    let process = json!({ "pid": row.pid, "name": row.comm, "executable": row.exe });
    vec![("event", state("process")), ("process", process)]
}

pub(super) fn log(row: &LogRecord) -> Fields {
    let file = row.source.starts_with('/').then(|| json!({ "path": row.source }));
    let syslog = json!({
        "appname": row.identifier,
        "severity": row.priority.map(|code| json!({ "code": code })),
        "facility": row.facility.map(|code| json!({ "code": code })),
    });
    let service = row
        .unit
        .as_ref()
        .map(|unit| json!({ "name": unit, "type": "systemd" }));
    vec![
        ("event", json!({ "kind": "event" })),
        ("log", json!({ "file": file, "syslog": syslog })),
        (
            "process",
            row.pid.map_or(Value::Null, |pid| json!({ "pid": pid })),
        ),
        ("service", service.unwrap_or(Value::Null)),
    ]
}

pub(super) fn auth(row: &AuthEvent) -> Fields {
    let (category, kind) = match row.kind {
        AuthEventKind::Login | AuthEventKind::Elevation => ("authentication", "start"),
        AuthEventKind::SessionOpened => ("session", "start"),
        AuthEventKind::SessionClosed => ("session", "end"),
        AuthEventKind::Account | AuthEventKind::Secret => ("iam", "change"),
    };
    let outcome = match row.outcome {
        AuthOutcome::Success => "success",
        AuthOutcome::Failure => "failure",
    };
    let event = json!({
        "kind": "event", "category": [category], "type": [kind], "action": row.kind, "outcome": outcome,
    });
    let effective = row.target_user.as_ref().map(|name| json!({ "name": name }));
    let source = row.remote_address.as_ref().map(|address| {
        let ip = address.parse::<IpAddr>().ok().map(|ip| ip.to_string());
        json!({ "address": address, "ip": ip, "port": row.remote_port })
    });
    let process = row
        .pid
        .map(|pid| json!({ "pid": pid, "command_line": row.command }));
    vec![
        ("event", event),
        ("user", json!({ "name": row.user, "effective": effective })),
        ("source", source.unwrap_or(Value::Null)),
        ("process", process.unwrap_or(Value::Null)),
        ("service", json!({ "name": row.service })),
    ]
}
