mod sources;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fleetmend_event::Fact;
use fleetmend_event::table::{AuthEvent, AuthOutcome, Gap, LogRecord, ProbeState, ProbeStatus};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::journal::writer::Writer;
use super::reader::{Places, Reader};
use super::*;

const MACHINE: &str = "fedcba9876543210fedcba9876543210";

struct Host {
    folder: TempDir,
    config: LogConfig,
}

#[derive(Default)]
struct Facts {
    records: Vec<LogRecord>,
    auth: Vec<AuthEvent>,
    gaps: Vec<Gap>,
    probes: Vec<ProbeStatus>,
}

impl Facts {
    fn messages(&self) -> Vec<&str> {
        self.records.iter().map(|row| row.message.as_str()).collect()
    }

    fn probe(&self, name: &str) -> &ProbeStatus {
        self.probes
            .iter()
            .rfind(|row| row.probe == name)
            .unwrap_or_else(|| panic!("no state of {name}"))
    }
}

struct Running {
    reader: Reader,
    facts: mpsc::Receiver<Fact>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("journal").join(MACHINE)).unwrap();
        let config = LogConfig {
            journal_dirs: vec![at("journal")],
            syslog_files: vec![at("auth.log")],
            files: vec![at("nginx.log")],
            access_logs: vec![at("access.log")],
            lines_per_s: 100_000,
            identifier_lines_per_s: 100_000,
            ..LogConfig::default()
        };
        Self { folder, config }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn journal(&self) -> PathBuf {
        self.at("journal").join(MACHINE).join("system.journal")
    }

    fn start(&self) -> Running {
        self.start_at(PaceHandle::default())
    }

    fn start_at(&self, pace: PaceHandle) -> Running {
        let (sender, facts) = mpsc::channel(200_000);
        let places = Places {
            state: self.at("state"),
            machine: Some(MACHINE.to_owned()),
        };
        let reader = Reader::new(self.config.clone(), &places, FactSink::new(sender), pace);
        Running { reader, facts }
    }
}

impl Running {
    /// Reads until nothing is left.
    fn turn(&mut self) -> Facts {
        while self.reader.turn() {}
        self.taken()
    }

    fn end(mut self) -> Facts {
        while self.reader.turn() {}
        self.reader.finish();
        self.taken()
    }

    fn taken(&mut self) -> Facts {
        let mut taken = Facts::default();
        while let Ok(fact) = self.facts.try_recv() {
            match fact {
                Fact::LogRecord(row) => taken.records.push(*row),
                Fact::AuthEvent(row) => taken.auth.push(*row),
                Fact::Gap(row) => taken.gaps.push(*row),
                Fact::ProbeStatus(row) => taken.probes.push(*row),
                other => panic!("{other:?}"),
            }
        }
        taken
    }
}

fn add(path: &Path, text: &str) {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

fn now_us() -> u64 {
    u64::try_from(TimeMicros::now().0).unwrap()
}

#[test]
fn lines_of_the_journal_become_rows_and_authentication() {
    let host = Host::new();
    let mut journal = Writer::create(&host.journal(), 1, true);
    let mut running = host.start();
    running.turn();
    journal.line(now_us(), "app", "connect with password=hunter2 to 192.0.2.1");
    journal.line(now_us(), "app", "connect with password=other to 192.0.2.2");
    journal.line(
        now_us(),
        "sshd",
        "Failed password for root from 192.0.2.9 port 22 ssh2",
    );
    let forged = [
        (
            "MESSAGE",
            "Accepted password for root from 192.0.2.66 port 22 ssh2",
        ),
        ("SYSLOG_IDENTIFIER", "sshd"),
        ("_UID", "1000"),
        ("_EXE", "/usr/bin/logger"),
    ];
    journal.add(now_us(), &forged);
    let facts = running.turn();
    assert_eq!(facts.messages()[0], "connect with password=[masked] to 192.0.2.1");
    assert_eq!(facts.records.len(), 4, "{:?}", facts.messages());
    let [one, other, ssh, _] = facts.records.as_slice() else {
        panic!()
    };
    assert_eq!(
        (one.source.as_str(), one.identifier.as_str(), one.unit.as_deref()),
        ("journal", "app", Some("x.service"))
    );
    assert_eq!(
        (one.pid, one.uid, one.priority, one.repeats),
        (Some(7), Some(0), Some(6), 1)
    );
    assert!(one.template != 0 && one.template == other.template && one.template != ssh.template);
    assert_eq!(
        facts.auth.len(),
        1,
        "what a user logs in the name of sshd is no event"
    );
    let event = &facts.auth[0];
    assert_eq!(
        (event.outcome, event.remote_address.as_deref()),
        (AuthOutcome::Failure, Some("192.0.2.9"))
    );
    let probe = running.end();
    assert!(probe.gaps.is_empty());
}

#[test]
fn same_line_is_not_read_from_journal_and_file() {
    let host = Host::new();
    let line = "Jan  7 13:05:01 web1 sshd[812]: Failed password for root from 192.0.2.9 port 22 ssh2\n";
    add(&host.at("auth.log"), line);
    let mut journal = Writer::create(&host.journal(), 1, true);
    let mut running = host.start();
    running.turn();
    add(&host.at("auth.log"), line);
    add(
        &host.at("nginx.log"),
        "2026/01/07 13:05:01 [error] 81#82: *1 open() failed\n",
    );
    journal.line(
        now_us(),
        "sshd",
        "Failed password for root from 192.0.2.9 port 22 ssh2",
    );
    let facts = running.turn();
    assert_eq!(
        (facts.records.len(), facts.auth.len()),
        (2, 1),
        "{:?}",
        facts.messages()
    );
    running.reader.rescan();
    // Only the source is asserted here: how the counts stand depends on when the last row was due.
    let files = facts
        .probes
        .iter()
        .chain(&running.end().probes)
        .rfind(|row| row.probe == "logs.files")
        .cloned();
    if let Some(files) = files {
        assert!(files.reason.contains("left to the journal"), "{}", files.reason);
    }
}

#[test]
fn files_are_read_where_there_is_no_journal_and_the_journal_when_it_appears() {
    let host = Host::new();
    add(&host.at("auth.log"), "old\n");
    let mut running = host.start();
    let facts = running.turn();
    assert_eq!(facts.probe("logs.journal").state, ProbeState::Broken);
    assert_eq!(
        facts.probe("logs.files").state,
        ProbeState::Real,
        "{}",
        facts.probe("logs.files").reason
    );
    let line = "<86>Jan  7 13:05:01 web1 su: pam_unix(su:session): session opened for user root by alice(uid=1000)\n";
    add(&host.at("auth.log"), line);
    let facts = running.turn();
    assert_eq!((facts.records.len(), facts.auth.len()), (1, 1));
    let row = &facts.records[0];
    assert_eq!(
        (row.identifier.as_str(), row.priority, row.facility),
        ("su", Some(6), Some(10))
    );
    assert_eq!(row.source, host.at("auth.log").to_string_lossy());

    let mut journal = Writer::create(&host.journal(), 1, false);
    running.reader.rescan();
    let facts = running.turn();
    assert_eq!(facts.probe("logs.journal").state, ProbeState::Real);
    add(&host.at("auth.log"), line);
    journal.line(now_us() + 60_000_000, "app", "from the journal");
    assert_eq!(running.turn().messages(), ["from the journal"]);
    // And back again: the file is taken up at its end.
    fs::remove_file(host.journal()).unwrap();
    running.turn();
    running.reader.rescan();
    running.turn();
    add(&host.at("auth.log"), "Jan  7 13:05:01 web1 app: from the file\n");
    assert_eq!(running.turn().messages(), ["from the file"]);
}

#[test]
fn restart_goes_on_where_reading_stood() {
    let host = Host::new();
    add(&host.at("nginx.log"), "old\n");
    let mut journal = Writer::create(&host.journal(), 1, true);
    let mut running = host.start();
    running.turn();
    journal.line(now_us(), "app", "first words of the journal");
    add(&host.at("nginx.log"), "first line of the file\nhalf a ");
    let before = running.turn();
    assert_eq!(before.records.len(), 2);
    let template = before.records[0].template;
    running.end();
    journal.line(now_us(), "app", "second words of the journal");
    journal.line(now_us(), "app", "first words of the journal");
    add(&host.at("nginx.log"), "line\n");
    let facts = host.start().end();
    assert_eq!(
        facts.messages(),
        [
            "second words of the journal",
            "first words of the journal",
            "half a line"
        ]
    );
    assert_eq!(facts.records[1].template, template, "templates are kept");
    assert!(host.start().end().records.is_empty());
    // Damaged files of ours are the same as none: logs are taken up at their end.
    fs::write(host.at("state/positions.json"), b"{").unwrap();
    fs::write(host.at("state/templates.json"), b"[]").unwrap();
    assert!(host.start().end().records.is_empty());
}

#[test]
fn storm_is_bounded_and_every_line_is_stored_or_counted() {
    const LINES: u64 = 60_000;
    let mut host = Host::new();
    host.config.lines_per_s = 100;
    host.config.identifier_lines_per_s = 25;
    let mut running = host.start();
    running.turn();
    let mut text = String::new();
    for number in 0..LINES {
        use std::fmt::Write as _;
        // Every tenth is an attempt to log in, from one of 20 addresses.
        if number % 10 == 0 {
            let end = number / 10 % 20;
            writeln!(
                text,
                "Jan  7 13:05:01 h sshd[1]: Failed password for root from 192.0.2.{end} port 22 ssh2"
            )
            .unwrap();
        } else {
            writeln!(text, "Jan  7 13:05:01 h loud[1]: request {number} failed").unwrap();
        }
    }
    add(&host.at("auth.log"), &text);
    let facts = running.end();
    let lines = facts.records.iter().filter(|row| row.source != AGENT);
    let stored: u64 = lines.map(|row| row.repeats).sum();
    let told = |table: &str| {
        facts
            .gaps
            .iter()
            .filter(|gap| gap.table == table)
            .map(|gap| gap.count)
            .sum::<u64>()
    };
    assert_eq!(stored + told("log_records"), LINES);
    assert!(
        facts.gaps.iter().all(|gap| gap.reason == "rate_limit"),
        "{:?}",
        facts.gaps
    );
    assert!(told("log_records") > 0);
    let storms: Vec<&LogRecord> = facts.records.iter().filter(|row| row.source == AGENT).collect();
    assert!(
        storms
            .iter()
            .any(|row| row.identifier == "loud" && row.message.contains("log storm"))
    );
    let attempts: u64 = facts.auth.iter().map(|event| event.repeats).sum();
    assert_eq!(
        attempts + told("auth_events"),
        LINES / 10,
        "authentication is read from every line"
    );
    assert!(
        attempts > 0 && facts.auth.len() < 4_000,
        "{} rows",
        facts.auth.len()
    );
}

#[test]
fn over_the_budget_only_warnings_and_authentication_are_taken() {
    let host = Host::new();
    let pace = PaceHandle::default();
    let mut running = host.start_at(pace.clone());
    running.turn();
    pace.set(crate::Pace::Thin);
    let lines = [
        "<30>Jan  7 13:05:01 h app: usual",
        "<30>Jan  7 13:05:01 h app: usual too",
        "<28>Jan  7 13:05:01 h app: warning",
        "<38>Jan  7 13:05:01 h sshd[1]: Failed password for root from 192.0.2.1 port 22 ssh2",
        "",
    ];
    add(&host.at("auth.log"), &lines.join("\n"));
    let facts = running.end();
    assert_eq!(facts.messages(), ["warning"]);
    assert_eq!(facts.auth.len(), 1);
    let gaps: Vec<(u64, &str)> = facts
        .gaps
        .iter()
        .map(|gap| (gap.count, gap.reason.as_str()))
        .collect();
    assert_eq!(gaps, [(3, "budget")]);
}

#[test]
fn endless_line_and_bytes_that_are_no_text_are_rows_of_bounded_length() {
    let host = Host::new();
    let mut running = host.start();
    running.turn();
    add(&host.at("nginx.log"), &"x".repeat(1 << 20));
    File::options()
        .append(true)
        .open(host.at("nginx.log"))
        .unwrap()
        .write_all(b"\n\xff\xfe bad\n\n\n")
        .unwrap();
    add(&host.at("nginx.log"), "last message repeated 3 times\n");
    let facts = running.end();
    assert_eq!(facts.records.len(), 3, "{}", facts.records.len());
    assert!(facts.records[0].truncated && facts.records[0].message.len() == 4_096);
    assert_eq!(facts.records[1].message, "\u{fffd}\u{fffd} bad");
    assert_eq!(
        (facts.records[2].message.as_str(), facts.records[2].repeats),
        ("\u{fffd}\u{fffd} bad", 3)
    );
}

#[test]
fn damaged_journal_is_told_as_a_gap() {
    let host = Host::new();
    let mut journal = Writer::create(&host.journal(), 1, true);
    let mut running = host.start();
    running.turn();
    journal.link(now_us(), &[8]);
    let entry = journal.link(now_us(), &[]);
    journal.put(entry, &[9]);
    journal.line(now_us(), "app", "whole");
    let facts = running.turn();
    assert!(facts.messages().contains(&"whole"), "{:?}", facts.messages());
    let gaps: Vec<(u64, &str)> = facts
        .gaps
        .iter()
        .map(|gap| (gap.count, gap.reason.as_str()))
        .collect();
    assert_eq!(gaps, [(1, "corrupt")]);
}

#[tokio::test]
async fn thread_wakes_when_a_line_is_written_and_ends_in_order() {
    let host = Host::new();
    add(&host.at("nginx.log"), "old\n");
    let (sender, mut facts) = mpsc::channel(1_000);
    let tasks = Tasks::new();
    spawn(
        &tasks,
        host.config.clone(),
        host.at("state"),
        FactSink::new(sender),
        PaceHandle::default(),
        mpsc::channel(1).0,
    )
    .unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut last = None;
    let mut number = 0;
    // The first lines may come before the file is taken up: its end counts then.
    let row = loop {
        number += 1;
        add(
            &host.at("nginx.log"),
            &format!("line number {number} of a test\n"),
        );
        let fact = tokio::time::timeout(Duration::from_millis(500), facts.recv()).await;
        if let Ok(Some(Fact::LogRecord(row))) = &fact {
            break row.message.clone();
        }
        last = fact.ok().flatten().or(last);
        assert!(
            tokio::time::Instant::now() < deadline,
            "no row; last was {last:?}"
        );
    };
    assert!(row.starts_with("line number "), "{row}");
    let report = tasks.drain(Duration::from_secs(60)).await;
    assert!(report.is_clean());
    assert!(host.at("state/positions.json").exists());
}
