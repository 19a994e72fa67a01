//! Whole days of innocent work as rows: none of it is above low.

use fleetmend_event::table::{FileEventKind, KernelEventKind, MemoryEventKind, NetworkEventKind, Severity};

use super::world::World;

fn no_worse_than_low(world: &World) {
    let loud: Vec<_> = world
        .findings
        .iter()
        .filter(|finding| finding.severity > Severity::Low)
        .map(|finding| (&finding.rule, &finding.title))
        .collect();
    assert!(loud.is_empty(), "{loud:?}");
}

#[test]
fn package_installed_upgraded_and_reinstalled_is_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/sudo", &["sudo", "apt-get", "install"], 0);
    world.run_as_child(
        111,
        110,
        "/usr/bin/apt-get",
        &["apt-get", "install", "--reinstall", "openssh-server"],
        0,
    );
    world.run_as_child(112, 111, "/usr/lib/apt/methods/http", &["http"], 104);
    world.connect(112, "198.51.100.7", 80);
    world.run_as_child(113, 111, "/usr/bin/dpkg", &["dpkg", "--unpack"], 0);
    for path in [
        "/usr/sbin/sshd",
        "/usr/lib/systemd/system/ssh.service",
        "/etc/pam.d/sshd",
        "/etc/ld.so.conf.d/x.conf",
    ] {
        let fresh = format!("{path}.dpkg-new");
        world.file(113, FileEventKind::Create, &fresh);
        world.chmod(113, &fresh, 0o104_755, Some(0o100_600));
        world.chown(113, &fresh, 107);
        world.two_paths(113, FileEventKind::Rename, &fresh, path);
    }
    world.file(113, FileEventKind::Unlink, "/etc/cron.d/old");
    world.run_as_child(
        114,
        113,
        "/usr/bin/dash",
        &[
            "/bin/sh",
            "/var/lib/dpkg/info/openssh-server.postinst",
            "configure",
        ],
        0,
    );
    world.run_as_child(115, 114, "/usr/sbin/useradd", &["useradd", "sshd"], 0);
    world.read(115, "/etc/shadow");
    world.two_paths(115, FileEventKind::Rename, "/etc/shadow+", "/etc/shadow");
    world.run_as_child(116, 114, "/usr/bin/ssh-keygen", &["ssh-keygen", "-A"], 0);
    world.read(116, "/etc/ssh/ssh_host_rsa_key");
    world.run_as_child(
        117,
        114,
        "/usr/bin/systemctl",
        &["systemctl", "restart", "ssh"],
        0,
    );
    world.run_as_child(
        118,
        114,
        "/usr/sbin/setcap",
        &["setcap", "cap_net_raw+ep", "/usr/bin/ping"],
        0,
    );
    let mut row = world.file_row(118, FileEventKind::Attribute, "/usr/bin/ping");
    row.attribute = Some("security.capability".to_owned());
    world.observe(&row.into());
    world.run_as_child(119, 114, "/usr/sbin/modprobe", &["modprobe", "loop"], 0);
    world.kernel(
        119,
        KernelEventKind::ModuleLoad,
        "loop",
        Some("/usr/lib/modules/6.1/loop.ko"),
    );
    world.run_as_child(120, 114, "/usr/sbin/sysctl", &["sysctl", "-p"], 0);
    world.write(120, "/proc/sys/kernel/kptr_restrict");
    world.run_as_child(121, 113, "/tmp/x.config.aK", &["x.config"], 0);
    assert_eq!(world.rules(), [] as [&str; 0]);
}

#[test]
fn unattended_upgrade_from_a_timer_is_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.unit = Some("apt-daily-upgrade.service".to_owned());
    world.run_as_child(
        10,
        1,
        "/usr/bin/dash",
        &["/bin/sh", "/usr/lib/apt/apt.systemd.daily", "install"],
        0,
    );
    world.run_as_child(
        11,
        10,
        "/usr/bin/python3.11",
        &["/usr/bin/python3", "/usr/bin/unattended-upgrade"],
        0,
    );
    world.run_as_child(12, 11, "/usr/bin/dpkg", &["dpkg"], 0);
    world.append(12, "/usr/bin/sudo");
    world.run_as_child(13, 11, "/usr/bin/bash", &["bash", "-c", "update-initramfs"], 0);
    world.append(13, "/etc/modprobe.d/x.conf");
    assert_eq!(world.rules(), [] as [&str; 0]);
}

#[test]
fn build_of_a_project_is_silent() {
    let mut world = World::with_session();
    world.run(110, "/root/.cargo/bin/cargo", &["cargo", "test"], 0);
    for index in 0..400_u32 {
        let pid = 1_000 + index * 2;
        world.run_as_child(
            pid,
            110,
            "/root/.rustup/toolchains/stable/bin/rustc",
            &["rustc"],
            0,
        );
        world.run_as_child(pid + 1, pid, "/usr/bin/cc", &["cc", "-o", "x"], 0);
        world.chmod(
            pid + 1,
            &format!("/tmp/target/debug/deps/x{index}"),
            0o100_755,
            Some(0o100_644),
        );
        world.exit(pid + 1);
        world.exit(pid);
    }
    world.run_as_child(9_000, 110, "/tmp/target/debug/deps/app-0a1b", &["app"], 0);
    for port in 0..60 {
        world.listen(9_000, "127.0.0.1", 35_000 + port);
        world.connect(9_000, "127.0.0.1", 35_000 + port);
    }
    for port in 0..25 {
        world.connect_refused(9_000, "127.0.0.1", 45_000 + port);
    }
    world.listen(9_000, "0.0.0.0", 36_000);
    world.mapping(9_000);
    no_worse_than_low(&world);
}

#[test]
fn backup_of_everything_is_low_at_most() {
    for exe in ["/usr/bin/tar", "/usr/bin/rsync"] {
        let mut world = World::with_session();
        world.run(110, exe, &[exe], 0);
        for path in [
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/ssh/ssh_host_rsa_key",
            "/root/.ssh/id_rsa",
            "/root/.aws/credentials",
        ] {
            world.read(110, path);
        }
        // And what comes of it, or is restored.
        for path in ["/srv/backup/usr/bin/sudo", "/tmp/restore/usr/bin/su"] {
            world.file(110, FileEventKind::Create, path);
            world.chmod(110, path, 0o104_755, Some(0o100_600));
        }
        world.append(110, "/etc/cron.d/job");
        world.append(110, "/usr/bin/ls");
        world.file(110, FileEventKind::Unlink, "/var/log/syslog.1");
        world.connect(110, "198.51.100.7", 22);
        world.close(110, "198.51.100.7", 22, 900_000_000, 60);
        no_worse_than_low(&world);
    }
}

#[test]
fn jobs_of_cron_are_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/sbin/cron", &["cron", "-f"], 0);
    for hour in 0..24_u32 {
        let pid = 100 + hour * 10;
        world.fork(pid, 10);
        world.read(pid, "/etc/shadow");
        world.exec(
            pid,
            10,
            "/usr/bin/dash",
            &["/bin/sh", "-c", "run-parts /etc/cron.hourly"],
            0,
        );
        world.run_as_child(pid + 1, pid, "/usr/bin/run-parts", &["run-parts"], 0);
        world.run_as_child(
            pid + 2,
            pid + 1,
            "/usr/sbin/logrotate",
            &["logrotate", "/etc/logrotate.conf"],
            0,
        );
        world.two_paths(
            pid + 2,
            FileEventKind::Rename,
            "/var/log/auth.log",
            "/var/log/auth.log.1",
        );
        world.run_as_child(pid + 3, pid, "/usr/bin/curl", &["curl", "https://example.com"], 0);
        world.connect(pid + 3, "198.51.100.7", 443);
        world.later(3_600);
    }
    assert_eq!(world.rules(), [] as [&str; 0]);
}

#[test]
fn login_over_ssh_with_sudo_and_a_debugger_is_silent() {
    let mut world = World::with_session();
    world.login_uid = None;
    world.run_as_child(120, 100, "/usr/sbin/sshd", &["sshd", "-R"], 0);
    world.accept(120, "203.0.113.5", 22);
    world.read(120, "/etc/ssh/ssh_host_ed25519_key");
    world.read(120, "/etc/shadow");
    world.fork(121, 120);
    world.credential(121, "setresuid", (0, 0), (106, 106));
    world.exit(121);
    world.login_uid = Some(1000);
    world.fork(122, 120);
    world.credential(122, "setresuid", (0, 0), (1000, 1000));
    world.exec(122, 120, "/usr/bin/bash", &["-bash"], 1000);
    world.append(122, "/home/eve/.bash_history");
    world.fork(123, 122);
    world.exec_set_user_id(123, "/usr/bin/sudo", &["sudo", "-i"], 1000);
    world.read(123, "/etc/shadow");
    world.credential(123, "setresuid", (1000, 0), (0, 0));
    world.exec(123, 122, "/usr/bin/bash", &["-bash"], 0);
    world.run_as_child(124, 122, "/usr/bin/sleep", &["sleep", "9"], 1000);
    world.run_as_child(125, 122, "/usr/bin/gdb", &["gdb", "-p", "124"], 1000);
    world.memory(125, MemoryEventKind::Ptrace, 124, "PTRACE_ATTACH");
    let row = world.connection(120, NetworkEventKind::Close, "203.0.113.5", 50_000);
    world.observe(&row.into());
    assert_eq!(world.rules(), [] as [&str; 0]);
}
