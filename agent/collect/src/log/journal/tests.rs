use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::file::Next;
use super::follow::{Journal, JournalPositions};
use super::writer::Writer;
use super::{JournalEntry, JournalFile};

const MACHINE: &str = "fedcba9876543210fedcba9876543210";

fn read_all(file: &mut JournalFile) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    while let Next::Entry(entry) = file.next_entry().unwrap() {
        entries.push(*entry);
    }
    entries
}

/// A file that systemd 252 wrote from the same 300 entries, unpacked.
fn fixture(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/journal")
        .join(name);
    let mut bytes = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::new(fs::File::open(packed).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    decoder.read_to_end(&mut bytes).unwrap();
    let path = folder.path().join("system.journal");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn files_of_systemd_are_read_in_both_widths() {
    for name in [
        "systemd-252-regular.journal.zst",
        "systemd-252-compact.journal.zst",
    ] {
        let (_folder, path) = fixture(name);
        let mut file = JournalFile::open(&path).unwrap();
        let entries = read_all(&mut file);
        assert_eq!(
            (entries.len(), file.read(), file.entries()),
            (300, 300, 300),
            "{name}"
        );
        assert!(
            entries
                .iter()
                .all(|entry| entry.unreadable == 0 && !entry.truncated)
        );
        let of = |index: usize, field: &str| entries[index].text(field).unwrap_or_default();
        assert_eq!(
            of(7, "MESSAGE"),
            "Failed password for invalid user u7 from 192.0.2.7 port 1031 ssh2"
        );
        assert_eq!(
            (of(7, "SYSLOG_IDENTIFIER"), of(7, "_PID"), of(7, "_UID")),
            ("sshd".into(), "1007".into(), "0".into())
        );
        assert_eq!(entries[7].realtime_us, 1_767_225_600_000_000 + 7_000_000);
        assert_eq!(of(7, "_SYSTEMD_UNIT"), "ssh.service");
        let long = of(100, "MESSAGE");
        assert!(long.starts_with("long word0 word1") && long.ends_with("word4") && long.len() > 11_000);
        assert_eq!(
            entries[101].bytes("MESSAGE").unwrap(),
            b"binary \xff\xfe line\nsecond line"
        );
        assert_eq!(of(102, "_TRANSPORT"), "kernel");
        assert_eq!(of(103, "_COMM"), "thing");
    }
}

#[test]
fn place_is_found_again_by_the_count_of_entries() {
    let (_folder, path) = fixture("systemd-252-compact.journal.zst");
    for place in [0, 1, 3, 4, 5, 123, 299, 300, 9_999] {
        let mut file = JournalFile::open(&path).unwrap();
        file.skip_to(place).unwrap();
        let entries = read_all(&mut file);
        assert_eq!(entries.len() as u64, 300 - place.min(300), "{place}");
    }
}

#[test]
fn file_that_grows_is_read_on_in_both_widths() {
    for compact in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("system.journal");
        let mut writer = Writer::create(&path, 1, compact);
        let mut file = JournalFile::open(&path).unwrap();
        let mut seen = Vec::new();
        for round in 0..40_u64 {
            for number in 0..round % 5 {
                writer.line(round * 10 + number + 1, "a", &format!("{round}.{number}"));
            }
            file.refresh().unwrap();
            seen.extend(
                read_all(&mut file)
                    .into_iter()
                    .map(|entry| entry.text("MESSAGE").unwrap()),
            );
        }
        let wanted: Vec<String> = (0..40_u64)
            .flat_map(|round| (0..round % 5).map(move |number| format!("{round}.{number}")))
            .collect();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn lz4_field_is_read_and_a_damaged_one_spares_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("system.journal");
    let mut writer = Writer::create(&path, 1, false);
    // MESSAGE= and eight times "ab": ten literals, then a copy of what is two before.
    let block = [&24_u64.to_le_bytes()[..], b"\xaaMESSAGE=ab\x02\x00\x10!"].concat();
    let message = writer.data(2, &block);
    let broken = writer.data(4, b"no zstd frame");
    let identifier = writer.data(0, b"SYSLOG_IDENTIFIER=app");
    writer.link(1, &[message, broken, identifier]);
    writer.link(2, &[identifier, 8, u64::MAX, 1 << 40]);
    let entries = read_all(&mut JournalFile::open(&path).unwrap());
    assert_eq!(entries[0].text("MESSAGE").unwrap(), "abababababababab!");
    assert_eq!(
        (
            entries[0].unreadable,
            entries[0].text("SYSLOG_IDENTIFIER").unwrap()
        ),
        (1, "app".to_owned())
    );
    assert_eq!((entries[1].unreadable, entries[1].truncated), (3, true));
}

#[test]
fn damage_anywhere_is_an_error_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("system.journal");
    let mut writer = Writer::create(&path, 1, false);
    for number in 0..6 {
        writer.line(number + 1, "a", "text");
    }
    let whole = fs::read(&path).unwrap();
    let mut read = 0_usize;
    let mut try_reading = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let Ok(mut file) = JournalFile::open(&path) else {
            return;
        };
        for _ in 0..50 {
            match file.next_entry() {
                Ok(Next::Entry(_) | Next::Skipped(_)) => read += 1,
                Ok(Next::End) | Err(_) => break,
            }
        }
    };
    for at in (0..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        try_reading(&bytes);
    }
    for end in (0..whole.len()).step_by(61) {
        try_reading(&whole[..end]);
    }
    assert!(read > 500, "most damage leaves something to read: {read}");
}

#[test]
fn chain_that_goes_back_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("system.journal");
    let mut writer = Writer::create(&path, 1, false);
    for number in 0..4 {
        writer.line(number + 1, "a", "text");
    }
    let array = u64::from_le_bytes(fs::read(&path).unwrap()[176..184].try_into().unwrap());
    writer.put(array + 16, &array.to_le_bytes());
    writer.put(152, &1_000_u64.to_le_bytes());
    let mut file = JournalFile::open(&path).unwrap();
    for _ in 0..4 {
        assert!(matches!(file.next_entry(), Ok(Next::Entry(_))));
    }
    assert!(
        file.next_entry()
            .unwrap_err()
            .to_string()
            .contains("chain of entries")
    );
}

struct Host {
    _folder: TempDir,
    run: PathBuf,
    var: PathBuf,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (run, var) = (folder.path().join("run"), folder.path().join("var"));
        for root in [&run, &var] {
            fs::create_dir_all(root.join(MACHINE)).unwrap();
        }
        Self {
            _folder: folder,
            run,
            var,
        }
    }

    fn journal(&self, kept: JournalPositions) -> Journal {
        Journal::new(
            vec![self.run.clone(), self.var.clone()],
            Some(MACHINE.to_owned()),
            kept,
        )
    }

    fn at(&self, name: &str) -> PathBuf {
        self.var.join(MACHINE).join(name)
    }
}

fn messages(journal: &mut Journal) -> Vec<String> {
    journal.scan(1_000);
    let mut messages = Vec::new();
    loop {
        let read = journal.read(1_000, |entry| messages.push(entry.text("MESSAGE").unwrap()));
        if read == 0 {
            messages.sort();
            return messages;
        }
    }
}

fn restart(host: &Host, journal: &mut Journal) -> Journal {
    let kept = serde_json::to_string(&journal.positions()).unwrap();
    host.journal(serde_json::from_str(&kept).unwrap())
}

#[test]
fn rotation_and_restart_lose_and_repeat_nothing() {
    let host = Host::new();
    let mut system = Writer::create(&host.at("system.journal"), 1, true);
    let mut user = Writer::create(&host.at("user-1000.journal"), 2, true);
    system.line(500, "a", "before the agent");
    let mut journal = host.journal(JournalPositions::default());
    assert!(messages(&mut journal).is_empty());
    system.line(2_000, "a", "s1");
    user.line(2_001, "a", "u1");
    assert_eq!(messages(&mut journal), ["s1", "u1"]);
    system.line(2_002, "a", "s2");
    system.archive();
    fs::rename(host.at("system.journal"), host.at("system@9-1.journal")).unwrap();
    let mut system = Writer::create(&host.at("system.journal"), 3, true);
    system.line(2_003, "a", "s3");
    assert_eq!(messages(&mut journal), ["s2", "s3"]);

    system.line(2_004, "a", "s4");
    let mut journal = restart(&host, &mut journal);
    assert_eq!(messages(&mut journal), ["s4"]);
    system.line(2_005, "a", "s5");
    system.archive();
    fs::rename(host.at("system.journal"), host.at("system@9-2.journal")).unwrap();
    let mut system = Writer::create(&host.at("system.journal"), 4, true);
    system.line(2_006, "a", "s6");
    user.line(2_007, "a", "u2");
    let mut journal = restart(&host, &mut journal);
    assert_eq!(
        messages(&mut journal),
        ["s5", "s6", "u2"],
        "rotated while the agent was away"
    );
    fs::remove_file(host.at("system@9-1.journal")).unwrap();
    assert!(messages(&mut journal).is_empty());
    assert_eq!(journal.standing().0, 3);
}

#[test]
fn file_that_took_the_inode_of_a_removed_one_is_read() {
    let host = Host::new();
    let mut system = Writer::create(&host.at("system.journal"), 1, true);
    let mut journal = host.journal(JournalPositions::default());
    assert!(messages(&mut journal).is_empty());
    system.line(2_000, "a", "s1");
    system.archive();
    fs::rename(host.at("system.journal"), host.at("system@9-1.journal")).unwrap();
    assert_eq!(messages(&mut journal), ["s1"]);
    // The same inode, another file: as when one is removed and the next gets its number.
    let mut user = Writer::create(&host.at("system@9-1.journal"), 2, true);
    user.line(2_001, "a", "u1");
    fs::rename(host.at("system@9-1.journal"), host.at("user-1000.journal")).unwrap();
    assert_eq!(messages(&mut journal), ["u1"]);
}

#[test]
fn what_journald_flushes_is_not_read_again() {
    let host = Host::new();
    let mut volatile = Writer::create(&host.run.join(MACHINE).join("system.journal"), 1, false);
    let mut journal = host.journal(JournalPositions::default());
    journal.scan(1);
    volatile.line(2_000, "a", "early");
    assert_eq!(messages(&mut journal), ["early"]);
    journal.positions();
    let mut kept = Writer::create(&host.at("system.journal"), 2, false);
    kept.line(2_000, "a", "early");
    kept.line(2_001, "a", "late");
    fs::remove_file(host.run.join(MACHINE).join("system.journal")).unwrap();
    assert_eq!(messages(&mut journal), ["late"]);
}

#[test]
fn clock_that_was_ahead_at_the_first_start_leaves_nothing_out_later() {
    let host = Host::new();
    let mut system = Writer::create(&host.at("system.journal"), 1, true);
    let mut journal = host.journal(JournalPositions::default());
    journal.scan(9_000_000_000);
    assert_eq!(journal.read(10, |_| ()), 0);
    journal.positions();
    system.archive();
    fs::rename(host.at("system.journal"), host.at("system@9-1.journal")).unwrap();
    let mut system = Writer::create(&host.at("system.journal"), 3, true);
    system.line(2_000, "a", "after the clock was set right");
    assert_eq!(messages(&mut journal), ["after the clock was set right"]);
}

#[test]
fn damaged_file_is_told_and_the_others_are_read() {
    let host = Host::new();
    let mut good = Writer::create(&host.at("system.journal"), 1, true);
    fs::write(host.at("user-1.journal"), vec![b'x'; 4_096]).unwrap();
    fs::write(host.at("user-2.journal"), b"").unwrap();
    let mut journal = host.journal(JournalPositions::default());
    journal.scan(1);
    good.line(2_000, "a", "fine");
    assert_eq!(messages(&mut journal), ["fine"]);
    let (files, broken) = journal.standing();
    let reasons: BTreeMap<_, _> = broken.clone();
    assert_eq!((files, reasons.len()), (1, 1), "{reasons:?}");
    let trouble = journal.take_trouble();
    assert_eq!((trouble.unread, trouble.files.len()), (1, 1), "{trouble:?}");
}

#[test]
fn removed_file_that_counts_more_than_it_holds_is_let_go() {
    let host = Host::new();
    let mut system = Writer::create(&host.at("system.journal"), 1, true);
    let mut journal = host.journal(JournalPositions::default());
    assert!(messages(&mut journal).is_empty());
    system.line(2_000, "a", "s1");
    system.put(152, &3_u64.to_le_bytes());
    assert_eq!(messages(&mut journal), ["s1"]);
    fs::remove_file(host.at("system.journal")).unwrap();
    assert!(messages(&mut journal).is_empty());
    assert_eq!(journal.standing().0, 1, "it may still be read");
    assert!(messages(&mut journal).is_empty());
    assert_eq!((journal.standing().0, journal.take_trouble().unread), (0, 1));
}

#[test]
fn journals_of_other_machines_are_left_alone() {
    let host = Host::new();
    for folder in ["remote", "0123456789abcdef0123456789abcdef"] {
        fs::create_dir_all(host.var.join(folder)).unwrap();
        Writer::create(&host.var.join(folder).join("system.journal"), 5, false);
    }
    let named = host.var.join(format!("{MACHINE}.web"));
    fs::create_dir_all(&named).unwrap();
    Writer::create(&named.join("system.journal"), 6, false);
    let mut journal = host.journal(JournalPositions::default());
    journal.scan(1);
    assert_eq!(journal.standing().0, 1, "the namespace of this machine only");
}
