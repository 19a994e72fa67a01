//! What the process family tells.

use super::*;

#[test]
fn process_of_a_millisecond_is_told_with_arguments_and_parent() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let pid = run(Command::new("/bin/true").args(["--marker", "a b", "--password=hunter2"]));
    let exec = rig.process(pid, ProcessEventKind::Exec);
    let masked = format!("--password={MASK}");
    assert_eq!(exec.args, ["/bin/true", "--marker", "a b", masked.as_str()]);
    assert!(!exec.args_truncated);
    assert_eq!(
        (exec.comm.as_str(), exec.ppid, exec.source),
        ("true", std::process::id(), Source::Ebpf)
    );
    assert_eq!(exec.uid, nix::unistd::getuid().as_raw());
    assert!(
        exec.exe.as_deref().is_some_and(|exe| exe.ends_with("/true")),
        "{exec:?}"
    );
    let own = std::env::current_exe().unwrap();
    assert_eq!(exec.parent_exe.as_deref(), own.to_str());
    assert!(exec.parent_command_line.is_some_and(|line| !line.is_empty()));
    assert!(exec.cgroup.is_some(), "its parent's, if it was gone already");
    let age_us = TimeMicros::now().micros_since(exec.time);
    assert!((0..30_000_000).contains(&age_us), "age of {age_us} µs");
}

#[test]
fn fork_exec_and_exit_name_one_process() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let pid = run(Command::new("/bin/sh").args(["-c", "exit 3"]));
    let fork = rig.process(pid, ProcessEventKind::Fork);
    let exec = rig.process(pid, ProcessEventKind::Exec);
    let exit = rig.process(pid, ProcessEventKind::Exit);
    assert_eq!(
        (fork.start_boot_ns, exec.start_boot_ns),
        (exit.start_boot_ns, exit.start_boot_ns)
    );
    assert!(fork.boot_ns <= exec.boot_ns && exec.boot_ns <= exit.boot_ns);
    assert_eq!(
        (exit.exit_code, exit.exit_signal, exit.ppid),
        (Some(3), None, std::process::id())
    );
    assert!(exit.duration_us.is_some_and(|took| took > 0 && took < 30_000_000));
    assert!(
        exit.rss_bytes_max.is_some_and(|bytes| bytes > 100_000),
        "{exit:?}"
    );
    let known = rig
        .inventory
        .get(ProcessKey::new(pid, exit.start_boot_ns))
        .unwrap();
    assert!(known.ended, "it stays known for its children");
    let chain = rig.inventory.ancestors(known.key, 3);
    assert_eq!(
        chain.first().map(|parent| parent.key.pid),
        Some(std::process::id())
    );
}

#[test]
fn end_by_signal_is_told_as_the_signal() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let pid = run(Command::new("/bin/sh").args(["-c", "kill -9 $$"]));
    let exit = rig.process(pid, ProcessEventKind::Exit);
    assert_eq!((exit.exit_code, exit.exit_signal), (None, Some(libc::SIGKILL)));
}

#[test]
fn used_processor_time_is_told_at_the_exit() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let pid = run(Command::new("/bin/sh").args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]));
    let exit = rig.process(pid, ProcessEventKind::Exit);
    let used = exit.user_us.unwrap() + exit.system_us.unwrap();
    assert!(
        used > 5_000 && used <= exit.duration_us.unwrap() + 10_000,
        "{exit:?}"
    );
}

#[test]
fn arguments_beyond_the_limit_are_cut_and_say_so() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let long = "x".repeat(3000);
    let gone = run(Command::new("/bin/true").args(["first", &long]));
    let exec = rig.process(gone, ProcessEventKind::Exec);
    assert!(
        exec.args_truncated,
        "the process was gone, only the kernel's part is known"
    );
    assert_eq!(exec.args[..2], ["/bin/true", "first"]);
    assert!(exec.args[2].len() > 900 && long.starts_with(&exec.args[2]));

    let mut alive = Command::new("/bin/sleep").arg0(&long).arg("20").spawn().unwrap();
    let exec = rig.process(alive.id(), ProcessEventKind::Exec);
    alive.kill().unwrap();
    alive.wait().unwrap();
    assert_eq!(
        (exec.args[0].len(), exec.args_truncated),
        (3000, false),
        "the rest was read from /proc"
    );
}

#[test]
fn script_is_told_by_its_interpreter() {
    let Some(mut rig) = Rig::start(only(&[Family::Process])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("job.sh");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let pid = run(&mut Command::new(&script));
    let exec = rig.process(pid, ProcessEventKind::Exec);
    assert!(
        exec.exe
            .as_deref()
            .is_some_and(|exe| exe.starts_with('/') && !exe.ends_with("job.sh")),
        "{exec:?}"
    );
    assert_eq!(exec.args, ["/bin/sh", script.to_str().unwrap()]);
}
