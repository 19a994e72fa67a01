//! Our facts under Sigma's field names.
//!
//! A fact may be seen from several sides: an exec is a process_creation, and what auditd would have logged as EXECVE
//! and SYSCALL. Fields that are not known are absent, never guessed.

use fleetmend_event::Fact;
use fleetmend_event::table::{
    Act, CredentialEvent, FileEvent, FileEventKind, LogRecord, MemoryEvent, MemoryEventKind, NetworkEvent,
    NetworkEventKind, ProcessEvent, ProcessEventKind, Source,
};

use super::event::Fields;
use super::sources::{Kind, Origin, services_of};
use super::users::user_name;

/// An event, and what it is.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) kind: Kind,
    pub(crate) fields: Fields<'a>,
}

/// The views of a fact that `wanted` says some rule looks at.
pub(crate) fn views<'a>(fact: &'a Fact, wanted: impl Fn(Kind) -> bool) -> Vec<View<'a>> {
    let mut views = Vec::new();
    let mut view = |kind: Kind, fields: &dyn Fn() -> Option<Fields<'a>>| {
        if wanted(kind)
            && let Some(fields) = fields()
        {
            views.push(View { kind, fields });
        }
    };
    match fact {
        Fact::ProcessEvent(event) if event.kind == ProcessEventKind::Exec => {
            view(Kind::ProcessCreation, &|| Some(process_creation(event)));
            // What was read from auditd's log comes as raw records as well.
            if event.source != Source::Audit {
                view(Kind::Audit, &|| Some(audit_execve(event)));
                view(Kind::Audit, &|| Some(audit_syscall(event)));
            }
        }
        Fact::NetworkEvent(event) => view(Kind::NetworkConnection, &|| network_connection(event)),
        Fact::FileEvent(event) if event.error.is_none() => {
            if let Some(kind) = file_kind(event.kind) {
                view(kind, &|| Some(file(event)));
            }
            if is_there(event.kind) {
                view(Kind::FileEvent, &|| Some(file_event(event)));
            }
            if event.source != Source::Audit {
                view(Kind::Audit, &|| audit_path(event));
            }
        }
        Fact::CredentialEvent(event) => {
            view(Kind::CredentialChange, &|| act(event.as_ref(), event.error));
            if event.source != Source::Audit {
                view(Kind::Audit, &|| audit_credentials(event));
            }
        }
        Fact::MemoryEvent(event) => {
            view(Kind::MemoryAccess, &|| act(event.as_ref(), event.error));
            if event.source != Source::Audit {
                view(Kind::Audit, &|| audit_memory(event));
            }
        }
        Fact::KernelEvent(event) => view(Kind::KernelChange, &|| act(event.as_ref(), event.error)),
        Fact::SignalEvent(event) => view(Kind::Signal, &|| act(event.as_ref(), event.error)),
        Fact::IntegrityEvent(event) => view(Kind::Integrity, &|| row(event.as_ref())),
        Fact::AuthEvent(event) => view(Kind::Authentication, &|| row(event.as_ref())),
        _ => {}
    }
    views
}

/// A line of a log: its fields, and a look at what it is.
pub(crate) fn log_record<R>(record: &LogRecord, look: impl FnOnce(Origin<'_>, Fields<'_>) -> R) -> R {
    let services = services_of(&record.identifier);
    let mut fields = Fields::default();
    fields.add("message", record.message.as_str());
    fields.add("program", record.identifier.as_str());
    fields.add_some("unit", record.unit.as_deref());
    fields.add_some("pid", record.pid.map(|pid| pid.to_string()));
    fields.add_some("uid", record.uid.map(|uid| uid.to_string()));
    fields.add_some("priority", record.priority.map(|priority| priority.to_string()));
    let origin = Origin {
        product: Some("linux"),
        category: None,
        services: &services,
        again: false,
    };
    look(origin, fields)
}

fn process_creation(event: &ProcessEvent) -> Fields<'_> {
    let mut fields = Fields::default();
    fields.add("Image", event.exe.as_deref().unwrap_or(&event.comm));
    fields.add("CommandLine", event.args.join(" "));
    fields.add_some("CurrentDirectory", event.working_directory.as_deref());
    fields.add("User", user_name(event.uid));
    fields.add("LogonId", event.uid.to_string());
    fields.add("ProcessId", event.pid.to_string());
    fields.add("ParentProcessId", event.ppid.to_string());
    fields.add_some(
        "ParentImage",
        event.parent_exe.as_deref().or(event.parent_comm.as_deref()),
    );
    fields.add_some("ParentCommandLine", event.parent_command_line.as_deref());
    fields
}

fn network_connection(event: &NetworkEvent) -> Option<Fields<'_>> {
    let initiated = match event.kind {
        NetworkEventKind::Connect => true,
        NetworkEventKind::Accept => false,
        NetworkEventKind::Close | NetworkEventKind::Listen => return None,
    };
    // Sigma's source is who opened the connection.
    let remote = (event.remote_address.as_str(), event.remote_port);
    let local = (event.local_address.as_str(), event.local_port);
    let (source, destination) = if initiated {
        (local, remote)
    } else {
        (remote, local)
    };
    let mut fields = Fields::default();
    fields.add("Image", event.exe.as_deref().unwrap_or(&event.comm));
    fields.add("Initiated", if initiated { "true" } else { "false" });
    fields.add("Protocol", event.protocol.as_str());
    fields.add("DestinationIp", destination.0);
    fields.add("DestinationPort", destination.1.to_string());
    fields.add("SourceIp", source.0);
    fields.add("SourcePort", source.1.to_string());
    fields.add("ProcessId", event.pid.to_string());
    fields.add("User", user_name(event.uid));
    Some(fields)
}

/// The category of a file event other than file_event.
fn file_kind(kind: FileEventKind) -> Option<Kind> {
    match kind {
        FileEventKind::Rename => Some(Kind::FileRename),
        FileEventKind::Unlink => Some(Kind::FileDelete),
        FileEventKind::OpenRead => Some(Kind::FileAccess),
        FileEventKind::Chmod | FileEventKind::Chown | FileEventKind::Attribute => Some(Kind::FileChange),
        _ => None,
    }
}

/// Whether a file is there, or is another, because of it.
fn is_there(kind: FileEventKind) -> bool {
    matches!(
        kind,
        FileEventKind::Create
            | FileEventKind::OpenWrite
            | FileEventKind::Truncate
            | FileEventKind::Rename
            | FileEventKind::Link
            | FileEventKind::Symlink
    )
}

fn file(event: &FileEvent) -> Fields<'_> {
    let mut fields = named(event);
    if event.kind == FileEventKind::OpenRead {
        fields.add("FileName", event.path.as_str());
    }
    fields
}

fn file_event(event: &FileEvent) -> Fields<'_> {
    named(event)
}

/// A rename and a link name second what is there afterwards.
fn named(event: &FileEvent) -> Fields<'_> {
    let mut fields = Fields::default();
    match &event.target {
        Some(target) => {
            fields.add("SourceFilename", event.path.as_str());
            fields.add("TargetFilename", target.as_str());
        }
        None => fields.add("TargetFilename", event.path.as_str()),
    }
    actor(&mut fields, event);
    fields
}

fn actor<'a>(fields: &mut Fields<'a>, event: &'a FileEvent) {
    fields.add("Image", event.exe.as_deref().unwrap_or(&event.comm));
    fields.add_some("CommandLine", event.command_line.as_deref());
    fields.add_some(
        "ParentImage",
        event.parent_exe.as_deref().or(event.parent_comm.as_deref()),
    );
    fields.add("User", user_name(event.uid));
    fields.add("ProcessId", event.pid.to_string());
}

const ARGUMENTS: [&str; 32] = [
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "a11", "a12", "a13", "a14", "a15",
    "a16", "a17", "a18", "a19", "a20", "a21", "a22", "a23", "a24", "a25", "a26", "a27", "a28", "a29", "a30",
    "a31",
];

/// What auditd logs of the arguments of an exec.
fn audit_execve(event: &ProcessEvent) -> Fields<'_> {
    let mut fields = Fields::default();
    fields.add("type", "EXECVE");
    fields.add("argc", event.args.len().to_string());
    for (name, argument) in ARGUMENTS.iter().zip(&event.args) {
        fields.add(*name, argument.as_str());
    }
    fields
}

/// What auditd logs of the call execve itself, as far as it is known.
fn audit_syscall(event: &ProcessEvent) -> Fields<'_> {
    let mut fields = Fields::default();
    fields.add("type", "SYSCALL");
    fields.add("SYSCALL", "execve");
    fields.add("success", "yes");
    fields.add("comm", event.comm.as_str());
    fields.add_some("exe", event.exe.as_deref());
    fields.add("pid", event.pid.to_string());
    fields.add("ppid", event.ppid.to_string());
    fields.add("uid", event.uid.to_string());
    fields.add("gid", event.gid.to_string());
    fields.add_some("euid", event.euid.map(|uid| uid.to_string()));
    fields.add_some("auid", event.login_uid.map(|uid| uid.to_string()));
    fields.add_some("cwd", event.working_directory.as_deref());
    fields
}

/// What auditd logs of a file that a call reached.
fn audit_path(event: &FileEvent) -> Option<Fields<'_>> {
    let (name, nametype) = match event.kind {
        FileEventKind::Create => (event.path.as_str(), "CREATE"),
        FileEventKind::Link | FileEventKind::Symlink | FileEventKind::Rename => {
            (event.target.as_deref()?, "CREATE")
        }
        FileEventKind::Unlink => (event.path.as_str(), "DELETE"),
        _ => (event.path.as_str(), "NORMAL"),
    };
    let mut fields = Fields::default();
    fields.add("type", "PATH");
    fields.add("name", name);
    fields.add("nametype", nametype);
    fields.add_some("inode", event.inode.map(|inode| inode.to_string()));
    fields.add_some(
        "mode",
        event.mode.map(|mode| format!("{mode:#o}").replacen("0o", "0", 1)),
    );
    Some(fields)
}

fn audit_credentials(event: &CredentialEvent) -> Option<Fields<'_>> {
    let call = event.call.as_deref().filter(|call| *call != "execve")?;
    let mut fields = Fields::default();
    fields.add("type", "SYSCALL");
    fields.add("SYSCALL", call);
    fields.add("success", "yes");
    fields.add("comm", event.comm.as_str());
    fields.add_some("exe", event.exe.as_deref());
    fields.add("pid", event.pid.to_string());
    fields.add("uid", event.uid.to_string());
    fields.add_some("euid", event.euid.map(|uid| uid.to_string()));
    fields.add_some("auid", event.login_uid.map(|uid| uid.to_string()));
    Some(fields)
}

fn audit_memory(event: &MemoryEvent) -> Option<Fields<'_>> {
    let call = match event.kind {
        MemoryEventKind::Ptrace => "ptrace",
        MemoryEventKind::ProcessVmRead => "process_vm_readv",
        MemoryEventKind::ProcessVmWrite => "process_vm_writev",
        MemoryEventKind::Memfd => "memfd_create",
        _ => return None,
    };
    let mut fields = Fields::default();
    fields.add("type", "SYSCALL");
    fields.add("SYSCALL", call);
    fields.add("success", if event.error.is_some() { "no" } else { "yes" });
    fields.add("comm", event.comm.as_str());
    fields.add_some("exe", event.exe.as_deref());
    fields.add("pid", event.pid.to_string());
    fields.add("uid", event.uid.to_string());
    fields.add_some("euid", event.euid.map(|uid| uid.to_string()));
    fields.add_some("auid", event.login_uid.map(|uid| uid.to_string()));
    Some(fields)
}

/// An act under the names of its columns and under Sigma's for who did it. One that failed is none.
fn act<'a, T: Act + serde::Serialize>(event: &T, error: Option<i32>) -> Option<Fields<'a>> {
    if error.is_some() {
        return None;
    }
    let mut fields = row(event)?;
    let actor = event.actor();
    fields.add("User", user_name(actor.uid));
    fields.add("ProcessId", actor.pid.to_string());
    fields.add("Image", actor.exe.unwrap_or(actor.comm));
    fields.add_some("CommandLine", actor.command_line);
    fields.add_some("ParentImage", actor.parent_exe.or(actor.parent_comm));
    Some(fields)
}

/// A row of ours under the names of its columns; what is not known is absent.
fn row<'a, T: serde::Serialize>(row: &T) -> Option<Fields<'a>> {
    let serde_json::Value::Object(columns) = serde_json::to_value(row).ok()? else {
        return None;
    };
    let mut fields = Fields::default();
    for (name, value) in columns {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => fields.add(name, text),
            serde_json::Value::Array(values) => {
                for value in values {
                    let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    fields.add(name.clone(), word);
                }
            }
            other => fields.add(name, other.to_string()),
        }
    }
    Some(fields)
}
