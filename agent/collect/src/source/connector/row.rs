//! What the follower knows, as rows.

use fleetmend_event::table::{Actor, MemoryEvent, MemoryEventKind, ProcessEvent, ProcessEventKind, Source};

use super::exec;
use super::follow::{Follower, UNKNOWN};
use super::message::Task;
use crate::process::{Exec, Process};

/// Number of the initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_USERS: &str = "user:[4026531837]";

impl Follower {
    pub(super) fn row(
        &self,
        kind: ProcessEventKind,
        process: &Process,
        parent: Option<&Process>,
        boot_ns: u64,
    ) -> ProcessEvent {
        let placement = process.placement.as_deref();
        let credentials = self.credentials.get(&process.key.pid);
        ProcessEvent {
            time: self.clock.time_of(boot_ns),
            boot_ns,
            kind,
            pid: process.key.pid,
            start_boot_ns: process.key.start_boot_ns,
            ppid: process.ppid,
            parent_comm: parent.map(|parent| parent.program.comm.clone()),
            parent_exe: parent.and_then(|parent| parent.program.exe.clone()),
            parent_command_line: None,
            comm: process.program.comm.clone(),
            exe: process.program.exe.clone(),
            args: Vec::new(),
            args_truncated: false,
            uid: credentials.map_or(process.uid, |credentials| credentials.uid),
            gid: credentials.map_or(process.gid, |credentials| credentials.gid),
            cgroup: placement.map(|placement| placement.cgroup.clone()),
            unit: placement.and_then(|placement| placement.unit.clone()),
            container_id: placement.and_then(|placement| placement.container_id.clone()),
            exit_code: None,
            exit_signal: None,
            duration_us: None,
            user_us: None,
            system_us: None,
            rss_bytes_max: None,
            source: Source::Connector,
            euid: credentials.map(|credentials| credentials.euid),
            login_uid: None,
            working_directory: None,
            fileless: None,
        }
    }

    pub(super) fn ptrace(&self, task: Task, tracer: Task, boot_ns: u64) -> MemoryEvent {
        let actor = self.actor(tracer.process, boot_ns);
        let target = self.known(task.process, boot_ns);
        let time = self.clock.time_of(boot_ns);
        MemoryEvent {
            target_pid: Some(task.process),
            target_start_boot_ns: self.key(task.process, boot_ns).map(|key| key.start_boot_ns),
            target_comm: target.as_ref().map(|target| target.program.comm.clone()),
            target_exe: target.and_then(|target| target.program.exe.clone()),
            target_uid: self
                .credentials
                .get(&task.process)
                .map(|credentials| credentials.uid),
            detail: Some("PTRACE_ATTACH".to_owned()),
            ..MemoryEvent::by(actor, MemoryEventKind::Ptrace, time, boot_ns, Source::Connector)
        }
    }

    pub(super) fn in_user_namespace(&self, pid: u32) -> Option<bool> {
        let link = std::fs::read_link(self.inventory.proc().path(pid, "ns/user")).ok()?;
        Some(link.to_str()? != INITIAL_USERS)
    }

    pub(super) fn actor(&self, pid: u32, boot_ns: u64) -> Actor {
        let process = self.known(pid, boot_ns);
        let parent = process
            .as_ref()
            .and_then(|process| self.inventory.get(process.parent?));
        let placement = process.as_ref().and_then(|process| process.placement.clone());
        let credentials = self.credentials.get(&pid);
        let program = process.as_ref().map(|process| &process.program);
        Actor {
            pid,
            start_boot_ns: self.key(pid, boot_ns).map_or(0, |key| key.start_boot_ns),
            ppid: process
                .as_ref()
                .map(|process| process.ppid)
                .filter(|ppid| *ppid != 0),
            comm: program.map(|program| program.comm.clone()).unwrap_or_default(),
            exe: program.and_then(|program| program.exe.clone()),
            command_line: program
                .map(|program| program.command_line())
                .filter(|line| !line.is_empty()),
            parent_comm: parent.as_ref().map(|parent| parent.program.comm.clone()),
            parent_exe: parent.and_then(|parent| parent.program.exe.clone()),
            uid: credentials.map_or(UNKNOWN, |credentials| credentials.uid),
            euid: credentials.map(|credentials| credentials.euid),
            login_uid: exec::login_uid(self.inventory.proc(), pid),
            cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
            unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
            container_id: placement
                .as_ref()
                .and_then(|placement| placement.container_id.clone()),
        }
    }
}

/// A process that no inventory knows.
pub(super) fn of_nobody(exec: Exec) -> Process {
    Process {
        key: exec.key,
        ppid: exec.parent.pid,
        parent: None,
        program: exec.program,
        placement: exec.placement,
        uid: exec.uid,
        gid: exec.gid,
        ended: false,
    }
}

/// Exit code and signal out of a wait(2) status.
pub(super) fn ending(status: u32) -> (Option<i32>, Option<i32>) {
    let signal = status & 0x7f;
    let number = if signal == 0 { (status >> 8) & 0xff } else { signal };
    let number = i32::try_from(number).ok();
    if signal == 0 {
        (number, None)
    } else {
        (None, number)
    }
}
