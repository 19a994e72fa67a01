//! How events lie in files: their identity, their order, what tells a reader where not to look.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use fleetmend_event::table::ProcessEvent;
use fleetmend_event::{HostId, TimeMicros};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;

use super::compact::compacted;
use super::testbed::{Bed, Host, START, config, eventually, exec, folder, open, open_with};
use crate::catalogue::{Change, FileRow};
use crate::compact::GROUP_BYTES_MAX;
use crate::view::digest_of;
use crate::{QueryLimits, StoreConfig, to_json_rows};

pub(super) const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/process-events-by-time.parquet"
);

async fn rows(bed: &Bed, query: &str) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let answer = bed.store.sql(query, QueryLimits::default()).await.expect(query);
    to_json_rows(&answer.batches).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("parquet/process_events")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn read(path: &Path) -> (Arc<ParquetMetaData>, Vec<RecordBatch>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let metadata = builder.metadata().clone();
    let batches = builder.build().unwrap().map(Result::unwrap).collect();
    (metadata, batches)
}

/// Host and time of every row, in the order of the file.
fn order(batches: &[RecordBatch]) -> Vec<(String, i64)> {
    let mut keys = Vec::new();
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).unwrap().as_any();
        let hosts = column("host_id").downcast_ref::<StringArray>().unwrap();
        let times = column("time")
            .downcast_ref::<TimestampMicrosecondArray>()
            .unwrap();
        keys.extend(
            hosts
                .iter()
                .zip(times.values())
                .map(|(host, time)| (host.unwrap().to_owned(), *time)),
        );
    }
    keys
}

#[tokio::test]
async fn row_is_found_again_by_its_identity_hot_and_compacted() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut hosts = [Host::new(), Host::new()];
    for host in &mut hosts {
        let frames = vec![host.execs(5), host.execs(5)];
        bed.store.commit(host.id, frames).await.unwrap();
    }
    let [host, _] = &hosts;
    let query = format!(
        "SELECT host_id, pid, time FROM process_events WHERE host_id = '{}' AND record_epoch = '{}' \
         AND record_sequence = 2 AND record_row = 3",
        host.id, host.epoch
    );
    let hot = rows(&bed, &query).await;
    assert_eq!(hot.len(), 1);
    assert_eq!(hot[0]["pid"], 3);
    compacted(&bed).await;
    assert_eq!(rows(&bed, &query).await, hot);
    let identities = "SELECT count(*) FROM (SELECT DISTINCT host_id, record_epoch, record_sequence, record_row \
                      FROM process_events)";
    assert_eq!(bed.number(identities).await, 20);
    bed.close().await;
}

#[tokio::test]
async fn files_lie_by_host_and_time_also_when_merged() {
    let folder = folder();
    let bed = open_with(StoreConfig {
        merge_files_min: 3,
        ..config(folder.path())
    })
    .await;
    let mut hosts = [Host::new(), Host::new(), Host::new()];
    for round in 0..3_i64 {
        for host in &mut hosts {
            // The rounds overlap, and within a frame time goes back.
            let start = START + round * 5_000_000;
            let times = (0..40).map(|n| start + i64::from((n * 7) % 40) * 1_000_000);
            let events: Vec<_> = times.zip(0..).map(|(time, pid)| exec(time, pid)).collect();
            let frame = host.frame(&events, start, start + 40_000_000);
            bed.store.commit(host.id, vec![frame]).await.unwrap();
        }
        compacted(&bed).await;
    }
    eventually("merge", || files(folder.path()).len() == 1).await;
    let (metadata, batches) = read(&files(folder.path())[0]);
    let keys = order(&batches);
    assert_eq!(keys.len(), 360);
    assert!(keys.is_sorted(), "{keys:?}");
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let sorted = pairs.iter().find(|pair| pair.key == "fleetmend.sorted").unwrap();
    assert_eq!(sorted.value.as_deref(), Some("host_id,time"));
    let columns = metadata.row_group(0).columns();
    let filtered = columns
        .iter()
        .filter(|column| column.bloom_filter_offset().is_some());
    let filtered: Vec<String> = filtered.map(|column| column.column_path().string()).collect();
    assert_eq!(filtered, ["pid", "container_id", "record_epoch"]);
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE pid = 7")
            .await,
        9
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE pid = 70")
            .await,
        0
    );
    bed.close().await;
}

/// Registers a copy of the fixture: 12 execs of two hosts, as files were written before rows had an identity.
async fn register_fixture(bed: &Bed, folder: &Path, name: &str) {
    let path = folder.join("parquet/process_events").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(FIXTURE, &path).unwrap();
    let file = FileRow {
        id: 0,
        path: format!("process_events/{name}"),
        table: "process_events".to_owned(),
        day: START / (24 * 3_600 * 1_000_000),
        from: TimeMicros(START),
        to: TimeMicros(START + 11_000_000),
        ingested_to: TimeMicros(START),
        true_from: None,
        true_to: None,
        rows: 12,
        chunks: None,
        bytes: std::fs::metadata(&path).unwrap().len(),
        digest: digest_of(&path).unwrap(),
    };
    let change = Change {
        added: vec![file],
        ..Change::default()
    };
    bed.store.inner.catalogue.apply(&change).await.unwrap();
}

#[tokio::test]
async fn files_of_the_former_order_are_read_and_merged() {
    let folder = folder();
    let mut config = config(folder.path());
    config.retention.age_days = 100_000;
    let bed = open_with(config.clone()).await;
    for name in ["a.parquet", "b.parquet"] {
        register_fixture(&bed, folder.path(), name).await;
    }
    bed.close().await;
    config.merge_files_min = 3;
    let bed = open_with(config.clone()).await;
    let all = "SELECT count(*) FROM process_events WHERE record_epoch IS NULL AND record_row IS NULL";
    assert_eq!(bed.number(all).await, 24);
    let host = HostId::from_bytes([1; 16]);
    let of_host = format!("SELECT count(*) FROM process_events WHERE host_id = '{host}' AND pid = 4");
    assert_eq!(bed.number(&of_host).await, 2);
    bed.close().await;
    config.merge_files_min = 2;
    let bed = open_with(config).await;
    eventually("merge", || files(folder.path()).len() == 1).await;
    assert_eq!(bed.number(all).await, 24);
    assert_eq!(bed.number(&of_host).await, 2);
    let (_, batches) = read(&files(folder.path())[0]);
    assert!(order(&batches).is_sorted());
    bed.close().await;
}

/// What the fixture holds, read without the store.
#[test]
fn fixture_is_of_the_former_order() {
    let (metadata, batches) = read(Path::new(FIXTURE));
    assert!(
        metadata
            .file_metadata()
            .key_value_metadata()
            .is_none_or(|pairs| { pairs.iter().all(|pair| pair.key != "fleetmend.sorted") })
    );
    let keys = order(&batches);
    assert_eq!(keys.len(), 12);
    assert!(!keys.is_sorted() && keys.is_sorted_by_key(|(_, time)| *time));
    let clock = batches[0].column_by_name("clock_ahead_us").unwrap();
    assert!(clock.as_any().downcast_ref::<Int64Array>().is_some());
    assert!(batches[0].column_by_name("record_epoch").is_none());
}

/// Letters that nothing makes smaller.
fn letters(noise: &mut u64, count: usize) -> String {
    let mut letter = || {
        *noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from_u32(u32::try_from(33 + (*noise >> 33) % 94).unwrap()).unwrap()
    };
    (0..count).map(|_| letter()).collect()
}

#[tokio::test]
async fn long_texts_make_small_row_groups() {
    const FRAMES: u32 = 180;
    const ROWS: u32 = 56;
    let folder = folder();
    let bed = open(folder.path()).await;
    let (mut host, mut noise) = (Host::new(), 1);
    for n in 0..FRAMES {
        let start = START + i64::from(n) * 1_000_000;
        let rows: Vec<ProcessEvent> = (0..ROWS)
            .map(|row| ProcessEvent {
                args: vec![letters(&mut noise, 4_096)],
                ..exec(start + i64::from(row), row)
            })
            .collect();
        let frame = host.frame(&rows, start, start + i64::from(ROWS));
        bed.store.commit(host.id, vec![frame]).await.unwrap();
    }
    compacted(&bed).await;
    let mut count = 0;
    for file in files(folder.path()) {
        let (metadata, batches) = read(&file);
        count += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        for group in metadata.row_groups() {
            // One batch of rows may go beyond.
            assert!(group.compressed_size() < 2 * i64::try_from(GROUP_BYTES_MAX).unwrap());
        }
        let bytes: i64 = metadata
            .row_groups()
            .iter()
            .map(|group| group.compressed_size())
            .sum();
        let most = i64::try_from(GROUP_BYTES_MAX).unwrap();
        assert!(
            bytes < most || metadata.num_row_groups() > 1,
            "{bytes} bytes in one group"
        );
    }
    assert_eq!(count, usize::try_from(FRAMES * ROWS).unwrap());
    bed.close().await;
}
