//! What processes do to files, credentials, memory, the kernel and each other.
//!
//! Each module judges one kind of act by its row and by [`crate::lineage`]; only [`flood`] remembers anything. A
//! judgement begins with what is cheap: [`Acts::concerns`] is asked first, and says no to nearly every row.

mod exec;
mod file;
mod flood;
mod kernel;
mod memory;
mod place;
mod privilege;
mod secret;
mod signal;
mod trace;

use fleetmend_event::Fact;
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, ProcessSnapshot, SyscallProfile};

pub(crate) use self::exec::is_interactive;
use self::flood::Flood;
pub(crate) use self::flood::session_of;
use crate::behaviour::{Detection, Raise};
use crate::lineage::{Before, Columns, Lineage};

/// What is detected here.
pub(crate) fn detections() -> impl Iterator<Item = &'static Detection> {
    [
        exec::ALL,
        file::ALL,
        flood::ALL,
        kernel::ALL,
        memory::ALL,
        privilege::ALL,
        secret::ALL,
        signal::ALL,
        trace::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The columns of an act that say who did it; `None` for what is no act.
pub(crate) fn columns(fact: &Fact) -> Option<Columns<'_>> {
    macro_rules! of {
        ($row:expr) => {
            Columns {
                pid: $row.pid,
                start: $row.start_boot_ns,
                ppid: $row.ppid,
                comm: &$row.comm,
                exe: $row.exe.as_deref(),
                command_line: $row.command_line.as_deref(),
                parent_comm: $row.parent_comm.as_deref(),
                parent_exe: $row.parent_exe.as_deref(),
                uid: $row.uid,
                euid: $row.euid,
                login_uid: $row.login_uid,
                unit: $row.unit.as_deref(),
                container: $row.container_id.as_deref(),
            }
        };
    }
    Some(match fact {
        Fact::FileEvent(row) => of!(row),
        Fact::CredentialEvent(row) => of!(row),
        Fact::MemoryEvent(row) => of!(row),
        Fact::KernelEvent(row) => of!(row),
        Fact::SignalEvent(row) => of!(row),
        _ => return None,
    })
}

/// The columns of a process event that say who it is about.
pub(crate) fn process_columns(event: &ProcessEvent) -> Columns<'_> {
    Columns {
        pid: event.pid,
        start: event.start_boot_ns,
        ppid: Some(event.ppid),
        comm: &event.comm,
        exe: event.exe.as_deref(),
        command_line: None,
        parent_comm: event.parent_comm.as_deref(),
        parent_exe: event.parent_exe.as_deref(),
        uid: event.uid,
        euid: event.euid,
        login_uid: event.login_uid,
        unit: event.unit.as_deref(),
        container: event.container_id.as_deref(),
    }
}

/// Judges acts.
#[derive(Default)]
pub(crate) struct Acts {
    flood: Flood,
}

impl Acts {
    /// Whether an act could be anything at all. What failed did nothing.
    pub(crate) fn concerns(&self, fact: &Fact) -> bool {
        match fact {
            Fact::FileEvent(row) => row.error.is_none() && (file::concerns(row) || secret::concerns(row)),
            Fact::CredentialEvent(row) => row.error.is_none() && privilege::concerns(row),
            Fact::MemoryEvent(row) => row.error.is_none() && memory::concerns(row),
            Fact::KernelEvent(row) => row.error.is_none() && kernel::concerns(row),
            Fact::SignalEvent(row) => row.error.is_none() && signal::concerns(row),
            _ => false,
        }
    }

    /// The process that an act gave root's rights in a way that is its program's own.
    pub(crate) fn gained(&self, fact: &Fact, lineage: &Lineage) -> Option<(u32, u64)> {
        match fact {
            Fact::CredentialEvent(row) => {
                privilege::explained(row, lineage).then_some((row.pid, row.start_boot_ns))
            }
            _ => None,
        }
    }

    /// Learns that so many events of processes were lost.
    pub(crate) fn miss(&mut self, count: u64) {
        self.flood.miss(count);
    }

    /// Judges an act that concerns.
    pub(crate) fn act(&mut self, fact: &Fact, raise: &mut Raise<'_>) {
        let Some(row) = columns(fact) else { return };
        let lineage = raise.lineage;
        let who = lineage.who(row);
        match fact {
            Fact::FileEvent(event) => {
                file::judge(event, &who, raise);
                secret::judge(event, &who, raise);
                trace::judge(event, &who, raise);
            }
            Fact::CredentialEvent(event) => privilege::judge(event, &who, raise),
            Fact::MemoryEvent(event) => memory::judge(event, &who, raise),
            Fact::KernelEvent(event) => kernel::judge(event, &who, raise),
            Fact::SignalEvent(event) => signal::judge(event, &who, raise),
            _ => {}
        }
    }

    /// Judges the beginning or end of a process; `before` is what it was.
    pub(crate) fn process(&mut self, event: &ProcessEvent, before: Option<Before>, raise: &mut Raise<'_>) {
        self.flood.process(event, before, raise);
        if event.kind == ProcessEventKind::Exit {
            return;
        }
        let lineage = raise.lineage;
        let who = lineage.who(process_columns(event));
        if let Some(before) = before {
            privilege::changed(event, before, &who, raise);
        }
        if event.kind == ProcessEventKind::Exec {
            exec::judge(event, &who, raise);
        }
    }

    /// Judges a process as the inventory tells it.
    pub(crate) fn snapshot(&mut self, row: &ProcessSnapshot, raise: &mut Raise<'_>) {
        exec::snapshot(row, raise);
    }

    /// Judges the system calls of a process.
    pub(crate) fn profile(&mut self, row: &SyscallProfile, raise: &mut Raise<'_>) {
        flood::profile(row, raise);
    }
}
