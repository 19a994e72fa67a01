//! Torn, flipped, truncated, foreign and missing bytes.

use std::fs;

use super::*;

async fn spooled(folder: &Path, count: u64) -> SpoolEpoch {
    let running = start(config(folder));
    for number in 1..=count {
        running.handle.append(unit(number));
        running.flush().await;
    }
    let epoch = running.handle.epoch();
    running.kill(folder).await;
    epoch
}

fn only_segment(folder: &Path) -> PathBuf {
    files(folder, "events-").into_iter().next().expect("a segment")
}

async fn reopened(folder: &Path) -> (Running, Vec<SpooledFrame>) {
    let running = start(config(folder));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    (running, frames)
}

#[tokio::test]
async fn torn_tail_is_cut_and_reported() {
    let folder = folder();
    spooled(folder.path(), 3).await;
    let path = only_segment(folder.path());
    let bytes = fs::read(&path).unwrap();
    for cut in [1, 40, 79, 100] {
        fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        let (running, frames) = reopened(folder.path()).await;
        assert_eq!(units(&frames), [1, 2], "cut by {cut}");
        assert!(running.recovered.torn_bytes > 0);
        assert_eq!(gaps(&frames, "torn_tail").len(), 1);
        running.kill(folder.path()).await;
        // The next cut begins with the same spool.
        for path in files(folder.path(), "critical-") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test]
async fn flipped_byte_in_the_middle_costs_one_record() {
    let folder = folder();
    spooled(folder.path(), 3).await;
    let path = only_segment(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    let second = Frame::peek_len(&bytes).unwrap();
    bytes[second + 200] ^= 0x40;
    fs::write(&path, &bytes).unwrap();

    let (running, frames) = reopened(folder.path()).await;
    assert_eq!(units(&frames), [1, 3]);
    let tombstones: Vec<_> = frames
        .iter()
        .map(decoded)
        .filter(|frame| frame.tombstone)
        .collect();
    assert_eq!(tombstones.len(), 1, "the number is not skipped");
    assert_eq!(tombstones[0].id.sequence.0, 2);
    assert_eq!(
        gaps(&frames, "corrupt").iter().map(|gap| gap.count).sum::<u64>(),
        1
    );
    assert!(running.recovered.corrupt_bytes > 0);
    assert_eq!(files(folder.path(), ".corrupt").len(), 1);
    running.stop().await;
    let (running, again) = reopened(folder.path()).await;
    assert_eq!(units(&again), [1, 3], "a repaired spool needs no second repair");
    assert_eq!(running.recovered.corrupt_bytes, 0);
    running.stop().await;
}

#[tokio::test]
async fn segment_of_garbage_is_set_aside_and_nothing_stops() {
    let folder = folder();
    spooled(folder.path(), 2).await;
    let path = only_segment(folder.path());
    let garbage: Vec<u8> = (0..20_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&path, garbage).unwrap();
    let (running, frames) = reopened(folder.path()).await;
    assert!(units(&frames).is_empty());
    assert_eq!(gaps(&frames, "corrupt").len(), 1);
    running.handle.append(unit(9));
    running.flush().await;
    assert_eq!(units(&read_new(&running).await), [9]);
    running.stop().await;
}

#[tokio::test]
async fn frames_of_another_epoch_are_not_taken_for_ours() {
    let (one, other) = (folder(), folder());
    spooled(one.path(), 2).await;
    spooled(other.path(), 2).await;
    fs::copy(only_segment(other.path()), only_segment(one.path())).unwrap();
    let (running, frames) = reopened(one.path()).await;
    assert!(units(&frames).is_empty());
    assert!(running.recovered.corrupt_bytes > 0);
    running.stop().await;
}

#[tokio::test]
async fn missing_segment_becomes_tombstones() {
    let folder = folder();
    let small = SpoolConfig {
        segment_size: ByteSize(1),
        ..config(folder.path())
    };
    let running = start(small.clone());
    for number in 1..=4 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    running.kill(folder.path()).await;
    let segments = files(folder.path(), "events-");
    assert_eq!(segments.len(), 4);
    fs::remove_file(&segments[1]).unwrap();
    fs::remove_file(&segments[2]).unwrap();
    let (running, frames) = reopened(folder.path()).await;
    assert_eq!(units(&frames), [1, 4]);
    assert_eq!(
        frames.iter().map(decoded).filter(|frame| frame.tombstone).count(),
        2
    );
    assert_eq!(
        gaps(&frames, "missing").iter().map(|gap| gap.count).sum::<u64>(),
        2
    );
    running.stop().await;
}

#[tokio::test]
async fn damage_met_while_reading_is_repaired_and_read_as_a_tombstone() {
    let folder = folder();
    let running = start(config(folder.path()));
    for number in 1..=3 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    let path = only_segment(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    let second = Frame::peek_len(&bytes).unwrap();
    bytes[second + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let mut reader = running.handle.reader();
    let mut frames = read_all(&mut reader).await;
    while frames
        .iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .count()
        < 3
    {
        assert!(
            tokio::time::timeout(DEADLINE, reader.changed())
                .await
                .expect("repaired in time")
        );
        frames.extend(read_all(&mut reader).await);
    }
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1, 3]);
    running.flush().await;
    assert_eq!(gaps(&read_new(&running).await, "corrupt").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn garbage_in_the_other_files_stops_nothing() {
    let folder = folder();
    spooled(folder.path(), 1).await;
    fs::write(folder.path().join("clean"), b"{\"version\": 1, nonsense").unwrap();
    fs::write(folder.path().join("staging"), vec![0xA5; 5000]).unwrap();
    fs::write(folder.path().join("notes.txt"), b"not ours").unwrap();
    let (running, frames) = reopened(folder.path()).await;
    assert_eq!(units(&frames), [1]);
    assert_eq!(gaps(&frames, "unclean_stop").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn segment_that_cannot_be_read_is_lost_and_stops_no_lane() {
    let folder = folder();
    let running = start(config(folder.path()));
    for number in 1..=2 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    // A folder can be opened, and every read of it fails, as on a bad sector.
    let path = only_segment(folder.path());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    running.handle.append(gap(7));
    running.flush().await;
    let mut reader = running.handle.reader();
    let mut frames = read_all(&mut reader).await;
    assert_eq!(gaps(&frames, "test").len(), 1, "the other lanes go on");
    while frames
        .iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .count()
        < 2
    {
        assert!(
            tokio::time::timeout(DEADLINE, reader.changed())
                .await
                .expect("repaired in time")
        );
        frames.extend(read_all(&mut reader).await);
    }
    assert_numbered(&frames);
    assert!(units(&frames).is_empty());
    running.handle.append(unit(3));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_eq!(units(&frames), [3]);
    assert_eq!(gaps(&frames, "corrupt").len(), 1);
    running.kill(folder.path()).await;
    let (running, frames) = reopened(folder.path()).await;
    assert_eq!(units(&frames), [3], "nor does it keep the spool from opening");
    running.stop().await;
}
