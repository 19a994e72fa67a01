use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fleetmend_event::Fact;
use fleetmend_event::table::{
    CredentialEvent, CredentialEventKind, Gap, GapStage, MemoryEvent, MemoryEventKind, ProcessEvent,
    ProcessEventKind, Source,
};
use tokio::sync::mpsc;

use super::*;
use crate::PaceHandle;
use crate::process::{Inventory, ProcessConfig};
use crate::source::Kind;
use crate::source::delivery::{Delivery, Tally};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// A joined connector whose thread runs until the rig is dropped.
struct Rig {
    facts: mpsc::Receiver<Fact>,
    seen: Vec<Fact>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

/// `None` where this process may not join; CI runs as root.
fn join(buffer_bytes: u32) -> Option<ConnectorSocket> {
    match ConnectorSocket::join(buffer_bytes) {
        Ok(socket) => Some(socket),
        Err(error) if !nix::unistd::geteuid().is_root() => {
            println!("not run: the connector needs CAP_NET_ADMIN: {error}");
            None
        }
        Err(error) => panic!("{error}: {}", error.source),
    }
}

impl Rig {
    fn start(socket: ConnectorSocket) -> Self {
        let (sender, facts) = mpsc::channel(200_000);
        let kinds: BTreeMap<Kind, Arc<Tally>> = [Kind::Processes, Kind::Credentials, Kind::Memory]
            .into_iter()
            .map(|kind| (kind, Arc::default()))
            .collect();
        let delivery = Delivery::new(sender, "connector", kinds, PaceHandle::default());
        let follower = Follower::new(Inventory::new(ProcessConfig::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            std::thread::spawn(move || run(&socket, follower, delivery, || stopped.load(Ordering::Relaxed)));
        Self {
            facts,
            seen: Vec::new(),
            stop,
            thread: Some(thread),
        }
    }

    /// Waits for a fact that `wanted` takes.
    fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Fact) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Ok(fact) = self.facts.try_recv() {
                self.seen.push(fact);
            }
            if let Some(found) = self.seen.iter().find_map(&wanted) {
                return found;
            }
            assert!(Instant::now() < end, "no {what} among {} facts", self.seen.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn process(&mut self, pid: u32, kind: ProcessEventKind) -> ProcessEvent {
        self.wait(&format!("{kind} of {pid}"), |fact| match fact {
            Fact::ProcessEvent(row) if row.pid == pid && row.kind == kind => Some(row.as_ref().clone()),
            _ => None,
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

fn quiet(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Ended and reaped before the test ends, however it ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn deeds_of_own_children_are_told() {
    let Some(socket) = join(8 << 20) else { return };
    let mut rig = Rig::start(socket);

    // Long enough for everything to be caught: it ends when it is killed.
    let mut child = Ended(
        quiet("sleep", &["3601", "--password=hidden"])
            .arg0("sleep")
            .spawn()
            .unwrap(),
    );
    let pid = child.0.id();
    let fork = rig.process(pid, ProcessEventKind::Fork);
    assert_eq!((fork.ppid, fork.source), (std::process::id(), Source::Connector));
    // sleep refuses the option and ends at once: a program that lives long enough is started beside it.
    child.0.wait().unwrap();
    let mut child = Ended(
        quiet("sh", &["-c", "read line", "--password=hidden", "unique-argument"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let pid = child.0.id();
    let exec = rig.process(pid, ProcessEventKind::Exec);
    assert_eq!(
        exec.args,
        ["sh", "-c", "read line", "--password=[masked]", "unique-argument"]
    );
    assert!(
        !exec.args_truncated && exec.exe.as_deref().is_some_and(|exe| exe.starts_with('/')),
        "{exec:?}"
    );
    assert_eq!(
        (exec.ppid, exec.uid),
        (std::process::id(), nix::unistd::getuid().as_raw())
    );
    assert!(
        exec.start_boot_ns > 0 && exec.start_boot_ns <= exec.boot_ns + 10_000_000,
        "{exec:?}"
    );
    assert_eq!(
        exec.working_directory.as_deref(),
        std::env::current_dir().unwrap().to_str()
    );
    child.0.kill().unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
    let exit = rig.process(pid, ProcessEventKind::Exit);
    assert_eq!((exit.exit_code, exit.exit_signal), (None, Some(9)));
    assert_eq!(exit.start_boot_ns, exec.start_boot_ns);

    let status = quiet("sh", &["-c", "exit 7"]).status().unwrap();
    assert_eq!(status.code(), Some(7));
    rig.wait("exit with 7", |fact| match fact {
        Fact::ProcessEvent(row) => (row.exit_code == Some(7) && row.ppid == std::process::id()).then_some(()),
        _ => None,
    });

    brief_programs(&mut rig);
    if nix::unistd::geteuid().is_root() {
        change_of_user(&mut rig);
        attachment(&mut rig);
    }
}

/// Whatever was caught of programs that end at once, nothing is made up.
fn brief_programs(rig: &mut Rig) {
    for _ in 0..20 {
        let mut child = quiet("true", &["one", "two"]).spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let exec = rig.process(pid, ProcessEventKind::Exec);
        if exec.args.is_empty() {
            assert!(exec.args_truncated, "{exec:?}");
        } else {
            assert_eq!(exec.args, ["true", "one", "two"]);
        }
        assert!(
            exec.exe
                .as_deref()
                .is_none_or(|exe| exe.contains("true") || exe.contains("coreutils")),
            "{exec:?}"
        );
        rig.process(pid, ProcessEventKind::Exit);
    }
}

fn change_of_user(rig: &mut Rig) {
    let command = "read line";
    let child = Ended(
        quiet("sh", &["-c", command])
            .uid(65_534)
            .gid(65_534)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let pid = child.0.id();
    let mut change = |kind: CredentialEventKind| -> CredentialEvent {
        rig.wait("change of credentials", |fact| match fact {
            Fact::CredentialEvent(row) if row.pid == pid && row.kind == kind => Some(row.as_ref().clone()),
            _ => None,
        })
    };
    let group = change(CredentialEventKind::Group);
    assert_eq!((group.old_gid, group.gid), (Some(0), Some(65_534)), "{group:?}");
    let user = change(CredentialEventKind::User);
    assert_eq!(
        (user.old_uid, user.uid, user.euid),
        (Some(0), 65_534, Some(65_534)),
        "{user:?}"
    );
    assert_eq!(
        (user.user_namespace, user.source),
        (Some(false), Source::Connector)
    );
    // The one that gave its users up lost its capabilities; when they could be read.
    assert!(
        user.capabilities.is_none_or(|capabilities| capabilities == 0),
        "{user:?}"
    );
    let exec = rig.process(pid, ProcessEventKind::Exec);
    assert_eq!((exec.uid, exec.gid, exec.euid), (65_534, 65_534, Some(65_534)));
}

fn attachment(rig: &mut Rig) {
    let child = Ended(
        quiet("sh", &["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let target = child.0.id();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(target).unwrap());
    nix::sys::ptrace::attach(pid).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    nix::sys::ptrace::detach(pid, None).unwrap();
    let row: MemoryEvent = rig.wait("ptrace", |fact| match fact {
        Fact::MemoryEvent(row) if row.target_pid == Some(target) => Some(row.as_ref().clone()),
        _ => None,
    });
    assert_eq!((row.kind, row.pid), (MemoryEventKind::Ptrace, std::process::id()));
    assert_eq!(row.detail.as_deref(), Some("PTRACE_ATTACH"));
    assert_eq!(row.target_uid, Some(0));
}

#[test]
fn what_a_full_socket_loses_is_a_gap() {
    let Some(socket) = join(64 * 1024) else { return };
    // Nobody reads meanwhile: far more than the socket holds.
    for _ in 0..300 {
        quiet("true", &[]).status().unwrap();
    }
    let mut rig = Rig::start(socket);
    // The next messages of each CPU show how many are missing.
    let gap: Gap = rig.wait("gap", |fact| {
        quiet("true", &[]).status().unwrap();
        match fact {
            Fact::Gap(gap) if gap.reason == "socket_full" => Some(gap.as_ref().clone()),
            _ => None,
        }
    });
    assert_eq!((gap.table.as_str(), gap.stage), ("*", GapStage::Kernel));
    assert!(gap.count > 0 && gap.from_time <= gap.to_time, "{gap:?}");
}
