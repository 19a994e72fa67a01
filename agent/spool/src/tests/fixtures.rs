//! Spools recorded by released versions: what they wrote stays readable, byte for byte.
//!
//! `FLEETMEND_SPOOL_RECORD=<new folder> cargo test -p agent-spool recorded` records one of this version. A fixture
//! is never changed; a new format gets a new one beside it.

use std::fs;

use super::*;

const VERSION_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1");
const RECORD: &str = "FLEETMEND_SPOOL_RECORD";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("list a fixture") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).expect("copy a fixture's file");
        }
    }
}

/// All frames of the files whose names contain `part`, as they lie there.
fn recorded(folder: &Path, part: &str) -> Vec<bytes::Bytes> {
    let mut found = Vec::new();
    for path in files(folder, part) {
        let mut rest = bytes::Bytes::from(fs::read(path).expect("read a segment"));
        while !rest.is_empty() {
            let length = Frame::peek_len(&rest).expect("a frame");
            found.push(rest.split_to(length));
        }
    }
    found
}

fn dictionary(frame: &bytes::Bytes) -> Option<u32> {
    let body = Frame::decode(frame).expect("a frame").body;
    zstd::zstd_safe::get_dict_id_from_frame(&body).map(u32::from)
}

/// A spool with every kind of file: two events, the first without dictionary, a gap row, tombstones before a
/// batch of ticks, a tick in staging, a torn tail.
async fn record(folder: &Path) {
    let running = start(config(folder));
    let set = series();
    for number in 1..=3 {
        running.handle.append(unit(number));
        running.handle.append(tick(&set, number as i64));
        running.flush().await;
    }
    running.handle.append(gap(7));
    running.flush().await;
    running.handle.append(tick(&set, 4));
    wait_for(
        || fs::metadata(folder.join("staging")).map_or(0, |file| file.len()),
        |bytes| *bytes > 0,
    )
    .await;
    let now = tempfile::tempdir().expect("make a folder");
    copy(folder, now.path());
    running.stop().await;
    fs::remove_dir_all(folder).expect("remove");
    copy(now.path(), folder);
    let events = files(folder, "events-").remove(0);
    let frames = recorded(folder, "events-");
    let mut first = Frame::decode(&frames[0]).expect("a frame");
    let batch = first.batch().expect("a batch").expect("a body");
    let plain = fleetmend_event::batch::plain(&batch).expect("plain");
    first.body = zstd::bulk::compress(&plain, 3).expect("compress").into();
    let whole = [
        &first.encode()[..],
        &frames[1],
        &frames[2][..frames[2].len() - 60],
    ]
    .concat();
    fs::write(&events, whole).expect("write");
    let metrics = files(folder, "metrics-").remove(0);
    let ticks = recorded(folder, "metrics-");
    fs::write(
        metrics.with_file_name(crate::layout::segment_name(Lane::Metrics, 3)),
        &ticks[2],
    )
    .expect("write");
    fs::write(
        metrics.with_file_name(crate::layout::shed_name(Lane::Metrics, 1, 3)),
        b"",
    )
    .expect("write");
    fs::remove_file(metrics).expect("remove");
    fs::remove_file(folder.join("lock")).expect("remove");
}

#[tokio::test]
async fn recorded_spool_of_version_1_is_read() {
    if let Some(folder) = std::env::var_os(RECORD) {
        record(Path::new(&folder)).await;
    }
    let folder = folder();
    copy(Path::new(VERSION_1), folder.path());
    let events = recorded_events(folder.path());
    let running = start(config(folder.path()));
    assert_eq!(running.recovered.staged_ticks, 1);
    assert!(running.recovered.torn_bytes > 0 && running.recovered.corrupt_bytes == 0);
    assert!(!running.recovered.clean && !running.recovered.epoch_continued);
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    assert_eq!(units(&frames), [1, 2], "and the third is torn");
    assert_eq!(ticks(&frames), [3.0, 4.0], "one from its batch, one from staging");
    assert_eq!(gaps(&frames, "test")[0].count, 7);
    assert_eq!(gaps(&frames, "torn_tail").len(), 1);
    let tombstones: Vec<_> = frames
        .iter()
        .map(decoded)
        .filter(|frame| frame.tombstone)
        .collect();
    let numbers: Vec<u64> = tombstones.iter().map(|frame| frame.id.sequence.0).collect();
    assert_eq!(numbers, [1, 2], "of the metrics lane");
    assert!(tombstones.iter().all(|frame| frame.id.lane == Lane::Metrics));
    let sent: Vec<_> = frames
        .iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .map(|frame| frame.bytes.clone())
        .collect();
    assert_eq!(sent, events, "they are sent as they were written");
    running.stop().await;
}

/// The two whole events: one body without dictionary, one with the first.
fn recorded_events(folder: &Path) -> Vec<bytes::Bytes> {
    let path = files(folder, "events-").remove(0);
    let mut rest = bytes::Bytes::from(fs::read(path).expect("read a segment"));
    let mut events = Vec::new();
    for _ in 0..2 {
        events.push(rest.split_to(Frame::peek_len(&rest).expect("a frame")));
    }
    assert_eq!(
        events.iter().map(dictionary).collect::<Vec<_>>(),
        [None, Some(40_001)]
    );
    events
}
