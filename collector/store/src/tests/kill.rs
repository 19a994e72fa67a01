//! A real process, really killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fleetmend_event::table::ProcessEvent;
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch};

use super::testbed::{START, config, exec, folder, frame_of, open, open_with};
use crate::StoreConfig;

const FOLDER: &str = "COLLECTOR_STORE_KILL_FOLDER";
const ROUNDS: u64 = 6;

/// Record `sequence` of the one host: three rows that carry its number.
fn record(sequence: u64) -> Frame {
    let id = RecordId {
        epoch: SpoolEpoch::from_bytes([5; 16]),
        lane: Lane::Events,
        sequence: Sequence(sequence),
    };
    let time = START + i64::try_from(sequence).unwrap() * 1_000;
    let pid = u32::try_from(sequence).unwrap();
    let rows: Vec<ProcessEvent> = (0..3).map(|n| exec(time + n, pid)).collect();
    frame_of(id, &rows, time, time + 2)
}

fn host() -> HostId {
    HostId::from_bytes([6; 16])
}

/// The child: goes on after the mark and says each number that was acknowledged, until it is killed. Without the
/// variable that its parent sets it is no child, and has nothing to do.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let bed = open_with(StoreConfig {
        segment_bytes_max: 64 << 10,
        maintenance_interval_ms: 10,
        merge_files_min: 4,
        ..config(Path::new(&folder))
    })
    .await;
    let mut next = bed
        .store
        .marks(host())
        .first()
        .map_or(1, |mark| mark.sequence.0 + 1);
    loop {
        let frames: Vec<Frame> = (next..next + 4).map(record).collect();
        let marks = bed.store.commit(host(), frames).await.unwrap();
        next += 4;
        println!("acknowledged {}", marks[0].sequence);
        if next % 64 == 1 {
            bed.store.seal().await.unwrap();
        }
    }
}

/// Starts the child, waits until it acknowledged `more` records, kills it; the last number it said.
fn write_and_kill(folder: &Path, more: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::kill::child_that_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let last = read_until(&mut child, more);
    child.kill().unwrap();
    // What it said before the kill took effect counts too.
    let rest = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| number(&line));
    let last = rest.fold(last, u64::max);
    child.wait().unwrap();
    last
}

fn read_until(child: &mut Child, more: u64) -> u64 {
    let mut first = None;
    let mut last = 0;
    // Byte by byte, so that nothing of the rest is taken into a buffer that goes.
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while first.is_none_or(|first| last < first + more) {
        assert!(
            std::io::Read::read(stdout, &mut byte).unwrap() > 0,
            "the child ended by itself after {last}"
        );
        if byte[0] == b'\n' {
            if let Some(said) = number(&String::from_utf8_lossy(&line)) {
                last = said;
                first.get_or_insert(said);
            }
            line.clear();
        } else {
            line.push(byte[0]);
        }
    }
    last
}

fn number(line: &str) -> Option<u64> {
    line.split_once("acknowledged ")?.1.trim().parse().ok()
}

#[tokio::test]
async fn killed_process_loses_no_acknowledged_row_and_doubles_none() {
    let folder = folder();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let path = folder.path().to_owned();
        let killed = tokio::task::spawn_blocking(move || write_and_kill(&path, 100 + round * 61));
        acknowledged = tokio::time::timeout(Duration::from_secs(60), killed)
            .await
            .unwrap()
            .unwrap();
    }
    let bed = open(folder.path()).await;
    let mark = bed.store.marks(host())[0].sequence.0;
    assert!(mark >= acknowledged, "mark {mark}, acknowledged {acknowledged}");
    // The agent sends again what was not acknowledged to it, and some that was.
    let again: Vec<Frame> = (acknowledged.saturating_sub(50).max(1)..=mark + 3)
        .map(record)
        .collect();
    bed.store.commit(host(), again).await.unwrap();
    let records = i64::try_from(mark + 3).unwrap();
    assert_eq!(
        bed.number("SELECT count(DISTINCT pid) FROM process_events").await,
        records
    );
    assert_eq!(
        bed.number("SELECT CAST(max(pid) AS BIGINT) FROM process_events")
            .await,
        records
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events").await,
        records * 3
    );
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.close().await;
}
