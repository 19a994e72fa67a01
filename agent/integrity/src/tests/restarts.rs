//! What is kept, what a person may say, and what happens when there is too much or no room.

use std::process::{Command, Stdio};

use fleetmend_event::table::{IntegrityChange, IntegrityVerdict, Severity};

use super::*;
use crate::books::{Books, Record};
use crate::state::{Digest, FileState};
use crate::store;

#[test]
fn what_changed_while_the_agent_was_off_is_found_and_its_finding_lives_on() {
    let host = Host::new();
    let (changed, added) = (host.write("etc/sudoers", "one"), host.path("etc/cron.d/added"));
    let removed = host.write("etc/profile", "profile");
    Room::start(&host).stop();
    std::fs::write(&changed, "two").unwrap();
    std::fs::write(&added, "evil").unwrap();
    std::fs::remove_file(&removed).unwrap();

    let mut room = Room::start(&host);
    let opened = room.finding(&changed, FindingState::Open);
    for (path, change) in [
        (&changed, IntegrityChange::Content),
        (&added, IntegrityChange::Added),
        (&removed, IntegrityChange::Removed),
    ] {
        let text = path.display().to_string();
        let row = room.wait(&text, |fact| match fact {
            Fact::IntegrityEvent(row) if row.path == text => Some((**row).clone()),
            _ => None,
        });
        assert_eq!(
            (row.change, row.verdict, row.pid),
            (change, IntegrityVerdict::Unknown, None),
            "{row:?}"
        );
        assert_eq!(row.source, "scan");
    }
    room.finding(&added, FindingState::Open);
    room.finding(&removed, FindingState::Open);
    room.stop();

    // Nothing new, so nothing is told again; and what is as it was is resolved under its own id.
    std::fs::write(&changed, "one").unwrap();
    let mut room = Room::start(&host);
    let resolved = room.finding(&changed, FindingState::Resolved);
    assert_eq!(resolved.finding_id, opened.finding_id);
    let told = room.stop();
    let again = |fact: &&Fact| matches!(fact, Fact::Finding(finding) if finding.state == FindingState::Open);
    assert_eq!(told.iter().filter(again).count(), 0, "{told:#?}");
}

#[test]
fn change_that_a_person_accepts_is_the_baseline_from_then_on() {
    let host = Host::new();
    let path = host.write("etc/sudoers", "one");
    let mut room = Room::start(&host);
    std::fs::write(&path, "two").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    room.finding(&path, FindingState::Open);
    let list = room.list();
    assert_eq!(list["changed"][0]["path"], path.display().to_string(), "{list}");
    let nothing = room
        .runtime
        .block_on(room.control.accept(Some(host.path("etc/none"))))
        .unwrap_err();
    assert!(nothing.to_string().contains("integrity list"), "{nothing}");
    assert_eq!(
        room.runtime
            .block_on(room.control.accept(Some(path.clone())))
            .unwrap(),
        1
    );
    room.finding(&path, FindingState::Resolved);
    assert!(room.list()["changed"].as_array().unwrap().is_empty());
    room.stop();
    let told = Room::start(&host).stop();
    assert!(
        !told
            .iter()
            .any(|fact| matches!(fact, Fact::Finding(_) | Fact::IntegrityEvent(_))),
        "{told:#?}"
    );
}

#[test]
fn damaged_baseline_is_told_and_made_anew() {
    let host = Host::new();
    host.write("etc/sudoers", "one");
    Room::start(&host).stop();
    let file = store::file(&host.state());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut room = Room::begin(&host.config(), host.state());
    room.deliver();
    let status = room.wait_for_status("made anew");
    assert!(status.reason.contains("checksum"), "{status:?}");
    room.wait_until_ready();
    let told = room.stop();
    assert!(
        !told.iter().any(|fact| matches!(fact, Fact::Finding(_))),
        "{told:#?}"
    );
    assert!(store::load(&host.state()).unwrap().is_some());
}

#[test]
fn state_that_cannot_be_written_is_told_and_changes_are_found_all_the_same() {
    let host = Host::new();
    let path = host.write("etc/sudoers", "one");
    // A file where the folder should be: nobody can write there, root neither.
    std::fs::write(host.state(), "in the way").unwrap();
    let mut room = Room::begin(&host.config(), host.state().join("below"));
    room.deliver();
    let status = room.wait_for_status("is not kept over a restart");
    assert_eq!(status.state, ProbeState::Degraded);
    std::fs::write(&path, "two").unwrap();
    room.see(event(own_actor(), FileEventKind::OpenWrite, &path).into());
    assert_eq!(room.row(&path).pid, Some(std::process::id()));
    room.stop();
}

#[test]
fn files_beyond_the_limit_are_told() {
    let host = Host::new();
    for index in 0..300 {
        host.write(&format!("usr/bin/program-{index}"), "x");
    }
    let mut config = host.config();
    config.files_max = 200;
    let mut room = Room::begin(&config, host.state());
    room.deliver();
    let status = room.wait_for_status("integrity.files_max is reached");
    assert_eq!(status.state, ProbeState::Degraded);
    assert!(status.reason.starts_with("200 files watched"), "{status:?}");
    room.stop();
}

#[test]
fn grave_change_is_found_when_as_many_lesser_ones_are_open_as_there_may_be() {
    let host = Host::new();
    std::fs::create_dir_all(host.path("var/www")).unwrap();
    let mut room = Room::start(&host);
    for index in 0..1_030 {
        let path = host.write(&format!("var/www/{index}.php"), "x");
        room.see(event(own_actor(), FileEventKind::Create, &path).into());
    }
    room.wait_for_status("changed files are not followed one by one");
    let path = host.write("etc/ld.so.preload", "/tmp/x.so");
    room.see(event(own_actor(), FileEventKind::Create, &path).into());
    let finding = room.finding(&path, FindingState::Open);
    assert_eq!(finding.severity, Severity::Critical);
    let made_room = room.wait("a finding that made room", |fact| match fact {
        Fact::Finding(finding) if finding.state == FindingState::Resolved => Some(finding.subject.clone()),
        _ => None,
    });
    assert!(made_room.ends_with(".php"), "{made_room}");
    room.stop();
}

/// Where the other process writes, when this is the other process.
const FOLDER: &str = "FLEETMEND_TEST_INTEGRITY_FOLDER";

fn books(count: u64) -> Books {
    let mut books = Books::new(100_000);
    for inode in 0..count {
        books.put(Record {
            path: Path::new(&format!("/usr/lib/some/long/path/to/library-{inode}.so")).into(),
            state: FileState {
                mode: 0o100_644,
                uid: 0,
                gid: 0,
                device: 1,
                inode,
                size: count,
                changed_ns: 1,
                capabilities: 0,
                digest: Digest::Whole([1; 32]),
            },
            class: Class::Library,
            flags: 0,
            scan: 0,
        });
    }
    books
}

#[test]
fn baseline_is_whole_after_kill_in_the_middle_of_its_writing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let contents = [books(3_000), books(4_000)].map(|books| store::encode(&books, Path::new("/"), &[1]));
        loop {
            for bytes in &contents {
                store::replace(&store::file(Path::new(&folder)), bytes).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "tests::restarts::baseline_is_whole_after_kill_in_the_middle_of_its_writing",
            ])
            .env(FOLDER, folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !store::file(folder.path()).exists() {
            assert!(begun.elapsed() < PATIENCE, "the first baseline was not written");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let stored = store::load(folder.path()).unwrap().unwrap();
        assert!(
            [3_000, 4_000].contains(&stored.records.len()),
            "{}",
            stored.records.len()
        );
    }
}
