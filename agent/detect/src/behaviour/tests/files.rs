//! Acts on files that raise, each beside the one that looks like it.

use fleetmend_event::table::{FileEventKind, Severity};

use super::acts::{NONE, by};
use super::world::World;

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
    for (path, mode) in [("/etc/shadow", 0o101_666), ("/etc/cron.d", 0o041_777)] {
        let (rules, _) = by("/usr/bin/chmod", |world| world.chmod(110, path, mode, None));
        assert_eq!(
            rules,
            ["permission-tamper"],
            "{path}: the sticky bit excuses nothing"
        );
    }
    let (rules, _) = by("/usr/bin/chown", |world| world.chown(110, "/usr/bin/su", 1000));
    assert_eq!(rules, ["permission-tamper"]);
}

#[test]
fn ordinary_changes_of_modes_and_owners_are_silent() {
    let (rules, _) = by("/usr/bin/chmod", |world| {
        world.chmod(110, "/etc/app.conf", 0o100_644, Some(0o100_600));
        world.chmod(110, "/home/eve/shared", 0o100_666, Some(0o100_644));
        world.chmod(110, "/root/project/x", 0o100_777, Some(0o100_755));
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
    let (rules, _) = by("/usr/bin/wget", |world| world.read(110, "/home/eve/.netrc"));
    assert_eq!(rules, NONE);
    // The daily copy of the accounts, and an audit that is a script.
    for (script, tool) in [
        ("/etc/cron.daily/passwd", "/usr/bin/cmp"),
        ("/usr/sbin/lynis", "/usr/bin/mawk"),
    ] {
        let mut world = World::empty();
        world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
        world.run_as_child(10, 1, "/usr/sbin/cron", &["cron", "-f"], 0);
        world.run_as_child(11, 10, "/usr/bin/dash", &["/bin/sh", script], 0);
        world.run_as_child(12, 11, tool, &[tool], 0);
        world.read(12, "/etc/shadow");
        assert_eq!(world.rules(), NONE, "{script}");
    }
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
fn log_or_history_that_is_replaced_is_raised() {
    for (from, to, rule) in [
        ("/var/log/sedXyZ", "/var/log/auth.log", "log-tamper"),
        ("/var/log/journal", "/tmp/j", "log-tamper"),
        ("/root/sedXyZ", "/root/.bash_history", "history-tamper"),
    ] {
        let (rules, _) = by("/usr/bin/sed", |world| {
            world.two_paths(110, FileEventKind::Rename, from, to)
        });
        assert_eq!(rules, [rule], "{to}");
    }
}

#[test]
fn folder_put_in_the_place_of_holds_is_raised() {
    for (to, rule) in [
        ("/root/.ssh", "persistence-ssh-key"),
        ("/etc/cron.d", "persistence-cron"),
        ("/etc/profile.d", "persistence-shell-profile"),
    ] {
        let (rules, _) = by("/usr/bin/mv", |world| {
            world.two_paths(110, FileEventKind::Rename, "/root/a", to)
        });
        assert_eq!(rules, [rule], "{to}");
    }
}

#[test]
fn job_of_at_that_runs_is_silent() {
    let (rules, _) = by("/usr/sbin/atd", |world| {
        let jobs = "/var/spool/cron/atjobs";
        world.two_paths(
            110,
            FileEventKind::Link,
            &format!("{jobs}/a1"),
            &format!("{jobs}/=1"),
        );
        world.file(110, FileEventKind::Create, "/var/spool/cron/atspool/a1");
    });
    assert_eq!(rules, NONE);
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
    for (exe, history) in [
        ("/usr/bin/bash", "/root/.bash_history"),
        ("/usr/bin/redis-cli", "/root/.rediscli_history"),
        ("/usr/bin/sqlite3", "/root/.sqlite_history"),
        ("/usr/bin/mariadb", "/root/.mysql_history"),
        ("/usr/bin/gdb", "/root/.gdb_history"),
    ] {
        let (rules, _) = by(exe, |world| {
            world.write(110, history);
            world.two_paths(110, FileEventKind::Rename, &format!("{history}-1~"), history);
        });
        assert_eq!(rules, NONE, "{exe}");
    }
}
