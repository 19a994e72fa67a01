use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::table::UnitState;
use fleetmend_event::{Lane, TimeMicros};
use fleetmend_shutdown::Tasks;
use tempfile::TempDir;

use super::{FaultKind, InspectError, LaneReport, Record, SpoolReport, Wanted, inspect, rows, walk};
use crate::{Spool, SpoolConfig, SpoolHandle};

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    handle: SpoolHandle,
    tasks: Tasks,
}

fn start(folder: &Path) -> Running {
    let config = SpoolConfig {
        folder: folder.to_owned(),
        events_flush: HumanDuration::from_millis(10),
        segment_size: ByteSize::from_mib(8),
        ..SpoolConfig::default()
    };
    let (spool, _) = Spool::open(config).expect("open the spool");
    let tasks = Tasks::new();
    let handle = spool.handle();
    spool.run(&tasks).expect("start the writer");
    Running { handle, tasks }
}

impl Running {
    /// One frame for each of so many rows.
    async fn write(&self, frames: u64) {
        for number in 0..frames {
            self.handle.append(unit(number));
            let flushed = tokio::time::timeout(DEADLINE, self.handle.flush()).await;
            assert!(flushed.expect("flush in time"), "the writer ended");
        }
    }

    async fn stop(self) {
        let report = self.tasks.drain(DEADLINE).await;
        assert!(report.stragglers.is_empty(), "{:?}", report.stragglers);
    }
}

fn unit(number: u64) -> UnitState {
    UnitState {
        time: TimeMicros(1_800_000_000_000_000).plus_millis(1_000 * i64::try_from(number).unwrap()),
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

async fn stopped(frames: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path());
    running.write(frames).await;
    running.stop().await;
    folder
}

fn events(report: &SpoolReport) -> &LaneReport {
    let epoch = report.epochs.last().unwrap();
    epoch.lanes.iter().find(|lane| lane.lane == Lane::Events).unwrap()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for epoch in fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        let files = fs::read_dir(epoch.path()).unwrap().flatten();
        found.extend(files.map(|file| file.path()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("events-") && name.ends_with(".frames")
        }));
    }
    found.sort();
    found
}

/// Everything below a folder: what it holds, when it was changed, and its mode.
fn picture(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime, u32)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() {
            found.extend(picture(&path));
        }
        let bytes = if metadata.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        found.insert(
            path,
            (bytes, metadata.modified().unwrap(), metadata.permissions().mode()),
        );
    }
    found
}

/// Offsets at which the frames of a lane begin, and their numbers.
fn offsets(folder: &Path) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let wanted = Wanted {
        lane: Some(Lane::Events),
        ..Wanted::default()
    };
    walk(folder, &wanted, &mut |record| {
        if let Record::Frame { offset, frame, .. } = record {
            found.push((frame.id.sequence.0, offset));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

#[tokio::test]
async fn a_running_spool_is_looked_at_without_being_touched() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path());
    running.write(5).await;
    let before = picture(folder.path());
    let report = inspect(folder.path()).unwrap();
    assert_eq!(report.faults(), 0, "{report:?}");
    assert!(!report.stopped_cleanly);
    let lane = events(&report);
    assert_eq!(
        (lane.frames, lane.first, lane.last, lane.torn_bytes),
        (5, Some(1), Some(5), 0)
    );
    assert_eq!(offsets(folder.path()).len(), 5);
    assert_eq!(picture(folder.path()), before, "looking changed something");
    running.write(1).await;
    running.stop().await;
    let report = inspect(folder.path()).unwrap();
    assert!(report.stopped_cleanly);
    assert_eq!(events(&report).last, Some(6));
}

#[tokio::test]
async fn damage_is_named_with_its_place_and_the_numbers_that_are_gone() {
    let folder = stopped(6).await;
    let (_, at) = offsets(folder.path())[2];
    let file = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[usize::try_from(at).unwrap() + 90] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    let report = inspect(folder.path()).unwrap();
    let lane = events(&report);
    let [fault] = lane.faults.as_slice() else {
        panic!("one fault is expected: {:?}", lane.faults);
    };
    assert_eq!(fault.kind, FaultKind::Damaged);
    assert_eq!((fault.offset, fault.first, fault.last), (at, Some(3), Some(3)));
    assert!(fault.file.as_deref().unwrap().ends_with(".frames"));
    assert_eq!(lane.frames, 5);
    let numbers: Vec<u64> = offsets(folder.path())
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(numbers, [1, 2, 4, 5, 6]);
}

#[tokio::test]
async fn a_torn_tail_is_no_damage_unless_the_agent_stopped_in_order() {
    let folder = stopped(3).await;
    let file = segments(folder.path()).remove(0);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    let report = inspect(folder.path()).unwrap();
    assert_eq!(report.faults(), 1, "the clean mark promises frame 3: {report:?}");
    assert_eq!(events(&report).faults[0].first, Some(3));
    fs::remove_file(folder.path().join("clean")).unwrap();
    let report = inspect(folder.path()).unwrap();
    assert_eq!(report.faults(), 0, "{report:?}");
    let lane = events(&report);
    assert!(lane.torn_bytes > 0);
    assert_eq!(lane.last, Some(2));
}

#[tokio::test]
async fn tombstones_are_counted_and_missing_numbers_are_not() {
    let folder = stopped(4).await;
    let file = segments(folder.path()).remove(0);
    let epoch = file.parent().unwrap();
    fs::write(epoch.join(crate::layout::shed_name(Lane::Events, 5, 8)), b"").unwrap();
    fs::write(epoch.join(crate::layout::shed_name(Lane::Events, 10, 11)), b"").unwrap();
    fs::write(epoch.join("notes.txt"), b"hello").unwrap();
    fs::remove_file(folder.path().join("clean")).unwrap();
    let report = inspect(folder.path()).unwrap();
    let lane = events(&report);
    assert_eq!((lane.frames, lane.tombstones, lane.last), (4, 4, Some(10)));
    assert_eq!(lane.faults.len(), 1);
    assert_eq!(
        (lane.faults[0].kind, lane.faults[0].first, lane.faults[0].last),
        (FaultKind::Missing, Some(8), Some(9))
    );
    assert_eq!(report.epochs.last().unwrap().foreign, ["notes.txt"]);
}

#[tokio::test]
async fn rows_come_out_as_they_went_in() {
    let folder = stopped(2).await;
    let mut shown = Vec::new();
    let wanted = Wanted {
        lane: Some(Lane::Events),
        from: 2,
        ..Wanted::default()
    };
    walk(folder.path(), &wanted, &mut |record| {
        if let Record::Frame { frame, .. } = record {
            shown.extend(rows(&frame).unwrap());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["unit"], "1.service");
    let time = shown[0]["time"].as_str().unwrap();
    assert!(time.starts_with("2027-01-15T08:00:01"), "{time}");
}

#[test]
fn what_is_no_spool_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let words = |path: &Path| inspect(path).unwrap_err().to_string();
    assert!(words(&folder.path().join("none")).contains("has not run yet"));
    assert!(words(folder.path()).contains("it holds nothing"));
    fs::write(folder.path().join("photo.jpg"), b"x").unwrap();
    assert!(words(folder.path()).contains("\"photo.jpg\""));
    assert!(matches!(
        inspect(&folder.path().join("photo.jpg")),
        Err(InspectError::NotAFolder { .. })
    ));
}

#[tokio::test]
async fn bytes_of_a_stranger_cost_no_more_than_a_report() {
    let folder = stopped(1).await;
    let file = segments(folder.path()).remove(0);
    let epoch = file.parent().unwrap();
    // Nothing but the beginnings of frames that are none.
    let noise = fleetmend_event::frame::MAGIC.repeat(50_000);
    fs::write(epoch.join(crate::layout::segment_name(Lane::Metrics, 1)), noise).unwrap();
    // A pipe is not waited for.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        epoch.join(crate::layout::segment_name(Lane::Metrics, 9)),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let report = inspect(folder.path()).unwrap();
    assert!(report.faults() >= 1);
    let foreign = &report.epochs.last().unwrap().foreign;
    assert_eq!(foreign.len(), 1, "{foreign:?}");
}
