use fleetmend_event::Sequence;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::testbed::{Bed, Host, config, eventually, folder, open, open_with};
use crate::config::{RetentionConfig, TableRetention};
use crate::{QueryLimits, StoreConfig, to_json_rows};

const QUERIES: [&str; 4] = [
    "SELECT name, count(*) AS n, sum(value) AS total, min(time) AS first FROM metrics GROUP BY 1 ORDER BY 1",
    "SELECT * FROM process_events ORDER BY time, pid, host_id",
    "SELECT time, host_id, name, unit, labels, value, clock_ahead_us FROM metrics WHERE name = 'system.metric.002' \
     ORDER BY time, host_id",
    "SELECT count(*) AS n FROM process_events WHERE time >= '2026-01-01T00:00:02Z' AND time < '2026-01-01T00:00:03Z'",
];

async fn answers(bed: &Bed) -> Vec<String> {
    let mut answers = Vec::new();
    for query in QUERIES {
        let answer = bed.store.sql(query, QueryLimits::default()).await.expect(query);
        answers.push(serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap());
    }
    answers
}

fn table_files(bed: &Bed, name: &str) -> u64 {
    bed.store
        .stats()
        .tables
        .iter()
        .find(|table| table.table == name)
        .unwrap()
        .files
}

/// Seals what there is and waits until it is compacted.
pub(super) async fn compacted(bed: &Bed) {
    bed.store.seal().await.unwrap();
    eventually("compaction", || {
        bed.store.stats().hot_frames == 0 && bed.store.stats().segments == 0
    })
    .await;
}

#[tokio::test]
async fn query_gives_the_same_before_and_after_compaction() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut hosts = [Host::new(), Host::new()];
    for _ in 0..3 {
        for host in &mut hosts {
            let frames = vec![host.execs(20), host.metrics(4)];
            bed.store.commit(host.id, frames).await.unwrap();
        }
    }
    let before = answers(&bed).await;
    compacted(&bed).await;
    assert_eq!(
        (table_files(&bed, "process_events"), table_files(&bed, "metrics")),
        (1, 1)
    );
    assert_eq!(answers(&bed).await, before);
    assert_eq!(
        std::fs::read_dir(folder.path().join("segments")).unwrap().count(),
        0
    );

    // Hot rows and compacted ones together, and after another start.
    let frame = hosts[0].execs(6);
    bed.store.commit(hosts[0].id, vec![frame.clone()]).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 126);
    bed.close().await;
    let bed = open(folder.path()).await;
    bed.store.commit(hosts[0].id, vec![frame]).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 126);
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 240);
    bed.close().await;
}

#[tokio::test]
async fn marks_outlive_their_segments() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let frame = host.execs(3);
    bed.store.commit(host.id, vec![frame.clone()]).await.unwrap();
    compacted(&bed).await;
    bed.close().await;
    let bed = open(folder.path()).await;
    assert_eq!(bed.store.marks(host.id)[0].sequence, Sequence(1));
    bed.store
        .commit(host.id, vec![frame, host.execs(3)])
        .await
        .unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 6);
    bed.close().await;
}

#[tokio::test]
async fn kill_between_registration_and_deletion_doubles_nothing() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    bed.store
        .commit(host.id, vec![host.execs(3), host.metrics(2)])
        .await
        .unwrap();
    let kept = super::testbed::folder();
    super::commit::copy_folder(&folder.path().join("segments"), kept.path());
    compacted(&bed).await;
    bed.close().await;
    // The segment is back as if it had not been deleted, and the catalogue still knows it as compacted.
    super::commit::copy_folder(kept.path(), &folder.path().join("segments"));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT OR IGNORE INTO compacted_segments VALUES (1, 0)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let bed = open(folder.path()).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 3);
    assert_eq!(
        std::fs::read_dir(folder.path().join("segments")).unwrap().count(),
        0
    );
    bed.close().await;
}

#[tokio::test]
async fn kill_before_registration_loses_and_doubles_nothing() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(3)]).await.unwrap();
    bed.close().await;
    // Files of a compaction that did not get to its end: one half-written, one whole but not registered.
    let of_table = folder.path().join("parquet/process_events");
    std::fs::create_dir_all(&of_table).unwrap();
    std::fs::write(of_table.join("2026-01-01-a.tmp"), b"half").unwrap();
    std::fs::write(of_table.join("2026-01-01-b.parquet"), b"whole").unwrap();
    let bed = open(folder.path()).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 3);
    compacted(&bed).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 3);
    assert_eq!(std::fs::read_dir(&of_table).unwrap().count(), 1);
    bed.close().await;
}

#[tokio::test]
async fn small_files_are_merged_and_answer_the_same() {
    let folder = folder();
    let bed = open_with(StoreConfig {
        merge_files_min: 4,
        ..config(folder.path())
    })
    .await;
    let mut host = Host::new();
    for _ in 0..4 {
        bed.store
            .commit(host.id, vec![host.execs(30), host.metrics(3)])
            .await
            .unwrap();
        compacted(&bed).await;
    }
    eventually("merge", || {
        table_files(&bed, "metrics") == 1 && table_files(&bed, "process_events") == 1
    })
    .await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 120);
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 120);
    let on_disk = || {
        std::fs::read_dir(folder.path().join("parquet/metrics"))
            .unwrap()
            .count()
    };
    eventually("deletion of merged files", || on_disk() == 1).await;
    bed.close().await;
    let bed = open(folder.path()).await;
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 120);
    bed.close().await;
}

#[tokio::test]
async fn table_over_its_bytes_loses_its_oldest_file_only() {
    let folder = folder();
    let mut config = config(folder.path());
    config.retention.tables.insert(
        "process_events".into(),
        TableRetention {
            bytes_max: Some(20_000),
            age_days: None,
        },
    );
    config.merge_files_min = 100;
    let bed = open_with(config).await;
    let mut host = Host::new();
    for _ in 0..5 {
        bed.store
            .commit(host.id, vec![host.execs(30), host.metrics(3)])
            .await
            .unwrap();
        compacted(&bed).await;
    }
    eventually("retention", || {
        let stats = bed.store.stats();
        stats.tables.iter().any(|table| {
            table.table == "process_events" && table.files > 0 && table.files < 5 && table.bytes <= 20_000
        })
    })
    .await;
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 150);
    assert!(
        bed.number("SELECT count(*) FROM process_events WHERE time >= '2026-01-01T00:00:05Z'")
            .await
            == 30
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE time < '2026-01-01T00:00:02Z'")
            .await,
        0
    );
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.close().await;
}

#[tokio::test]
async fn expired_file_stays_readable_for_the_query_that_holds_it() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    bed.store
        .commit(host.id, vec![host.execs(3), host.metrics(1)])
        .await
        .unwrap();
    compacted(&bed).await;
    let held = bed.store.inner.view.files();
    let paths: Vec<_> = held.iter().map(|file| file.path.clone()).collect();
    let mut limits = RetentionConfig::default();
    limits.tables.insert(
        "process_events".into(),
        TableRetention {
            bytes_max: Some(1),
            age_days: None,
        },
    );
    crate::retain::retain(&bed.store.inner, &limits).await.unwrap();
    assert_eq!(
        (table_files(&bed, "process_events"), table_files(&bed, "metrics")),
        (0, 1)
    );
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 0);
    assert!(paths.iter().all(|path| path.exists()));
    drop(held);
    assert_eq!(paths.iter().filter(|path| path.exists()).count(), 1);
    bed.close().await;
}

#[tokio::test]
async fn file_is_kept_by_when_it_was_received_not_by_its_rows_clock() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let old = host.frame(&[super::testbed::exec(0, 1)], 0, 0);
    bed.store.commit(host.id, vec![old]).await.unwrap();
    compacted(&bed).await;
    let days = |age_days| RetentionConfig {
        age_days,
        ..RetentionConfig::default()
    };
    crate::retain::retain(&bed.store.inner, &days(1)).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 1);
    crate::retain::retain(&bed.store.inner, &days(0)).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 0);
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_during_compaction_sees_each_row_once() {
    let folder = folder();
    let bed = open_with(StoreConfig {
        merge_files_min: 3,
        ..config(folder.path())
    })
    .await;
    let stored = std::sync::atomic::AtomicI64::new(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    let write = async {
        let mut host = Host::new();
        for _ in 0..60 {
            bed.store
                .commit(host.id, vec![host.execs(2), host.metrics(1)])
                .await
                .unwrap();
            stored.fetch_add(2, order);
            bed.store.seal().await.unwrap();
        }
        eventually("compaction", || bed.store.stats().segments == 0).await;
        done.store(true, order);
    };
    let read = async {
        while !done.load(order) {
            let least = stored.load(order);
            let found = bed.number("SELECT count(*) FROM process_events").await;
            let most = stored.load(order) + 2;
            assert!(
                (least..=most).contains(&found),
                "{found} rows where {least} to {most} are stored"
            );
        }
    };
    futures::future::join(write, read).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 120);
    assert_eq!(
        bed.number("SELECT count(DISTINCT pid) FROM process_events").await,
        2
    );
    bed.close().await;
}

#[tokio::test]
async fn folder_may_have_any_name() {
    let folder = folder();
    let odd = folder.path().join("a b%20c é#?*[x]");
    let bed = open(&odd).await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(3)]).await.unwrap();
    compacted(&bed).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 3);
    assert_eq!(table_files(&bed, "process_events"), 1);
    bed.close().await;
}

#[tokio::test]
async fn frames_that_decode_to_far_more_than_they_are_bound_commit_and_compaction() {
    let folder = folder();
    let bed = open_with(StoreConfig {
        merge_files_min: 100,
        ..config(folder.path())
    })
    .await;
    let mut host = Host::new();
    let mut frames = Vec::new();
    for _ in 0..40 {
        let mut row = super::testbed::exec(super::testbed::START, 1);
        row.args = vec!["0".repeat(4 << 20)];
        frames.push(host.frame(&[row], super::testbed::START, super::testbed::START));
    }
    let bytes: usize = frames.iter().map(fleetmend_event::Frame::encoded_len).sum();
    assert!(bytes < 256 << 10, "{bytes}");
    let marks = bed.store.commit(host.id, frames.clone()).await.unwrap();
    assert_eq!(marks[0].sequence, Sequence(40));
    // What is beyond 128 MiB is given up, and said so; sending it again changes nothing.
    bed.store.commit(host.id, frames).await.unwrap();
    let lost = "SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE reason LIKE 'commit decodes to more than%'";
    assert_eq!(bed.number(lost).await, 9);
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 31);
    compacted(&bed).await;
    assert_eq!(table_files(&bed, "process_events"), 5, "7 rows in one file");
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 31);
    bed.close().await;
}

#[tokio::test]
async fn epochs_of_one_host_stay_bounded_in_memory_and_in_the_catalogue() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    for _ in 0..2 {
        let fresh = |_| {
            host.epoch = fleetmend_event::SpoolEpoch::random();
            host.execs(1).shed()
        };
        let frames: Vec<_> = (0..100).map(fresh).collect();
        bed.store.commit(host.id, frames).await.unwrap();
        compacted(&bed).await;
        assert_eq!(bed.store.marks(host.id).len(), 64);
    }
    bed.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let (count,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM marks WHERE host = ? AND substr(epoch, 1, 7) <> x'464D53544F5245'",
    )
    .bind(host.id.as_bytes().as_slice())
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(count, 64);
    pool.close().await;
    let bed = open(folder.path()).await;
    assert_eq!(bed.store.marks(host.id).len(), 64);
    bed.close().await;
}

#[tokio::test]
async fn merge_that_needs_too_much_keeps_no_other_from_its_turn() {
    let folder = folder();
    let mut config = StoreConfig {
        merge_files_min: 4,
        ..config(folder.path())
    };
    config.query.memory_bytes_max = 48 << 20;
    config.query.spill_bytes_max = 1;
    let bed = open_with(config).await;
    let mut host = Host::new();
    for _ in 0..4 {
        let mut large = super::testbed::exec(super::testbed::START, 1);
        large.args = vec!["0".repeat(14 << 20)];
        let large = host.frame(&[large], super::testbed::START, super::testbed::START);
        bed.store
            .commit(host.id, vec![large, host.metrics(3)])
            .await
            .unwrap();
        compacted(&bed).await;
    }
    eventually("merge of the small ones", || table_files(&bed, "metrics") == 1).await;
    eventually("failure of the large ones", || {
        bed.store.inner.unmergeable.lock().len() == 4
    })
    .await;
    assert_eq!(table_files(&bed, "process_events"), 4);
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 120);
    bed.close().await;
}

#[tokio::test]
async fn step_that_fails_leaves_no_more_behind_however_often_it_is_tried() {
    let folder = folder();
    let slow = StoreConfig {
        maintenance_interval_ms: 3_600_000,
        ..config(folder.path())
    };
    let bed = open_with(slow.clone()).await;
    let mut host = Host::new();
    let frames = vec![host.execs(4), host.metrics(2)];
    bed.store.commit(host.id, frames).await.unwrap();
    bed.close().await;
    let files = |table: &str| {
        let entries = std::fs::read_dir(folder.path().join("parquet").join(table));
        entries.map_or(0, Iterator::count)
    };
    let store = crate::Store::open(slow.clone()).await.unwrap();
    // The files of metrics are written, those of the next table cannot be.
    let blocked = folder.path().join("parquet/process_events");
    std::fs::write(&blocked, "").unwrap();
    crate::compact::compact(&store.inner).await.unwrap_err();
    assert_eq!(files("metrics"), 0);
    std::fs::remove_file(&blocked).unwrap();
    // Everything is written, and the catalogue refuses.
    let options = SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let mut catalogue = options.connect().await.unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON parquet_files BEGIN SELECT RAISE(ABORT, 'no'); END";
    sqlx::raw_sql(refuse).execute(&mut catalogue).await.unwrap();
    for _ in 0..3 {
        crate::compact::compact(&store.inner).await.unwrap_err();
        assert_eq!((files("metrics"), files("process_events")), (1, 1));
    }
    sqlx::raw_sql("DROP TRIGGER refuse")
        .execute(&mut catalogue)
        .await
        .unwrap();
    crate::compact::compact(&store.inner).await.unwrap();
    assert_eq!((files("metrics"), files("process_events")), (1, 1));
    catalogue.close().await.unwrap();
    drop(store);
    let bed = open_with(slow).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 4);
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 20);
    bed.close().await;
}
