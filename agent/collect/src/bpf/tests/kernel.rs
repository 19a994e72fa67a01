//! Changes of the kernel's state, made in namespaces of children, or refused.

use fleetmend_event::table::{KernelEvent, KernelEventKind};

use super::deeds;
use super::*;

impl Rig {
    fn kernel(&mut self, what: &str, wanted: impl Fn(&KernelEvent) -> bool) -> KernelEvent {
        self.wait_for(what, |fact| match fact {
            Fact::KernelEvent(row) if wanted(row) => Some((**row).clone()),
            _ => None,
        })
    }
}

fn by(pid: u32, kind: KernelEventKind) -> impl Fn(&KernelEvent) -> bool {
    move |row| row.pid == pid && row.kind == kind
}

#[test]
fn mounts_namespaces_and_roots_are_told() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Kernel])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let source = format!("acts-{}", std::process::id());

    let mounter =
        run(Command::new("unshare").args(["--mount", "mount", "-i", "-t", "tmpfs", &source, place]));
    let unshared = rig.kernel("unshare", by(mounter, KernelEventKind::Unshare));
    assert_eq!(unshared.detail.as_deref(), Some("mnt"));
    // Newer tools mount in steps (fsopen, fsmount, move_mount), older ones at once.
    rig.kernel("mount", |row| {
        let is_place = row.path.as_deref() == Some(place);
        by(mounter, KernelEventKind::Mount)(row) && row.error.is_none() && is_place
    });
    let type_of = |row: &KernelEvent| {
        row.detail
            .as_deref()
            .is_some_and(|detail| detail.ends_with("tmpfs"))
    };
    rig.kernel("type of the mount", |row| {
        by(mounter, KernelEventKind::Mount)(row) && type_of(row)
    });

    let script = format!("mount -i -t tmpfs {source} {place} && exec umount -i {place}");
    run(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    let unmounted = rig.kernel("umount", |row| {
        row.kind == KernelEventKind::Umount && row.path.as_deref() == Some(place)
    });
    assert_eq!((unmounted.comm.as_str(), unmounted.error), ("umount", None));

    let own = std::process::id().to_string();
    let entered = run(Command::new("nsenter").args(["--target", &own, "--uts", "true"]));
    let entered = rig.kernel("setns", by(entered, KernelEventKind::Setns));
    assert_eq!(entered.detail.as_deref(), Some("uts"));

    let child = deeds::clone_into_a_namespace();
    let cloned = format!("uts (clone of pid {child})");
    let row = rig.kernel("clone", |row| row.detail.as_deref() == Some(&cloned));
    assert_eq!(
        (row.kind, row.pid),
        (KernelEventKind::Unshare, std::process::id())
    );

    let rooted = run(Command::new("chroot").args(["/", "true"]));
    let rooted = rig.kernel("chroot", by(rooted, KernelEventKind::ChangeRoot));
    assert_eq!(
        (rooted.path.as_deref(), rooted.detail.as_deref()),
        (Some("/"), Some("chroot"))
    );
    let missing = format!("{place}/missing");
    let pivoted = run(Command::new("pivot_root").args([&missing, &missing]));
    let pivoted = rig.kernel("pivot_root", by(pivoted, KernelEventKind::ChangeRoot));
    assert_eq!(
        (pivoted.path.as_deref(), pivoted.error),
        (Some(missing.as_str()), Some(libc::ENOENT))
    );

    // Innocent: a thread, a fork, the reading of what is mounted.
    let reader = run(Command::new("cat").arg("/proc/self/mountinfo"));
    std::thread::spawn(|| {}).join().unwrap();
    let marker = run(Command::new("chroot").args(["/", "true"]));
    rig.kernel("marker", by(marker, KernelEventKind::ChangeRoot));
    let innocent = |fact: &Fact| matches!(fact, Fact::KernelEvent(row) if row.pid == reader);
    assert!(!rig.facts.iter().any(innocent), "{:#?}", rig.facts);
}

#[test]
fn acts_on_paths_that_begin_alike_are_told_apart() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Kernel])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("m".repeat(40));
    let own = std::process::id();
    for name in ["one", "two"] {
        nix::unistd::chroot(&missing.join(name)).unwrap_err();
    }
    for name in ["one", "two"] {
        let path = missing.join(name);
        rig.kernel(name, |row| {
            by(own, KernelEventKind::ChangeRoot)(row) && row.path.as_deref() == path.to_str()
        });
    }
}

#[test]
fn clocks_programs_rings_and_other_calls_are_told() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Kernel])) else {
        return;
    };
    let own = std::process::id();
    deeds::read_clock_state();
    let refused = deeds::set_no_clock();
    for (call, error) in ["clock_settime", "clock_adjtime"].into_iter().zip(refused) {
        let row = rig.kernel(call, |row| {
            let names = row
                .detail
                .as_deref()
                .is_some_and(|detail| detail.starts_with(call));
            by(own, KernelEventKind::ClockSet)(row) && names
        });
        assert_eq!(row.error, Some(error), "{row:?}");
    }

    let btf = aya::Btf::from_sys_fs().unwrap();
    drop(crate::bpf::profile::Profiler::load(
        Default::default(),
        Ok(&btf),
        0,
    ));
    let row = rig.kernel("program", |row| {
        by(own, KernelEventKind::BpfLoad)(row) && row.name.as_deref() == Some("on_call")
    });
    assert_eq!(row.detail.as_deref(), Some("raw_tracepoint"));

    if deeds::set_up_uring() {
        rig.kernel("uring", by(own, KernelEventKind::Uring));
    } else {
        println!("COULD NOT RUN: this kernel gives no io_uring");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = deeds::compat_program(folder.path());
    match Command::new(&program).spawn() {
        Ok(mut child) => {
            let row = rig.kernel("32-bit program", by(child.id(), KernelEventKind::Compat));
            assert_eq!(row.path.as_deref(), program.to_str());
            child.wait().unwrap();
        }
        Err(error) => println!("COULD NOT RUN: no 32-bit programs here: {error}"),
    }
    if !std::path::Path::new("/proc/modules").exists() {
        println!("COULD NOT RUN: this kernel takes no modules; their tracepoints are tested in a VM");
    }
    let read = |fact: &Fact| match fact {
        Fact::KernelEvent(row) => {
            row.detail
                .as_deref()
                .is_some_and(|detail| detail.starts_with("adjtimex"))
                && row.pid == own
        }
        _ => false,
    };
    assert!(
        !rig.facts.iter().any(read),
        "reading is not setting: {:#?}",
        rig.facts
    );
}

#[test]
fn names_of_the_host_that_are_set_are_told() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Kernel])) else {
        return;
    };
    let own = std::process::id();
    let (host, domain) = (format!("host-{own}"), "d".repeat(64));
    let namer = deeds::set_names(&host, &domain);
    for (call, name) in [("sethostname", &host), ("setdomainname", &domain)] {
        let mut told = |what, error: Option<i32>| {
            rig.kernel(&format!("{call} {what}"), |row| {
                let is_call = row.detail.as_deref() == Some(call) && row.error == error;
                by(namer, KernelEventKind::HostNameSet)(row) && is_call
            })
        };
        let set = told("set", None);
        assert_eq!(set.name.as_ref(), Some(name), "{set:?}");
        assert_eq!(set.uid, nix::unistd::getuid().as_raw());
        let refused = told("refused", Some(libc::EINVAL));
        assert_eq!(refused.name, None, "{refused:?}");
    }
}

#[test]
fn names_of_the_host_that_are_read_are_silent() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Kernel])) else {
        return;
    };
    let own = std::process::id();
    nix::unistd::gethostname().unwrap();
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap();
    let child = deeds::clone_into_a_namespace();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    nix::unistd::chroot(&missing).unwrap_err();
    rig.silent(
        "reading names",
        |fact| matches!(fact, Fact::KernelEvent(row) if row.path.as_deref() == missing.to_str()),
        |fact| match fact {
            Fact::KernelEvent(row) => {
                row.kind == KernelEventKind::HostNameSet && [own, child].contains(&row.pid)
            }
            _ => false,
        },
    );
}
