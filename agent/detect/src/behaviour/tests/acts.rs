//! Acts that raise, each beside the one that looks like it.

use fleetmend_event::table::{FileEventKind, KernelEventKind, MemoryEventKind, Severity, SyscallProfile};

use super::world::World;

const NONE: [&str; 0] = [];

fn shell() -> World {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/bash", &["bash", "-c", "x"], 0);
    world
}

/// A shell (109) without root's rights.
fn user_shell() -> World {
    let mut world = World::with_session();
    world.run(109, "/usr/bin/bash", &["bash"], 1000);
    world
}

/// What one act by a program of the session raises.
fn by(exe: &str, act: impl FnOnce(&mut World)) -> (Vec<String>, Option<Severity>) {
    let mut world = World::with_session();
    world.run(110, exe, &[exe], 0);
    act(&mut world);
    (
        world.rules().into_iter().map(str::to_owned).collect(),
        world.worst(),
    )
}

#[test]
fn holds_on_the_host_are_raised() {
    let cases = [
        ("/etc/cron.d/job", "persistence-cron", Severity::Medium),
        (
            "/var/spool/cron/crontabs/root",
            "persistence-cron",
            Severity::Medium,
        ),
        (
            "/etc/systemd/system/x.service",
            "persistence-unit",
            Severity::Medium,
        ),
        ("/etc/ld.so.preload", "persistence-preload", Severity::High),
        ("/etc/rc.local", "persistence-boot-script", Severity::Medium),
        (
            "/root/.ssh/authorized_keys",
            "persistence-ssh-key",
            Severity::Medium,
        ),
        ("/etc/ssh/sshd_config", "persistence-ssh-server", Severity::Medium),
        ("/etc/pam.d/sshd", "persistence-pam", Severity::High),
        (
            "/etc/profile.d/x.sh",
            "persistence-shell-profile",
            Severity::Medium,
        ),
        ("/etc/sudoers.d/x", "persistence-sudoers", Severity::High),
        ("/etc/passwd", "persistence-account", Severity::Medium),
        (
            "/etc/udev/rules.d/1.rules",
            "persistence-device-rule",
            Severity::Medium,
        ),
        ("/usr/bin/ls", "system-program-changed", Severity::Medium),
        ("/var/www/html/x.php", "web-script-written", Severity::Low),
        ("/var/lib/fleetmend-agent/spool/1", "agent-tamper", Severity::High),
    ];
    for (path, rule, severity) in cases {
        let (rules, worst) = by("/usr/bin/vi", |world| world.append(110, path));
        assert_eq!((rules, worst), (vec![rule.to_owned()], Some(severity)), "{path}");
    }
}

#[test]
fn upkeep_of_the_host_is_silent_on_the_same_files() {
    let paths = [
        "/etc/cron.d/job",
        "/etc/ld.so.preload",
        "/etc/pam.d/sshd",
        "/usr/bin/ls",
        "/etc/passwd",
        "/etc/rc.local",
    ];
    for path in paths {
        let mut world = World::with_session();
        world.run(110, "/usr/bin/apt-get", &["apt-get", "install", "x"], 0);
        world.run_as_child(111, 110, "/usr/bin/dpkg", &["dpkg"], 0);
        world.run_as_child(
            112,
            111,
            "/usr/bin/dash",
            &["/bin/sh", "/var/lib/dpkg/info/x.postinst", "configure"],
            0,
        );
        world.run_as_child(113, 112, "/usr/bin/cp", &["cp"], 0);
        world.append(113, path);
        assert_eq!(world.rules(), NONE, "{path}");
    }
    let (rules, _) = by("/usr/sbin/useradd", |world| {
        world.two_paths(110, FileEventKind::Rename, "/etc/passwd+", "/etc/passwd")
    });
    assert_eq!(rules, NONE);
    let (_, worst) = by("/usr/bin/crontab", |world| {
        world.two_paths(
            110,
            FileEventKind::Rename,
            "/var/spool/cron/crontabs/tmp.1",
            "/var/spool/cron/crontabs/eve",
        );
    });
    assert_eq!(worst, Some(Severity::Low));
    let (_, worst) = by("/usr/bin/rsync", |world| world.append(110, "/etc/cron.d/job"));
    assert_eq!(worst, Some(Severity::Low), "a restored backup");
}

#[test]
fn rename_over_a_protected_file_is_raised_as_a_write() {
    for kind in [FileEventKind::Rename, FileEventKind::Link] {
        let (rules, _) = by("/usr/bin/mv", |world| {
            world.two_paths(110, kind, "/tmp/new", "/etc/ld.so.preload")
        });
        assert_eq!(rules, ["persistence-preload"], "{kind}");
    }
}

#[test]
fn name_of_a_package_manager_excuses_nothing_outside_its_folder() {
    let (rules, worst) = by("/tmp/dpkg", |world| world.append(110, "/etc/cron.d/job"));
    assert_eq!(rules, ["risky-exec-path", "persistence-cron"]);
    assert_eq!(worst, Some(Severity::High));
}

#[test]
fn set_user_id_bit_dropped_in_a_shared_folder_is_raised() {
    let (rules, worst) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/tmp/sh", 0o104_755, Some(0o100_755))
    });
    assert_eq!(
        (rules, worst),
        (vec!["suid-drop".to_owned()], Some(Severity::High))
    );
    let (_, worst) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/usr/local/bin/x", 0o104_755, Some(0o100_755))
    });
    assert_eq!(worst, Some(Severity::Medium));
}

#[test]
fn set_user_id_bit_of_packages_and_folders_is_silent() {
    let (rules, _) = by("/usr/bin/dpkg", |world| {
        world.chmod(110, "/usr/bin/sudo.dpkg-new", 0o104_755, Some(0o100_600))
    });
    assert_eq!(rules, NONE);
    let (rules, _) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/srv/share", 0o042_775, Some(0o040_775));
        world.chmod(110, "/srv/other", 0o2_775, None);
        world.chmod(110, "/usr/bin/sudo", 0o104_755, Some(0o104_755));
    });
    assert_eq!(rules, NONE);
    let (_, worst) = by("/usr/bin/tar", |world| {
        world.chmod(110, "/tmp/root/usr/bin/sudo", 0o104_755, Some(0o100_600))
    });
    assert_eq!(worst, Some(Severity::Low), "an unpacked archive");
}

#[test]
fn capabilities_given_to_a_file_are_raised() {
    let set = |world: &mut World| {
        let mut row = world.file_row(110, FileEventKind::Attribute, "/tmp/python3");
        row.attribute = Some("security.capability".to_owned());
        world.observe(&row.into());
    };
    assert_eq!(by("/usr/sbin/setcap", set).0, ["file-capability-set"]);
    assert_eq!(by("/usr/sbin/setcap", set).1, Some(Severity::High));
}

#[test]
fn other_attributes_and_capabilities_by_packages_are_silent() {
    let set = |attribute: &'static str| {
        move |world: &mut World| {
            let mut row = world.file_row(110, FileEventKind::Attribute, "/usr/bin/ping");
            row.attribute = Some(attribute.to_owned());
            world.observe(&row.into());
        }
    };
    assert_eq!(by("/usr/bin/dpkg", set("security.capability")).0, NONE);
    assert_eq!(by("/usr/bin/setfacl", set("system.posix_acl_access")).0, NONE);
}

#[test]
fn system_path_opened_to_everyone_is_raised() {
    let (rules, worst) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/etc/shadow", 0o100_666, Some(0o100_640))
    });
    assert_eq!(
        (rules, worst),
        (vec!["permission-tamper".to_owned()], Some(Severity::High))
    );
    let (rules, _) = by("/usr/bin/chown", |world| world.chown(110, "/usr/bin/su", 1000));
    assert_eq!(rules, ["permission-tamper"]);
}

#[test]
fn ordinary_changes_of_modes_and_owners_are_silent() {
    let (rules, _) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/etc/app.conf", 0o100_644, Some(0o100_600));
        world.chmod(110, "/home/eve/shared", 0o100_666, Some(0o100_644));
        world.chmod(110, "/usr/share/x", 0o100_666, Some(0o100_666));
        world.chown(110, "/etc/app.conf", 1000);
        world.chown(110, "/usr/bin/su", 0);
        world.chown(110, "/usr/bin/su", u32::MAX);
    });
    assert_eq!(rules, NONE);
    let (rules, _) = by("/usr/bin/systemd-tmpfiles", |world| {
        world.chmod(110, "/etc/x", 0o100_666, Some(0o100_644))
    });
    assert_eq!(rules, NONE);
}

#[test]
fn secrets_read_by_other_programs_are_raised() {
    for path in ["/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/proc/kcore"] {
        let (rules, worst) = by("/usr/bin/cat", |world| world.read(110, path));
        assert_eq!(
            (rules, worst),
            (vec!["credential-read".to_owned()], Some(Severity::High)),
            "{path}"
        );
    }
    let (rules, _) = by("/usr/bin/ln", |world| {
        world.two_paths(110, FileEventKind::Link, "/etc/shadow", "/tmp/x")
    });
    assert_eq!(rules, ["credential-read"], "a second name");
    let (_, worst) = by("/usr/bin/curl", |world| world.read(110, "/root/.ssh/id_ed25519"));
    assert_eq!(worst, Some(Severity::High));
}

#[test]
fn secrets_read_by_their_programs_are_silent() {
    for exe in [
        "/usr/sbin/sshd",
        "/usr/bin/sudo",
        "/usr/bin/passwd",
        "/usr/sbin/unix_chkpwd",
        "/usr/sbin/cron",
        "/usr/bin/dpkg",
    ] {
        let (rules, _) = by(exe, |world| world.read(110, "/etc/shadow"));
        assert_eq!(rules, NONE, "{exe}");
    }
    let (rules, _) = by("/usr/bin/ssh", |world| world.read(110, "/home/eve/.ssh/id_rsa"));
    assert_eq!(rules, NONE);
    for exe in ["/usr/bin/tar", "/usr/bin/rsync", "/usr/bin/borg"] {
        let (_, worst) = by(exe, |world| world.read(110, "/etc/shadow"));
        assert_eq!(worst, Some(Severity::Low), "{exe}: a backup is low at most");
    }
}

#[test]
fn logs_removed_or_emptied_are_raised() {
    let (rules, worst) = by("/usr/bin/rm", |world| {
        world.file(110, FileEventKind::Unlink, "/var/log/auth.log")
    });
    assert_eq!(
        (rules, worst),
        (vec!["log-tamper".to_owned()], Some(Severity::High))
    );
    for kind in [FileEventKind::Truncate, FileEventKind::Rename] {
        let (rules, _) = by("/usr/bin/perl", |world| {
            world.two_paths(110, kind, "/var/log/wtmp", "/tmp/wtmp")
        });
        assert_eq!(rules, ["log-tamper"], "{kind}");
    }
    let (rules, _) = by("/usr/bin/bash", |world| {
        world.write(110, "/var/log/audit/audit.log")
    });
    assert_eq!(rules, ["log-tamper"]);
}

#[test]
fn rotation_and_writing_of_logs_are_silent() {
    let mut world = World::with_session();
    world.run(
        110,
        "/usr/sbin/logrotate",
        &["logrotate", "/etc/logrotate.conf"],
        0,
    );
    world.two_paths(110, FileEventKind::Rename, "/var/log/syslog", "/var/log/syslog.1");
    world.file(110, FileEventKind::Create, "/var/log/syslog");
    world.file(110, FileEventKind::Truncate, "/var/log/auth.log");
    world.file(110, FileEventKind::Unlink, "/var/log/auth.log.4.gz");
    world.run_as_child(111, 110, "/usr/bin/dash", &["sh", "-c", "postrotate"], 0);
    world.run_as_child(112, 111, "/usr/bin/gzip", &["gzip", "/var/log/syslog.1"], 0);
    world.file(112, FileEventKind::Unlink, "/var/log/syslog.1");
    world.run(113, "/usr/sbin/rsyslogd", &["rsyslogd"], 0);
    world.append(113, "/var/log/syslog");
    world.run(114, "/usr/bin/logger", &["logger"], 0);
    world.append(114, "/var/log/auth.log");
    assert_eq!(world.rules(), NONE);
}

#[test]
fn history_removed_by_another_program_is_raised() {
    let (rules, _) = by("/usr/bin/rm", |world| {
        world.file(110, FileEventKind::Unlink, "/root/.bash_history")
    });
    assert_eq!(rules, ["history-tamper"]);
    let (_, worst) = by("/usr/bin/ln", |world| {
        world.two_paths(110, FileEventKind::Symlink, "/dev/null", "/root/.bash_history");
    });
    assert_eq!(worst, Some(Severity::High));
}

#[test]
fn history_written_by_its_own_shell_is_silent() {
    let (rules, _) = by("/usr/bin/bash", |world| world.write(110, "/root/.bash_history"));
    assert_eq!(rules, NONE);
}

#[test]
fn root_without_a_program_that_gives_it_is_raised() {
    let mut world = World::with_session();
    world.run(110, "/home/eve/exploit", &["exploit"], 1000);
    world.credential(110, "setuid", (1000, 1000), (0, 0));
    assert_eq!(world.severity_of("privilege-gain"), Some(Severity::Critical));

    // Credentials that no call tells of: the next program simply is root.
    let mut world = World::with_session();
    world.run(110, "/home/eve/exploit", &["exploit"], 1000);
    world.exec(110, 102, "/usr/bin/dash", &["sh"], 0);
    assert_eq!(world.severity_of("privilege-gain"), Some(Severity::Critical));

    // And its children are.
    let mut world = World::with_session();
    world.run(110, "/home/eve/exploit", &["exploit"], 1000);
    world.run_as_child(111, 110, "/usr/bin/id", &["id"], 0);
    assert_eq!(world.severity_of("privilege-gain"), Some(Severity::Critical));
}

#[test]
fn sudo_su_and_a_daemons_privilege_drop_are_silent() {
    let mut world = user_shell();
    world.fork(110, 109);
    world.exec_set_user_id(110, "/usr/bin/sudo", &["sudo", "id"], 1000);
    world.credential(110, "execve", (1000, 1000), (1000, 0));
    world.credential(110, "setresuid", (1000, 0), (0, 0));
    world.exec(110, 109, "/usr/bin/id", &["id"], 0);
    world.run_as_child(111, 110, "/usr/bin/bash", &["bash"], 0);
    // sshd gives root's rights up, takes them back for a moment, and gives them up for good.
    world.run_as_child(120, 100, "/usr/sbin/sshd", &["sshd", "-R"], 0);
    world.credential(120, "seteuid", (0, 0), (0, 1000));
    world.credential(120, "seteuid", (0, 1000), (0, 0));
    world.credential(120, "setresuid", (0, 0), (1000, 1000));
    assert_eq!(world.rules(), NONE);
}

#[test]
fn set_user_id_program_outside_the_systems_folders_is_raised() {
    let mut world = user_shell();
    world.fork(110, 109);
    world.exec_set_user_id(110, "/home/eve/.cache/x", &["x"], 1000);
    assert_eq!(world.rules(), ["suid-program-run"]);
    let mut world = user_shell();
    world.fork(110, 109);
    world.exec_set_user_id(110, "/usr/bin/bash", &["bash", "-p"], 1000);
    assert_eq!(world.rules(), ["suid-program-run"], "a shell with the bit");
}

#[test]
fn set_user_id_program_of_the_system_is_silent() {
    let mut world = World::with_session();
    for (pid, exe) in [
        (110, "/usr/bin/passwd"),
        (111, "/usr/bin/mount"),
        (112, "/usr/bin/newgrp"),
    ] {
        world.fork(pid, 109);
        world.exec_set_user_id(pid, exe, &[exe], 1000);
        world.credential(pid, "execve", (1000, 1000), (1000, 0));
    }
    assert_eq!(world.rules(), NONE);
}

#[test]
fn capabilities_out_of_nowhere_are_raised() {
    let mut world = World::with_session();
    world.run(110, "/tmp/x", &["x"], 1000);
    world.capabilities(110, 0, 1 << 21, false);
    assert_eq!(world.severity_of("capability-gain"), Some(Severity::High));
}

#[test]
fn capabilities_of_system_programs_and_own_namespaces_are_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/ping", &["ping"], 1000);
    world.capabilities(110, 0, 1 << 13, false);
    world.capabilities(110, 0, 1 << 21, false);
    world.run(111, "/home/eve/unshare", &["unshare"], 1000);
    world.capabilities(111, 0, u64::MAX >> 24, true);
    world.run(112, "/usr/local/bin/daemon", &["daemon"], 0);
    world.capabilities(112, 0, 1 << 7, false);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn program_from_a_shared_folder_is_raised_by_where_and_by_whom() {
    let run = |exe: &str| by(exe, |_| ()).1;
    assert_eq!(run("/tmp/x"), Some(Severity::Low));
    assert_eq!(run("/dev/shm/x"), Some(Severity::High));
    assert_eq!(run("/var/tmp/.x"), Some(Severity::High));
    assert_eq!(by("/memfd:x (deleted)", |_| ()).0, ["fileless-exec"]);
    assert_eq!(run("/memfd:x (deleted)"), Some(Severity::High));
    let mut world = World::with_session();
    world.run(110, "/tmp/sleeper", &["sleeper"], 0);
    world.findings.clear();
    world.run(111, "/dev/shm/gone", &["gone"], 0);
    world.snapshot(111, 0.0, true);
    assert!(world.rules().contains(&"fileless-exec"));
}

#[test]
fn programs_of_builds_and_packages_in_shared_folders_are_silent() {
    let mut world = World::with_session();
    world.run(110, "/root/.cargo/bin/cargo", &["cargo", "test"], 0);
    world.run_as_child(111, 110, "/tmp/rustdoctestX/rust_out", &["rust_out"], 0);
    world.run(112, "/usr/bin/apt-get", &["apt-get", "install"], 0);
    world.run_as_child(113, 112, "/tmp/tzdata.config.8fA", &["config"], 0);
    world.run(114, "/usr/bin/runc", &["runc", "init"], 0);
    world.run_as_child(
        115,
        114,
        "/memfd:runc_cloned:/proc/self/exe (deleted)",
        &["runc"],
        0,
    );
    world.run(116, "/opt/tool/bin/x", &["x"], 0);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn command_behind_a_web_server_is_raised() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/sbin/php-fpm8.2", &["php-fpm"], 33);
    world.run_as_child(11, 10, "/usr/bin/perl", &["perl", "x.pl"], 33);
    world.run_as_child(12, 11, "/usr/bin/dash", &["sh", "-c", "id"], 33);
    world.run_as_child(13, 12, "/usr/bin/id", &["id"], 33);
    assert_eq!(
        world.severity_of("web-server-command"),
        Some(Severity::Medium),
        "however deep"
    );
    world.run_as_child(14, 12, "/usr/bin/curl", &["curl", "x"], 33);
    assert_eq!(world.severity_of("web-server-command"), Some(Severity::High));
    world.append(12, "/etc/cron.d/x");
    assert_eq!(world.severity_of("persistence-cron"), Some(Severity::High));
}

#[test]
fn everyday_work_of_a_web_server_is_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/sbin/php-fpm8.2", &["php-fpm"], 33);
    world.run_as_child(11, 10, "/usr/bin/convert", &["convert", "a.png", "b.jpg"], 33);
    world.run_as_child(12, 10, "/usr/sbin/sendmail", &["sendmail", "-t"], 33);
    world.run_as_child(13, 10, "/usr/bin/dash", &["sh", "-c", "convert a b"], 33);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn defence_that_is_stopped_is_raised() {
    let cases: [(&str, &[&str]); 5] = [
        ("/usr/sbin/auditctl", &["auditctl", "-e", "0"]),
        ("/usr/bin/systemctl", &["systemctl", "stop", "fleetmend-agent"]),
        ("/usr/bin/systemctl", &["systemctl", "mask", "auditd.service"]),
        ("/usr/sbin/setenforce", &["setenforce", "0"]),
        ("/usr/sbin/iptables", &["iptables", "-F"]),
    ];
    for (exe, args) in cases {
        let mut world = World::with_session();
        world.run(110, exe, args, 0);
        assert_eq!(world.rules(), ["defence-stopped"], "{args:?}");
    }
}

#[test]
fn services_restarted_by_packages_and_other_services_are_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/systemctl", &["systemctl", "stop", "nginx"], 0);
    world.run(111, "/usr/bin/systemctl", &["systemctl", "status", "auditd"], 0);
    world.run(112, "/usr/sbin/auditctl", &["auditctl", "-l"], 0);
    world.run(113, "/usr/bin/dpkg", &["dpkg", "-r", "auditd"], 0);
    world.run_as_child(
        114,
        113,
        "/usr/bin/systemctl",
        &["systemctl", "stop", "auditd.service"],
        0,
    );
    assert_eq!(world.rules(), NONE);
}

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
    world.signal(110, 19, 51);
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
    let mut next = 1_000;
    world.fork(999, 102);
    for parent in 0..600 {
        world.fork(next, 999 + parent);
        next += 1;
    }
    assert_eq!(world.rules(), ["fork-flood"]);
    let ids: std::collections::HashSet<_> = world.findings.iter().map(|finding| finding.finding_id).collect();
    assert_eq!(ids.len(), 1);
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
