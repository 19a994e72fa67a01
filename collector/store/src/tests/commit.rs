use fleetmend_event::table::ProcessEvent;
use fleetmend_event::{Fact, Lane, RecordId, Sequence, SpoolEpoch};

use super::testbed::{Host, START, exec, folder, frame_of, open};
use crate::{CommitError, OWN_HOST, StoreConfig};

const EXECS: &str = "SELECT count(*) FROM process_events";

#[tokio::test]
async fn acknowledged_rows_are_there_after_a_kill() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let frames = vec![host.execs(5), host.metrics(3), host.execs(7)];
    let marks = bed.store.commit(host.id, frames).await.unwrap();
    assert!(
        marks
            .iter()
            .any(|mark| mark.lane == Lane::Events && mark.sequence == Sequence(2))
    );
    // What a kill leaves: the files as they are, without a drain, and half an entry.
    let copy = super::testbed::folder();
    copy_folder(folder.path(), copy.path());
    let segment = std::fs::read_dir(copy.path().join("segments"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend_from_slice(&bytes.clone()[24..90]);
    std::fs::write(&segment, bytes).unwrap();

    let again = open(copy.path()).await;
    assert_eq!(again.number(EXECS).await, 12);
    assert_eq!(again.number("SELECT count(*) FROM metrics").await, 30);
    assert_eq!(again.number("SELECT count(*) FROM gaps").await, 0);
    let mut marks = again.store.marks(host.id);
    marks.sort_by_key(|mark| mark.lane);
    let numbers: Vec<u64> = marks.iter().map(|mark| mark.sequence.0).collect();
    assert_eq!(numbers, [2, 1]);
    again.close().await;
    bed.close().await;
}

#[tokio::test]
async fn records_of_a_newer_version_are_refused_and_stay_with_their_host() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let good = host.execs(5);
    let mut newer = good.clone();
    let mut body = newer.body.to_vec();
    // The number of the dictionary stands behind the magic and one byte that says how long it is.
    body[5..7].copy_from_slice(&40_999_u16.to_le_bytes());
    newer.body = body.into();
    assert_eq!(
        bed.store.commit(host.id, vec![newer]).await.unwrap_err(),
        CommitError::Newer { dictionary: 40_999 }
    );
    assert!(bed.store.marks(host.id).is_empty());
    bed.store.commit(host.id, vec![good]).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 5);
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.close().await;
}

#[tokio::test]
async fn record_sent_twice_is_stored_once() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let frames = vec![host.execs(5), host.execs(7)];
    bed.store.commit(host.id, frames.clone()).await.unwrap();
    bed.store.commit(host.id, frames.clone()).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 12);
    bed.close().await;
    let bed = open(folder.path()).await;
    let mut more = frames.clone();
    more.push(host.execs(1));
    bed.store.commit(host.id, more).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 13);
    bed.close().await;
}

#[tokio::test]
async fn record_that_comes_again_compressed_otherwise_is_the_same_record() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let first = host.execs(5);
    bed.store.commit(host.id, vec![first.clone()]).await.unwrap();
    let mut again = first.clone();
    again.body = without_dictionary(&first.body).into();
    assert_ne!(again.encode(), first.encode());
    bed.store.commit(host.id, vec![again.clone()]).await.unwrap();
    bed.close().await;
    let bed = open(folder.path()).await;
    bed.store.commit(host.id, vec![again]).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 5);
    bed.close().await;
}

/// A body as some other version of zstd might have made it: one block that is stored as it is.
fn without_dictionary(body: &[u8]) -> Vec<u8> {
    let plain = fleetmend_event::batch::decompress(body).unwrap();
    let length = u32::try_from(plain.len()).unwrap();
    let mut anew = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    // One segment whose length is stated in four bytes; the last block, raw.
    anew.push(0xa0);
    anew.extend(length.to_le_bytes());
    anew.extend(&(length << 3 | 1).to_le_bytes()[..3]);
    anew.extend(plain);
    anew
}

#[tokio::test]
async fn other_record_under_a_stored_number_is_refused() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let first = host.execs(5);
    bed.store.commit(host.id, vec![first.clone()]).await.unwrap();
    let forged = frame_of(first.id, &[exec(START, 99)], START, START);
    let error = bed
        .store
        .commit(host.id, vec![forged.clone(), host.execs(1)])
        .await
        .unwrap_err();
    assert_eq!(error, CommitError::Conflict { id: first.id });
    assert_eq!(bed.number(EXECS).await, 5);
    // A record that was shed after it had been stored is the same record.
    bed.store.commit(host.id, vec![first.shed()]).await.unwrap();
    bed.close().await;
    let bed = open(folder.path()).await;
    let error = bed.store.commit(host.id, vec![forged]).await.unwrap_err();
    assert_eq!(error, CommitError::Conflict { id: first.id });
    bed.close().await;
}

#[tokio::test]
async fn skipped_number_is_refused_until_it_is_declared_lost() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let (first, _second, third) = (host.execs(1), host.execs(2), host.execs(4));
    bed.store.commit(host.id, vec![first]).await.unwrap();
    let error = bed.store.commit(host.id, vec![third.clone()]).await.unwrap_err();
    assert_eq!(
        error,
        CommitError::OutOfOrder {
            id: third.id,
            expected: 2,
            found: 3
        }
    );
    bed.store.declare_lost(host.id, third.id);
    bed.store.commit(host.id, vec![third]).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 5);
    let answer = bed
        .store
        .sql("SELECT comm FROM process_events", crate::QueryLimits::default())
        .await
        .unwrap();
    assert_eq!(answer.gaps.len(), 1);
    assert_eq!((answer.gaps[0].host_id, answer.gaps[0].gap.count), (host.id, 1));
    assert_eq!(
        bed.number("SELECT count(*) FROM gaps WHERE stage = 'restore'")
            .await,
        1
    );
    bed.close().await;
}

#[tokio::test]
async fn unreadable_rows_become_a_gap_and_stop_nobody() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut garbage = host.execs(5);
    garbage.body = bytes::Bytes::from_static(b"not arrow");
    let mut unknown = host.execs(3);
    unknown.table = 999;
    let marks = bed
        .store
        .commit(host.id, vec![garbage, unknown, host.execs(2)])
        .await
        .unwrap();
    assert_eq!(marks[0].sequence, Sequence(3));
    assert_eq!(bed.number(EXECS).await, 2);
    assert_eq!(
        bed.number("SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE stage = 'ingest'")
            .await,
        8
    );
    bed.close().await;
}

#[tokio::test]
async fn series_whose_samples_would_fill_the_memory_is_a_gap() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut chunk = super::testbed::chunk(START, 1);
    chunk.labels = "x".repeat(60 << 10);
    chunk.value = vec![1.0; 3_000];
    let many = host.frame(&[chunk.clone()], START, START);
    chunk.labels = "x".repeat(1 << 20);
    chunk.value.truncate(2);
    let long = host.frame(&[chunk], START, START);
    assert!(many.encoded_len() < 8 << 10 && long.encoded_len() < 8 << 10);
    bed.store
        .commit(host.id, vec![many, long, host.metrics(1)])
        .await
        .unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 10);
    assert_eq!(
        bed.number("SELECT count(*) FROM gaps WHERE stage = 'ingest'")
            .await,
        2
    );
    bed.close().await;
}

#[tokio::test]
async fn gap_before_an_epoch_makes_the_epoch_known() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut gap = crate::own::unreadable(&host.execs(1), crate::ClockAhead::NONE, "*", "spool_replaced");
    gap.count = 0;
    let id = fleetmend_event::RecordId {
        epoch: fleetmend_event::SpoolEpoch::random(),
        lane: Lane::Critical,
        sequence: Sequence(0),
    };
    bed.store
        .commit_with_gaps(host.id, Vec::new(), vec![(id, gap)])
        .await
        .unwrap();
    let known = |bed: &super::testbed::Bed| {
        let marks = bed.store.marks(host.id);
        marks
            .iter()
            .map(|mark| (mark.epoch, mark.sequence.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(known(&bed), [(id.epoch, 0)]);
    bed.close().await;
    let bed = open(folder.path()).await;
    assert_eq!(known(&bed), [(id.epoch, 0)], "after a restart");
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 1);
    bed.close().await;
}

#[tokio::test]
async fn gap_of_a_record_is_stored_once_with_it() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let (first, second) = (host.execs(2), host.execs(3));
    let gap = |frame: &fleetmend_event::Frame| {
        (
            frame.id,
            crate::own::unreadable(frame, crate::ClockAhead::NONE, "*", "wrong_lane"),
        )
    };
    for _ in 0..2 {
        let frames = vec![first.shed(), second.clone()];
        let gaps = vec![gap(&first)];
        bed.store.commit_with_gaps(host.id, frames, gaps).await.unwrap();
    }
    let lost = "SELECT CAST(sum(count) AS BIGINT) FROM gaps";
    assert_eq!((bed.number(EXECS).await, bed.number(lost).await), (3, 2));
    // One of a record that is not sent along, as when other content came under its number.
    bed.store
        .commit_with_gaps(host.id, Vec::new(), vec![gap(&second)])
        .await
        .unwrap();
    assert_eq!(bed.number(lost).await, 5);
    bed.close().await;
}

#[tokio::test]
async fn reserved_identity_is_refused() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    assert_eq!(
        bed.store.commit(OWN_HOST, vec![host.execs(1)]).await.unwrap_err(),
        CommitError::Reserved
    );
    let epoch = SpoolEpoch::from_bytes(*b"FMSTORE\x0012345678");
    let id = RecordId {
        epoch,
        lane: Lane::Events,
        sequence: Sequence(1),
    };
    let frame = frame_of::<ProcessEvent>(id, &[exec(START, 1)], START, START);
    assert_eq!(
        bed.store.commit(host.id, vec![frame]).await.unwrap_err(),
        CommitError::Reserved
    );
    bed.close().await;
}

#[tokio::test]
async fn flipped_byte_costs_its_record_and_is_told_once() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    for _ in 0..3 {
        bed.store.commit(host.id, vec![host.execs(4)]).await.unwrap();
    }
    bed.close().await;
    let segment = std::fs::read_dir(folder.path().join("segments"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let within_first = bytes.len() / 6;
    bytes[within_first] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    for _ in 0..2 {
        let bed = open(folder.path()).await;
        assert_eq!(bed.number(EXECS).await, 8);
        assert_eq!(
            bed.number("SELECT count(*) FROM gaps WHERE stage = 'store'")
                .await,
            1
        );
        assert_eq!(bed.store.marks(host.id)[0].sequence, Sequence(3));
        bed.close().await;
    }
    assert_eq!(std::fs::read_dir(folder.path().join("aside")).unwrap().count(), 1);
}

#[tokio::test]
async fn unfinished_group_is_cut_off_and_sent_again() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(1)]).await.unwrap();
    let group = vec![host.execs(2), host.execs(3), host.execs(4)];
    bed.store.commit(host.id, group.clone()).await.unwrap();
    bed.close().await;
    let segment = std::fs::read_dir(folder.path().join("segments"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // A power cut may keep the later pages of a group and lose the earlier ones: its second record is gone.
    let middle = bytes.len() - 3 * (bytes.len() / 8);
    bytes[middle] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    let bed = open(folder.path()).await;
    let mark = bed.store.marks(host.id)[0].sequence.0;
    assert!((1..4).contains(&mark), "{mark}");
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.store.commit(host.id, group).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 10);
    bed.close().await;
}

#[tokio::test]
async fn own_fact_is_stored_and_subscribers_see_it() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut live = bed.store.subscribe();
    bed.store.append_own(Fact::from(exec(START, 7))).await.unwrap();
    let committed = live.recv().await.unwrap();
    assert_eq!(
        (committed.host, committed.table.name, committed.batch.num_rows()),
        (OWN_HOST, "process_events", 1)
    );
    assert_eq!(bed.number(EXECS).await, 1);
    assert!(bed.store.marks(OWN_HOST).is_empty());
    bed.close().await;
}

#[tokio::test]
async fn second_store_in_one_folder_is_refused() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let error = crate::Store::open(super::testbed::config(folder.path()))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, crate::OpenError::Locked { .. }), "{error}");
    bed.close().await;
}

#[tokio::test]
async fn closed_store_says_so() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let store = bed.store.clone();
    bed.close().await;
    let mut host = Host::new();
    assert_eq!(
        store.commit(host.id, vec![host.execs(1)]).await.unwrap_err(),
        CommitError::Closed
    );
}

#[tokio::test]
async fn many_hosts_at_once_share_groups_and_lose_nothing() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let hosts = (0..20).map(|_| async {
        let mut host = Host::new();
        for _ in 0..10 {
            let frames = vec![host.execs(3), host.metrics(2)];
            let marks = bed.store.commit(host.id, frames).await.unwrap();
            assert_eq!(marks.len(), 2);
        }
    });
    futures::future::join_all(hosts).await;
    assert_eq!(bed.number(EXECS).await, 600);
    assert_eq!(
        bed.number("SELECT count(DISTINCT host_id) FROM metrics").await,
        20
    );
    bed.close().await;
}

#[tokio::test]
async fn full_queue_makes_a_commit_wait_and_then_fail() {
    let folder = folder();
    let config = StoreConfig {
        commit_timeout_ms: 100,
        ..super::testbed::config(folder.path())
    };
    // Nobody runs the store, so that nothing leaves the queue.
    let store = crate::Store::open(config).await.unwrap();
    let mut host = Host::new();
    let frame = host.execs(1);
    let error = store.commit(host.id, vec![frame.clone()]).await.unwrap_err();
    assert!(
        matches!(error, CommitError::Busy { .. }) && error.is_transient(),
        "{error:?}"
    );
    let tasks = fleetmend_shutdown::Tasks::new();
    store.run(&tasks).unwrap();
    // What was queued is stored although its caller gave up; sending it again, as often as it takes, stores it once.
    while let Err(error) = store.commit(host.id, vec![frame.clone()]).await {
        assert!(error.is_transient(), "{error:?}");
    }
    let bed = super::testbed::Bed { store, tasks };
    assert_eq!(bed.number(EXECS).await, 1);
    bed.close().await;
}

#[tokio::test]
async fn caller_that_goes_away_leaves_no_half_of_a_commit() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    for _ in 0..20 {
        let frames = vec![host.execs(2), host.execs(3)];
        let commit = bed.store.commit(host.id, frames.clone());
        drop(tokio::time::timeout(std::time::Duration::from_micros(300), commit).await);
        bed.store.commit(host.id, frames).await.unwrap();
    }
    assert_eq!(bed.number(EXECS).await, 100);
    bed.close().await;
}

pub(super) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
