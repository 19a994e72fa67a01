//! What the child does: every kind of step that writes, in a few seconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use collector_store::config::{DiskAlarmConfig, RetentionConfig, TableRetention};
use collector_store::{OpenError, Store, StoreConfig};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{
    Finding, FindingKind, FindingState, MetricChunk, ProcessEvent, Severity, SubjectKind, TableInfo,
};
use fleetmend_event::{FindingId, Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, Table, TimeMicros};
use fleetmend_shutdown::Tasks;

use crate::rows;

/// Tells the child where its store is; without it the child is a test that has nothing to do.
pub(crate) const FOLDER: &str = "COLLECTOR_STORE_CRASH_FOLDER";
/// What the child says of records that were acknowledged, before their marks.
pub(crate) const SAID: &str = "acknowledged";

const START: i64 = 1_767_225_600_000_000; // 2026-01-01T00:00:00Z
/// Records of each lane and host.
pub(crate) const RECORDS: u64 = 24;
const ROUNDS: u64 = 6;
/// Records of each lane and host in one round.
pub(crate) const SHARE: u64 = RECORDS / ROUNDS;
pub(crate) const LANES: [Lane; 3] = [Lane::Critical, Lane::Events, Lane::Metrics];

pub(crate) fn hosts() -> [HostId; 2] {
    [HostId::from_bytes([1; 16]), HostId::from_bytes([2; 16])]
}

pub(crate) fn epoch() -> SpoolEpoch {
    SpoolEpoch::from_bytes([5; 16])
}

pub(crate) fn config(folder: &Path) -> StoreConfig {
    // Findings expire as soon as they are compacted.
    let expired = TableRetention {
        bytes_max: Some(1),
        ..TableRetention::default()
    };
    let retention = RetentionConfig {
        tables: [("findings".to_owned(), expired)].into(),
        ..RetentionConfig::default()
    };
    StoreConfig {
        retention,
        folder: folder.to_owned(),
        maintenance_interval_ms: 20,
        merge_files_min: 2,
        free_bytes_min: 0,
        // Its finding would be one more row at a moment of its own.
        disk_alarm: DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 0,
        },
        ..StoreConfig::default()
    }
}

/// Record `sequence` of a lane: one row, or ten samples, that carry its number. The same record every time, or it would
/// be another one under the same identity.
pub(crate) fn frame(lane: Lane, sequence: u64) -> Frame {
    let id = RecordId {
        epoch: epoch(),
        lane,
        sequence: Sequence(sequence),
    };
    let time = START + i64::try_from(sequence).unwrap() * 10_000;
    let stamp = Stamp {
        wall: TimeMicros(time),
        boot_us: 1,
    };
    let (info, batch) = match lane {
        Lane::Critical => (
            TableInfo::of::<Finding>(),
            Finding::to_batch(&[finding(time)]).unwrap(),
        ),
        Lane::Events => (
            TableInfo::of::<ProcessEvent>(),
            ProcessEvent::to_batch(&[exec(time, sequence)]).unwrap(),
        ),
        Lane::Metrics => (
            TableInfo::of::<MetricChunk>(),
            MetricChunk::to_batch(&[chunk(time, sequence)]).unwrap(),
        ),
    };
    Frame::of_batch(
        id,
        &info,
        &batch,
        stamp,
        (TimeMicros(time), TimeMicros(time + 9_000)),
    )
    .unwrap()
}

fn chunk(time: i64, sequence: u64) -> MetricChunk {
    MetricChunk {
        name: "crash.sequence".to_owned(),
        unit: "1".to_owned(),
        labels: "{}".to_owned(),
        start_time: TimeMicros(time),
        step_ms: 1,
        offset_ms: Vec::new(),
        value: vec![f64::from(u32::try_from(sequence).unwrap()); 10],
    }
}

fn finding(time: i64) -> Finding {
    Finding {
        time: TimeMicros(time),
        finding_id: FindingId::from_bytes([3; 16]),
        kind: FindingKind::Threshold,
        rule: "crash".to_owned(),
        title: "crash".to_owned(),
        severity: Severity::Low,
        state: FindingState::Open,
        first_time: TimeMicros(time),
        count: 1,
        score: None,
        subject_kind: SubjectKind::Host,
        subject: "crash".to_owned(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

fn exec(time: i64, sequence: u64) -> ProcessEvent {
    rows::exec(time, u32::try_from(sequence).unwrap())
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A part of the records of every host and lane, then what makes a segment go through all its forms.
async fn round(store: &Store, number: u64) {
    commit(store, number, &LANES).await;
    // The last round stays hot.
    if number + 1 < ROUNDS {
        compact(store).await;
    }
}

/// Commits the records of a round, of some lanes, and says so.
pub(crate) async fn commit(store: &Store, number: u64, lanes: &[Lane]) {
    for half in 0..2 {
        for host in hosts() {
            let marks = store.commit(host, half_of(number, half, lanes)).await.unwrap();
            for mark in marks {
                println!("{SAID} {host} {} {}", mark.lane.code(), mark.sequence);
            }
        }
    }
}

/// Half of the records of a round.
pub(crate) fn half_of(number: u64, half: u64, lanes: &[Lane]) -> Vec<Frame> {
    let from = 1 + number * SHARE + half * SHARE / 2;
    let of_lane = |lane: &Lane| {
        (from..from + SHARE / 2)
            .map(|n| frame(*lane, n))
            .collect::<Vec<_>>()
    };
    lanes.iter().flat_map(of_lane).collect()
}

pub(crate) async fn compact(store: &Store) {
    store.seal().await.unwrap();
    until("compaction", || store.stats().hot_frames == 0).await;
}

/// Opens a store; one that was closed just now may still check a file, and holds the folder until it has.
pub(crate) async fn open(folder: &Path) -> Store {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match Store::open(config(folder)).await {
            Err(OpenError::Locked { .. }) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

/// The folder of a child; `None` for a test that is no child.
pub(crate) fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Waits until the parent watches.
pub(crate) fn wait_for_parent() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[tokio::test]
async fn child() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    wait_for_parent();
    // Twice, so that a start on what is there is among the moments.
    for start in 0..2 {
        let store = open(&folder).await;
        let tasks = Tasks::new();
        store.run(&tasks).unwrap();
        for number in start * ROUNDS / 2..(start + 1) * ROUNDS / 2 {
            round(&store, number).await;
        }
        tasks.drain(Duration::from_secs(60)).await;
    }
}
