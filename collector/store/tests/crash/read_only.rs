//! A disk that becomes read-only while records are committed and compacted, and writable again.

use std::path::Path;

use collector_store::{CommitError, Health, QueryLimits, Store};
use fleetmend_shutdown::Tasks;

use crate::check;
use crate::disk::{Disk, Left};
use crate::trace::{self, READ_ONLY, WRITABLE};
use crate::workload::{
    LANES, commit, compact, folder_of_child, half_of, hosts, open, until, wait_for_parent,
};

/// Commits that are tried while nothing can be written.
const TRIES: u64 = 20;
const REASON: &str = "Read-only file system";

#[tokio::test]
async fn child() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    wait_for_parent();
    let store = open(&folder).await;
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    commit(&store, 0, &LANES).await;
    compact(&store).await;
    commit(&store, 1, &LANES).await;
    println!("{READ_ONLY}");
    refused(&store).await;
    println!("{WRITABLE}");
    // The same store goes on: what was refused is sent again, and all of it is compacted.
    commit(&store, 2, &LANES).await;
    assert_eq!(*store.health().borrow(), Health::Ready);
    compact(&store).await;
    let metrics = || {
        let stats = store.stats();
        let of_metrics = stats.tables.iter().find(|table| table.table == "metrics");
        of_metrics.map_or(0, |table| table.rows)
    };
    until("compaction of all", || metrics() == 3 * 4 * 2 * 10).await;
    tasks.drain(std::time::Duration::from_secs(60)).await;
}

/// Every commit says why, the health says why, sealing and compaction are tried in vain, and queries are answered.
async fn refused(store: &Store) {
    for number in 0..TRIES {
        for host in hosts() {
            match store.commit(host, half_of(2, 0, &LANES)).await {
                Err(CommitError::Unavailable { reason }) => assert!(reason.contains(REASON), "{reason}"),
                other => panic!("a commit to a disk that is read-only: {other:?}"),
            }
        }
        if number == 0 {
            store.seal().await.unwrap();
        }
        let answer = store
            .sql("SELECT pid FROM process_events", QueryLimits::default())
            .await;
        assert_eq!(answer.unwrap().rows(), 2 * 4 * 2);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(
        store.stats().hot_frames > 0,
        "compaction wrote to a disk that is read-only"
    );
    let health = store.health().borrow().clone();
    assert!(
        matches!(&health, Health::NotReady(reason) if reason.contains(REASON)),
        "{health:?}"
    );
}

#[test]
fn read_only_disk_refuses_with_the_reason_and_loses_nothing_when_it_is_writable_again() {
    let record = trace::record("read_only::child");
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::default();
    let said = record.play(record.calls(), &mut disk);
    disk.leave(Left::Everything, folder.path());
    check::holds(folder.path(), &said).unwrap();
    assert!(Path::new(folder.path()).join("catalogue.sqlite").exists());
}
