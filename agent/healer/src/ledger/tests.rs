use std::path::Path;

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionEvent, ActionStage};
use fleetmend_event::{ActionId, FindingId, TimeMicros};

use super::*;

const MEBIBYTE: u64 = 1024 * 1024;

fn event(reason: &str) -> ActionEvent {
    ActionEvent {
        time: TimeMicros(1_700_000_000_000_001),
        action_id: ActionId::random(),
        finding_id: FindingId::random(),
        remedy: "throttle-process".to_owned(),
        target: "pid 1 (x)".to_owned(),
        stage: ActionStage::Ended,
        ending: Some(Ending::Healed),
        reason: reason.to_owned(),
        before: "{}".to_owned(),
        after: "{}".to_owned(),
        asserted_by_agent: false,
        ledger_index: 0,
    }
}

fn filled(path: &Path, entries: usize) -> Ledger {
    let mut ledger = Ledger::open(path, MEBIBYTE, &mut |_, _| {}).unwrap();
    for index in 0..entries {
        let body = Body::note(Kind::Start, 0, format!("entry {index}"));
        let event = (index % 2 == 1).then(|| event("why"));
        ledger.append(TimeMicros::now(), body, event).unwrap();
    }
    ledger
}

#[test]
fn the_chain_goes_on_after_a_restart_and_pages_are_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let head = filled(&path, 5).head().to_owned();
    let mut seen = 0;
    let mut ledger = Ledger::open(&path, MEBIBYTE, &mut |_, _| seen += 1).unwrap();
    assert_eq!((seen, ledger.next_index(), ledger.head()), (5, 5, head.as_str()));
    let (entry, event) = ledger
        .append(
            TimeMicros::now(),
            Body::note(Kind::Start, 0, "on".into()),
            Some(event("r")),
        )
        .unwrap();
    assert_eq!(
        (
            entry.index,
            entry.previous_hash.as_str(),
            event.unwrap().ledger_index
        ),
        (5, head.as_str(), 5)
    );
    let page = ledger.page(1, 3).read().unwrap();
    assert_eq!(
        page.iter().map(|(entry, _)| entry.index).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(page.iter().filter(|(_, event)| event.is_some()).count(), 2);
    assert_eq!(ledger.page(6, 10).read().unwrap().len(), 0);
    assert_eq!(ledger.page(u64::MAX, 10).read().unwrap().len(), 0);
}

#[test]
fn every_truncation_is_whole_or_torn_and_never_another_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    filled(&path, 3);
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let entries = Ledger::verify(&path).unwrap().entries;
        let ledger = Ledger::open(&path, MEBIBYTE, &mut |_, _| {}).unwrap();
        assert_eq!(ledger.next_index(), entries, "cut at {length}");
        assert_eq!(Ledger::verify(&path).unwrap().torn_bytes, 0);
    }
}

#[test]
fn every_flipped_byte_breaks_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    filled(&path, 3);
    let whole = std::fs::read(&path).unwrap();
    for index in (0..whole.len() - 1).step_by(5) {
        let mut bytes = whole.clone();
        bytes[index] ^= 0x01;
        std::fs::write(&path, &bytes).unwrap();
        let found = Ledger::verify(&path);
        assert!(
            matches!(found, Err(LedgerError::Broken { .. })),
            "byte {index}: {found:?}"
        );
    }
    // A line that was taken out, and lines that were exchanged.
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    std::fs::write(&path, [lines[0], lines[2]].concat()).unwrap();
    assert!(Ledger::verify(&path).is_err());
    std::fs::write(&path, [lines[1], lines[0], lines[2]].concat()).unwrap();
    assert!(Ledger::verify(&path).is_err());
}

#[test]
fn an_erased_row_leaves_a_chain_that_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    filled(&path, 4);
    let text = std::fs::read_to_string(&path).unwrap();
    let erased: String = text
        .lines()
        .map(|line| {
            let mut line: Line = serde_json::from_str(line).unwrap();
            (line.salt, line.event) = (None, None);
            serde_json::to_string(&line).unwrap() + "\n"
        })
        .collect();
    std::fs::write(&path, erased).unwrap();
    let verified = Ledger::verify(&path).unwrap();
    assert_eq!((verified.entries, verified.erased), (4, 2));
}

#[test]
fn a_full_ledger_refuses_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path, 700, &mut |_, _| {}).unwrap();
    let mut appended = 0;
    let refused = loop {
        match ledger.append(TimeMicros::now(), Body::note(Kind::Start, 0, "note".into()), None) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LedgerError::Full { .. }) && appended > 0);
    assert_eq!(Ledger::verify(&path).unwrap().entries, appended);
}
