mod following;
mod translating;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use proptest::prelude::*;

use super::*;

/// A record of the log of this module's own making: `serial`, and seconds after a fixed moment.
fn line(record_type: &str, serial: u64, second: u64, fields: &str) -> String {
    format!(
        "type={record_type} msg=audit({}.500:{serial}): {fields}\n",
        1_700_000_000 + second
    )
}

fn joined(lines: &[String]) -> Vec<AuditEvent> {
    let mut joiner: Joiner = Joiner::default();
    let mut events = Vec::new();
    for line in lines {
        events.extend(joiner.push(AuditRecord::parse(line.trim_end().as_bytes()).unwrap(), ()));
    }
    events.extend(joiner.finish());
    events
}

fn types(event: &AuditEvent) -> Vec<&str> {
    event
        .records
        .iter()
        .map(|record| record.record_type.as_str())
        .collect()
}

#[test]
fn records_of_two_events_in_between_each_other_become_two_events() {
    let lines = [
        line("SYSCALL", 8, 0, "arch=c000003e syscall=59 pid=1"),
        line("SYSCALL", 7, 0, "arch=c000003e syscall=257 pid=2"),
        line("EXECVE", 8, 0, "argc=1 a0=\"ls\""),
        line("PATH", 7, 0, "item=0 name=\"/x\""),
        line("PROCTITLE", 8, 0, "proctitle=\"ls\""),
        line("USER_LOGIN", 9, 0, "pid=3"),
        line("PROCTITLE", 7, 0, "proctitle=\"cat\""),
    ];
    let events = joined(&lines);
    let all: Vec<Vec<&str>> = events.iter().map(types).collect();
    assert_eq!(
        all,
        [
            vec!["SYSCALL", "EXECVE", "PROCTITLE"],
            vec!["USER_LOGIN"],
            vec!["SYSCALL", "PATH", "PROCTITLE"]
        ]
    );
}

#[test]
fn event_without_an_end_is_whole_when_the_log_goes_on_or_rests() {
    let mut joiner: Joiner = Joiner::default();
    let record = |serial, second| {
        AuditRecord::parse(
            line("SYSCALL", serial, second, "syscall=59")
                .trim_end()
                .as_bytes(),
        )
        .unwrap()
    };
    assert!(joiner.push(record(1, 0), ()).is_empty());
    assert!(joiner.push(record(2, 1), ()).is_empty(), "within two seconds");
    assert_eq!(joiner.push(record(3, 3), ()).len(), 1, "the first is over");
    assert!(joiner.settle(Instant::now()).is_empty());
    assert_eq!(joiner.settle(Instant::now() + Duration::from_secs(3)).len(), 2);
    assert!(joiner.first_open().is_none());
}

#[test]
fn events_and_their_records_are_bounded() {
    let mut joiner: Joiner = Joiner::default();
    let mut whole = 0;
    for serial in 0..5_000 {
        let record =
            AuditRecord::parse(line("SYSCALL", serial, 0, "syscall=59").trim_end().as_bytes()).unwrap();
        whole += joiner.push(record, ()).len();
    }
    assert!(whole >= 3_900, "{whole}");
    let long = "x".repeat(2_000);
    for _ in 0..1_000 {
        let path = line("PATH", 6_000, 0, &format!("name=\"{long}\""));
        joiner.push(AuditRecord::parse(path.trim_end().as_bytes()).unwrap(), ());
    }
    let event = joiner.finish().pop().unwrap();
    assert!(
        event.truncated && event.records.len() < 300,
        "{}",
        event.records.len()
    );
    assert!(joiner.take_cut() > 700);
    // All of them together are bounded too.
    let whole: usize = (7_000..7_100)
        .map(|serial| {
            let paths = (0..100).map(|_| line("PATH", serial, 0, &format!("name=\"{long}\"")));
            let records = paths.map(|path| AuditRecord::parse(path.trim_end().as_bytes()).unwrap());
            records.map(|record| joiner.push(record, ()).len()).sum::<usize>()
        })
        .sum();
    assert!((50..100).contains(&whole), "{whole}");
}

proptest! {
    /// Whatever stands in a log, reading it ends, holds its bounds, and masks.
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40),
        heads in prop::collection::vec(0_usize..6, 0..40),
    ) {
        let mut joiner: Joiner = Joiner::default();
        for (body, head) in bytes.iter().zip(heads) {
            let record_type = ["SYSCALL", "EXECVE", "PATH", "SOCKADDR", "PROCTITLE", "USER_CMD"][head];
            let mut line = format!("type={record_type} msg=audit(17.001:{head}): arch=c000003e a0=").into_bytes();
            line.extend_from_slice(body);
            if let Ok(record) = AuditRecord::parse(&line) {
                prop_assert_eq!(&record.record_type, record_type);
                let masked = record.clone().masked();
                prop_assert!(masked.fields.len() <= 520);
                joiner.push(record, ());
            }
            prop_assert!(AuditRecord::parse(body).is_err() || body.starts_with(b"type="));
        }
        joiner.finish();
    }
}

/// A log in a folder of its own.
struct Log {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        File::create(&path).unwrap();
        Self { folder, path }
    }

    fn append(&self, text: impl AsRef<[u8]>) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .unwrap()
            .write_all(text.as_ref())
            .unwrap();
    }

    /// As auditd turns its logs: each takes the next number, and a new one is made.
    fn rotate(&self) {
        let numbered = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..9).rev() {
            if numbered(number).exists() {
                fs::rename(numbered(number), numbered(number + 1)).unwrap();
            }
        }
        fs::rename(&self.path, numbered(1)).unwrap();
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

#[test]
fn evidence_is_the_kinds_that_the_end_of_the_log_holds() {
    let log = Log::new();
    assert!(evidence(&log.path).unwrap().is_empty());
    log.append(line("SYSCALL", 1, 0, "arch=c000003e syscall=59 pid=1"));
    log.append("garbage\n\n\u{0}\u{1}");
    log.append(line("SYSCALL", 2, 0, "arch=c000003e syscall=42 pid=1").replacen("type", "\ntype", 1));
    log.append(line("USER_LOGIN", 3, 0, "pid=1"));
    let kinds = evidence(&log.path).unwrap();
    use crate::source::Kind;
    assert!(
        kinds.contains(&Kind::Processes) && kinds.contains(&Kind::Network),
        "{kinds:?}"
    );
    assert_eq!(kinds.len(), 2);
    assert!(evidence(&log.folder().join("none")).is_err());
}

/// The moment of [`line`]'s second 0.
fn begun() -> TimeMicros {
    TimeMicros(1_700_000_000_500_000)
}
