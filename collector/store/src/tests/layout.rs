//! Files of metrics in both layouts.

use std::path::Path;

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, TimeMicros};
use sha2::{Digest, Sha256};

use super::compact::compacted;
use super::testbed::{Bed, Host, START, chunk, config, eventually, folder, open, open_with};
use crate::{QueryLimits, SeriesSelect, StoreConfig, to_json_rows};

/// A file of one row per sample, as it was written before there were chunks: of a host three batches of ten
/// seconds, each of three regular series and one irregular one with a sample that could not be taken.
const ROWS: &[u8] = include_bytes!("../../fixtures/metrics-rows.parquet");
const ROWS_COUNT: i64 = 3 * (3 * 10 + 4);

const QUERIES: [&str; 5] = [
    "SELECT count(*) AS n, sum(value) AS total, count(value) AS taken FROM metrics WHERE value < 1e200",
    "SELECT time, host_id, name, unit, labels, value, clock_ahead_us FROM metrics \
     ORDER BY name, host_id, time, value LIMIT 400",
    "SELECT host_id, count(*) AS n FROM metrics WHERE name LIKE 'system.metric.%1' GROUP BY 1 ORDER BY 1",
    "SELECT count(*) AS n FROM metrics WHERE time > '2026-01-01T00:00:10Z' AND time <= '2026-01-01T00:00:12Z'",
    "SELECT name, min(value) AS least FROM metrics WHERE label(labels, 'cpu.mode') = 'user' AND value IS NOT NULL \
     AND time BETWEEN '2026-01-01T00:00:05Z' AND '2026-01-01T00:00:15Z' GROUP BY 1 ORDER BY 1",
];

/// Registers the file of rows in a store that is closed.
async fn register_rows(folder: &Path) {
    let path = folder.join("parquet/metrics");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("2026-01-01-rows.parquet"), ROWS).unwrap();
    let digest: String = Sha256::digest(ROWS)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let address = format!("sqlite://{}", folder.join("catalogue.sqlite").display());
    let pool = sqlx::SqlitePool::connect(&address).await.unwrap();
    sqlx::query(
        "INSERT INTO parquet_files (path, table_name, day, from_time, to_time, ingested_to, row_count, bytes, digest) \
         VALUES ('metrics/2026-01-01-rows.parquet', 'metrics', ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(TimeMicros::now().0 / 86_400_000_000)
    .bind(START)
    .bind(START + 29_000_000)
    .bind(TimeMicros::now().0)
    .bind(ROWS_COUNT)
    .bind(i64::try_from(ROWS.len()).unwrap())
    .bind(digest)
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
}

/// Sends what is in the file of rows to a store.
async fn send_the_same(bed: &Bed) {
    let mut host = Host::new();
    for n in 0..3 {
        let start = START + n * 10_000_000;
        let mut rows: Vec<MetricChunk> = (0..3).map(|n| chunk(start, n)).collect();
        rows.push(MetricChunk {
            name: "system.irregular".into(),
            step_ms: 0,
            offset_ms: vec![0, 900, 2_100, 9_000],
            value: vec![0.25, f64::NAN, -1e300, f64::INFINITY],
            ..chunk(start, 0)
        });
        let frame = host.frame(&rows, start, start + 9_000_000);
        let id = HostId::from_bytes([2; 16]);
        bed.store.commit(id, vec![frame]).await.unwrap();
    }
}

async fn answers(bed: &Bed) -> Vec<String> {
    let mut answers = Vec::new();
    for query in QUERIES {
        let answer = bed.store.sql(query, QueryLimits::default()).await.expect(query);
        answers.push(serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap());
    }
    let select = SeriesSelect::between(TimeMicros(START + 5_000_000), TimeMicros(START + 25_000_000));
    for series in bed.store.select(select).await.unwrap().series {
        let bits: Vec<u64> = series.values.iter().map(|value| value.to_bits()).collect();
        answers.push(format!("{:?} {:?} {bits:?}", series.key, series.times));
    }
    answers
}

fn metrics_files(bed: &Bed) -> (u64, u64) {
    let stats = bed.store.stats();
    let metrics = stats
        .tables
        .iter()
        .find(|table| table.table == "metrics")
        .unwrap();
    (metrics.files, metrics.rows)
}

#[tokio::test]
async fn rows_of_the_former_layout_are_read_like_chunks_and_become_such_when_merged() {
    let chunks = folder();
    let bed = open(chunks.path()).await;
    send_the_same(&bed).await;
    let hot = answers(&bed).await;
    compacted(&bed).await;
    assert_eq!(answers(&bed).await, hot);
    bed.close().await;

    let rows = folder();
    open(rows.path()).await.close().await;
    register_rows(rows.path()).await;
    let bed = open(rows.path()).await;
    assert_eq!(metrics_files(&bed), (1, 102));
    assert_eq!(answers(&bed).await, hot);
    bed.close().await;

    // With a file of chunks they become one file, and nothing is lost or doubled.
    let merging = StoreConfig {
        merge_files_min: 2,
        ..config(rows.path())
    };
    let bed = open_with(merging).await;
    let mut host = Host::new();
    for _ in 0..7 {
        let frame = host.metrics(3);
        bed.store.commit(host.id, vec![frame]).await.unwrap();
    }
    let before = answers(&bed).await;
    compacted(&bed).await;
    eventually("merge", || metrics_files(&bed) == (1, 102 + 210)).await;
    assert_eq!(answers(&bed).await, before);
    bed.close().await;
    let bed = open(rows.path()).await;
    assert_eq!(answers(&bed).await, before);
    bed.close().await;
}

#[tokio::test]
async fn merged_chunks_hold_every_sample_of_any_order() {
    let folder = folder();
    let config = StoreConfig {
        merge_files_min: 4,
        ..config(folder.path())
    };
    let bed = open_with(config).await;
    let mut host = Host::new();
    // Late, doubled and overlapping batches, each in a file of its own.
    for (n, start) in [0_i64, 20, 10, 5, 20, 100].into_iter().enumerate() {
        let start = START + start * 1_000_000;
        let value = (0..10).map(|at| n as f64 * 100.0 + f64::from(at) / 3.0).collect();
        let row = MetricChunk {
            value,
            ..chunk(start, 0)
        };
        let frame = host.frame(&[row], start, start + 9_000_000);
        bed.store.commit(host.id, vec![frame]).await.unwrap();
        compacted(&bed).await;
    }
    eventually("merge", || metrics_files(&bed).0 <= 3).await;
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 60);
    let all = SeriesSelect::between(TimeMicros(0), TimeMicros(i64::MAX));
    let series = bed.store.select(all).await.unwrap().series;
    assert_eq!((series.len(), series[0].times.len()), (1, 40));
    let at = |second: i64| {
        let place = series[0]
            .times
            .iter()
            .position(|time| time.0 == START + second * 1_000_000);
        series[0].values[place.expect("a sample")]
    };
    assert_eq!(
        (at(4), at(5), at(10), at(15)),
        (4.0 / 3.0, 300.0, 300.0 + 5.0 / 3.0, 200.0 + 5.0 / 3.0)
    );
    assert_eq!(at(20), 400.0);
    bed.close().await;
}
