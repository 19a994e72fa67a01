//! Every way to change a file, really done.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use fleetmend_event::table::{IntegrityChange, IntegrityVerdict, Severity};

use super::*;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(text))
}

#[test]
fn every_way_to_change_a_file_is_told_with_who_did_it() {
    let host = Host::new();
    let edited = host.write("etc/sudoers", "root ALL");
    let replaced = host.write("usr/bin/tool", "one");
    let linked = host.write("etc/passwd", "root");
    let through = host.write("etc/shadow", "root");
    let bits = host.write("usr/bin/shell", "shell");
    let owned = host.write("etc/cron.d/job", "job");
    let gone = host.write("etc/systemd/system/a.service", "[Unit]");
    let keys = host.path("root/.ssh/authorized_keys");
    let unwatched = host.write("tmp/helper", "helper");
    mode(&bits, 0o755);
    mode(&unwatched, 0o755);
    let mut room = Room::start(&host);
    let own = own_actor();
    let by_own = |row: &IntegrityEvent| {
        assert_eq!(
            (row.pid, row.verdict),
            (Some(own.pid), IntegrityVerdict::Unexpected),
            "{row:?}"
        );
        assert!(
            row.chain.as_ref().unwrap().starts_with("integrity-test"),
            "{row:?}"
        );
    };

    std::fs::write(&edited, "ann ALL").unwrap();
    room.see(event(own.clone(), FileEventKind::OpenWrite, &edited).into());
    let row = room.row(&edited);
    by_own(&row);
    assert_eq!(
        (row.change, row.class.as_str()),
        (IntegrityChange::Content, "sudoers")
    );
    assert_eq!(row.old_sha256.as_deref(), Some(sha256("root ALL").as_str()));
    assert_eq!(row.new_sha256.as_deref(), Some(sha256("ann ALL").as_str()));
    let finding = room.finding(&edited, FindingState::Open);
    assert_eq!(
        (finding.severity, finding.techniques),
        (Severity::High, vec!["T1548.003".to_owned()])
    );

    // As editors and package managers do: beside, and over.
    let fresh = host.write("usr/bin/tool.new", "two");
    let mut renamed = event(own.clone(), FileEventKind::Rename, &fresh);
    renamed.target = Some(replaced.display().to_string());
    std::fs::rename(&fresh, &replaced).unwrap();
    room.see(renamed.into());
    let row = room.row(&replaced);
    by_own(&row);
    assert_eq!(row.change, IntegrityChange::Content);

    let alias = host.path("tmp/alias");
    std::fs::hard_link(&linked, &alias).unwrap();
    std::fs::write(&alias, "evil").unwrap();
    room.see(event(own.clone(), FileEventKind::OpenWrite, &alias).into());
    by_own(&room.row(&linked));

    // The kernel tells the file that a link leads to; where it cannot, the inode does.
    let link = host.path("tmp/link");
    symlink(&through, &link).unwrap();
    std::fs::write(&link, "evil").unwrap();
    let mut written = event(own.clone(), FileEventKind::OpenWrite, &through);
    written.path = link.display().to_string();
    room.see(written.into());
    by_own(&room.row(&through));

    mode(&bits, 0o4755);
    room.see(event(own.clone(), FileEventKind::Chmod, &bits).into());
    let row = room.row(&bits);
    by_own(&row);
    assert_eq!(
        (row.change, row.class.as_str()),
        (IntegrityChange::Metadata, "suid")
    );
    assert_eq!((row.old_mode, row.new_mode), (Some(0o100_755), Some(0o104_755)));

    chown(&owned, Some(1_234), None).unwrap();
    room.see(event(own.clone(), FileEventKind::Chown, &owned).into());
    let row = room.row(&owned);
    by_own(&row);
    assert_eq!(
        (row.change, row.new_uid),
        (IntegrityChange::Metadata, Some(1_234))
    );

    // What is done by name is told without an inode, and when its process has ended.
    let mut chmod = std::process::Command::new("chmod")
        .arg("0600")
        .arg(&owned)
        .spawn()
        .unwrap();
    let ended = Actor {
        pid: chmod.id(),
        start_boot_ns: own.start_boot_ns + 1_000_000_000,
        ppid: Some(own.pid),
        comm: "chmod".to_owned(),
        ..Actor::default()
    };
    assert!(chmod.wait().unwrap().success());
    let mut by_name = event(ended.clone(), FileEventKind::Chmod, &owned);
    (by_name.inode, by_name.device) = (None, None);
    let changed = owned.metadata().unwrap();
    by_name.time = TimeMicros(changed.ctime() * 1_000_000 + changed.ctime_nsec() / 1_000 + 1_000);
    room.see(by_name.into());
    let row = room.row(&owned);
    assert_eq!(
        (row.pid, row.new_mode),
        (Some(ended.pid), Some(0o100_600)),
        "{row:?}"
    );

    let removed = event(own.clone(), FileEventKind::Unlink, &gone);
    std::fs::remove_file(&gone).unwrap();
    room.see(removed.into());
    let row = room.row(&gone);
    by_own(&row);
    assert_eq!((row.change, row.new_sha256), (IntegrityChange::Removed, None));

    std::fs::write(&keys, "ssh-ed25519 AAAA").unwrap();
    room.see(event(own.clone(), FileEventKind::Create, &keys).into());
    let row = room.row(&keys);
    by_own(&row);
    assert_eq!(row.change, IntegrityChange::Added);
    assert_eq!(
        room.finding(&keys, FindingState::Open).severity,
        Severity::Critical
    );

    // A program with its owner's rights is told wherever it lies.
    mode(&unwatched, 0o4755);
    room.see(event(own.clone(), FileEventKind::Chmod, &unwatched).into());
    let row = room.row(&unwatched);
    by_own(&row);
    assert_eq!(row.class, "suid");
    room.stop();
}

#[test]
fn same_bytes_are_no_change_and_what_is_as_before_is_resolved() {
    let host = Host::new();
    let path = host.write("etc/ld.so.preload", "/lib/one.so");
    let marker = host.write("etc/group", "root");
    let mut room = Room::start(&host);
    let fresh = host.write("etc/ld.so.preload.new", "/lib/one.so");
    let mut renamed = event(own_actor(), FileEventKind::Rename, &fresh);
    renamed.target = Some(path.display().to_string());
    std::fs::rename(&fresh, &path).unwrap();
    room.see(renamed.into());
    std::fs::write(&marker, "other").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &marker).into());
    room.row(&marker);
    assert!(room.told(&path).is_empty(), "{:?}", room.told(&path));

    std::fs::write(&path, "/tmp/evil.so").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    let opened = room.finding(&path, FindingState::Open);
    assert_eq!(
        (opened.severity, opened.techniques.as_slice()),
        (Severity::Critical, &["T1574.006".to_owned()][..])
    );
    assert_eq!(opened.pid, Some(std::process::id()));
    std::fs::write(&path, "/lib/one.so").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    let resolved = room.finding(&path, FindingState::Resolved);
    assert_eq!(resolved.finding_id, opened.finding_id);
    room.stop();
}

#[test]
fn event_of_the_same_path_in_another_root_names_nobody() {
    let host = Host::new();
    let path = host.write("etc/ld.so.preload", "one");
    let elsewhere = host.write("tmp/same-name-in-a-container", "theirs");
    let mut room = Room::start(&host);
    std::fs::write(&path, "two").unwrap();
    // The path is ours, the inode that of another file; and one that tells no inode, of a process that ended.
    let mut theirs = event(other_actor(4_000_001), FileEventKind::OpenWrite, &elsewhere);
    theirs.path = path.display().to_string();
    room.see(theirs.into());
    let mut blind = event(other_actor(4_000_002), FileEventKind::OpenWrite, &path);
    (blind.inode, blind.device) = (None, None);
    room.see(blind.into());
    let row = room.row(&path);
    assert_eq!(
        (row.pid, row.verdict),
        (None, IntegrityVerdict::Unknown),
        "{row:?}"
    );
    let finding = room.finding(&path, FindingState::Open);
    assert!(
        finding.pid.is_none() && finding.title.ends_with("by whom is not known"),
        "{finding:?}"
    );
    let evidence: serde_json::Value = serde_json::from_str(&finding.evidence).unwrap();
    assert_eq!(
        evidence["unproven_writers"].as_array().unwrap().len(),
        2,
        "{evidence}"
    );
    room.stop();
}

#[test]
fn burst_is_one_change_with_its_last_writer_and_all_others() {
    let host = Host::new();
    let path = host.write("etc/crontab", "one");
    let mut config = host.config();
    config.settle = HumanDuration::from_secs(3);
    let mut room = Room::begin(&config, host.state());
    room.deliver();
    room.wait_until_ready();
    for (pid, text) in [(4_000_011, "two"), (4_000_012, "three"), (4_000_013, "four")] {
        std::fs::write(&path, text).unwrap();
        room.see(event(other_actor(pid), FileEventKind::OpenWrite, &path).into());
    }
    let row = room.row(&path);
    assert_eq!(row.pid, Some(4_000_013), "{row:?}");
    assert_eq!(row.new_sha256.as_deref(), Some(sha256("four").as_str()));
    let finding = room.finding(&path, FindingState::Open);
    let evidence: serde_json::Value = serde_json::from_str(&finding.evidence).unwrap();
    let pids: Vec<u64> = evidence["writers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|writer| writer["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(pids, [4_000_013, 4_000_012, 4_000_011]);
    assert_eq!(finding.count, 1);
    room.stop();
}

#[test]
fn write_long_after_the_open_is_told_with_the_opener() {
    let host = Host::new();
    let path = host.write("etc/profile", "one");
    let marker = host.write("etc/group", "root");
    let mut room = Room::start(&host);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    // The open was looked at, and nothing had changed.
    std::fs::write(&marker, "other").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &marker).into());
    room.row(&marker);
    assert!(room.told(&path).is_empty());
    file.write_all(b"two").unwrap();
    let row = room.row(&path);
    assert_eq!(
        (row.pid, row.change),
        (Some(std::process::id()), IntegrityChange::Content),
        "{row:?}"
    );
    room.stop();
}

#[test]
fn folder_renamed_away_takes_its_files_along() {
    let host = Host::new();
    let job = host.write("etc/cron.d/job", "job");
    let mut room = Room::start(&host);
    let (from, to) = (host.path("etc/cron.d"), host.path("etc/cron.off"));
    let mut renamed = event(own_actor(), FileEventKind::Rename, &from);
    renamed.target = Some(to.display().to_string());
    std::fs::rename(&from, &to).unwrap();
    room.see(renamed.into());
    let row = room.row(&job);
    assert_eq!(
        (row.change, row.pid),
        (IntegrityChange::Removed, Some(std::process::id())),
        "{row:?}"
    );
    room.stop();
}

#[test]
fn without_events_inotify_tells_what_changed_and_not_who() {
    let host = Host::new();
    let path = host.write("etc/ld.so.preload", "one");
    let mut room = Room::begin(&host.config(), host.state());
    let status = room.wait_for_status("by inotify");
    assert_eq!(status.state, ProbeState::Degraded);
    std::fs::write(&path, "two").unwrap();
    let row = room.row(&path);
    assert_eq!((row.source.as_str(), row.pid), ("inotify", None), "{row:?}");
    let new_folder = host.path("etc/systemd/system/b.service.d");
    std::fs::create_dir(&new_folder).unwrap();
    let inside = host.write("etc/systemd/system/b.service.d/evil.conf", "[Service]");
    assert_eq!(room.row(&inside).change, IntegrityChange::Added);
    room.deliver();
    room.wait("inotify to be left", |fact| match fact {
        Fact::ProbeStatus(status) => (!status.reason.contains("events of files are not")).then_some(()),
        _ => None,
    });
    room.stop();
}
