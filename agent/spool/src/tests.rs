//! The spool as its users meet it: on a real disk, with its thread, stopped, killed, damaged and full.

mod damage;
mod fixtures;
mod life;
mod model;
mod pressure;
mod random;
mod sim;
mod thinning;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::table::{Gap, MetricChunk, Table, UnitState};
use fleetmend_event::{Frame, Lane, Mark, MetricFrame, SeriesKey, SeriesSet, SpoolEpoch, TimeMicros};
use fleetmend_shutdown::Tasks;
use tempfile::TempDir;

use crate::{ReadLimit, Recovered, Spool, SpoolConfig, SpoolHandle, SpoolReader, SpooledFrame};

const DEADLINE: Duration = Duration::from_secs(20);
const ALL: ReadLimit = ReadLimit {
    frames: 100_000,
    bytes: 1 << 30,
};

/// A spool with its thread.
struct Running {
    handle: SpoolHandle,
    recovered: Recovered,
    tasks: Tasks,
}

fn config(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        folder: folder.to_owned(),
        metrics_flush: HumanDuration::from_secs(60),
        events_flush: HumanDuration::from_millis(20),
        ..SpoolConfig::default()
    }
}

fn start(config: SpoolConfig) -> Running {
    let (spool, recovered) = Spool::open(config).expect("open the spool");
    let tasks = Tasks::new();
    let handle = spool.handle();
    spool.run(&tasks).expect("start the writer");
    Running {
        handle,
        recovered,
        tasks,
    }
}

impl Running {
    async fn stop(self) {
        let report = self.tasks.drain(DEADLINE).await;
        assert!(report.stragglers.is_empty(), "{:?}", report.stragglers);
    }

    /// Stops and takes the mark of a clean stop away: to the next start it is a kill between two writes.
    async fn kill(self, folder: &Path) {
        self.stop().await;
        std::fs::remove_file(folder.join("clean")).expect("remove the clean mark");
    }

    async fn flush(&self) {
        let flushed = tokio::time::timeout(DEADLINE, self.handle.flush())
            .await
            .expect("flush in time");
        assert!(flushed, "the writer ended");
    }
}

fn unit(number: u64) -> UnitState {
    UnitState {
        time: crate::clock::wall(),
        unit: format!("{number}.service"),
        description: String::new(),
        load_state: String::new(),
        active_state: "active".to_owned(),
        sub_state: String::new(),
        main_pid: 0,
        restart_count: 0,
        result: String::new(),
    }
}

fn gap(number: u64) -> Gap {
    let now = crate::clock::wall();
    Gap {
        time: now,
        table: format!("test{number}"),
        lane: Lane::Events,
        from_time: now,
        to_time: now,
        count: number,
        exactness: fleetmend_event::table::Exactness::Exact,
        stage: fleetmend_event::table::GapStage::Kernel,
        reason: "test".to_owned(),
    }
}

fn series() -> SeriesSet {
    Arc::from([
        SeriesKey::new("system.cpu.time", "s", [("cpu.mode", "user")]),
        SeriesKey::new("system.load", "1", []),
    ])
}

fn tick(series: &SeriesSet, second: i64) -> MetricFrame {
    let time = TimeMicros(1_800_000_000_000_000 + second * 1_000_000);
    MetricFrame {
        time,
        series: series.clone(),
        values: [second as f64, 0.5][..series.len()].to_vec(),
    }
}

/// A row of noise that zstd cannot make small, so that files grow as they are told to.
fn noisy_unit(number: u64) -> UnitState {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::new();
    while text.len() < 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    UnitState {
        description: text,
        ..unit(number)
    }
}

async fn read_all(reader: &mut SpoolReader) -> Vec<SpooledFrame> {
    reader.next_frames(ALL).await.expect("read frames")
}

async fn read_new(running: &Running) -> Vec<SpooledFrame> {
    read_all(&mut running.handle.reader()).await
}

fn decoded(frame: &SpooledFrame) -> Frame {
    let decoded = Frame::decode(&frame.bytes).expect("decode a frame");
    assert_eq!(decoded.id, frame.id);
    decoded
}

fn rows<T: Table>(frames: &[SpooledFrame]) -> Vec<T> {
    let of_table = frames
        .iter()
        .map(decoded)
        .filter(|frame| frame.table == T::ID && !frame.tombstone);
    of_table
        .flat_map(|frame| T::from_batch(&frame.batch().expect("decode").expect("body")).expect("rows"))
        .collect()
}

/// Numbers of the units that [`unit`] made.
fn units(frames: &[SpooledFrame]) -> Vec<u64> {
    let number = |row: UnitState| row.unit.trim_end_matches(".service").parse().expect("number");
    rows::<UnitState>(frames).into_iter().map(number).collect()
}

fn gaps(frames: &[SpooledFrame], reason: &str) -> Vec<Gap> {
    rows::<Gap>(frames)
        .into_iter()
        .filter(|gap| gap.reason == reason)
        .collect()
}

/// Seconds of the ticks that [`tick`] made, from the first series.
fn ticks(frames: &[SpooledFrame]) -> Vec<f64> {
    rows::<MetricChunk>(frames)
        .into_iter()
        .filter(|row| row.name == "system.cpu.time")
        .flat_map(|row| row.value)
        .collect()
}

/// No number of any (epoch, lane) is skipped or given twice.
fn assert_numbered(frames: &[SpooledFrame]) {
    let mut next = std::collections::HashMap::new();
    for frame in frames {
        let expected = next
            .entry((frame.id.epoch, frame.id.lane))
            .or_insert(frame.id.sequence.0);
        assert_eq!(frame.id.sequence.0, *expected, "{:?}", frame.id);
        *expected += 1;
    }
}

fn mark(epoch: SpoolEpoch, lane: Lane, sequence: u64) -> Mark {
    Mark {
        epoch,
        lane,
        sequence: fleetmend_event::Sequence(sequence),
    }
}

/// Files of the current layout whose name contains `part`, in every epoch, sorted.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path, part));
        } else if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(part))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("make a folder")
}

/// Waits until `state` satisfies `wanted`, and prints the last one when it does not in time.
async fn wait_for<T: std::fmt::Debug>(mut state: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let now = state();
        if wanted(&now) {
            return now;
        }
        assert!(tokio::time::Instant::now() < deadline, "last seen: {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn quota_of(bytes: u64, folder: &Path) -> SpoolConfig {
    let size = ByteSize(bytes);
    SpoolConfig {
        critical_quota: size,
        events_quota: size,
        metrics_quota: size,
        ..config(folder)
    }
}
