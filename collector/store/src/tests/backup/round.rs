//! What went in comes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fleetmend_event::SpoolEpoch;

use super::*;
use crate::StoreConfig;

#[tokio::test(flavor = "multi_thread")]
async fn restored_store_answers_and_takes_commits() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 5).await;
    compacted(&bed, 1).await;
    commit_execs(&bed, &mut host, 5).await;
    bed.store.commit(host.id, vec![host.metrics(3)]).await.unwrap();
    let epoch = bed.store.epoch();
    let made = place.back_up().await.unwrap();
    assert_eq!((made.manifest.sequence, made.manifest.missing.len()), (1, 0));
    bed.close().await;
    let restored = place.restore("target").await.unwrap();
    assert!(
        restored.parquet_files >= 1 && restored.segments >= 1,
        "{restored:?}"
    );
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (100, 10, 1, 0));
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 30);
    assert_ne!(bed.store.epoch(), epoch);
    // The agent goes on where the backup ends, and repeats some.
    let marks = bed.store.marks(host.id);
    assert!(marks.iter().any(|mark| mark.sequence.0 == 10), "{marks:?}");
    commit_execs(&bed, &mut host, 1).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 110);
    compacted(&bed, 1).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 110);
    bed.close().await;
    // Backups go on in the same repository, for the store says that it comes from there.
    let next = back_up_of(&place.target("target"), &place.repository(), place.key.clone())
        .await
        .unwrap();
    assert_eq!(next.manifest.sequence, 2);
    assert_eq!(place.verify().await.told, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_of_another_store_is_refused() {
    let place = Place::new();
    open(&place.store()).await.close().await;
    place.back_up().await.unwrap();
    open(&place.target("other")).await.close().await;
    let error = back_up_of(&place.target("other"), &place.repository(), place.key.clone())
        .await
        .unwrap_err();
    assert!(matches!(error, BackupError::OtherStore { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_backup_carries_only_what_is_new() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 200).await;
    compacted(&bed, 1).await;
    commit_execs(&bed, &mut host, 200).await;
    let first = place.back_up().await.unwrap();
    commit_execs(&bed, &mut host, 1).await;
    let second = place.back_up().await.unwrap();
    // One chunk of the segment: the Parquet files and the catalogue are as they were.
    assert_eq!(second.objects_added, 1, "{second:?}");
    assert!(
        second.manifest.bytes_added * 20 < first.manifest.bytes_added,
        "{second:?}"
    );
    let third = place.back_up().await.unwrap();
    assert_eq!((third.objects_added, third.manifest.bytes_added), (0, 0));
    assert_eq!(third.manifest.bytes(), second.manifest.bytes());
    bed.close().await;
}

/// A host that goes on while backups are made; each must hold what was acknowledged when it began, whole and once.
#[tokio::test(flavor = "multi_thread")]
async fn backup_of_a_busy_store_holds_every_acknowledged_row_once() {
    let place = Place::new();
    let bed = open_with(StoreConfig {
        segment_bytes_max: 64 << 10,
        maintenance_interval_ms: 10,
        merge_files_min: 2,
        ..config(&place.store())
    })
    .await;
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut host = Host::new();
    let (store, told, ended) = (bed.store.clone(), acknowledged.clone(), stop.clone());
    let writer = async move {
        while !ended.load(Ordering::Relaxed) {
            let frames = (0..4).map(|_| host.execs(10)).collect();
            let marks = store.commit(host.id, frames).await.unwrap();
            told.store(marks[0].sequence.0, Ordering::Relaxed);
            if marks[0].sequence.0.is_multiple_of(20) {
                store.seal().await.unwrap();
            }
        }
        host
    };
    let backups = async {
        let mut least = Vec::new();
        for _ in 0..15 {
            let before = acknowledged.load(Ordering::Relaxed);
            let made = place.back_up().await.unwrap();
            assert_eq!(made.manifest.missing, Vec::new());
            least.push((made.manifest.sequence, before));
        }
        stop.store(true, Ordering::Relaxed);
        least
    };
    let (_, least) = tokio::join!(writer, backups);
    bed.close().await;
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    for (sequence, before) in least {
        let (folder, key) = (place.repository(), place.key.clone());
        let listed = blocking(move |_| {
            Ok::<_, BackupError>(Repository::open(&folder, key)?.list()?.collect::<Vec<_>>())
        })
        .await
        .unwrap();
        let listed = listed
            .into_iter()
            .find(|listed| listed.sequence == sequence)
            .unwrap();
        let repository = Repository::open(&place.repository(), place.key.clone()).unwrap();
        let plan = Plan::whole(&repository, listed.manifest.unwrap());
        let name = format!("target-{sequence}");
        place.restore_plan(plan, &name).await.unwrap();
        let bed = open(&place.target(&name)).await;
        let rows = bed.number("SELECT count(*) FROM process_events").await;
        let distinct = bed
            .number("SELECT count(*) FROM (SELECT DISTINCT time, pid FROM process_events)")
            .await;
        assert!(
            rows >= i64::try_from(before * 10).unwrap(),
            "backup {sequence}: {rows} rows, {before} records"
        );
        assert_eq!(rows, distinct, "backup {sequence}");
        assert_eq!(
            bed.number("SELECT count(*) FROM gaps WHERE stage <> 'restore'")
                .await,
            0
        );
        bed.close().await;
    }
    assert!(!place.store().join("staging").read_dir().unwrap().any(|_| true));
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_refuses_what_is_in_use_and_renames_when_told() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    commit_execs(&bed, &mut Host::new(), 2).await;
    place.back_up().await.unwrap();
    let plan = || async { place.plan(None).await.unwrap() };
    let error = place.restore_plan(plan().await, "store").await.unwrap_err();
    assert!(matches!(error, BackupError::TargetLocked { .. }), "{error}");
    bed.close().await;
    let error = place.restore_plan(plan().await, "store").await.unwrap_err();
    assert!(matches!(error, BackupError::TargetInUse { .. }), "{error}");
    let (folder, key, chosen) = (place.repository(), place.key.clone(), plan().await);
    let target = RestoreTarget {
        store: place.store(),
        displace: true,
        ..RestoreTarget::default()
    };
    let restored = blocking(move |runtime| {
        restore(
            &Repository::open(&folder, key)?,
            &chosen,
            &target,
            runtime,
            &Unwatched,
        )
    });
    let restored = restored.await.unwrap();
    assert!(
        restored.displaced[0].join("catalogue.sqlite").exists(),
        "{restored:?}"
    );
    let bed = open(&place.store()).await;
    assert_eq!(counts(&bed).await, (20, 10, 1, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_and_files_come_back_beside_the_store() {
    let place = Place::new();
    open(&place.store()).await.close().await;
    let control = place.target("control.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&control)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal))
        .await
        .unwrap();
    sqlx::query("CREATE TABLE users (name TEXT)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO users VALUES ('ada'), ('emmy')")
        .execute(&pool)
        .await
        .unwrap();
    std::fs::write(place.target("issuing.key"), "secret").unwrap();
    let source = Source {
        store: place.store(),
        databases: vec![("control".to_owned(), control)],
        files: vec![("authority/issuing.key".to_owned(), place.target("issuing.key"))],
    };
    let target = RestoreTarget {
        store: place.target("new/store"),
        databases: vec![("control".to_owned(), place.target("new/control.sqlite"))],
        files: Some(place.target("new/keys")),
        displace: false,
    };
    let (folder, key, to) = (place.repository(), place.key.clone(), target.clone());
    blocking(move |runtime| {
        let repository = Repository::open_or_create(&folder, key)?;
        back_up(&repository, &source, false, runtime, &Unwatched)?;
        restore(&repository, &plan(&repository, None)?, &to, runtime, &Unwatched)
    })
    .await
    .unwrap();
    pool.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&target.databases[0].1);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let names: Vec<(String,)> = sqlx::query_as("SELECT name FROM users ORDER BY name")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(names, [("ada".to_owned(),), ("emmy".to_owned(),)]);
    assert_eq!(
        std::fs::read_to_string(place.target("new/keys/authority/issuing.key")).unwrap(),
        "secret"
    );
    let stored: Vec<u8> = place
        .objects()
        .iter()
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(!stored.windows(6).any(|window| window == b"secret"));
}

/// A log of SQLite beside the database, of whatever was there between two attempts, would be applied to what is restored.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_restore_leaves_no_log_beside_a_database() {
    let place = Place::new();
    open(&place.store()).await.close().await;
    let (control, target) = (place.target("control.sqlite"), place.target("new"));
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&control)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE users (name TEXT)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let source = Source {
        store: place.store(),
        databases: vec![("control".to_owned(), control)],
        files: Vec::new(),
    };
    // What an attempt leaves that did not end, and a collector that was started after it.
    std::fs::create_dir_all(target.join("store")).unwrap();
    std::fs::write(target.join("store/RESTORING"), "").unwrap();
    let logs = ["-wal", "-shm", "-journal"].map(|end| target.join(format!("control.sqlite{end}")));
    logs.iter()
        .for_each(|log| std::fs::write(log, "of another").unwrap());
    let to = RestoreTarget {
        store: target.join("store"),
        databases: vec![("control".to_owned(), target.join("control.sqlite"))],
        ..RestoreTarget::default()
    };
    let (folder, key) = (place.repository(), place.key.clone());
    blocking(move |runtime| {
        let repository = Repository::open_or_create(&folder, key)?;
        back_up(&repository, &source, false, runtime, &Unwatched)?;
        restore(&repository, &plan(&repository, None)?, &to, runtime, &Unwatched)
    })
    .await
    .unwrap();
    for log in logs {
        assert!(!log.exists(), "{}", log.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mark_that_was_compacted_away_is_restored() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 3).await;
    compacted(&bed, 1).await;
    place.back_up().await.unwrap();
    bed.close().await;
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    let epochs: Vec<SpoolEpoch> = bed.store.marks(host.id).iter().map(|mark| mark.epoch).collect();
    assert_eq!(epochs, [host.epoch]);
    bed.close().await;
}
