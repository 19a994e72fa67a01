//! A real dpkg on a real database, below the temporary root.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use fleetmend_event::table::{IntegrityChange, IntegrityVerdict, ProcessEvent, ProcessEventKind, Severity};

use super::*;

const DPKG: &str = "/usr/bin/dpkg";

/// A package with one program, and the sums that a build makes.
fn build(host: &Host, version: &str, program: &str) -> PathBuf {
    let tree = host.folder.path().join(format!("tree-{version}"));
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/bin")).unwrap();
    std::fs::write(tree.join("usr/bin/fmtool"), program).unwrap();
    let sum = hex::encode(<md5::Md5 as md5::Digest>::digest(program));
    std::fs::write(tree.join("DEBIAN/md5sums"), format!("{sum}  usr/bin/fmtool\n")).unwrap();
    let control = format!(
        "Package: fmtool\nVersion: {version}\nArchitecture: all\nMaintainer: A Test <test@example.net>\nDescription: a test\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let deb = host.folder.path().join(format!("fmtool-{version}.deb"));
    let built = Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .arg(&tree)
        .arg(&deb)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    deb
}

fn dpkg(host: &Host, deb: &Path) -> Command {
    let mut command = Command::new(DPKG);
    command.arg(format!("--root={}", host.root.display()));
    command
        .args(["--force-not-root", "--force-bad-path", "-i"])
        .arg(deb);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn database(host: &Host) {
    for folder in ["info", "updates", "triggers"] {
        std::fs::create_dir_all(host.path("var/lib/dpkg").join(folder)).unwrap();
    }
    host.write("var/lib/dpkg/status", "");
}

/// Installs while the room sees that dpkg began; returns the process, which has ended.
fn install_seen(host: &Host, deb: &Path, room: &mut Room) -> Actor {
    let child = dpkg(host, deb).spawn().unwrap();
    let pid = child.id();
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It waits until the room has looked at it, as a longer upgrade would.
    rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
    let actor = Actor {
        pid,
        start_boot_ns: start_of(pid).unwrap(),
        ppid: Some(std::process::id()),
        comm: "dpkg".to_owned(),
        exe: Some(DPKG.to_owned()),
        ..Actor::default()
    };
    room.see(began(&actor).into());
    room.list();
    rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    actor
}

fn began(actor: &Actor) -> ProcessEvent {
    ProcessEvent {
        time: TimeMicros::now(),
        boot_ns: 0,
        kind: ProcessEventKind::Exec,
        pid: actor.pid,
        start_boot_ns: actor.start_boot_ns,
        ppid: actor.ppid.unwrap(),
        parent_comm: None,
        parent_exe: None,
        parent_command_line: None,
        comm: actor.comm.clone(),
        exe: actor.exe.clone(),
        args: Vec::new(),
        args_truncated: false,
        uid: 0,
        gid: 0,
        cgroup: None,
        unit: None,
        container_id: None,
        exit_code: None,
        exit_signal: None,
        duration_us: None,
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Ebpf,
        euid: None,
        login_uid: None,
        working_directory: None,
        fileless: None,
    }
}

fn renamed(actor: &Actor, path: &Path) -> FileEvent {
    let mut renamed = event(actor.clone(), FileEventKind::Rename, path);
    renamed.target = Some(renamed.path.clone());
    renamed.path.push_str(".dpkg-new");
    renamed
}

#[test]
fn upgrade_of_a_package_is_silent_and_the_same_edit_by_hand_is_not() {
    if !Path::new(DPKG).exists() || !Path::new("/usr/bin/dpkg-deb").exists() {
        println!("COULD NOT RUN: there is no dpkg");
        return;
    }
    let host = Host::new();
    database(&host);
    let (old, new) = (build(&host, "1", "one"), build(&host, "2", "two"));
    let output = dpkg(&host, &old).spawn().unwrap().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = host.path("usr/bin/fmtool");
    let mut room = Room::start(&host);

    let manager = install_seen(&host, &new, &mut room);
    room.see(renamed(&manager, &path).into());
    let row = room.row(&path);
    assert_eq!(
        (row.verdict, row.package.as_deref()),
        (IntegrityVerdict::Package, Some("fmtool")),
        "{row:?}"
    );
    assert_eq!(
        (row.package_agrees, row.pid),
        (Some(true), Some(manager.pid)),
        "{row:?}"
    );
    assert!(row.old_sha256.is_some() && row.old_sha256 != row.new_sha256);

    std::fs::write(&path, "evil").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    let row = room.row(&path);
    assert_eq!(
        (row.verdict, row.package_agrees),
        (IntegrityVerdict::Unexpected, Some(false)),
        "{row:?}"
    );
    let opened = room.finding(&path, FindingState::Open);
    assert_eq!(
        (opened.pid, opened.count),
        (Some(std::process::id()), 1),
        "the upgrade raised nothing: {opened:?}"
    );

    // A process that says it is dpkg and is not, in a while in which the database did change.
    std::fs::write(&path, "more evil").unwrap();
    let impostor = Actor {
        exe: Some(DPKG.to_owned()),
        comm: "dpkg".to_owned(),
        ..own_actor()
    };
    room.see(event(impostor, FileEventKind::OpenWrite, &path).into());
    let row = room.row(&path);
    assert_eq!(
        (row.verdict, row.change),
        (IntegrityVerdict::Unexpected, IntegrityChange::Content),
        "{row:?}"
    );
    room.stop();
}

#[test]
fn upgrade_while_the_agent_was_off_is_silent_and_an_edit_is_not() {
    if !Path::new(DPKG).exists() || !Path::new("/usr/bin/dpkg-deb").exists() {
        println!("COULD NOT RUN: there is no dpkg");
        return;
    }
    let host = Host::new();
    database(&host);
    let output = dpkg(&host, &build(&host, "1", "one"))
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (path, edited) = (host.path("usr/bin/fmtool"), host.write("usr/bin/mine", "mine"));
    Room::start(&host).stop();
    let output = dpkg(&host, &build(&host, "2", "two"))
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(&edited, "not mine").unwrap();

    let mut room = Room::begin(&host.config(), host.state());
    room.deliver();
    let row = room.row(&path);
    assert_eq!(
        (row.verdict, row.source.as_str()),
        (IntegrityVerdict::Package, "scan"),
        "{row:?}"
    );
    assert_eq!(
        room.finding(&edited, FindingState::Open).severity,
        fleetmend_event::table::Severity::High
    );
    let told = room.stop();
    let edited = edited.to_string_lossy().into_owned();
    let of_package = |fact: &&Fact| matches!(fact, Fact::Finding(finding) if finding.subject != edited);
    assert_eq!(told.iter().filter(of_package).count(), 0, "{told:#?}");
}

#[test]
fn copy_of_a_packaged_suid_program_is_low_only_with_the_same_bytes_and_rights() {
    let host = Host::new();
    database(&host);
    let with = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(host.path("usr/local/bin")).unwrap();
    let program = host.write("usr/bin/su", "switch user");
    with(&program, 0o4755);
    with(&host.write("usr/bin/plain", "a shell"), 0o755);
    with(&host.write("usr/bin/some", "for a group"), 0o4750);
    with(&host.write("usr/bin/own", "of no package"), 0o4755);
    with(&host.write("usr/bin/trojan", "not as delivered"), 0o4755);
    let sum = |text: &str| hex::encode(<md5::Md5 as md5::Digest>::digest(text));
    let sums = [
        ("su", "switch user"),
        ("plain", "a shell"),
        ("some", "for a group"),
        ("trojan", "as delivered"),
    ];
    let sums = sums.map(|(name, text)| format!("{}  usr/bin/{name}\n", sum(text)));
    host.write("var/lib/dpkg/info/login.list", "/usr/bin/su\n");
    host.write("var/lib/dpkg/info/login.md5sums", &sums.concat());
    let mut room = Room::start(&host);
    let mut told = |path: &Path| {
        room.see(event(own_actor(), FileEventKind::Chmod, path).into());
        let finding = room.finding(path, FindingState::Open);
        let evidence: serde_json::Value = serde_json::from_str(&finding.evidence).unwrap();
        (finding.severity, evidence["copy_of"].as_str().map(str::to_owned))
    };

    let copy = host.write("tmp/su", "switch user");
    with(&copy, 0o4755);
    assert_eq!(told(&copy), (Severity::Low, Some(program.display().to_string())));
    for (below, text, rights, why) in [
        ("tmp/group", "switch user", 0o6755, "it has other rights"),
        (
            "tmp/other",
            "switch user, always",
            0o4755,
            "it holds something else",
        ),
        (
            "tmp/plain",
            "a shell",
            0o4755,
            "the delivered one has no such rights",
        ),
        (
            "tmp/some",
            "for a group",
            0o4750,
            "not everybody may run that one",
        ),
        (
            "tmp/own",
            "of no package",
            0o4755,
            "no package vouches for that one",
        ),
        (
            "tmp/trojan",
            "not as delivered",
            0o4755,
            "that one is not as delivered",
        ),
        (
            "usr/local/bin/ls",
            "switch user",
            0o4755,
            "it goes before a program",
        ),
    ] {
        let path = host.write(below, text);
        with(&path, rights);
        assert_eq!(told(&path), (Severity::High, None), "{below}: {why}");
    }
    let link = host.path("tmp/link");
    std::fs::hard_link(&program, &link).unwrap();
    assert_eq!(told(&link), (Severity::High, None), "it outlives an update");
    std::fs::write(&copy, "a shell").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &copy).into());
    room.wait("what was a copy to be graver", |fact| match fact {
        Fact::Finding(finding) if finding.subject == copy.display().to_string() => {
            (finding.severity == Severity::High).then_some(())
        }
        _ => None,
    });
    room.stop();
}
