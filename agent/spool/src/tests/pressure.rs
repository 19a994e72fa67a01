//! Full queues, full quotas, a full disk.

use std::time::Instant;

use fleetmend_event::table::{Exactness, GapStage};

use super::*;
use crate::disk::Disk as _;
use crate::gaps::Loss;
use crate::index::{Extent, ExtentKind};
use crate::quota::{Doomed, losses_of};
use crate::reserve::RESERVE_BYTES;

#[tokio::test]
async fn full_intake_refuses_metrics_first_and_counts_them() {
    let folder = folder();
    let config = SpoolConfig {
        intake_facts_max: 64,
        ..config(folder.path())
    };
    let (spool, _) = Spool::open(config).unwrap();
    let handle = spool.handle();
    let set = series();
    // The writer does not run yet: everything waits in the intake.
    for number in 0..40 {
        handle.append(tick(&set, number));
    }
    for number in 0..40 {
        handle.append(unit(number));
    }
    for number in 0..10 {
        handle.append(gap(number));
    }
    let tasks = Tasks::new();
    spool.run(&tasks).unwrap();
    let running = Running {
        handle,
        recovered: fake_recovered(),
        tasks,
    };
    running.flush().await;
    let frames = read_new(&running).await;
    assert_eq!(ticks(&frames).len(), 32, "metrics up to one half");
    assert_eq!(units(&frames).len(), 24, "events up to seven eighths");
    assert_eq!(gaps(&frames, "test").len(), 8, "critical facts up to the end");
    let lost: u64 = gaps(&frames, "spool_queue_full")
        .iter()
        .map(|gap| gap.count)
        .sum();
    assert_eq!(
        lost,
        8 * 2 + 16 + 2,
        "samples, events and critical rows, all counted"
    );
    running.stop().await;
}

fn fake_recovered() -> Recovered {
    Recovered {
        epoch: SpoolEpoch::random(),
        epoch_continued: false,
        clean: true,
        records: 0,
        bytes: 0,
        torn_bytes: 0,
        corrupt_bytes: 0,
        staged_ticks: 0,
    }
}

#[tokio::test]
async fn over_quota_the_oldest_become_tombstones_with_a_gap() {
    let folder = folder();
    let running = start(quota_of(1 << 20, folder.path()));
    for round in 0..30 {
        for number in 0..20 {
            running.handle.append(noisy_unit(round * 20 + number));
        }
        running.flush().await;
    }
    let held = |handle: &SpoolHandle| handle.stat().lanes[1].bytes;
    wait_for(|| held(&running.handle), |bytes| *bytes <= 1 << 20).await;
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    assert_eq!(
        frames
            .iter()
            .find(|frame| frame.id.lane == Lane::Events)
            .unwrap()
            .id
            .sequence
            .0,
        1
    );
    let kept = units(&frames);
    let lost: u64 = gaps(&frames, "spool_quota").iter().map(|gap| gap.count).sum();
    assert!(!kept.is_empty() && lost > 0);
    assert_eq!(kept.len() as u64 + lost, 600, "every row is here or in a gap row");
    assert_eq!(*kept.last().unwrap(), 599, "the newest stay");
    assert_eq!(
        files(folder.path(), ".shed").len(),
        1,
        "tombstones side by side are one file"
    );
    running.stop().await;

    let again = start(quota_of(1 << 20, folder.path()));
    assert!(again.recovered.epoch_continued);
    let frames = read_new(&again).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), kept);
    again.stop().await;
}

#[tokio::test]
async fn over_quota_acknowledged_segments_go_before_unsent_ones() {
    let folder = folder();
    let running = start(quota_of(1 << 20, folder.path()));
    let epoch = running.handle.epoch();
    for round in 0..30 {
        for number in 0..20 {
            running.handle.append(noisy_unit(round * 20 + number));
        }
        running.flush().await;
        let highest = running.handle.stat().lanes[1].highest;
        running.handle.acknowledge(&[mark(epoch, Lane::Events, highest)]);
    }
    running.flush().await;
    let frames = read_new(&running).await;
    assert!(gaps(&frames, "spool_quota").is_empty());
    assert!(running.handle.stat().lanes[1].bytes <= 1 << 20);
    running.stop().await;
}

/// A disk of four mebibytes that no other test shares.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, with a line that says so, where the test may not mount.
    fn mount(limits: &str) -> Option<Self> {
        let folder = folder();
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size=4m,mode=700,{limits}"),
                "tmpfs",
            ])
            .arg(folder.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { folder });
        }
        println!("NOT RUN: mounting a small disk needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
        assert!(
            std::thread::panicking() || unmounted.is_ok_and(|status| status.success()),
            "unmount the small disk"
        );
    }
}

#[tokio::test]
async fn full_disk_stops_nothing_and_is_a_gap_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount("nr_inodes=1000") else {
        return;
    };
    let path = disk.folder.path().join("spool");
    let running = start(config(&path));
    let filler = disk.folder.path().join("filler");
    running.handle.append(unit(1_000_000));
    running.flush().await;
    // Another program takes the rest of the disk; its last write is refused.
    std::fs::write(&filler, vec![1; 8 << 20]).expect_err("the disk is full");
    for round in 0..16 {
        for number in 0..50 {
            running.handle.append(noisy_unit(round * 50 + number));
        }
        wait_for(|| running.handle.stat(), |stat| stat.intake_facts == 0).await;
    }
    tokio::select! {
        biased;
        _ = running.handle.flush() => panic!("flushed to a disk that refuses"),
        _ = wait_for(|| running.handle.stat(), |stat| stat.intake_facts == 0 && stat.disk_refuses) => {}
    }
    std::fs::remove_file(&filler).unwrap();
    running.flush().await;
    wait_for(|| running.handle.stat(), |stat| !stat.disk_refuses).await;
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    let kept = units(&frames);
    let reasons = ["disk_full", "spool_queue_full"];
    let lost: u64 = reasons
        .iter()
        .flat_map(|reason| gaps(&frames, reason))
        .map(|gap| gap.count)
        .sum();
    assert_eq!(kept.len() as u64 + lost, 801, "every row is here or in a gap row");
    assert!(lost > 0, "more came than may wait in memory");
    assert_eq!(kept.first(), Some(&1_000_000), "what was on disk stays");
    running.stop().await;
}

#[tokio::test]
async fn refusing_disk_makes_no_batch_smaller() {
    let Some(disk) = SmallDisk::mount("nr_inodes=1000") else {
        return;
    };
    let running = start(config(&disk.folder.path().join("spool")));
    let filler = disk.folder.path().join("filler");
    let set = series();
    std::fs::write(&filler, vec![1; 8 << 20]).expect_err("the disk is full");
    running.handle.append(tick(&set, 0));
    tokio::select! {
        biased;
        _ = running.handle.flush() => panic!("flushed to a disk that refuses"),
        _ = wait_for(|| running.handle.stat(), |stat| stat.disk_refuses) => {}
    }
    for second in 1..6 {
        running.handle.append(tick(&set, second));
        wait_for(|| running.handle.stat(), |stat| stat.intake_facts == 0).await;
    }
    std::fs::remove_file(&filler).unwrap();
    running.flush().await;
    let frames = read_new(&running).await;
    assert_eq!(ticks(&frames), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let batches = frames.iter().filter(|frame| frame.id.lane == Lane::Metrics);
    assert_eq!(
        batches.count(),
        2,
        "what came while the disk refused is one batch"
    );
    running.stop().await;
}

#[tokio::test]
async fn disk_without_room_for_an_epoch_does_not_keep_the_spool_from_opening() {
    let Some(disk) = SmallDisk::mount("nr_inodes=40") else {
        return;
    };
    let path = disk.folder.path().join("spool");
    let running = start(config(&path));
    running.handle.append(unit(1));
    running.flush().await;
    running.kill(&path).await;
    let mut fillers = Vec::new();
    loop {
        let filler = disk.folder.path().join(format!("filler{}", fillers.len()));
        if std::fs::File::create(&filler).is_err() {
            break;
        }
        fillers.push(filler);
    }
    let running = start(config(&path));
    assert!(!running.recovered.epoch_continued);
    running.handle.append(unit(2));
    wait_for(|| running.handle.stat(), |stat| stat.disk_refuses).await;
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1, 2]);
    assert_eq!(gaps(&frames, "unclean_stop").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn shedding_counts_what_the_collector_lacks_and_what_cannot_be_read() {
    let folder = folder();
    let running = start(config(folder.path()));
    for number in 1..=4 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    running.stop().await;
    let path = files(folder.path(), "events-").remove(0);
    let extent = Extent {
        first: 1,
        next: 5,
        kind: ExtentKind::Segment { bytes: 0, version: 0 },
        acknowledged_at: None,
        thin: false,
    };
    let lost_of = |acknowledged: u64, sent: u64| -> Vec<(u64, Exactness)> {
        let doomed = Doomed {
            ordinal: 1,
            epoch: SpoolEpoch::random(),
            folder: folder.path().to_owned(),
            extent,
            from: 1,
            acknowledged,
            sent,
        };
        losses_of(&crate::disk::RealDisk, &path, Lane::Events, &doomed, "test")
            .0
            .iter()
            .map(|loss| (loss.count, loss.exactness))
            .collect()
    };
    let lost = |acknowledged: u64| lost_of(acknowledged, acknowledged);
    assert_eq!(lost(0), [(1, Exactness::Exact); 4]);
    assert_eq!(
        lost_of(1, 2),
        [
            (0, Exactness::AtLeast),
            (1, Exactness::Exact),
            (1, Exactness::Exact)
        ],
        "what was sent may be at the collector"
    );
    assert_eq!(
        lost(3),
        [(1, Exactness::Exact)],
        "what the collector has is not lost"
    );
    let mut bytes = std::fs::read(&path).unwrap();
    let second = Frame::peek_len(&bytes).unwrap();
    bytes[second + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(lost(0), [(1, Exactness::Exact), (3, Exactness::AtLeast)]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lost(1), [(3, Exactness::AtLeast)], "an unreadable file is a gap");
}

#[test]
fn gap_of_a_full_disk_is_written_into_the_reserve() {
    let disk = sim::SimDisk::new(1);
    let open = || {
        Spool::open_on(config(Path::new("/spool")), Arc::new(disk.clone()))
            .unwrap()
            .0
    };
    let lost = Loss {
        table: "units",
        lane: Lane::Events,
        span: (TimeMicros(1), TimeMicros(2)),
        count: 7,
        exactness: Exactness::Exact,
        stage: GapStage::Spool,
        reason: "disk_full",
    };
    let counted = |spool: &Spool| -> Vec<u64> {
        let frames = spool.handle().reader().read_here(ALL).unwrap();
        gaps(&frames, "disk_full").iter().map(|gap| gap.count).collect()
    };
    let reserve = Path::new("/spool/reserve");
    let mut spool = open();
    let now = Instant::now();
    spool.writer.tidy(now);
    assert_eq!(disk.length(reserve).unwrap(), RESERVE_BYTES as u64);

    disk.limit(Some(disk.used()));
    spool.writer.gaps.add(&lost);
    spool.writer.write_gaps(now);
    assert!(spool.writer.gaps.is_empty(), "durable");
    assert!(disk.length(reserve).is_err(), "its room is taken");
    // No reserve is left for what comes after, which waits until there is room.
    disk.limit(Some(disk.used()));
    spool.writer.gaps.add(&lost);
    spool.writer.write_gaps(now);
    assert_eq!(spool.writer.waits().1, 1);
    drop(spool);
    disk.crash();
    let mut spool = open();
    assert_eq!(counted(&spool), [7], "after a power cut on the full disk");

    spool.writer.write_gaps(now);
    spool.writer.tidy(now);
    assert_eq!(disk.length(reserve).unwrap(), RESERVE_BYTES as u64, "room again");
}
