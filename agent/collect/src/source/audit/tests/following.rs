//! The log as a file: turned, emptied, cut, and read again after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleetmend_event::Fact;
use fleetmend_event::table::{Gap, ProcessEvent};
use tokio::sync::mpsc;

use super::super::tail::LINE_BYTES_MAX;
use super::*;
use crate::PaceHandle;
use crate::process::{Inventory, ProcessConfig};
use crate::source::Kind;
use crate::source::delivery::{Delivery, Tally};

/// An execution whose argument tells which it is.
fn exec(serial: u64) -> String {
    line(
        "SYSCALL",
        serial,
        serial,
        "arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid=4000000 uid=0 gid=0 comm=\"x\" exe=\"/x\"",
    ) + &line(
        "EXECVE",
        serial,
        serial,
        &format!("argc=2 a0=\"x\" a1=\"{serial}\""),
    ) + &line("PROCTITLE", serial, serial, "proctitle=\"x\"")
}

/// A reader driven by hand.
struct Rig {
    reader: Reader,
    facts: mpsc::Receiver<Fact>,
    records: mpsc::Receiver<AuditRecord>,
    gaps: Vec<Gap>,
    tally: Arc<Tally>,
}

impl Rig {
    fn new(log: &Log) -> Self {
        let (sender, facts) = mpsc::channel(10_000);
        let (record_sender, records) = mpsc::channel(10_000);
        let tally = Arc::<Tally>::default();
        let kinds = BTreeMap::from([(Kind::Processes, tally.clone())]);
        let delivery = Delivery::new(sender, "audit", kinds, PaceHandle::default());
        let translator = Translator::new(Inventory::new(ProcessConfig::default()));
        let position = log.folder().join("position.json");
        let reader = Reader::new(
            &log.path,
            position,
            Duration::from_millis(50),
            translator,
            delivery,
            Some(record_sender),
        );
        let mut rig = Self {
            reader,
            facts,
            records,
            gaps: Vec::new(),
            tally,
        };
        // Where the log ends now is where the first start begins.
        rig.reader.round();
        rig
    }

    /// Reads all there is; returns which executions were told.
    fn read(&mut self) -> Vec<u64> {
        while self.reader.round() {}
        self.reader.keep_house();
        let mut told = Vec::new();
        while let Ok(fact) = self.facts.try_recv() {
            match fact {
                Fact::ProcessEvent(row) => told.push(number(&row)),
                Fact::Gap(gap) => self.gaps.push(*gap),
                _ => {}
            }
        }
        told
    }

    fn reasons(&self) -> Vec<(&str, u64)> {
        self.gaps
            .iter()
            .map(|gap| (gap.reason.as_str(), gap.count))
            .collect()
    }
}

fn number(row: &ProcessEvent) -> u64 {
    row.args[1].parse().unwrap()
}

#[test]
fn what_the_log_held_before_the_first_start_is_not_news() {
    let log = Log::new();
    log.append(exec(1) + "type=SYSCALL msg=aud");
    let mut rig = Rig::new(&log);
    assert!(rig.read().is_empty());
    // The line that had begun is read whole when it ends.
    let rest = exec(2);
    log.append(rest.strip_prefix("type=SYSCALL msg=aud").unwrap());
    assert_eq!(rig.read(), [2]);
    log.append(exec(3));
    assert_eq!(rig.read(), [3]);
    assert!(rig.gaps.is_empty(), "{:?}", rig.gaps);
}

#[test]
fn line_without_its_end_waits_for_it() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    let text = exec(1);
    for at in [10, 100, 200] {
        let from = if at == 10 {
            0
        } else {
            at - if at == 100 { 90 } else { 100 }
        };
        log.append(&text[from..at]);
        assert!(rig.read().is_empty());
    }
    log.append(&text[200..]);
    assert_eq!(rig.read(), [1]);
    assert!(rig.gaps.is_empty(), "{:?}", rig.gaps);
}

#[test]
fn log_that_is_turned_is_read_to_its_end_and_then_its_followers() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(exec(1));
    assert_eq!(rig.read(), [1]);
    log.append(exec(2));
    log.rotate();
    assert_eq!(rig.read(), [2], "before the new one is there");
    log.append(exec(3));
    // auditd may still write a last record to the file that it turned; turned twice more between two looks.
    log.rotate();
    log.append(exec(4));
    log.rotate();
    log.append(exec(5));
    assert_eq!(rig.read(), [3, 4, 5]);
    assert!(rig.gaps.is_empty(), "{:?}", rig.gaps);
}

#[test]
fn log_that_is_emptied_or_written_anew_is_read_from_its_beginning() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(exec(1) + &exec(2));
    assert_eq!(rig.read(), [1, 2]);
    File::create(&log.path).unwrap();
    log.append(exec(3));
    assert_eq!(rig.read(), [3]);
    // In place, and longer than before: only its beginning tells.
    File::create(&log.path).unwrap();
    log.append(exec(4) + &exec(5) + &exec(6));
    assert_eq!(rig.read(), [4, 5, 6]);
}

#[test]
fn restart_goes_on_where_the_last_one_ended() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(exec(1));
    assert_eq!(rig.read(), [1]);
    log.append(exec(2));
    assert_eq!(rig.read(), [2]);
    rig.reader.finish();
    drop(rig);
    log.append(exec(3));
    log.rotate();
    log.append(exec(4));
    let mut rig = Rig::new(&log);
    assert_eq!(rig.read(), [3, 4]);
    rig.reader.finish();
    drop(rig);
    // The file is gone and another has come: what lay between is unknown.
    fs::remove_file(&log.path).unwrap();
    log.append(exec(5));
    for number in 1..9 {
        fs::remove_file(format!("{}.{number}", log.path.display())).ok();
    }
    let mut rig = Rig::new(&log);
    assert_eq!(rig.read(), [5]);
    assert_eq!(rig.reasons(), [("log_replaced", 1)]);
}

#[test]
fn event_that_was_open_when_the_agent_was_killed_is_told_by_the_next_one() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    let text = exec(1);
    let cut = text.find("type=PROCTITLE").unwrap();
    log.append(&text[..cut]);
    assert!(rig.read().is_empty());
    // No finish: as killed.
    drop(rig);
    log.append(&text[cut..]);
    assert_eq!(Rig::new(&log).read(), [1]);
}

#[test]
fn what_was_told_just_before_the_agent_was_killed_is_told_again() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(exec(1));
    assert_eq!(rig.read(), [1]);
    log.append(exec(2));
    assert_eq!(rig.read(), [2], "and perhaps not on disk yet");
    drop(rig);
    assert_eq!(Rig::new(&log).read(), [2]);
}

#[test]
fn position_that_cannot_be_believed_is_a_gap() {
    let log = Log::new();
    log.append(exec(1));
    fs::write(log.folder().join("position.json"), b"{\"version\":9").unwrap();
    let mut rig = Rig::new(&log);
    assert!(rig.read().is_empty(), "as on a first start");
    assert_eq!(rig.reasons(), [("log_replaced", 1)]);
}

#[test]
fn what_cannot_be_read_is_counted_and_the_rest_goes_on() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(exec(1));
    log.append(b"\xff\xfe garbage\nno record\n\n");
    log.append("x".repeat(LINE_BYTES_MAX * 3 + 7) + "\n");
    log.append(exec(2));
    assert_eq!(rig.read(), [1, 2]);
    let reasons = rig.reasons();
    assert!(reasons.contains(&("unreadable", 2)), "{reasons:?}");
    assert!(reasons.contains(&("line_too_long", 1)), "{reasons:?}");
    assert_eq!(rig.tally.counts().0, 2);
}

#[test]
fn raw_records_are_handed_on_masked() {
    let log = Log::new();
    let mut rig = Rig::new(&log);
    log.append(line("EXECVE", 1, 0, "argc=2 a0=\"mysql\" a1=\"-psecret\""));
    log.append(line("USER_LOGIN", 2, 0, "pid=1 msg='acct=\"root\" res=failed'"));
    rig.read();
    let first = rig.records.try_recv().unwrap();
    assert_eq!(
        (first.field("type"), first.field("a1")),
        (Some("EXECVE"), Some("-p[masked]"))
    );
    let second = rig.records.try_recv().unwrap();
    assert_eq!(
        (second.field("acct"), second.field("res")),
        (Some("root"), Some("failed"))
    );
}

#[test]
fn log_that_is_not_there_is_a_fault_until_it_is() {
    let log = Log::new();
    fs::remove_file(&log.path).unwrap();
    let mut rig = Rig::new(&log);
    rig.read();
    let fault = rig.tally.fault().unwrap();
    assert!(
        fault.reason.contains("cannot be read") && fault.hint.contains("audit_log"),
        "{fault:?}"
    );
    // What is in it by the time it is found was written after the start.
    log.append(exec(1));
    assert_eq!(rig.read(), [1]);
    assert_eq!(rig.tally.fault(), None);
}
