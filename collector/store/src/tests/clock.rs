//! Hosts whose clocks are wrong: their rows keep their times, and the store decides by its own.

use std::sync::Arc;

use arrow::array::RecordBatch;
use fleetmend_event::{Frame, TimeMicros};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::compact::compacted;
use super::testbed::{Bed, Host, config, exec, folder, open, open_with};
use crate::config::RetentionConfig;
use crate::{ClockAhead, StoreConfig};

const DAY: i64 = 24 * 3600 * 1_000_000;
const YEAR: i64 = 365 * DAY;

/// One row that was made `age` ago on a host whose clock is `ahead`.
fn row(host: &mut Host, age: i64, ahead: i64) -> (Frame, ClockAhead) {
    let time = TimeMicros::now().0 - age + ahead;
    (
        host.frame(&[exec(time, 1)], time, time),
        ClockAhead::from_micros(Some(ahead)),
    )
}

async fn rows_by_clock(bed: &Bed) -> [i64; 3] {
    let of = async |condition: &str| {
        let query = format!("SELECT count(*) FROM process_events WHERE clock_ahead_us {condition}");
        bed.number(&query).await
    };
    [
        of(&format!("= {YEAR}")).await,
        of(&format!("= {}", -YEAR)).await,
        of("IS NULL").await,
    ]
}

#[tokio::test]
async fn wrong_clock_decides_neither_the_day_of_a_row_nor_its_end() {
    let folder = folder();
    let mut long = config(folder.path());
    long.retention.age_days = 3_650;
    let bed = open_with(long).await;
    let mut hosts = [Host::new(), Host::new(), Host::new(), Host::new()];
    for (host, (age, ahead)) in hosts
        .iter_mut()
        .zip([(0, YEAR), (0, -YEAR), (40 * DAY, 0), (40 * DAY, YEAR)])
    {
        let frame = row(host, age, ahead);
        bed.store
            .commit_timed(host.id, vec![frame], Vec::new())
            .await
            .unwrap();
    }
    compacted(&bed).await;
    let today = TimeMicros::now().0.div_euclid(DAY);
    let days: Vec<i64> = bed.store.inner.view.files().iter().map(|file| file.day).collect();
    assert_eq!(days.len(), 2, "those of now, and those that came late");
    assert!(
        days.iter().all(|day| (today - 8..=today).contains(day)),
        "{days:?}"
    );
    crate::retain::retain(&bed.store.inner, &RetentionConfig::default())
        .await
        .unwrap();
    assert_eq!(rows_by_clock(&bed).await, [1, 1, 0], "only the old rows are gone");
    bed.close().await;
}

#[tokio::test]
async fn clock_is_kept_with_the_batch_over_restarts_compaction_and_merges() {
    let folder = folder();
    let small = StoreConfig {
        merge_files_min: 2,
        ..config(folder.path())
    };
    let bed = open_with(small.clone()).await;
    let (mut ahead, mut behind, mut unknown) = (Host::new(), Host::new(), Host::new());
    bed.store
        .commit_timed(ahead.id, vec![row(&mut ahead, 0, YEAR)], Vec::new())
        .await
        .unwrap();
    bed.close().await;
    let bed = open_with(small).await;
    assert_eq!(rows_by_clock(&bed).await, [1, 0, 0], "recovered from the segment");
    compacted(&bed).await;
    bed.store
        .commit_timed(behind.id, vec![row(&mut behind, 0, -YEAR)], Vec::new())
        .await
        .unwrap();
    bed.store
        .commit(unknown.id, vec![row(&mut unknown, 0, 5 * YEAR).0])
        .await
        .unwrap();
    assert_eq!(rows_by_clock(&bed).await, [1, 1, 1]);
    compacted(&bed).await;
    super::testbed::eventually("merge", || bed.store.inner.view.files().len() == 1).await;
    assert_eq!(rows_by_clock(&bed).await, [1, 1, 1]);
    let file = bed.store.inner.view.files().remove(0);
    let now = TimeMicros::now();
    assert!(file.true_to <= now && now.micros_since(file.true_from) < DAY);
    bed.close().await;
}

#[tokio::test]
async fn records_that_never_came_of_a_wrong_clock_are_missing_in_the_stores_time() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let begun = TimeMicros::now();
    for declared in [false, true] {
        let frame = row(&mut host, 0, -YEAR);
        if declared {
            drop(frame);
            let after = row(&mut host, 0, -YEAR);
            bed.store.declare_lost(host.id, after.0.id);
            bed.store
                .commit_timed(host.id, vec![after], Vec::new())
                .await
                .unwrap();
        } else {
            bed.store
                .commit_timed(host.id, vec![frame], Vec::new())
                .await
                .unwrap();
        }
    }
    let within = format!(
        "SELECT count(*) FROM gaps WHERE stage = 'restore' AND count = 1 AND clock_ahead_us = 0 \
         AND CAST(from_time AS BIGINT) BETWEEN {} AND {} AND CAST(to_time AS BIGINT) BETWEEN {} AND {}",
        begun.0 - 61_000_000,
        begun.0,
        begun.0,
        TimeMicros::now().0
    );
    assert_eq!(bed.number(&within).await, 1);
    bed.close().await;
}

#[tokio::test]
async fn files_written_before_clocks_were_kept_are_read_merged_and_kept_by_their_reception() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    bed.store.commit(host.id, vec![host.execs(3)]).await.unwrap();
    compacted(&bed).await;
    let file = bed.store.inner.view.files().remove(0);
    bed.close().await;
    without_clocks(&file.path);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let bytes = i64::try_from(std::fs::metadata(&file.path).unwrap().len()).unwrap();
    sqlx::query("UPDATE parquet_files SET true_from = NULL, true_to = NULL, bytes = ?, digest = ?")
        .bind(bytes)
        .bind(crate::view::digest_of(&file.path).unwrap())
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let bed = open_with(StoreConfig {
        merge_files_min: 2,
        ..config(folder.path())
    })
    .await;
    crate::retain::retain(&bed.store.inner, &RetentionConfig::default())
        .await
        .unwrap();
    assert_eq!(rows_by_clock(&bed).await, [0, 0, 3]);
    bed.store
        .commit_timed(host.id, vec![row(&mut host, 0, YEAR)], Vec::new())
        .await
        .unwrap();
    compacted(&bed).await;
    super::testbed::eventually("merge", || bed.store.inner.view.files().len() == 1).await;
    assert_eq!(rows_by_clock(&bed).await, [1, 0, 3]);
    bed.close().await;
}

/// Writes a Parquet file anew without the column that says how clocks stood.
fn without_clocks(path: &std::path::Path) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let batches: Vec<RecordBatch> = reader
        .map(|batch| {
            let batch = batch.unwrap();
            let clock = batch.schema().index_of("clock_ahead_us").unwrap();
            let kept: Vec<usize> = (0..clock).collect();
            batch.project(&kept).unwrap()
        })
        .collect();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&batches[0].schema()), None).unwrap();
    for batch in &batches {
        assert!(batch.column_by_name("clock_ahead_us").is_none());
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
}
