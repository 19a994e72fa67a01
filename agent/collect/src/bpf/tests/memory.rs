//! Reaching into a process of our own, programs without a file, executable memory.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use fleetmend_event::table::{KernelEvent, KernelEventKind, MemoryEvent, MemoryEventKind};

use super::deeds::{self, Victim};
use super::*;

impl Rig {
    fn memory(&mut self, what: &str, wanted: impl Fn(&MemoryEvent) -> bool) -> MemoryEvent {
        self.wait_for(what, |fact| match fact {
            Fact::MemoryEvent(row) if wanted(row) => Some((**row).clone()),
            _ => None,
        })
    }
}

#[test]
fn reaching_into_another_process_names_both_and_into_oneself_is_nothing() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Memory])) else {
        return;
    };
    let (victim, own) = (Victim::start(), std::process::id());
    let pid = victim.pid();
    deeds::trace(&victim);
    let on = |kind, detail: &'static str| {
        move |row: &MemoryEvent| {
            row.kind == kind
                && row.target_pid == Some(pid)
                && row.detail.as_deref().unwrap_or_default() == detail
        }
    };
    let attached = rig.memory("attach", on(MemoryEventKind::Ptrace, "PTRACE_ATTACH"));
    assert_eq!(
        (attached.pid, attached.error, attached.source),
        (own, None, Source::Ebpf)
    );
    assert_eq!(attached.target_comm.as_deref(), Some("cat"));
    assert_eq!(attached.target_uid, Some(nix::unistd::getuid().as_raw()));
    assert!(attached.target_start_boot_ns.is_some_and(|start| start > 0));
    let poked = rig.memory("poke", on(MemoryEventKind::Ptrace, "PTRACE_POKEDATA"));
    assert_eq!(poked.address, Some(victim.stack));

    deeds::reach_in(pid, victim.stack);
    let read = rig.memory("read", on(MemoryEventKind::ProcessVmRead, ""));
    assert_eq!((read.length, read.error), (Some(8), None));
    let written = rig.memory("write", on(MemoryEventKind::ProcessVmWrite, ""));
    assert_eq!((written.target_comm.as_deref(), written.pid), (Some("cat"), own));
    assert!(
        written
            .target_exe
            .is_some_and(|exe| exe.ends_with("/cat") || exe.contains("coreutils"))
    );

    let path = format!("/proc/{pid}/mem");
    File::open(&path).unwrap();
    rig.memory("mem read", on(MemoryEventKind::ProcMemRead, ""));
    OpenOptions::new().write(true).open(&path).unwrap();
    rig.memory("mem write", on(MemoryEventKind::ProcMemWrite, ""));

    // Innocent: one's own memory, another file of the victim, and a marker behind them.
    File::open("/proc/self/mem").unwrap();
    let mine = [7_u64];
    deeds::reach_in(own, mine.as_ptr().expose_provenance() as u64);
    std::fs::read(format!("/proc/{pid}/status")).unwrap();
    let marker = Victim::start();
    deeds::reach_in(marker.pid(), marker.stack);
    rig.memory("marker", |row| {
        row.kind == MemoryEventKind::ProcessVmWrite && row.target_pid == Some(marker.pid())
    });
    let on_self = |fact: &Fact| match fact {
        Fact::MemoryEvent(row) => row.pid == own && row.target_pid == Some(own),
        _ => false,
    };
    assert!(!rig.facts.iter().any(on_self), "{:#?}", rig.facts);
    let of_victim = |fact: &&Fact| match fact {
        Fact::MemoryEvent(row) => row.target_pid == Some(pid),
        _ => false,
    };
    assert_eq!(rig.facts.iter().filter(of_victim).count(), 6, "{:#?}", rig.facts);
}

#[test]
fn program_without_a_file_and_executable_memory_are_told() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Memory])) else {
        return;
    };
    let own = std::process::id();
    let name = format!("acts-{own}");
    let program = deeds::memfd_program(&name, "/bin/true");
    rig.memory("memfd", |row| {
        row.kind == MemoryEventKind::Memfd && row.detail.as_deref() == Some(&name)
    });
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let fileless = run(&mut Command::new(&path));
    let row = rig.memory("fileless exec", |row| {
        row.kind == MemoryEventKind::FilelessExec && row.pid == fileless
    });
    let detail = row.detail.unwrap();
    assert_eq!(detail, format!("memfd:{name} (called {path})"));

    // A program that was deleted while a descriptor led to it.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    std::fs::copy("/bin/true", &copy).unwrap();
    let held = File::open(&copy).unwrap();
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let deleted = run(&mut Command::new(format!("/proc/self/fd/{}", held.as_raw_fd())));
    rig.memory("deleted program", |row| {
        row.kind == MemoryEventKind::FilelessExec && row.pid == deleted
    });
    let ordinary = run(&mut Command::new("/bin/true"));

    // Of a file: what loaders do. It comes first, so that it cannot be hidden in repeats.
    let of_file = deeds::make_file_executable();
    let (mapped, protected) = deeds::make_executable();
    let at = |address| move |row: &MemoryEvent| row.pid == own && row.address == Some(address);
    let row = rig.memory("executable mapping", at(mapped));
    assert_eq!(
        (row.kind, row.protection),
        (MemoryEventKind::ExecutableMapping, Some(7))
    );
    assert_eq!(
        (row.detail.as_deref(), row.length),
        (Some("mmap, writable too"), Some(4096))
    );
    let row = rig.memory("protection", at(protected));
    assert_eq!(
        (row.detail.as_deref(), row.protection),
        (Some("mprotect"), Some(5))
    );
    let innocent = |fact: &Fact| match fact {
        Fact::MemoryEvent(row) => row.pid == ordinary || row.address == Some(of_file),
        _ => false,
    };
    assert!(!rig.facts.iter().any(innocent), "{:#?}", rig.facts);
}

#[test]
fn setting_that_is_opened_for_writing_is_told_and_one_that_is_read_is_not() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Memory])) else {
        return;
    };
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    // In a network namespace of their own: nothing of this machine changes.
    let shell = |script: &str| run(Command::new("unshare").args(["--net", "sh", "-c", script]));
    let reader = shell(&format!("cat {PATH}"));
    let writer = shell(&format!("echo 1 > {PATH}"));
    let row = rig.wait_for("setting", |fact| match fact {
        Fact::KernelEvent(row) if row.kind == KernelEventKind::Setting && row.pid == writer => {
            Some(KernelEvent::clone(row))
        }
        _ => None,
    });
    assert_eq!(row.path.as_deref(), Some(PATH));
    assert_eq!(row.name.as_deref(), Some("net.ipv4.ip_forward"));
    let read = |fact: &Fact| match fact {
        Fact::KernelEvent(row) => row.kind == KernelEventKind::Setting && row.pid == reader,
        _ => false,
    };
    assert!(!rig.facts.iter().any(read), "{:#?}", rig.facts);
}
