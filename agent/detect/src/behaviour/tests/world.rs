//! A host made of rows.

use std::collections::HashMap;

use fleetmend_event::table::{
    Actor, ConnectionOwner, CredentialEvent, CredentialEventKind, FileEvent, FileEventKind, Finding,
    KernelEvent, KernelEventKind, MemoryEvent, MemoryEventKind, NetworkEvent, NetworkEventKind, ProcessEvent,
    ProcessEventKind, ProcessSnapshot, Severity, SignalEvent, SignalEventKind, Source,
};
use fleetmend_event::{Fact, TimeMicros};

use crate::behaviour::Behaviour;
use crate::config::BehaviourConfig;
use crate::tracker::FindingTracker;

const SECOND_NS: u64 = 1_000_000_000;
/// Long after boot.
const BEGIN_NS: u64 = 5_000 * SECOND_NS;

#[derive(Clone)]
struct Known {
    ppid: u32,
    exe: String,
    uid: u32,
    start: u64,
}

pub(super) struct World {
    behaviour: Behaviour,
    tracker: FindingTracker,
    now_ns: u64,
    known: HashMap<u32, Known>,
    pub(super) login_uid: Option<u32>,
    pub(super) container: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) source: Source,
    pub(super) findings: Vec<Finding>,
}

impl World {
    pub(super) fn new(config: BehaviourConfig) -> Self {
        Self {
            behaviour: Behaviour::new(config),
            tracker: FindingTracker::default(),
            now_ns: BEGIN_NS,
            known: HashMap::new(),
            login_uid: None,
            container: None,
            unit: None,
            source: Source::Ebpf,
            findings: Vec::new(),
        }
    }

    pub(super) fn empty() -> Self {
        Self::new(BehaviourConfig::default())
    }

    /// systemd (1), sshd (100) for a login (101), whose shell is 102.
    pub(super) fn with_session() -> Self {
        let mut world = Self::empty();
        world.session();
        world
    }

    pub(super) fn session(&mut self) {
        self.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
        self.run_as_child(100, 1, "/usr/sbin/sshd", &["sshd", "-D"], 0);
        self.fork(101, 100);
        self.login_uid = Some(1000);
        self.run_as_child(102, 101, "/usr/bin/bash", &["-bash"], 0);
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now_ns += seconds * SECOND_NS;
    }

    pub(super) fn time(&self) -> TimeMicros {
        TimeMicros(i64::try_from(self.now_ns / 1_000).unwrap())
    }

    pub(super) fn observe(&mut self, fact: &Fact) {
        let rows = self.behaviour.observe(fact, &mut self.tracker);
        self.findings.extend(rows);
    }

    pub(super) fn tick(&mut self) -> Vec<Finding> {
        let rows = self.behaviour.tick(&mut self.tracker);
        self.findings.extend(rows.clone());
        rows
    }

    /// What was raised so far, each rule once, in the order of their first rows.
    pub(super) fn rules(&self) -> Vec<&str> {
        let mut rules: Vec<&str> = Vec::new();
        for finding in &self.findings {
            if !rules.contains(&finding.rule.as_str()) {
                rules.push(&finding.rule);
            }
        }
        rules
    }

    pub(super) fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    pub(super) fn severity_of(&self, rule: &str) -> Option<Severity> {
        let of_rule = self.findings.iter().filter(|finding| finding.rule == rule);
        of_rule.map(|finding| finding.severity).max()
    }

    fn process_row(
        &mut self,
        kind: ProcessEventKind,
        pid: u32,
        ppid: u32,
        exe: &str,
        args: &[&str],
        uid: u32,
    ) -> ProcessEvent {
        self.now_ns += 1_000;
        let start = match (kind, self.known.get(&pid)) {
            (ProcessEventKind::Fork, _) | (_, None) => self.now_ns,
            (_, Some(known)) => known.start,
        };
        let parent = self.known.get(&ppid).cloned();
        self.known.insert(
            pid,
            Known {
                ppid,
                exe: exe.to_owned(),
                uid,
                start,
            },
        );
        ProcessEvent {
            time: self.time(),
            boot_ns: self.now_ns,
            kind,
            pid,
            start_boot_ns: start,
            ppid,
            parent_comm: parent.as_ref().map(|parent| name(&parent.exe)),
            parent_exe: parent.map(|parent| parent.exe),
            parent_command_line: None,
            comm: name(exe),
            exe: Some(exe.to_owned()),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            args_truncated: false,
            uid,
            gid: uid,
            cgroup: None,
            unit: self.unit.clone(),
            container_id: self.container.clone(),
            exit_code: None,
            exit_signal: None,
            duration_us: None,
            user_us: None,
            system_us: None,
            rss_bytes_max: None,
            source: self.source,
            euid: Some(uid),
            login_uid: self.login_uid,
            working_directory: None,
            fileless: Some(exe.starts_with("/memfd:")),
        }
    }

    pub(super) fn exec_row(
        &mut self,
        pid: u32,
        ppid: u32,
        exe: &str,
        args: &[&str],
        uid: u32,
    ) -> ProcessEvent {
        self.process_row(ProcessEventKind::Exec, pid, ppid, exe, args, uid)
    }

    /// An exec in the place of `pid`.
    pub(super) fn exec(&mut self, pid: u32, ppid: u32, exe: &str, args: &[&str], uid: u32) {
        let row = self.exec_row(pid, ppid, exe, args, uid);
        self.observe(&row.into());
    }

    /// An exec of a set-user-ID program of root's.
    pub(super) fn exec_set_user_id(&mut self, pid: u32, exe: &str, args: &[&str], uid: u32) {
        let ppid = self.known[&pid].ppid;
        let mut row = self.exec_row(pid, ppid, exe, args, uid);
        row.euid = Some(0);
        self.observe(&row.into());
    }

    pub(super) fn fork(&mut self, pid: u32, ppid: u32) {
        let parent = self.known.get(&ppid).cloned();
        let (exe, uid) = parent.map_or(("/usr/bin/unknown".to_owned(), 0), |parent| {
            (parent.exe, parent.uid)
        });
        let row = self.process_row(ProcessEventKind::Fork, pid, ppid, &exe, &[], uid);
        self.observe(&row.into());
    }

    pub(super) fn exit(&mut self, pid: u32) {
        let known = self.known[&pid].clone();
        let row = self.process_row(
            ProcessEventKind::Exit,
            pid,
            known.ppid,
            &known.exe,
            &[],
            known.uid,
        );
        self.observe(&row.into());
    }

    pub(super) fn run_as_child(&mut self, pid: u32, ppid: u32, exe: &str, args: &[&str], uid: u32) {
        self.fork(pid, ppid);
        self.exec(pid, ppid, exe, args, uid);
    }

    /// A program run by the shell of the session.
    pub(super) fn run(&mut self, pid: u32, exe: &str, args: &[&str], uid: u32) {
        self.run_as_child(pid, 102, exe, args, uid);
    }

    fn actor(&self, pid: u32) -> Actor {
        let known = &self.known[&pid];
        let parent = self.known.get(&known.ppid);
        Actor {
            pid,
            start_boot_ns: known.start,
            ppid: Some(known.ppid),
            comm: name(&known.exe),
            exe: Some(known.exe.clone()),
            command_line: None,
            parent_comm: parent.map(|parent| name(&parent.exe)),
            parent_exe: parent.map(|parent| parent.exe.clone()),
            uid: known.uid,
            euid: Some(known.uid),
            login_uid: self.login_uid,
            cgroup: None,
            unit: self.unit.clone(),
            container_id: self.container.clone(),
        }
    }

    pub(super) fn file_row(&mut self, pid: u32, kind: FileEventKind, path: &str) -> FileEvent {
        self.now_ns += 1_000;
        let mut row = FileEvent::by(self.actor(pid), kind, self.time(), self.now_ns, self.source);
        row.path = path.to_owned();
        row
    }

    pub(super) fn file(&mut self, pid: u32, kind: FileEventKind, path: &str) {
        let row = self.file_row(pid, kind, path);
        self.observe(&row.into());
    }

    pub(super) fn write(&mut self, pid: u32, path: &str) {
        let mut row = self.file_row(pid, FileEventKind::OpenWrite, path);
        row.flags = Some(0o1101);
        self.observe(&row.into());
    }

    pub(super) fn append(&mut self, pid: u32, path: &str) {
        let mut row = self.file_row(pid, FileEventKind::OpenWrite, path);
        row.flags = Some(0o2001);
        self.observe(&row.into());
    }

    pub(super) fn read(&mut self, pid: u32, path: &str) {
        self.file(pid, FileEventKind::OpenRead, path);
    }

    pub(super) fn two_paths(&mut self, pid: u32, kind: FileEventKind, path: &str, target: &str) {
        let mut row = self.file_row(pid, kind, path);
        row.target = Some(target.to_owned());
        self.observe(&row.into());
    }

    pub(super) fn chmod(&mut self, pid: u32, path: &str, mode: u32, old: Option<u32>) {
        let mut row = self.file_row(pid, FileEventKind::Chmod, path);
        (row.mode, row.old_mode) = (Some(mode), old);
        self.observe(&row.into());
    }

    pub(super) fn chown(&mut self, pid: u32, path: &str, uid: u32) {
        let mut row = self.file_row(pid, FileEventKind::Chown, path);
        row.owner_uid = Some(uid);
        self.observe(&row.into());
    }

    /// A write by a process that nothing was told of; returns what was raised by it at once.
    pub(super) fn file_by_stranger(&mut self, pid: u32, ppid: u32, exe: &str, path: &str) -> Vec<String> {
        let before = self.findings.len();
        self.now_ns += 1_000;
        // The fork that is told later has this start.
        let start = self.now_ns + 1_000;
        let actor = Actor {
            pid,
            start_boot_ns: start,
            ppid: Some(ppid),
            comm: name(exe),
            exe: Some(exe.to_owned()),
            ..Actor::default()
        };
        let mut row = FileEvent::by(
            actor,
            FileEventKind::Create,
            self.time(),
            self.now_ns,
            self.source,
        );
        row.path = path.to_owned();
        self.observe(&row.into());
        self.findings[before..]
            .iter()
            .map(|finding| finding.rule.clone())
            .collect()
    }

    pub(super) fn credential(&mut self, pid: u32, call: &str, old: (u32, u32), new: (u32, u32)) {
        self.now_ns += 1_000;
        let mut row = CredentialEvent::by(
            self.actor(pid),
            CredentialEventKind::User,
            self.time(),
            self.now_ns,
            self.source,
        );
        row.call = Some(call.to_owned());
        (row.old_uid, row.old_euid) = (Some(old.0), Some(old.1));
        (row.uid, row.euid) = (new.0, Some(new.1));
        self.observe(&row.into());
    }

    pub(super) fn capabilities(&mut self, pid: u32, old: u64, new: u64, namespace: bool) {
        self.now_ns += 1_000;
        let kind = CredentialEventKind::Capabilities;
        let mut row = CredentialEvent::by(self.actor(pid), kind, self.time(), self.now_ns, self.source);
        (row.old_capabilities, row.capabilities) = (Some(old), Some(new));
        row.user_namespace = Some(namespace);
        self.observe(&row.into());
    }

    pub(super) fn memory(&mut self, pid: u32, kind: MemoryEventKind, target: u32, detail: &str) {
        self.now_ns += 1_000;
        let mut row = MemoryEvent::by(self.actor(pid), kind, self.time(), self.now_ns, self.source);
        let other = self.known[&target].clone();
        row.target_pid = Some(target);
        row.target_start_boot_ns = Some(other.start);
        row.target_comm = Some(name(&other.exe));
        row.target_exe = Some(other.exe);
        row.target_uid = Some(other.uid);
        row.detail = Some(detail.to_owned());
        self.observe(&row.into());
    }

    pub(super) fn mapping(&mut self, pid: u32) {
        self.now_ns += 1_000;
        let kind = MemoryEventKind::ExecutableMapping;
        let row = MemoryEvent::by(self.actor(pid), kind, self.time(), self.now_ns, self.source);
        self.observe(&row.into());
    }

    pub(super) fn kernel(&mut self, pid: u32, kind: KernelEventKind, name: &str, path: Option<&str>) {
        self.now_ns += 1_000;
        let mut row = KernelEvent::by(self.actor(pid), kind, self.time(), self.now_ns, self.source);
        row.name = Some(name.to_owned());
        row.path = path.map(str::to_owned);
        self.observe(&row.into());
    }

    pub(super) fn signal(&mut self, pid: u32, signal: i32, target: u32) {
        self.now_ns += 1_000;
        let mut row = SignalEvent::by(
            self.actor(pid),
            SignalEventKind::Signal,
            self.time(),
            self.now_ns,
            self.source,
        );
        let other = self.known[&target].clone();
        row.signal = signal;
        row.target_pid = target;
        row.target_comm = Some(name(&other.exe));
        row.target_exe = Some(other.exe);
        self.observe(&row.into());
    }

    pub(super) fn connection(
        &mut self,
        pid: u32,
        kind: NetworkEventKind,
        address: &str,
        port: u32,
    ) -> NetworkEvent {
        self.now_ns += 1_000;
        let known = self.known[&pid].clone();
        NetworkEvent {
            time: self.time(),
            boot_ns: self.now_ns,
            kind,
            owner: ConnectionOwner::Caller,
            pid,
            start_boot_ns: known.start,
            comm: name(&known.exe),
            uid: known.uid,
            protocol: "tcp".to_owned(),
            local_address: "10.0.0.2".to_owned(),
            local_port: 40_000,
            remote_address: address.to_owned(),
            remote_port: port,
            bytes_sent: None,
            bytes_received: None,
            duration_us: None,
            error: None,
            source: self.source,
            exe: Some(known.exe),
            cgroup: None,
            unit: self.unit.clone(),
            container_id: self.container.clone(),
            retransmits: None,
            round_trip_us: None,
            network_namespace: None,
        }
    }

    pub(super) fn connect(&mut self, pid: u32, address: &str, port: u32) {
        let row = self.connection(pid, NetworkEventKind::Connect, address, port);
        self.observe(&row.into());
    }

    pub(super) fn connect_refused(&mut self, pid: u32, address: &str, port: u32) {
        let mut row = self.connection(pid, NetworkEventKind::Connect, address, port);
        row.error = Some(111);
        self.observe(&row.into());
    }

    pub(super) fn accept(&mut self, pid: u32, address: &str, local_port: u32) {
        let mut row = self.connection(pid, NetworkEventKind::Accept, address, 50_000);
        row.local_port = local_port;
        self.observe(&row.into());
    }

    pub(super) fn close(&mut self, pid: u32, address: &str, port: u32, sent: u64, seconds: u64) {
        let mut row = self.connection(pid, NetworkEventKind::Close, address, port);
        row.bytes_sent = Some(sent);
        row.bytes_received = Some(1_000);
        row.duration_us = Some(seconds * 1_000_000);
        self.observe(&row.into());
    }

    pub(super) fn listen(&mut self, pid: u32, address: &str, port: u32) {
        let mut row = self.connection(pid, NetworkEventKind::Listen, "", 0);
        row.local_address = address.to_owned();
        row.local_port = port;
        self.observe(&row.into());
    }

    pub(super) fn snapshot(&mut self, pid: u32, cpu_core_pct: f64, deleted: bool) {
        let known = self.known[&pid].clone();
        let row = ProcessSnapshot {
            time: self.time(),
            pid,
            start_boot_ns: known.start,
            ppid: known.ppid,
            comm: name(&known.exe),
            exe: Some(known.exe),
            exe_deleted: deleted,
            command_line: String::new(),
            uid: known.uid,
            state: "R".to_owned(),
            cgroup: None,
            unit: None,
            container_id: self.container.clone(),
            cpu_core_pct,
            rss_bytes: 0,
            read_bytes: 0,
            write_bytes: 0,
            fd_count: None,
            thread_count: 1,
        };
        self.observe(&row.into());
    }
}

fn name(exe: &str) -> String {
    exe.rsplit('/').next().unwrap().chars().take(15).collect()
}
