//! Appending, reading, acknowledging, stopping and starting again.

use super::*;

#[tokio::test]
async fn what_was_appended_is_read_in_order_of_lanes() {
    let folder = folder();
    let running = start(config(folder.path()));
    let set = series();
    running.handle.append(tick(&set, 0));
    running.handle.append(unit(1));
    running.handle.append(unit(2));
    running.handle.append(gap(7));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    let lanes: Vec<Lane> = frames.iter().map(|frame| frame.id.lane).collect();
    assert_eq!(lanes, [Lane::Critical, Lane::Events, Lane::Metrics]);
    assert_eq!(units(&frames), [1, 2]);
    assert_eq!(gaps(&frames, "test")[0].count, 7);
    assert_eq!(ticks(&frames), [0.0]);
    running.stop().await;
}

#[tokio::test]
async fn reader_wakes_when_an_event_is_durable() {
    let folder = folder();
    let running = start(config(folder.path()));
    let mut reader = running.handle.reader();
    assert!(read_all(&mut reader).await.is_empty());
    running.handle.append(unit(1));
    assert!(
        tokio::time::timeout(DEADLINE, reader.changed())
            .await
            .expect("woken in time")
    );
    assert_eq!(units(&read_all(&mut reader).await), [1]);
    running.stop().await;
}

#[tokio::test]
async fn clean_stop_continues_the_epoch_and_its_numbers() {
    let folder = folder();
    let first = start(config(folder.path()));
    let epoch = first.handle.epoch();
    first.handle.append(unit(1));
    first.stop().await;

    let second = start(config(folder.path()));
    assert!(second.recovered.clean && second.recovered.epoch_continued);
    assert_eq!(second.handle.epoch(), epoch);
    second.handle.append(unit(2));
    second.flush().await;
    let frames = read_new(&second).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1, 2]);
    assert!(gaps(&frames, "unclean_stop").is_empty());
    second.stop().await;
}

#[tokio::test]
async fn unclean_stop_begins_an_epoch_and_sends_the_old_one_first() {
    let folder = folder();
    let first = start(config(folder.path()));
    let old = first.handle.epoch();
    first.handle.append(unit(1));
    first.kill(folder.path()).await;

    let second = start(config(folder.path()));
    assert!(!second.recovered.clean && !second.recovered.epoch_continued);
    assert_ne!(second.handle.epoch(), old);
    second.handle.append(unit(2));
    second.flush().await;
    let frames = read_new(&second).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1, 2], "the old epoch comes first");
    assert_eq!(gaps(&frames, "unclean_stop").len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn clean_mark_of_another_boot_does_not_continue_the_epoch() {
    let folder = folder();
    let first = start(config(folder.path()));
    let old = first.handle.epoch();
    first.handle.append(unit(1));
    first.stop().await;
    let path = folder.path().join("clean");
    let mut clean: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    clean["boot_id"] = "another".into();
    std::fs::write(&path, clean.to_string()).unwrap();

    let second = start(config(folder.path()));
    assert!(second.recovered.clean && !second.recovered.epoch_continued);
    assert_ne!(second.handle.epoch(), old);
    second.flush().await;
    assert!(gaps(&read_new(&second).await, "unclean_stop").is_empty());
    second.stop().await;
}

#[tokio::test]
async fn ticks_that_were_not_batched_survive_a_kill_and_are_not_doubled() {
    let folder = folder();
    let set = series();
    let first = start(config(folder.path()));
    first.handle.append(tick(&set, 0));
    first.handle.append(tick(&set, 1));
    first.flush().await;
    let staging = folder.path().join("staging");
    first.handle.append(tick(&set, 2));
    let length = || std::fs::metadata(&staging).map_or(0, |metadata| metadata.len());
    let one = wait_for(length, |length| *length > 0).await;
    first.handle.append(tick(&set, 3));
    wait_for(length, |length| *length > one).await;
    // What a kill would leave: the files as they are now.
    let copy = tempfile::tempdir().unwrap();
    copy_tree(folder.path(), copy.path());
    first.stop().await;

    let second = start(config(copy.path()));
    assert_eq!(second.recovered.staged_ticks, 2);
    copy_tree(copy.path(), folder.path());
    second.flush().await;
    assert_eq!(ticks(&read_new(&second).await), [0.0, 1.0, 2.0, 3.0]);
    second.kill(copy.path()).await;
    let third = start(config(copy.path()));
    assert_eq!(third.recovered.staged_ticks, 0);
    assert_eq!(ticks(&read_new(&third).await), [0.0, 1.0, 2.0, 3.0]);
    third.stop().await;
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn acknowledged_segments_go_after_the_retention() {
    let folder = folder();
    let keep = SpoolConfig {
        retention: HumanDuration::from_secs(3600),
        ..config(folder.path())
    };
    let first = start(keep);
    let epoch = first.handle.epoch();
    first.handle.append(unit(1));
    first.flush().await;
    first.handle.acknowledge(&[mark(epoch, Lane::Events, 1)]);
    first.flush().await;
    assert_eq!(first.handle.stat().lanes[1].waiting, 0);
    assert_eq!(
        files(folder.path(), "events-").len(),
        1,
        "kept for a collector that is restored"
    );
    first.stop().await;

    let drop = SpoolConfig {
        retention: HumanDuration::from_millis(0),
        ..config(folder.path())
    };
    let second = start(drop);
    assert!(second.recovered.epoch_continued);
    second.handle.acknowledge(&[mark(epoch, Lane::Events, 1)]);
    wait_for(|| files(folder.path(), "events-"), Vec::is_empty).await;
    second.handle.append(unit(2));
    second.flush().await;
    assert_eq!(
        read_new(&second).await[0].id.sequence.0,
        2,
        "numbers go on where files are gone"
    );
    second.stop().await;
    let third = start(config(folder.path()));
    assert!(third.recovered.epoch_continued);
    third.stop().await;
}

#[tokio::test]
async fn restored_collector_gets_again_what_is_kept() {
    let folder = folder();
    let running = start(config(folder.path()));
    let epoch = running.handle.epoch();
    for number in 0..3 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    running.handle.acknowledge(&[mark(epoch, Lane::Events, 3)]);
    let mut reader = running.handle.reader();
    assert!(read_all(&mut reader).await.is_empty());
    reader.resume(&[mark(epoch, Lane::Events, 1)]);
    assert_eq!(units(&read_all(&mut reader).await), [1, 2]);
    reader.resume(&[]);
    assert_eq!(units(&read_all(&mut reader).await), [0, 1, 2]);
    assert_eq!(running.handle.stat().lanes[1].waiting, 3);
    running.stop().await;
}

#[tokio::test]
async fn limit_is_kept_and_the_rest_follows() {
    let folder = folder();
    let running = start(config(folder.path()));
    for number in 0..5 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    let mut reader = running.handle.reader();
    let limit = ReadLimit {
        frames: 2,
        bytes: 1 << 20,
    };
    let mut found = Vec::new();
    for expected in [2, 2, 1, 0] {
        let frames = reader.next_frames(limit).await.unwrap();
        assert_eq!(frames.len(), expected);
        found.extend(frames);
    }
    assert_eq!(units(&found), [0, 1, 2, 3, 4]);
    reader.resume(&[]);
    assert_eq!(
        reader
            .next_frames(ReadLimit { frames: 9, bytes: 1 })
            .await
            .unwrap()
            .len(),
        1
    );
    running.stop().await;
}

#[tokio::test]
async fn second_agent_is_refused_the_same_folder() {
    let folder = folder();
    let running = start(config(folder.path()));
    let refused = Spool::open(config(folder.path())).expect_err("a second agent got the spool");
    assert!(
        refused.to_string().contains("in use by another process"),
        "{refused}"
    );
    running.stop().await;
}

#[tokio::test]
async fn batch_too_large_for_a_frame_is_split() {
    let folder = folder();
    let running = start(config(folder.path()));
    for number in 0..500 {
        running.handle.append(noisy_unit(number));
    }
    running.flush().await;
    let frames = read_new(&running).await;
    assert!(frames.len() > 1 && frames.iter().all(|frame| frame.bytes.len() <= 256 * 1024));
    assert_eq!(units(&frames), (0..500).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test]
async fn row_that_fits_no_frame_is_a_gap_and_stops_nothing() {
    let folder = folder();
    let running = start(config(folder.path()));
    let huge: String = (0..200).map(|number| noisy_unit(number).description).collect();
    running.handle.append(UnitState {
        description: huge,
        ..unit(1)
    });
    running.handle.append(unit(2));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_eq!(units(&frames), [2]);
    let lost = gaps(&frames, "row_too_long");
    assert_eq!(
        (lost.len(), lost[0].count, lost[0].table.as_str()),
        (1, 1, "units")
    );
    running.stop().await;
}
