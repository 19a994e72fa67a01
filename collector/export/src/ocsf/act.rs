//! Acts, integrity, logs and authentication in the classes of OCSF.

use std::net::IpAddr;

use fleetmend_event::table::{
    Act, Actor, AuthEvent, AuthEventKind, AuthOutcome, CredentialEvent, CredentialEventKind, FileEvent,
    FileEventKind, IntegrityChange, IntegrityEvent, KernelEvent, KernelEventKind, MemoryEvent,
    MemoryEventKind, SignalEvent, SignalEventKind,
};
use serde_json::{Value, json};

use super::{Event, file};

/// File System Activity.
const FILE_SYSTEM: u32 = 1_001;
/// Kernel Extension Activity.
const KERNEL_EXTENSION: u32 = 1_002;
/// Memory Activity.
const MEMORY: u32 = 1_004;
/// Process Activity.
const PROCESS: u32 = 1_007;
/// Account Change.
const ACCOUNT: u32 = 3_001;
/// Authentication.
const AUTHENTICATION: u32 = 3_002;
const OTHER: u32 = 99;

fn process(actor: &Actor) -> Value {
    json!({
        "pid": actor.pid, "name": actor.comm, "cmd_line": actor.command_line, "file": file(actor.exe.as_deref()),
        "uid": format!("{}-{}", actor.pid, actor.start_boot_ns), "user": { "uid": actor.uid.to_string() },
    })
}

/// An act's event: who did it is its actor.
fn act(
    class: u32,
    (activity, name): (u32, &str),
    actor: &Actor,
    error: Option<i32>,
    more: &[(&str, Value)],
) -> Event {
    let mut attributes = json!({
        "actor": { "process": process(actor) }, "status_id": error.map_or(1, |_| 2),
        "status_code": error.map(|error| error.to_string()),
    });
    for (name, value) in more {
        if let Some(attributes) = attributes.as_object_mut() {
            attributes.insert((*name).to_owned(), value.clone());
        }
    }
    Event {
        class,
        activity,
        activity_name: name.to_owned(),
        severity: 1,
        attributes,
    }
}

pub(super) fn file_act(row: &FileEvent) -> Event {
    let activity = match row.kind {
        FileEventKind::Create => (1, "Create"),
        FileEventKind::OpenRead => (2, "Read"),
        FileEventKind::OpenWrite | FileEventKind::Truncate => (3, "Update"),
        FileEventKind::Unlink => (4, "Delete"),
        FileEventKind::Rename => (5, "Rename"),
        FileEventKind::Attribute => (6, "Set Attributes"),
        FileEventKind::Chmod | FileEventKind::Chown => (7, "Set Security"),
        FileEventKind::Link | FileEventKind::Symlink => (OTHER, "Link"),
    };
    let result = row.target.as_deref().map_or(Value::Null, |path| file(Some(path)));
    let more = [("file", file(Some(&row.path))), ("file_result", result)];
    act(FILE_SYSTEM, activity, &row.actor(), row.error, &more)
}

pub(super) fn credential(row: &CredentialEvent) -> Event {
    let actor = row.actor();
    let activity = match row.kind {
        CredentialEventKind::User => (5, "Set User ID"),
        CredentialEventKind::Group | CredentialEventKind::Capabilities => (OTHER, row.kind.as_str()),
    };
    let more = [("process", process(&actor))];
    act(PROCESS, activity, &actor, row.error, &more)
}

pub(super) fn memory(row: &MemoryEvent) -> Event {
    let actor = row.actor();
    let target = row.target_pid.map(|pid| {
        json!({
            "pid": pid, "name": row.target_comm, "file": file(row.target_exe.as_deref()),
            "uid": row.target_start_boot_ns.map(|start| format!("{pid}-{start}")),
        })
    });
    let more = [("process", target.unwrap_or_else(|| process(&actor)))];
    let activity = match row.kind {
        MemoryEventKind::ProcessVmRead => (7, "Read"),
        MemoryEventKind::ProcessVmWrite => (8, "Write"),
        _ => (OTHER, row.kind.as_str()),
    };
    act(MEMORY, activity, &actor, row.error, &more)
}

pub(super) fn kernel(row: &KernelEvent) -> Option<Event> {
    let activity = match row.kind {
        KernelEventKind::ModuleLoad => (1, "Load"),
        KernelEventKind::ModuleUnload => (2, "Unload"),
        _ => return None,
    };
    let driver = file(row.path.as_deref().or(row.name.as_deref()));
    let more = [("driver", json!({ "file": driver }))];
    Some(act(KERNEL_EXTENSION, activity, &row.actor(), row.error, &more))
}

pub(super) fn signal(row: &SignalEvent) -> Event {
    let target = json!({
        "pid": row.target_pid, "name": row.target_comm, "file": file(row.target_exe.as_deref()),
        "uid": row.target_start_boot_ns.map(|start| format!("{}-{start}", row.target_pid)),
    });
    let activity = match row.kind {
        SignalEventKind::OomKill => (2, "Terminate"),
        SignalEventKind::Signal | SignalEventKind::Fault => (OTHER, row.kind.as_str()),
    };
    let more = [("process", target)];
    act(PROCESS, activity, &row.actor(), row.error, &more)
}

pub(super) fn integrity(row: &IntegrityEvent) -> Event {
    let (activity, name) = match row.change {
        IntegrityChange::Added => (1, "Create"),
        IntegrityChange::Content => (3, "Update"),
        IntegrityChange::Removed => (4, "Delete"),
        IntegrityChange::Metadata => (7, "Set Security"),
    };
    let mut changed = file(Some(&row.path));
    if let (Some(changed), Some(hash)) = (changed.as_object_mut(), &row.new_sha256) {
        // `algorithm_id` 3 is SHA-256.
        changed.insert("hashes".to_owned(), json!([{ "algorithm_id": 3, "value": hash }]));
    }
    let process = row
        .pid
        .map(|pid| json!({ "process": { "pid": pid, "name": row.comm, "file": file(row.exe.as_deref()) } }));
    Event {
        class: FILE_SYSTEM,
        activity,
        activity_name: name.to_owned(),
        severity: 1,
        attributes: json!({ "file": changed, "actor": process.unwrap_or_else(|| json!({})) }),
    }
}

pub(super) fn auth(row: &AuthEvent) -> Event {
    let (class, activity, name) = match row.kind {
        AuthEventKind::Login | AuthEventKind::SessionOpened => (AUTHENTICATION, 1, "Logon"),
        AuthEventKind::SessionClosed => (AUTHENTICATION, 2, "Logoff"),
        AuthEventKind::Elevation => (AUTHENTICATION, OTHER, "Elevation"),
        AuthEventKind::Account => (ACCOUNT, OTHER, "Account"),
        AuthEventKind::Secret => (ACCOUNT, 3, "Password Change"),
    };
    let source = row.remote_address.as_ref().map(|address| {
        // PAM tells the name of a host where its service looked one up.
        let attribute = if address.parse::<IpAddr>().is_ok() {
            "ip"
        } else {
            "hostname"
        };
        json!({ attribute: address, "port": row.remote_port })
    });
    let status = match row.outcome {
        AuthOutcome::Success => 1,
        AuthOutcome::Failure => 2,
    };
    Event {
        class,
        activity,
        activity_name: name.to_owned(),
        severity: 1,
        attributes: json!({
            "user": { "name": row.user }, "status_id": status, "src_endpoint": source,
            "service": (class == AUTHENTICATION).then(|| json!({ "name": row.service })),
        }),
    }
}
