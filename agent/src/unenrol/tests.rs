//! What would be lost, and what is deleted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use agent_spool::inspect::{EpochReport, LaneReport, SpoolReport};
use agent_spool::{Spool, SpoolConfig};
use fleetmend_event::{Lane, Sequence, SpoolEpoch};
use fleetmend_testkit::wait_for;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A spool with some records, closed in order.
async fn spool(folder: &Path) -> Vec<Mark> {
    let config = SpoolConfig {
        folder: folder.to_owned(),
        ..SpoolConfig::default()
    };
    let (spool, _) = Spool::open(config).unwrap();
    let (handle, tasks) = (spool.handle(), fleetmend_shutdown::Tasks::new());
    spool.run(&tasks).unwrap();
    let fact: fleetmend_event::Fact = agent_collect::host::host_info("0", "absent").into();
    handle.append(fact);
    let spooled = wait_for(
        PATIENCE,
        async || handle.spooled(),
        |marks| marks.iter().any(|mark| mark.sequence.0 > 0),
    );
    let spooled = spooled.await.unwrap();
    tasks.drain(PATIENCE).await;
    spooled
}

fn lane(lane: Lane, first: u64, last: u64) -> LaneReport {
    LaneReport {
        lane,
        segments: 1,
        bytes: 100,
        frames: last - first + 1,
        tombstones: 0,
        first: Some(first),
        last: Some(last),
        from_time: None,
        to_time: None,
        torn_bytes: 0,
        faults: Vec::new(),
        faults_more: 0,
    }
}

#[test]
fn what_was_never_sent_is_told_apart_from_what_is_only_kept() {
    let (old, new) = (SpoolEpoch::random(), SpoolEpoch::random());
    let epoch = |ordinal, epoch, lanes| EpochReport {
        ordinal,
        epoch,
        lanes,
        foreign: Vec::new(),
    };
    let report = SpoolReport {
        folder: PathBuf::new(),
        epochs: vec![
            epoch(1, old, vec![lane(Lane::Critical, 1, 4)]),
            epoch(
                2,
                new,
                vec![lane(Lane::Critical, 1, 2), lane(Lane::Metrics, 11, 20)],
            ),
        ],
        stopped_cleanly: true,
        staged_ticks: 3,
        staged_bytes: 300,
        set_aside_files: 0,
        set_aside_bytes: 0,
        foreign: Vec::new(),
    };
    let mark = |epoch, lane, sequence| Mark {
        epoch,
        lane,
        sequence: Sequence(sequence),
    };
    let said = |marks: Option<&[Mark]>, purged| {
        let unsent = Unsent::of(&report, marks);
        let mut out = Vec::new();
        unsent.tell(&mut out, purged).unwrap();
        (String::from_utf8(out).unwrap(), unsent.would_be_lost(purged))
    };
    let some = [
        mark(old, Lane::Critical, 4),
        mark(new, Lane::Critical, 1),
        mark(new, Lane::Metrics, 5),
    ];
    let (text, lost) = said(Some(&some), true);
    assert!(
        text.contains(
            "of 16 records on disk the collector has 5; 11 were never sent (1 critical, 10 metrics)"
        ),
        "{text}"
    );
    assert!(
        text.contains("LOST") && text.contains("3 ticks") && lost,
        "{text}"
    );
    let (text, lost) = said(None, false);
    assert!(
        text.contains("nobody here knows") && text.contains("stays on disk") && !lost,
        "{text}"
    );
    assert!(said(None, true).1);
}

#[tokio::test]
async fn only_a_spool_is_purged_and_no_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    let marks = spool(&place).await;
    let unsent = Unsent::look(&place, Some(&marks)).unwrap();
    assert!(unsent.is_anything() && !unsent.would_be_lost(true), "{unsent:?}");
    assert!(Unsent::look(&place, Some(&[])).unwrap().would_be_lost(true));
    fs::write(place.join("thesis.odt"), "years").unwrap();
    let error = wipe::spool(&place).unwrap_err().to_string();
    assert!(error.contains("thesis.odt"), "{error}");
    assert!(place.join("thesis.odt").exists());
    fs::remove_file(place.join("thesis.odt")).unwrap();
    assert!(wipe::spool(&place).unwrap() && !place.exists());
    assert!(!wipe::spool(&place).unwrap(), "once more");

    let linked = folder.path().join("linked");
    symlink(folder.path(), &linked).unwrap();
    let error = wipe::spool(&linked).unwrap_err().to_string();
    assert!(error.contains("is a link") && linked.is_symlink(), "{error}");

    let (precious, link) = (folder.path().join("etc"), folder.path().join("identity"));
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("passwd"), "root").unwrap();
    symlink(&precious, &link).unwrap();
    assert!(wipe::folder(&link).unwrap());
    assert!(!link.exists() && precious.join("passwd").exists());
    assert!(!wipe::folder(&link).unwrap() && !wipe::file(&link).unwrap());
}
