use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::testbed::{Bed, Host, config, eventually, folder, open, open_with};
use crate::{CommitError, Health, QueryLimits, StoreConfig};

const EXECS: &str = "SELECT count(*) FROM process_events";
const GAPS: &str = "SELECT count(*) FROM gaps WHERE stage = 'store' AND table = 'process_events'";

/// Two Parquet files of three and of four execs; the first one's path.
async fn two_files(folder: &Path) -> (Bed, Host, PathBuf) {
    let config = StoreConfig {
        maintenance_interval_ms: 3_600_000,
        merge_files_min: 100,
        ..config(folder)
    };
    let bed = open_with(config).await;
    let mut host = Host::new();
    for count in [3, 4] {
        bed.store
            .commit(host.id, vec![host.execs(count), host.metrics(1)])
            .await
            .unwrap();
        bed.store.seal().await.unwrap();
        eventually("compaction", || bed.store.stats().segments == 0).await;
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("parquet/process_events"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    (bed, host, files.remove(0))
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[tokio::test]
async fn truncated_parquet_file_is_set_aside_and_the_query_goes_on() {
    let folder = folder();
    let (bed, mut host, file) = two_files(folder.path()).await;
    truncate(&file);
    let answer = bed
        .store
        .sql("SELECT pid FROM process_events", QueryLimits::default())
        .await
        .unwrap();
    assert_eq!(answer.rows(), 4);
    assert_eq!(answer.gaps.len(), 1);
    assert_eq!(
        (answer.gaps[0].gap.count, answer.gaps[0].gap.table.as_str()),
        (3, "process_events")
    );
    assert!(file.with_extension("parquet.corrupt").exists());
    bed.wait_for(GAPS, 1).await;
    // Nothing else stops.
    bed.store.commit(host.id, vec![host.execs(2)]).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 6);
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 20);
    bed.close().await;
    let bed = open(folder.path()).await;
    assert_eq!((bed.number(EXECS).await, bed.number(GAPS).await), (6, 1));
    bed.close().await;
}

#[tokio::test]
async fn file_that_cannot_be_opened_now_fails_the_query_and_is_no_damage() {
    let folder = folder();
    let (bed, _, file) = two_files(folder.path()).await;
    let kept = file.with_extension("kept");
    std::fs::rename(&file, &kept).unwrap();
    // Opening it fails with ELOOP, whoever asks: it is there, and cannot be read.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let error = bed.store.sql(EXECS, QueryLimits::default()).await.unwrap_err();
    assert!(matches!(error, crate::QueryError::Failed { .. }), "{error:?}");
    std::fs::remove_file(&file).unwrap();
    std::fs::rename(&kept, &file).unwrap();
    assert_eq!((bed.number(EXECS).await, bed.number(GAPS).await), (7, 0));
    bed.close().await;
}

#[tokio::test]
async fn parquet_file_damaged_inside_is_found_by_its_digest() {
    let folder = folder();
    let (bed, _, file) = two_files(folder.path()).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[4..middle].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let answer = bed
        .store
        .sql("SELECT * FROM process_events", QueryLimits::default())
        .await
        .unwrap();
    assert_eq!((answer.rows(), answer.gaps.len()), (4, 1));
    assert!(answer.gaps[0].gap.reason.contains("digest"), "{:?}", answer.gaps);
    bed.close().await;
}

#[tokio::test]
async fn damage_that_no_query_meets_is_found_by_the_daily_check() {
    let folder = folder();
    let (bed, _, file) = two_files(folder.path()).await;
    bed.close().await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let bed = open(folder.path()).await;
    bed.wait_for(GAPS, 1).await;
    assert!(file.with_extension("parquet.corrupt").exists());
    bed.close().await;
}

#[tokio::test]
async fn check_of_a_large_file_ends_when_the_store_closes() {
    let folder = folder();
    let (bed, _, file) = two_files(folder.path()).await;
    bed.close().await;
    // So large that it is not read while anybody waits.
    let large = file.with_file_name("large.parquet");
    let bytes: u64 = 8 << 30;
    let sparse = std::fs::File::create(&large).unwrap();
    sparse.set_len(bytes).unwrap();
    sparse.write_all_at(b"PAR1", bytes - 4).unwrap();
    drop(sparse);
    let options = SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let mut connection = options.connect().await.unwrap();
    let register = "INSERT INTO parquet_files (path, table_name, day, from_time, to_time, ingested_to, row_count, bytes, \
                    digest) VALUES ('process_events/large.parquet', 'process_events', 0, 0, 0, ?1, 1, ?2, 'unread')";
    sqlx::query(register)
        .bind(fleetmend_event::TimeMicros::now().0)
        .bind(i64::try_from(bytes).unwrap())
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let config = || {
        let mut config = config(folder.path());
        config.retention.table_bytes_max = u64::MAX;
        config
    };
    let bed = open_with(config()).await;
    eventually("the check", || is_open(&large)).await;
    bed.close().await;
    assert!(!is_open(&large), "it is read on");
    // The folder is free at once.
    let bed = open_with(config()).await;
    assert!(large.exists());
    bed.close().await;
}

/// Whether this process has a file open.
fn is_open(path: &Path) -> bool {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links
        .filter_map(|link| std::fs::read_link(link.path()).ok())
        .any(|to| to == path)
}

#[tokio::test]
async fn file_damaged_while_the_store_was_closed_is_a_gap_after_the_start() {
    let folder = folder();
    let (bed, _, file) = two_files(folder.path()).await;
    bed.close().await;
    truncate(&file);
    let bed = open(folder.path()).await;
    assert_eq!(bed.number(EXECS).await, 4);
    bed.wait_for(GAPS, 1).await;
    bed.close().await;
}

#[tokio::test]
async fn segment_of_a_lost_frame_stays_until_the_gap_is_durable() {
    let folder = folder();
    let settings = StoreConfig {
        hot_cache_bytes_max: 0,
        commit_timeout_ms: 100,
        ..config(folder.path())
    };
    let bed = open_with(StoreConfig {
        maintenance_interval_ms: 3_600_000,
        ..settings.clone()
    })
    .await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(4)]).await.unwrap();
    bed.store.commit(host.id, vec![host.execs(5)]).await.unwrap();
    bed.close().await;
    // Nobody runs the store, so that no gap becomes durable.
    let store = crate::Store::open(settings).await.unwrap();
    let segment = std::fs::read_dir(folder.path().join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .next()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let within_first = bytes.len() / 4;
    bytes[within_first] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    crate::compact::compact(&store.inner).await.unwrap_err();
    assert!(
        segment.exists(),
        "the gap is not durable, and the segment is gone"
    );
    let tasks = fleetmend_shutdown::Tasks::new();
    store.run(&tasks).unwrap();
    let bed = Bed { store, tasks };
    // What was asked for in vain above is written as well: said twice is better than never.
    let gaps = GAPS.replace("count(*)", "count(DISTINCT time)");
    bed.wait_for(&gaps, 1).await;
    eventually("compaction", || !segment.exists()).await;
    assert_eq!((bed.number(EXECS).await, bed.number(&gaps).await), (5, 1));
    bed.close().await;
}

#[tokio::test]
async fn rows_of_a_table_that_only_a_newer_build_knows_are_a_gap() {
    let folder = folder();
    let bed = open_with(StoreConfig {
        maintenance_interval_ms: 3_600_000,
        ..config(folder.path())
    })
    .await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(4)]).await.unwrap();
    bed.close().await;
    let segment = std::fs::read_dir(folder.path().join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .next()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    for count in [2, 3] {
        let mut newer = host.execs(count);
        newer.table = 999;
        crate::segment::put_entry(
            &mut bytes,
            host.id,
            (fleetmend_event::TimeMicros::now(), crate::ClockAhead::NONE),
            &newer.encode(),
        );
    }
    std::fs::write(&segment, bytes).unwrap();
    let bed = open(folder.path()).await;
    bed.wait_for(
        "SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE stage = 'store' AND reason LIKE 'unknown table%'",
        5,
    )
    .await;
    eventually("compaction", || !segment.exists()).await;
    assert_eq!(bed.store.marks(host.id)[0].sequence.0, 3);
    assert_eq!(bed.number(EXECS).await, 4);
    let of_host = format!("SELECT count(*) FROM gaps WHERE host_id = '{}'", host.id);
    assert_eq!(bed.number(&of_host).await, 1);
    bed.close().await;
}

#[tokio::test]
async fn full_disk_refuses_and_resumes_by_itself() {
    let folder = folder();
    let mount = folder.path().join("disk");
    std::fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("NOT RUN: full_disk_refuses_and_resumes_by_itself needs the right to mount");
        return;
    }
    let _unmount = Unmount(mount.clone());
    let bed = open_with(StoreConfig {
        free_bytes_min: 64 << 10,
        maintenance_interval_ms: 3_600_000,
        ..config(&mount)
    })
    .await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(5)]).await.unwrap();
    let filler = mount.join("filler");
    let mut size = 2 << 20;
    while size > 1_000 {
        let fits = std::fs::write(&filler, vec![1; size]).is_ok();
        if fits {
            break;
        }
        size -= 16 << 10;
    }
    let next = host.execs(5);
    // The free space is looked at once a second; until then the write itself may be what fails, or succeed.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let (mut stored, mut record) = (1_i64, next);
    let error = loop {
        match bed.store.commit(host.id, vec![record.clone()]).await {
            Err(error) => break error,
            Ok(_) => (stored, record) = (stored + 1, host.execs(5)),
        }
        assert!(
            std::time::Instant::now() < deadline,
            "a full disk took everything"
        );
    };
    assert!(matches!(error, CommitError::Unavailable { .. }), "{error:?}");
    assert!(matches!(&*bed.store.health().borrow(), Health::NotReady(_)));
    assert_eq!(bed.number(EXECS).await, stored * 5);
    std::fs::remove_file(&filler).unwrap();
    bed.store.commit(host.id, vec![record]).await.unwrap();
    assert_eq!(*bed.store.health().borrow(), Health::Ready);
    assert_eq!(bed.number(EXECS).await, (stored + 1) * 5);
    bed.close().await;
}

pub(super) struct Unmount(pub(super) PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
