//! Metrics under pressure, what was in flight, and copies of a disk.

use std::time::Instant;

use super::*;
use crate::layout;
use crate::staging::Staged;

/// A set of series whose values zstd cannot make small.
fn noisy_tick(series: &SeriesSet, second: i64) -> MetricFrame {
    let mut state = (second as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values = series.iter().map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as f64
    });
    MetricFrame {
        time: TimeMicros(1_800_000_000_000_000 + second * 1_000_000),
        series: series.clone(),
        values: values.collect(),
    }
}

fn many_series() -> SeriesSet {
    (0..400)
        .map(|number| SeriesKey::new("system.cpu.time", "s", [("cpu", format!("{number}").as_str())]))
        .collect()
}

fn samples(frames: &[SpooledFrame]) -> u64 {
    frames.iter().filter_map(|frame| decoded(frame).facts()).sum()
}

#[tokio::test]
async fn metrics_under_pressure_become_one_sample_a_minute_before_any_is_only_counted() {
    let folder = folder();
    let running = start(quota_of(1 << 20, folder.path()));
    let set = many_series();
    let seconds = 600;
    for second in 0..seconds {
        running.handle.append(noisy_tick(&set, second));
        if second % 10 == 9 {
            running.flush().await;
        }
        if second % 100 == 99 {
            let held = || running.handle.stat().lanes[2].bytes;
            wait_for(held, |bytes| *bytes < 900_000).await;
        }
    }
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    assert!(
        gaps(&frames, "spool_quota").is_empty(),
        "nothing went without an aggregate"
    );
    let thinned: u64 = gaps(&frames, "thinned").iter().map(|gap| gap.count).sum();
    let metrics: Vec<SpooledFrame> = frames
        .iter()
        .filter(|frame| frame.id.lane == Lane::Metrics)
        .cloned()
        .collect();
    assert!(thinned > 0);
    assert_eq!(samples(&metrics) + thinned, 400 * seconds as u64);
    let rows: Vec<MetricChunk> = rows(&metrics);
    let mut minutes: Vec<i64> = rows
        .iter()
        .filter(|row| row.labels.contains("\"17\""))
        .flat_map(|row| (0..row.value.len()).map(|at| row.sample_time(at).0 / 60_000_000))
        .collect();
    minutes.sort_unstable();
    minutes.dedup();
    assert_eq!(minutes.len(), 10, "no minute is without a sample");
    running.stop().await;
}

#[tokio::test]
async fn what_was_sent_is_neither_thinned_nor_shed() {
    let folder = folder();
    let running = start(quota_of(1 << 20, folder.path()));
    for round in 0..8 {
        for number in 0..8 {
            running.handle.append(noisy_unit(round * 8 + number));
        }
        running.flush().await;
    }
    let mut reader = running.handle.reader();
    reader.resume(&[]);
    let sent: Vec<SpooledFrame> = read_all(&mut reader).await;
    let sent: Vec<_> = sent
        .into_iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .collect();
    for round in 8..40 {
        for number in 0..20 {
            running.handle.append(noisy_unit(round * 20 + number));
        }
        running.flush().await;
    }
    let held = || running.handle.stat().lanes[1].bytes;
    wait_for(held, |bytes| *bytes <= 1 << 20).await;
    running.flush().await;
    // The connection is lost, and the collector has nothing of it.
    reader.resume(&[]);
    let again = read_all(&mut reader).await;
    assert_numbered(&again);
    let again: Vec<_> = again
        .into_iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .collect();
    assert_eq!(again[..sent.len()], sent[..], "what was in flight is still there");
    assert!(again.iter().any(|frame| decoded(frame).tombstone));
    running.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a folder");
    for entry in std::fs::read_dir(from).expect("list") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).expect("copy a file");
        }
    }
}

#[tokio::test]
async fn both_copies_of_a_disk_send_staged_ticks_under_one_identity() {
    let (folder, cloned) = (folder(), folder());
    let running = start(config(folder.path()));
    let set = series();
    running.handle.append(tick(&set, 0));
    running.flush().await;
    running.handle.append(tick(&set, 1));
    running.handle.append(tick(&set, 2));
    let staged = || crate::inspect::inspect(folder.path()).map_or(0, |report| report.staged_ticks);
    wait_for(staged, |ticks| *ticks == 2).await;
    copy(folder.path(), cloned.path());
    running.stop().await;

    let mut sent = Vec::new();
    for place in [cloned.path(), cloned.path()] {
        let own = tempfile::tempdir().expect("make a folder");
        copy(place, own.path());
        let running = start(config(own.path()));
        running.flush().await;
        let frames = read_new(&running).await;
        assert_eq!(ticks(&frames), [0.0, 1.0, 2.0]);
        sent.push(
            frames
                .into_iter()
                .filter(|frame| frame.id.lane == Lane::Metrics)
                .collect::<Vec<_>>(),
        );
        running.stop().await;
    }
    assert_eq!(sent[0], sent[1], "the same records, byte for byte");
}

/// Ticks that the original records after the copy are in no record of the copy: the original sends its own of that
/// number, though the collector has one, and the collector says what it makes of it.
#[tokio::test]
async fn original_sends_the_number_that_its_copy_completed_with_fewer_ticks() {
    let (folder, cloned) = (folder(), folder());
    let original = start(config(folder.path()));
    let set = series();
    original.handle.append(tick(&set, 0));
    original.flush().await;
    let mut reader = original.handle.reader();
    let epoch = original.handle.epoch();
    read_all(&mut reader).await;
    original.handle.append(tick(&set, 1));
    let staged = || crate::inspect::inspect(folder.path()).map_or(0, |report| report.staged_ticks);
    wait_for(staged, |ticks| *ticks == 1).await;
    copy(folder.path(), cloned.path());

    let clone = start(config(cloned.path()));
    clone.flush().await;
    let of_clone = read_new(&clone).await;
    assert_eq!(ticks(&of_clone), [0.0, 1.0]);
    clone.stop().await;

    // The copy was first; the original goes on, is told so, and is killed and told so again.
    original.handle.append(tick(&set, 2));
    original.flush().await;
    let stored = [mark(epoch, Lane::Metrics, 2), mark(epoch, Lane::Critical, 9)];
    original.handle.acknowledge(&stored);
    reader.resume(&stored);
    let own = metrics(&read_all(&mut reader).await);
    assert_eq!(
        (ticks(&own).as_slice(), own[0].id.sequence.0),
        (&[1.0, 2.0][..], 2)
    );
    assert!(!of_clone.contains(&own[0]), "another record of that number");
    reader.resume(&stored);
    assert!(metrics(&read_all(&mut reader).await).is_empty(), "once a run");
    original.handle.append(tick(&set, 3));
    original.flush().await;
    original.kill(folder.path()).await;

    let again = start(config(folder.path()));
    let mut reader = again.handle.reader();
    let stored = [mark(epoch, Lane::Metrics, 3)];
    reader.resume(&stored);
    assert_eq!(ticks(&metrics(&read_all(&mut reader).await)).last(), Some(&3.0));
    // What went on from the staged number has all of it.
    reader.resume(&[mark(epoch, Lane::Metrics, 4)]);
    assert!(metrics(&read_all(&mut reader).await).is_empty());
    again.stop().await;
}

fn metrics(frames: &[SpooledFrame]) -> Vec<SpooledFrame> {
    let of_lane = frames.iter().filter(|frame| frame.id.lane == Lane::Metrics);
    of_lane.cloned().collect()
}

#[tokio::test]
async fn end_of_an_old_epoch_that_damage_cut_off_between_two_frames_is_a_gap() {
    let folder = folder();
    let first = start(config(folder.path()));
    for number in 1..=3 {
        first.handle.append(unit(number));
        first.flush().await;
    }
    first.kill(folder.path()).await;
    start(config(folder.path())).kill(folder.path()).await;
    let segment = files(folder.path(), "events-").remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    let length = Frame::peek_len(&bytes).unwrap();
    std::fs::write(&segment, &bytes[..length]).unwrap();

    let running = start(config(folder.path()));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1]);
    let lost: u64 = gaps(&frames, "missing").iter().map(|gap| gap.count).sum();
    assert_eq!(lost, 2);
    running.stop().await;
}

#[tokio::test]
async fn frames_missing_before_staged_ones_are_counted_once_however_often_the_disk_refuses() {
    let folder = folder();
    let first = start(config(folder.path()));
    first.handle.append(tick(&series(), 0));
    first.flush().await;
    let epoch = first.handle.epoch();
    let frames = read_new(&first).await;
    let frames = frames.iter().map(decoded);
    let frames = frames.filter(|frame| frame.id.lane == Lane::Metrics).collect();
    first.kill(folder.path()).await;

    let (mut spool, _) = Spool::open(config(folder.path())).unwrap();
    // A folder in the place of the file that is to be written.
    let segment = layout::segment_name(Lane::Metrics, 4);
    let refuses = folder.path().join(format!("00000001-{epoch}")).join(segment);
    std::fs::create_dir(&refuses).unwrap();
    spool.writer.staged.push_back(Staged {
        epoch,
        first: 4,
        frames,
        ticks: 1,
        last: None,
    });
    let missing = |spool: &Spool| -> u64 {
        let frames = spool.handle().reader().read_here(ALL).unwrap();
        let missing = gaps(&frames, "missing");
        missing.iter().map(|gap| gap.count).sum()
    };
    for _ in 0..3 {
        spool.writer.complete_staged(Instant::now());
        assert_eq!((spool.writer.staged.len(), missing(&spool)), (1, 2));
    }
    std::fs::remove_dir(&refuses).unwrap();
    spool.writer.complete_staged(Instant::now());
    assert_eq!((spool.writer.staged.len(), missing(&spool)), (0, 2));
}

#[test]
fn segment_that_a_refusing_disk_keeps_is_counted_once() {
    let disk = sim::SimDisk::new(1);
    let (mut spool, _) = Spool::open_on(config(Path::new("/spool")), Arc::new(disk.clone())).unwrap();
    spool.handle().append(tick(&series(), 0));
    let taken = spool.handle().shared.intake.take(Instant::now(), usize::MAX);
    spool.writer.work(taken, Instant::now(), true);
    assert_eq!(spool.handle().stat().lanes[2].highest, 1);
    disk.fail_one_in(1, false);
    for _ in 0..5 {
        spool.writer.make_room(Lane::Critical, Instant::now());
        let rows = spool.writer.gaps.rows().iter();
        let lost = rows.filter(|gap| gap.reason == "disk_full").map(|gap| gap.count);
        assert_eq!(lost.sum::<u64>(), 2, "two samples");
    }
    disk.heal();
    spool.writer.make_room(Lane::Critical, Instant::now());
    let taken = spool.handle().shared.intake.take(Instant::now(), usize::MAX);
    spool.writer.work(taken, Instant::now(), true);
    let lane = spool.handle().stat().lanes.remove(2);
    assert_eq!((lane.bytes, lane.waiting), (0, 1), "a tombstone");
    assert!(spool.writer.gaps.is_empty());
}
