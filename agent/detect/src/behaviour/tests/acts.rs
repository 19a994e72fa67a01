//! Rights and programs that raise, each beside the one that looks like it.

use fleetmend_event::table::{Severity, Source};

use super::world::World;
use super::{lose, lose_for};

pub(super) const NONE: [&str; 0] = [];

pub(super) fn shell() -> World {
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
pub(super) fn by(exe: &str, act: impl FnOnce(&mut World)) -> (Vec<String>, Option<Severity>) {
    let mut world = World::with_session();
    world.run(110, exe, &[exe], 0);
    act(&mut world);
    (
        world.rules().into_iter().map(str::to_owned).collect(),
        world.worst(),
    )
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
fn program_that_gives_rights_excuses_no_other_below_it() {
    // Everyone may run these, and they run whatever they are told.
    for gate in ["/usr/bin/sg", "/usr/bin/setpriv"] {
        let mut world = user_shell();
        world.run_as_child(110, 109, gate, &[gate, "/home/eve/exploit"], 1000);
        world.exec(110, 109, "/home/eve/exploit", &["exploit"], 1000);
        world.credential(110, "setuid", (1000, 1000), (0, 0));
        assert_eq!(
            world.severity_of("privilege-gain"),
            Some(Severity::Critical),
            "{gate}"
        );
    }
}

#[test]
fn root_whose_past_may_be_lost_is_no_certainty() {
    let mut world = user_shell();
    world.fork(110, 109);
    lose(&mut world, "process_events", 3);
    world.exec(110, 109, "/usr/bin/id", &["id"], 0);
    assert_eq!(world.severity_of("privilege-gain"), Some(Severity::Medium));
    // Who makes the sensor shed forks and ends hides nothing by it.
    let mut world = user_shell();
    world.fork(110, 109);
    lose_for(&mut world, "process_events", 3, "shed");
    world.exec(110, 109, "/usr/bin/id", &["id"], 0);
    assert_eq!(world.severity_of("privilege-gain"), Some(Severity::Critical));
    // Looked at when sudo was root for good already.
    let mut world = user_shell();
    world.source = Source::Connector;
    world.fork(110, 109);
    world.exec(110, 109, "/usr/bin/sudo", &["sudo", "id"], 0);
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
fn name_of_a_runtime_excuses_no_memory() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/python3.11", &["python3"], 0);
    world.exec(110, 102, "/memfd:runc_cloned", &["x"], 0);
    assert_eq!(world.severity_of("fileless-exec"), Some(Severity::High));
}

#[test]
fn firewall_of_a_unit_that_is_restarted_is_low() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.unit = Some("nftables.service".to_owned());
    world.run_as_child(10, 1, "/usr/sbin/nft", &["nft", "flush", "ruleset"], 0);
    assert_eq!(world.worst(), Some(Severity::Low));
}

#[test]
fn shell_waits_for_a_person_whatever_its_options() {
    let waits = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        crate::act::is_interactive(&args)
    };
    for args in [
        &["sh"][..],
        &["sh", "-i"],
        &["bash", "--norc", "-i"],
        &["bash", "--noprofile", "--norc"],
        &["bash", "-p"],
        &["bash", "-il"],
        &["-sh", "-i"],
    ] {
        assert!(waits(args), "{args:?}");
    }
    for args in [
        &["sh", "-c", "id"][..],
        &["sh", "-ec", "id"],
        &["sh", "x.sh"],
        &["bash", "-s", "-"],
        &["bash", "--login"],
        &["bash", "-l"],
        &["-bash"],
    ] {
        assert!(!waits(args), "{args:?}");
    }
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
    // A worker updates the application.
    world.fork(14, 10);
    world.append(14, "/var/www/html/wp-content/plugins/x/x.php");
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["web-script-written"], Some(Severity::Low))
    );
}

#[test]
fn defence_that_is_stopped_is_raised() {
    let cases: [(&str, &[&str]); 5] = [
        ("/usr/sbin/auditctl", &["auditctl", "-e", "0"]),
        ("/usr/bin/systemctl", &["systemctl", "stop", "fleetmend-agent"]),
        ("/usr/bin/systemctl", &["systemctl", "mask", "auditd.service"]),
        ("/usr/sbin/setenforce", &["setenforce", "0"]),
        ("/usr/sbin/iptables", &["iptables", "-w", "-F", "INPUT"]),
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
    world.run(
        115,
        "/usr/sbin/iptables",
        &["iptables", "-w", "-F", "f2b-sshd"],
        0,
    );
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
