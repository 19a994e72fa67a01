//! Messages become rows, and the inventory's processes.

use std::collections::HashMap;
use std::sync::Arc;

use fleetmend_event::table::{
    Actor, CredentialEvent, CredentialEventKind, MemoryEvent, MemoryEventKind, ProcessEvent,
    ProcessEventKind, Source,
};

use super::credentials::{self, Credentials};
use super::exec::{self, Caught};
use super::message::{Event, Message, Task};
use super::row::{ending, of_nobody};
use crate::bpf::BootClock;
use crate::process::proc_fs::TICK_NS;
use crate::process::{Exec, Inventory, Process, ProcessKey, Program};
use crate::source::delivery::Delivery;
use crate::source::{Kind, metric};

/// Processes whose credentials are remembered; beyond it those before a change are unknown.
const CREDENTIALS_MAX: usize = 32_768;
/// First threads that ended before their process.
const ENDING_MAX: usize = 4_096;
/// "Not known": no user has it.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// See the module.
pub(crate) struct Follower {
    pub(super) inventory: Inventory,
    pub(super) clock: BootClock,
    /// What the boot clock is ahead of the monotonic one.
    boot_ahead_ns: u64,
    pub(super) credentials: HashMap<u32, Credentials>,
    /// Processes whose first thread has ended: when, and with what code.
    ending: HashMap<u32, (u64, u32)>,
}

impl Follower {
    /// A follower that has read who everybody is now.
    pub(crate) fn new(inventory: Inventory) -> Self {
        let mut follower = Self {
            inventory,
            clock: BootClock::now(),
            boot_ahead_ns: boot_ahead_ns(),
            credentials: HashMap::new(),
            ending: HashMap::new(),
        };
        let proc = follower.inventory.proc().clone();
        for pid in proc.pids().unwrap_or_default() {
            if let Some(credentials) = credentials::read(&proc, pid) {
                follower.remember(pid, credentials);
            }
        }
        follower
    }

    /// Takes a message over, and sends the rows it makes.
    pub(crate) fn take(&mut self, message: &Message, delivery: &mut Delivery) {
        let boot_ns = message.monotonic_ns.saturating_add(self.boot_ahead_ns);
        match message.event {
            Event::Fork { parent, child } if child.leads() => {
                let row = self.fork(parent, child, boot_ns);
                delivery.send(row.into());
            }
            Event::Exec(task) => self.exec(task, boot_ns, delivery),
            Event::User {
                task,
                real,
                effective,
            } => {
                let now = |known: Credentials| Credentials {
                    uid: real,
                    euid: effective,
                    ..known
                };
                self.changed(CredentialEventKind::User, task, boot_ns, now, delivery);
            }
            Event::Group {
                task,
                real,
                effective,
            } => {
                let now = |known: Credentials| Credentials {
                    gid: real,
                    egid: effective,
                    ..known
                };
                self.changed(CredentialEventKind::Group, task, boot_ns, now, delivery);
            }
            Event::Ptrace { task, tracer } if tracer.process != 0 && delivery.tells(Kind::Memory) => {
                let row = self.ptrace(task, tracer, boot_ns);
                delivery.send(row.into());
            }
            Event::Comm { task, comm } if task.leads() => {
                let comm = crate::bpf::text(&comm);
                self.inventory
                    .with_table(|table| table.renamed(task.process, &comm));
            }
            Event::Exit { task, code } => self.thread_ended(task, code, boot_ns, delivery),
            _ => {}
        }
    }

    /// What is due once a second: the clocks, and processes whose first thread ended before the others.
    pub(crate) fn keep_house(&mut self, delivery: &mut Delivery) {
        self.clock = BootClock::now();
        self.boot_ahead_ns = boot_ahead_ns();
        let pids: Vec<u32> = self.ending.keys().copied().collect();
        for pid in pids {
            self.look_at_ending(pid, delivery);
        }
    }

    fn remember(&mut self, pid: u32, credentials: Credentials) {
        if self.credentials.len() < CREDENTIALS_MAX || self.credentials.contains_key(&pid) {
            self.credentials.insert(pid, credentials);
        }
    }

    /// The process that runs as `pid`, when it began before `boot_ns`: one that began later has taken its place.
    pub(super) fn known(&self, pid: u32, boot_ns: u64) -> Option<Process> {
        let process = self.inventory.running(pid)?;
        (process.key.start_boot_ns <= boot_ns.saturating_add(TICK_NS)).then_some(process)
    }

    pub(super) fn key(&self, pid: u32, boot_ns: u64) -> Option<ProcessKey> {
        let known = self.known(pid, boot_ns).map(|process| process.key);
        known.or_else(|| {
            let stat = self.inventory.proc().stat(pid)?;
            let key = ProcessKey::new(pid, stat.start_boot_ns);
            (key.start_boot_ns <= boot_ns.saturating_add(TICK_NS)).then_some(key)
        })
    }

    /// The child is what its parent was. One that is gone already began when the message says, give or take a tick.
    fn fork(&mut self, parent: Task, child: Task, boot_ns: u64) -> ProcessEvent {
        let stat = self.inventory.proc().stat(child.process);
        let began = stat.as_ref().map_or(boot_ns, |stat| stat.start_boot_ns);
        let key = ProcessKey::new(child.process, began);
        let parent_key = self
            .key(parent.process, boot_ns)
            .unwrap_or_else(|| ProcessKey::new(parent.process, 0));
        let of_parent = self.inventory.get(parent_key);
        let comm = of_parent
            .as_ref()
            .map(|parent| parent.program.comm.clone())
            .or_else(|| stat.map(|stat| stat.comm))
            .unwrap_or_default();
        let inherited = self.credentials.get(&parent.process).copied();
        let credentials = inherited.or_else(|| credentials::read_once(self.inventory.proc(), child.process));
        if let Some(credentials) = credentials {
            self.remember(child.process, credentials);
        } else {
            self.credentials.remove(&child.process);
        }
        let uid = credentials.map_or(UNKNOWN, |credentials| credentials.uid);
        let gid = credentials.map_or(UNKNOWN, |credentials| credentials.gid);
        let process = self
            .inventory
            .with_table(|table| table.forked(key, parent_key, &comm, uid, gid));
        self.row(ProcessEventKind::Fork, &process, of_parent.as_ref(), boot_ns)
    }

    fn exec(&mut self, task: Task, boot_ns: u64, delivery: &mut Delivery) {
        let pid = task.process;
        // A thread that executes a program takes the place of the first one, which ends for it.
        self.ending.remove(&pid);
        let caught = exec::catch(self.inventory.proc(), pid, self.inventory.config().args_bytes_max);
        if !caught.args_known {
            metrics::counter!(metric::ARGS_UNKNOWN).increment(1);
        }
        let known = self.known(pid, boot_ns);
        let began = caught.stat.as_ref().map(|stat| stat.start_boot_ns);
        // What was read of a process that took over the number is not this one's.
        let is_another = began.is_some_and(|began| began > boot_ns.saturating_add(TICK_NS));
        let caught = if is_another { Caught::default() } else { caught };
        let key = match (&known, began.filter(|_| !is_another)) {
            (_, Some(began)) => ProcessKey::new(pid, began),
            (Some(known), None) => known.key,
            (None, None) => ProcessKey::new(pid, 0),
        };
        if let Some(credentials) = caught.credentials {
            // Capabilities of one reading are of no certain moment; what was known of a change is.
            let capabilities = self.credentials.get(&pid).and_then(|known| known.capabilities);
            self.remember(
                pid,
                Credentials {
                    capabilities,
                    ..credentials
                },
            );
        }
        let process = self.executed(key, known.and_then(|known| known.parent), &caught, boot_ns);
        let parent = process.parent.and_then(|parent| self.inventory.get(parent));
        let fileless = process
            .program
            .exe
            .as_ref()
            .map(|exe| process.program.exe_deleted || exe.starts_with("/memfd:"));
        let row = ProcessEvent {
            parent_command_line: parent.as_ref().map(|parent| parent.program.command_line()),
            args: process.program.args.clone(),
            args_truncated: process.program.args_truncated,
            working_directory: caught.working_directory,
            login_uid: caught.login_uid,
            fileless,
            ..self.row(ProcessEventKind::Exec, &process, parent.as_ref(), boot_ns)
        };
        if fileless == Some(true) && delivery.tells(Kind::Memory) {
            let actor = self.actor(pid, boot_ns);
            let kind = MemoryEventKind::FilelessExec;
            let mut act = MemoryEvent::by(actor, kind, row.time, boot_ns, Source::Connector);
            act.detail.clone_from(&row.exe);
            delivery.send(act.into());
        }
        delivery.send(row.into());
    }

    /// Enters what was caught of an execution into the inventory.
    fn executed(
        &self,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        caught: &Caught,
        boot_ns: u64,
    ) -> Process {
        let credentials = self.credentials.get(&key.pid);
        // Of a process that is being reaped the kernel says parent 0, which is nobody.
        let ppid = caught
            .stat
            .as_ref()
            .map(|stat| stat.ppid)
            .filter(|ppid| *ppid != 0);
        let parent = parent.or_else(|| self.key(ppid?, boot_ns));
        let exec = Exec {
            key,
            parent: parent.unwrap_or_else(|| ProcessKey::new(ppid.unwrap_or(0), 0)),
            program: Arc::new(Program {
                args_truncated: caught.program.args_truncated || !caught.args_known,
                ..caught.program.clone()
            }),
            placement: caught.placement.clone().map(Arc::new),
            uid: credentials.map_or(UNKNOWN, |credentials| credentials.uid),
            gid: credentials.map_or(UNKNOWN, |credentials| credentials.gid),
        };
        if key.start_boot_ns > 0 {
            self.inventory.with_table(|table| table.executed(exec))
        } else {
            of_nobody(exec)
        }
    }

    /// A process has ended when its last thread has; the first one may go before the others.
    fn thread_ended(&mut self, task: Task, code: u32, boot_ns: u64, delivery: &mut Delivery) {
        let pid = task.process;
        if task.leads() {
            if self.ending.len() < ENDING_MAX {
                self.ending.insert(pid, (boot_ns, code));
            }
            self.look_at_ending(pid, delivery);
        } else if let Some((at, _)) = self.ending.get_mut(&pid) {
            *at = boot_ns;
            self.look_at_ending(pid, delivery);
        }
    }

    fn look_at_ending(&mut self, pid: u32, delivery: &mut Delivery) {
        let Some((boot_ns, code)) = self.ending.get(&pid).copied() else {
            return;
        };
        let stat = self.inventory.proc().stat(pid);
        let stat = stat.filter(|stat| stat.start_boot_ns <= boot_ns.saturating_add(TICK_NS));
        if stat
            .as_ref()
            .is_some_and(|stat| !stat.is_exiting || stat.thread_count > 1)
        {
            return;
        }
        self.ending.remove(&pid);
        let known = self.known(pid, boot_ns);
        let key = match (&known, &stat) {
            (Some(known), _) => known.key,
            (None, Some(stat)) => ProcessKey::new(pid, stat.start_boot_ns),
            (None, None) => ProcessKey::new(pid, 0),
        };
        let ended = self.inventory.with_table(|table| table.exited(key)).or(known);
        let process = ended.unwrap_or_else(|| Process {
            ended: true,
            ..of_nobody(Exec {
                key,
                parent: ProcessKey::new(stat.as_ref().map_or(0, |stat| stat.ppid), 0),
                program: Arc::new(Program {
                    comm: stat.as_ref().map(|stat| stat.comm.clone()).unwrap_or_default(),
                    ..Program::default()
                }),
                placement: None,
                uid: UNKNOWN,
                gid: UNKNOWN,
            })
        });
        let parent = process.parent.and_then(|parent| self.inventory.get(parent));
        let (exit_code, exit_signal) = ending(code);
        let began = Some(key.start_boot_ns).filter(|began| *began > 0);
        let row = ProcessEvent {
            exit_code,
            exit_signal,
            duration_us: began.map(|began| boot_ns.saturating_sub(began) / 1_000),
            user_us: stat.as_ref().map(|stat| stat.user_ns / 1_000),
            system_us: stat
                .as_ref()
                .map(|stat| stat.cpu_ns.saturating_sub(stat.user_ns) / 1_000),
            ..self.row(ProcessEventKind::Exit, &process, parent.as_ref(), boot_ns)
        };
        self.credentials.remove(&pid);
        delivery.send(row.into());
    }

    /// A process whose users changed; the message of a change that is known already is passed over: each thread of
    /// a program has one.
    fn changed(
        &mut self,
        kind: CredentialEventKind,
        task: Task,
        boot_ns: u64,
        apply: impl Fn(Credentials) -> Credentials,
        delivery: &mut Delivery,
    ) {
        let pid = task.process;
        let before = self.credentials.get(&pid).copied();
        let status = credentials::read(self.inventory.proc(), pid);
        let nobody = Credentials {
            uid: UNKNOWN,
            euid: UNKNOWN,
            gid: UNKNOWN,
            egid: UNKNOWN,
            capabilities: None,
        };
        let after = apply(before.or(status).unwrap_or(nobody));
        if before.is_some_and(|before| same_ids(before, after)) {
            return;
        }
        // The status may be of a later moment: it counts where it says what the message says.
        let capabilities = status
            .filter(|status| same_ids(*status, after))
            .and_then(|status| status.capabilities);
        let after = Credentials {
            capabilities,
            ..after
        };
        self.remember(pid, after);
        if !delivery.tells(Kind::Credentials) {
            return;
        }
        let known = |id: u32| Some(id).filter(|id| *id != UNKNOWN);
        let actor = Actor {
            uid: after.uid,
            euid: known(after.euid),
            ..self.actor(pid, boot_ns)
        };
        let time = self.clock.time_of(boot_ns);
        let row = CredentialEvent {
            old_uid: before.map(|before| before.uid),
            old_euid: before.map(|before| before.euid),
            old_gid: before.map(|before| before.gid),
            old_egid: before.map(|before| before.egid),
            gid: known(after.gid),
            egid: known(after.egid),
            old_capabilities: before.and_then(|before| before.capabilities),
            capabilities,
            user_namespace: self.in_user_namespace(pid),
            ..CredentialEvent::by(actor, kind, time, boot_ns, Source::Connector)
        };
        delivery.send(row.into());
    }
}

fn same_ids(one: Credentials, other: Credentials) -> bool {
    (one.uid, one.euid, one.gid, one.egid) == (other.uid, other.euid, other.gid, other.egid)
}

fn boot_ahead_ns() -> u64 {
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let ns = |time: nix::sys::time::TimeSpec| {
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        part(time.tv_sec())
            .saturating_mul(1_000_000_000)
            .saturating_add(part(time.tv_nsec()))
    };
    // Both clocks are the same until the machine sleeps.
    monotonic.map_or(0, |monotonic| {
        BootClock::now().boot_ns().saturating_sub(ns(monotonic))
    })
}
