//! Acts on memory, the kernel and other processes that raise, each beside the one that looks like it.

use fleetmend_event::table::{KernelEventKind, MemoryEventKind, Severity, SyscallProfile};

use super::acts::{NONE, by, shell};
use super::lose;
use super::world::World;

#[test]
fn memory_of_a_protected_process_touched_is_raised() {
    let cases = [
        (MemoryEventKind::Ptrace, "PTRACE_ATTACH", "process-memory-write"),
        (MemoryEventKind::ProcessVmWrite, "", "process-memory-write"),
        (MemoryEventKind::ProcMemWrite, "", "process-memory-write"),
        (MemoryEventKind::ProcMemRead, "", "process-memory-read"),
        (MemoryEventKind::ProcessVmRead, "", "process-memory-read"),
    ];
    for (kind, detail, rule) in cases {
        let mut world = shell();
        world.memory(110, kind, 100, detail);
        assert_eq!(
            (world.rules(), world.worst()),
            (vec![rule], Some(Severity::High)),
            "{kind} of sshd"
        );
    }
    let mut world = World::with_session();
    world.run(110, "/usr/bin/sleep", &["sleep"], 1001);
    world.run(111, "/home/eve/inject", &["inject"], 1000);
    world.memory(111, MemoryEventKind::ProcMemWrite, 110, "");
    assert_eq!(
        world.severity_of("process-memory-write"),
        Some(Severity::High),
        "another user's"
    );
    world.run(112, "/usr/bin/sleep", &["sleep"], 1000);
    world.findings.clear();
    world.memory(111, MemoryEventKind::ProcessVmWrite, 112, "");
    world.run(113, "/home/eve/inject2", &["inject2"], 1000);
    world.memory(113, MemoryEventKind::ProcessVmWrite, 112, "");
    assert_eq!(
        world.severity_of("process-memory-write"),
        Some(Severity::Medium),
        "one's own, by no debugger"
    );
}

#[test]
fn debugger_of_its_owner_and_of_its_child_is_silent() {
    for uid in [0, 1000] {
        let mut world = World::with_session();
        world.run(110, "/usr/bin/sleep", &["sleep", "100"], uid);
        world.run(111, "/usr/bin/gdb", &["gdb", "-p", "110"], uid);
        world.memory(111, MemoryEventKind::Ptrace, 110, "PTRACE_ATTACH");
        world.memory(111, MemoryEventKind::ProcMemWrite, 110, "");
        world.run(112, "/home/eve/tracer", &["tracer"], uid);
        world.run_as_child(113, 112, "/usr/bin/true", &["true"], uid);
        world.memory(112, MemoryEventKind::Ptrace, 113, "PTRACE_SEIZE");
        assert_eq!(world.rules(), NONE, "uid {uid}");
        world.run(114, "/home/eve/go/bin/dlv", &["dlv", "attach", "110"], uid);
        world.memory(114, MemoryEventKind::Ptrace, 110, "PTRACE_ATTACH");
        assert_eq!(world.worst(), Some(Severity::Low), "a debugger at home");
    }
}

#[test]
fn executable_memory_of_a_protected_program_is_raised() {
    let mut world = World::with_session();
    world.mapping(100);
    assert_eq!(world.rules(), ["executable-memory"]);
}

#[test]
fn executable_memory_of_compilers_at_run_time_is_silent() {
    for exe in [
        "/usr/bin/node",
        "/usr/bin/java",
        "/usr/bin/python3.11",
        "/usr/lib/polkit-1/polkitd",
        "/home/eve/target/debug/app",
    ] {
        let (rules, _) = by(exe, |world| world.mapping(110));
        assert_eq!(rules, NONE, "{exe}");
    }
}

#[test]
fn module_loaded_by_hand_is_raised() {
    let load =
        |world: &mut World, path: Option<&str>| world.kernel(110, KernelEventKind::ModuleLoad, "evil", path);
    let (rules, worst) = by("/usr/bin/kmod", |world| load(world, Some("/tmp/evil.ko")));
    assert_eq!(
        (rules, worst),
        (vec!["module-load".to_owned()], Some(Severity::High))
    );
    let (_, worst) = by("/usr/bin/python3", |world| load(world, None));
    assert_eq!(worst, Some(Severity::High), "not by the tool for it");
    let (_, worst) = by("/usr/bin/kmod", |world| {
        load(world, Some("/tmp/lib/modules/evil.ko"))
    });
    assert_eq!(
        worst,
        Some(Severity::High),
        "a folder that looks like the kernel's"
    );
    let (_, worst) = by("/usr/bin/kmod", |world| {
        load(world, Some("/usr/lib/modules/6.1/kernel/x.ko"))
    });
    assert_eq!(worst, Some(Severity::Medium));
}

#[test]
fn modules_that_the_host_needs_are_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/lib/systemd/systemd-udevd", &["systemd-udevd"], 0);
    world.kernel(
        10,
        KernelEventKind::ModuleLoad,
        "usb_storage",
        Some("/usr/lib/modules/6.1/x.ko"),
    );
    world.exec(2, 0, "kthreadd", &[], 0);
    world.run_as_child(
        11,
        2,
        "/usr/sbin/modprobe",
        &["modprobe", "-q", "--", "net-pf-10"],
        0,
    );
    world.kernel(
        11,
        KernelEventKind::ModuleLoad,
        "ipv6",
        Some("/usr/lib/modules/6.1/ipv6.ko"),
    );
    world.run_as_child(12, 1, "/usr/bin/dockerd", &["dockerd"], 0);
    world.run_as_child(13, 12, "/usr/sbin/modprobe", &["modprobe", "overlay"], 0);
    world.kernel(
        13,
        KernelEventKind::ModuleLoad,
        "overlay",
        Some("/usr/lib/modules/6.1/o.ko"),
    );
    assert_eq!(world.rules(), NONE);
    // A service that is a script.
    world.run_as_child(14, 1, "/usr/bin/dash", &["/bin/sh", "/usr/sbin/netfilter"], 0);
    world.run_as_child(15, 14, "/usr/sbin/modprobe", &["modprobe", "ip_tables"], 0);
    world.kernel(
        15,
        KernelEventKind::ModuleLoad,
        "ip_tables",
        Some("/usr/lib/modules/6.1/i.ko"),
    );
    assert_eq!(world.worst(), Some(Severity::Low));
}

#[test]
fn bpf_program_of_an_unexpected_program_is_raised() {
    let (rules, worst) = by("/root/rootkit", |world| {
        world.kernel(110, KernelEventKind::BpfLoad, "hide", None)
    });
    assert_eq!(
        (rules, worst),
        (vec!["bpf-load".to_owned()], Some(Severity::High))
    );
}

#[test]
fn bpf_programs_of_systemd_and_tracers_are_silent() {
    for exe in [
        "/usr/lib/systemd/systemd",
        "/usr/bin/bpftrace",
        "/usr/bin/runc",
        "/usr/sbin/ip",
    ] {
        let (rules, _) = by(exe, |world| {
            world.kernel(110, KernelEventKind::BpfLoad, "x", None)
        });
        assert_eq!(rules, NONE, "{exe}");
    }
}

#[test]
fn clock_kernel_and_settings_changed_by_hand_are_raised() {
    let (rules, _) = by("/usr/bin/date", |world| {
        world.kernel(110, KernelEventKind::ClockSet, "", None)
    });
    assert_eq!(rules, ["clock-set"]);
    let (rules, _) = by("/root/x", |world| {
        world.kernel(110, KernelEventKind::Kexec, "", None)
    });
    assert_eq!(rules, ["kexec"]);
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/tmp/kexec", &["kexec"], 0);
    world.kernel(10, KernelEventKind::Kexec, "", None);
    assert!(world.rules().contains(&"kexec"), "a name excuses nothing");
    let path = "/proc/sys/kernel/core_pattern";
    let (rules, worst) = by("/usr/bin/bash", |world| world.write(110, path));
    assert_eq!(
        (rules, worst),
        (vec!["kernel-setting-tamper".to_owned()], Some(Severity::High))
    );
    let (rules, _) = by("/usr/bin/bash", |world| {
        world.kernel(110, KernelEventKind::Setting, "", Some(path))
    });
    assert_eq!(rules, ["kernel-setting-tamper"]);
}

#[test]
fn clock_kernel_and_settings_kept_by_the_system_are_silent() {
    let (rules, _) = by("/usr/sbin/chronyd", |world| {
        world.kernel(110, KernelEventKind::ClockSet, "", None)
    });
    assert_eq!(rules, NONE);
    let (rules, _) = by("/usr/lib/systemd/systemd-sysctl", |world| {
        world.write(110, "/proc/sys/kernel/kptr_restrict")
    });
    assert_eq!(rules, NONE);
    let (rules, _) = by("/usr/lib/systemd/systemd", |world| {
        world.kernel(110, KernelEventKind::Kexec, "", None)
    });
    assert_eq!(rules, NONE);
    let (_, worst) = by("/usr/sbin/sysctl", |world| {
        world.write(110, "/proc/sys/kernel/kptr_restrict")
    });
    assert_eq!(worst, Some(Severity::Low));
}

#[test]
fn ways_out_of_a_container_are_raised() {
    let inside = |act: &dyn Fn(&mut World)| {
        let mut world = World::with_session();
        world.container = Some("0123456789ab".to_owned());
        world.run(110, "/bin/busybox", &["sh"], 0);
        act(&mut world);
        (world.rules().contains(&"container-escape"), world.worst())
    };
    let critical = (true, Some(Severity::Critical));
    let high = (true, Some(Severity::High));
    assert_eq!(
        inside(&|world| world.write(110, "/proc/sys/kernel/core_pattern")),
        critical
    );
    assert_eq!(
        inside(&|world| world.write(110, "/sys/fs/cgroup/rdma/x/release_agent")),
        critical
    );
    assert_eq!(
        inside(&|world| world.kernel(110, KernelEventKind::Mount, "/dev/sda1", Some("/mnt"))),
        high
    );
    assert_eq!(
        inside(&|world| world.kernel(110, KernelEventKind::Setns, "", None)),
        high
    );
    assert_eq!(
        inside(&|world| world.kernel(110, KernelEventKind::ModuleLoad, "x", None)),
        critical
    );
}

#[test]
fn name_of_a_runtime_excuses_nothing_in_a_container() {
    for (exe, severity) in [("/tmp/runc", Severity::High), ("/usr/bin/runc", Severity::Low)] {
        let mut world = World::with_session();
        world.container = Some("0123456789ab".to_owned());
        world.run(110, "/bin/busybox", &["sh"], 0);
        world.run_as_child(111, 110, exe, &["runc"], 0);
        world.kernel(111, KernelEventKind::Setns, "", None);
        assert_eq!(world.severity_of("container-escape"), Some(severity), "{exe}");
    }
}

#[test]
fn runtime_that_sets_a_container_up_is_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/runc", &["runc", "init"], 0);
    world.container = Some("0123456789ab".to_owned());
    world.kernel(110, KernelEventKind::Mount, "proc", Some("/proc"));
    world.kernel(110, KernelEventKind::Mount, "/dev/sda1", Some("/data"));
    world.kernel(110, KernelEventKind::Setns, "", None);
    world.run(111, "/bin/busybox", &["sh"], 0);
    world.kernel(111, KernelEventKind::Mount, "tmpfs", Some("/x"));
    // What a container does to its own files is no hold on the host.
    world.append(111, "/etc/passwd");
    world.chmod(111, "/usr/bin/su", 0o104_755, None);
    world.read(111, "/etc/shadow");
    assert_eq!(world.rules(), NONE);
}

#[test]
fn guard_of_the_host_that_is_killed_is_raised() {
    let mut world = shell();
    world.run_as_child(50, 1, "/usr/sbin/auditd", &["auditd"], 0);
    world.run_as_child(51, 1, "/usr/bin/fleetmend-agent", &["fleetmend-agent"], 0);
    world.signal(110, 9, 50);
    assert_eq!(world.worst(), Some(Severity::High));
    world.signal(110, 14, 51);
    assert_eq!(world.rules(), ["guard-signalled"]);
    assert_eq!(world.findings.len(), 2, "one for each that was signalled");
}

#[test]
fn service_manager_and_other_signals_are_silent() {
    let mut world = shell();
    world.run_as_child(50, 1, "/usr/sbin/auditd", &["auditd"], 0);
    world.run(111, "/usr/bin/sleep", &["sleep"], 0);
    world.signal(1, 15, 50);
    world.signal(1, 9, 50);
    world.signal(110, 1, 50);
    world.signal(110, 9, 111);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn fork_bomb_is_raised_once_for_the_session() {
    let mut world = World::with_session();
    world.fork(999, 102);
    for parent in 999..1_599 {
        world.fork(parent + 1, parent);
    }
    assert_eq!(world.rules(), ["fork-flood"]);
    let ids: std::collections::HashSet<_> = world.findings.iter().map(|finding| finding.finding_id).collect();
    assert_eq!(ids.len(), 1);
}

#[test]
fn children_whose_ends_may_be_lost_are_no_certain_bomb() {
    let mut world = World::with_session();
    lose(&mut world, "process_events", 1_000);
    world.fork(999, 102);
    for parent in 999..1_599 {
        world.fork(parent + 1, parent);
    }
    assert_eq!(world.worst(), Some(Severity::Low));
}

#[test]
fn workers_of_a_server_that_start_at_once_are_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.unit = Some("php8.2-fpm.service".to_owned());
    world.run_as_child(10, 1, "/usr/sbin/php-fpm8.2", &["php-fpm"], 0);
    for worker in 1_000..1_600 {
        world.fork(worker, 10);
    }
    assert_eq!(world.rules(), NONE);
}

#[test]
fn parallel_build_is_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/make", &["make", "-j16"], 1000);
    // 1,600 jobs of a shell, a compiler and an assembler, sixteen at once, within seconds.
    for job in 0..1_600_u32 {
        let pid = 1_000 + job * 3;
        world.run_as_child(pid, 110, "/usr/bin/dash", &["sh", "-c", "cc"], 1000);
        world.run_as_child(pid + 1, pid, "/usr/bin/gcc", &["gcc"], 1000);
        world.run_as_child(pid + 2, pid + 1, "/usr/bin/as", &["as"], 1000);
        if job >= 16 {
            let done = 1_000 + (job - 16) * 3;
            for ended in [done + 2, done + 1, done] {
                world.exit(ended);
            }
        }
    }
    for job in 1_600..3_000_u32 {
        let pid = 100_000 + job;
        world.run_as_child(pid, 110, "/usr/bin/dash", &["sh", "-c", "true"], 1000);
        world.exit(pid);
    }
    assert_eq!(world.rules(), NONE);
}

#[test]
fn programs_run_without_end_are_raised() {
    let mut world = World::with_session();
    for pid in 1_000..7_100 {
        world.run(pid, "/usr/bin/true", &["true"], 1000);
        world.exit(pid);
    }
    assert_eq!(world.rules(), ["exec-flood"]);
}

fn profile(world: &World, count: u64, span_us: u64) -> SyscallProfile {
    SyscallProfile {
        time: world.time(),
        span_us,
        pid: 110,
        start_boot_ns: 1,
        comm: "x".to_owned(),
        exe: Some("/usr/bin/x".to_owned()),
        occasion: "suspect".to_owned(),
        calls: vec![1],
        counts: vec![count],
        sequence: Vec::new(),
        dropped: 0,
    }
}

#[test]
fn system_calls_without_end_are_raised() {
    let mut world = World::with_session();
    let row = profile(&world, 3_000_000, 2_000_000);
    world.observe(&row.into());
    assert_eq!(world.rules(), ["syscall-flood"]);
}

#[test]
fn system_calls_of_a_busy_server_are_silent() {
    let mut world = World::with_session();
    for (count, span) in [(300_000, 2_000_000), (100_000, 10_000), (5, 0)] {
        let row = profile(&world, count, span);
        world.observe(&row.into());
    }
    assert_eq!(world.rules(), NONE);
}
