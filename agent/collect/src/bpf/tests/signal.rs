//! A real kill, a real fault, and a real lack of memory.

use std::fs;
use std::path::{Path, PathBuf};

use fleetmend_event::table::{SignalEvent, SignalEventKind};

use super::deeds::{self, Victim};
use super::*;

impl Rig {
    fn signal(&mut self, what: &str, wanted: impl Fn(&SignalEvent) -> bool) -> SignalEvent {
        self.wait_for(what, |fact| match fact {
            Fact::SignalEvent(row) if wanted(row) => Some((**row).clone()),
            _ => None,
        })
    }
}

fn send(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn signals_that_end_a_process_are_told_however_much_is_shed_and_the_others_are_counted() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Signal])) else {
        return;
    };
    let victim = Victim::start();
    rig.drain.shed(Family::Signal, 1);
    send(victim.pid(), nix::sys::signal::Signal::SIGCONT);
    send(victim.pid(), nix::sys::signal::Signal::SIGTERM);
    rig.signal("SIGTERM", |row| {
        row.target_pid == victim.pid() && row.signal == libc::SIGTERM
    });
    let to_victim = |fact: &Fact| matches!(fact, Fact::SignalEvent(row) if row.target_pid == victim.pid() && row.signal == libc::SIGCONT);
    assert!(!rig.facts.iter().any(to_victim), "{:#?}", rig.facts);
    rig.tick();
    rig.wait_for("gap of what was shed", |fact| match fact {
        Fact::Gap(gap) if gap.table == "signal_events" && gap.reason == "shed" => Some(()),
        _ => None,
    });
    rig.drain.shed(Family::Signal, 0);
    let victim = Victim::start();
    send(victim.pid(), nix::sys::signal::Signal::SIGCONT);
    rig.signal("SIGCONT", |row| {
        row.target_pid == victim.pid() && row.signal == libc::SIGCONT
    });
}

#[test]
fn signals_between_processes_and_faults_are_told_and_chatter_is_not() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Signal])) else {
        return;
    };
    let own = std::process::id();
    let victim = Victim::start();
    // Ignored ones, and those to oneself, first: what comes after them shows that they did not come.
    send(victim.pid(), nix::sys::signal::Signal::SIGWINCH);
    send(victim.pid(), nix::sys::signal::Signal::SIGCHLD);
    let to_itself = run(Command::new("sh").args(["-c", "kill -TERM $$"]));
    send(victim.pid(), nix::sys::signal::Signal::SIGTERM);
    let row = rig.signal("SIGTERM", |row| {
        row.target_pid == victim.pid() && row.signal == libc::SIGTERM
    });
    assert_eq!(
        (row.kind, row.pid, row.source),
        (SignalEventKind::Signal, own, Source::Ebpf)
    );
    assert_eq!(row.target_comm.as_deref(), Some("cat"));
    assert!(row.target_start_boot_ns.is_some_and(|start| start > 0));
    let chatter = |fact: &Fact| match fact {
        Fact::SignalEvent(row) => {
            row.target_pid == to_itself || (row.target_pid == victim.pid() && row.signal != libc::SIGTERM)
        }
        _ => false,
    };
    assert!(!rig.facts.iter().any(chatter), "{:#?}", rig.facts);

    let crashed = deeds::crash_elsewhere();
    let fault = rig.signal("fault", |row| {
        row.kind == SignalEventKind::Fault && row.pid == crashed
    });
    assert_eq!((fault.signal, fault.target_pid), (libc::SIGSEGV, crashed));
}

/// A control group with little memory; goes away when dropped.
struct Little(PathBuf);

impl Little {
    /// `None` where this user may not make one.
    fn new() -> Option<Self> {
        const BYTES: &str = "16777216";
        let name = format!("acts-{}", std::process::id());
        let (root, limit) = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let group = Path::new(root).join(name);
        fs::create_dir(&group).ok()?;
        let little = Self(group);
        fs::write(little.0.join(limit), BYTES).ok()?;
        Some(little)
    }
}

impl Drop for Little {
    fn drop(&mut self) {
        // The last process may not have left yet.
        let end = Instant::now() + DEADLINE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn victim_of_a_lack_of_memory_is_told_with_what_it_held() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Signal])) else {
        return;
    };
    let Some(little) = Little::new() else {
        println!("COULD NOT RUN: no control group with a limit of memory can be made here");
        return;
    };
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec tail /dev/zero",
        little.0.display()
    );
    let pid = run(Command::new("sh").args(["-c", &script]));
    let row = rig.signal("OOM kill", |row| {
        row.kind == SignalEventKind::OomKill && row.target_pid == pid
    });
    assert_eq!(row.signal, libc::SIGKILL);
    if let Some(comm) = &row.target_comm {
        assert_eq!(comm, "tail");
    }
    if let Some(bytes) = row.rss_bytes {
        assert!(bytes > 1024 * 1024, "{row:?}");
    }
}
