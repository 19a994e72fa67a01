use std::path::{Path, PathBuf};

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, TimeMicros};

use super::compact::compacted;
use super::testbed::{Bed, Host, chunk, config, folder, open_with};
use crate::config::{RetentionConfig, TableRetention};
use crate::{ClockAhead, QueryLimits, StoreConfig, to_json_rows};

pub(super) const HOUR: i64 = 3_600_000_000;

pub(super) fn building(folder: &std::path::Path) -> StoreConfig {
    StoreConfig {
        tier_interval_s: 0,
        ..config(folder)
    }
}

/// Ten seconds of one series, by a clock that is known to be right.
pub(super) async fn send(bed: &Bed, id: HostId, host: &mut Host, start: i64, values: [f64; 10]) {
    let row = MetricChunk {
        value: values.to_vec(),
        ..chunk(start, 7)
    };
    let frame = host.frame(&[row], start, start + 9_000_000);
    bed.store
        .commit_timed(id, vec![(frame, ClockAhead::NONE)], Vec::new())
        .await
        .unwrap();
}

/// A whole hour that was over yesterday.
pub(super) fn yesterday() -> i64 {
    TimeMicros::now().0.div_euclid(24 * HOUR) * 24 * HOUR - 12 * HOUR
}

async fn windows(bed: &Bed, table: &str) -> String {
    let query = format!(
        "SELECT name, count, sum, min, max, first, last, resets, increase, \
         CAST(date_part('minute', first_time) AS BIGINT) AS minute, CAST(date_part('second', last_time) AS BIGINT) AS second \
         FROM {table} ORDER BY time"
    );
    let answer = bed.store.sql(&query, QueryLimits::default()).await.unwrap();
    serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap()
}

#[tokio::test]
async fn windows_are_made_of_compacted_samples_and_again_when_late_ones_come() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    let rising = std::array::from_fn(|n| n as f64);
    send(&bed, id, &mut host, start, rising).await;
    send(&bed, id, &mut host, start + 300_000_000, rising).await;
    compacted(&bed).await;
    bed.wait_for("SELECT count(*) FROM metrics_5m", 2).await;
    let one = r#"[{"name":"system.metric.007","count":10,"sum":45.0,"min":0.0,"max":9.0,"first":0.0,"last":9.0,"resets":0,"increase":9.0,"minute":0,"second":9},{"name":"system.metric.007","count":10,"sum":45.0,"min":0.0,"max":9.0,"first":0.0,"last":9.0,"resets":1,"increase":9.0,"minute":5,"second":9}]"#;
    assert_eq!(windows(&bed, "metrics_5m").await, one);
    bed.wait_for("SELECT sum(count) FROM metrics_1h", 20).await;

    // The same times again, with other values, and a time that is new.
    send(&bed, id, &mut host, start, [100.0; 10]).await;
    send(&bed, id, &mut host, start + 10_000_000, [f64::NAN; 10]).await;
    send(&bed, id, &mut host, start + 900_000_000, rising).await;
    compacted(&bed).await;
    bed.wait_for("SELECT count(*) FROM metrics_5m", 3).await;
    bed.wait_for("SELECT CAST(sum(sum) AS BIGINT) FROM metrics_1h", 1_000 + 90)
        .await;
    assert_eq!(
        bed.number("SELECT count(*) FROM metrics").await,
        50,
        "raw samples stay"
    );
    bed.close().await;

    // After another start nothing is dirty any more, and the tiers are there.
    let bed = open_with(building(folder.path())).await;
    assert_eq!(bed.number("SELECT sum(count) FROM metrics_1h").await, 30);
    assert!(bed.store.inner.catalogue.dirty_days().await.unwrap().is_empty());
    bed.close().await;
}

#[tokio::test]
async fn window_that_is_not_over_is_left_out_and_its_day_stays_dirty() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host) = (HostId::random(), Host::new());
    let now = TimeMicros::now().0;
    send(&bed, id, &mut host, now - 10_000_000, [1.0; 10]).await;
    // A clock that is ahead makes samples of windows to come.
    send(&bed, id, &mut host, now + 2 * HOUR, [1.0; 10]).await;
    compacted(&bed).await;
    let before = bed.store.inner.catalogue.dirty_days().await.unwrap();
    assert!(!before.is_empty());
    super::testbed::eventually_async("another look at the day", || async {
        let days = bed.store.inner.catalogue.dirty_days().await.unwrap();
        days.last().map(|day| day.since) > before.last().map(|day| day.since)
    })
    .await;
    let late = format!("SELECT count(*) FROM metrics_5m WHERE time > to_timestamp_micros({now})");
    assert_eq!(bed.number(&late).await, 0);
    bed.close().await;
}

/// Retention that lets a table hold so many bytes.
pub(super) fn holding(table: &str, bytes_max: u64) -> RetentionConfig {
    let own = TableRetention {
        age_days: None,
        bytes_max: Some(bytes_max),
    };
    RetentionConfig {
        tables: [(table.to_owned(), own)].into(),
        ..RetentionConfig::default()
    }
}

#[tokio::test]
async fn late_sample_takes_no_windows_away_whose_samples_are_gone() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    let rising: [f64; 10] = std::array::from_fn(|n| n as f64);
    for window in 0..3 {
        send(&bed, id, &mut host, start + window * 300_000_000, rising).await;
    }
    compacted(&bed).await;
    bed.wait_for("SELECT count(*) FROM metrics_5m", 3).await;
    bed.wait_for("SELECT sum(count) FROM metrics_1h", 30).await;
    let before = windows(&bed, "metrics_5m").await;
    crate::retain::retain(&bed.store.inner, &holding("metrics", 0))
        .await
        .unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 0);

    // A window that was not there, and less than there was of one that was.
    send(&bed, id, &mut host, start + 1_200_000_000, rising).await;
    let mut less = [f64::NAN; 10];
    less[0] = 70.0;
    send(&bed, id, &mut host, start + 20_000_000, less).await;
    compacted(&bed).await;
    bed.wait_for("SELECT count(*) FROM metrics_5m", 4).await;
    let after = windows(&bed, "metrics_5m").await;
    assert!(
        after.starts_with(before.trim_end_matches(']')),
        "{before} {after}"
    );
    assert_eq!(bed.number("SELECT sum(count) FROM metrics_1h").await, 30);
    bed.close().await;
}

fn only_file(folder: &Path, table: &str, day: i64) -> PathBuf {
    let date = jiff::Timestamp::from_microsecond(day)
        .unwrap()
        .strftime("%Y-%m-%d")
        .to_string();
    let files = std::fs::read_dir(folder.join("parquet").join(table)).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    files
        .find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(&date))
        .unwrap()
}

#[tokio::test]
async fn day_with_a_damaged_file_keeps_no_other_day_from_being_made() {
    let folder = folder();
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    let bed = open_with(config(folder.path())).await;
    // The first turn of maintenance looks for damage in the first file: that is another one.
    let execs = host.execs(1);
    bed.store.commit(id, vec![execs]).await.unwrap();
    compacted(&bed).await;
    for day in [24 * HOUR, 0] {
        send(&bed, id, &mut host, start - day, [1.0; 10]).await;
        compacted(&bed).await;
    }
    bed.close().await;
    let file = only_file(folder.path(), "metrics", start - 24 * HOUR);
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len() / 3;
    bytes[4..end].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();

    let bed = open_with(StoreConfig {
        maintenance_interval_ms: 3_600_000,
        ..building(folder.path())
    })
    .await;
    bed.wait_for("SELECT count(*) FROM metrics_5m", 1).await;
    // Nothing waits for ever for what is lost.
    super::testbed::eventually_async("no dirty day", || async {
        bed.store.inner.catalogue.dirty_days().await.unwrap().is_empty()
    })
    .await;
    bed.close().await;
}

#[tokio::test]
async fn growth_over_midnight_is_known_when_the_day_before_comes_late() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host) = (HostId::random(), Host::new());
    let midnight = yesterday() - 12 * HOUR;
    send(
        &bed,
        id,
        &mut host,
        midnight,
        std::array::from_fn(|n| 50.0 + n as f64),
    )
    .await;
    compacted(&bed).await;
    bed.wait_for("SELECT CAST(sum(increase) AS BIGINT) FROM metrics_5m", 9)
        .await;
    send(&bed, id, &mut host, midnight - 10_000_000, [40.0; 10]).await;
    compacted(&bed).await;
    // From 40 to 50, and on to 59.
    bed.wait_for("SELECT CAST(sum(increase) AS BIGINT) FROM metrics_5m", 19)
        .await;
    bed.wait_for("SELECT CAST(sum(increase) AS BIGINT) FROM metrics_1h", 19)
        .await;
    bed.close().await;
}

/// A day of a server's series, a sample every ten seconds: counters, gauges in pages, shares with two decimals, and some
/// that never change.
fn server(series: u64) -> Vec<Vec<f64>> {
    let mut state = 1_u64;
    let mut chance = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let mut of = |kind: u64| -> Vec<f64> {
        let mut level = (chance() * 1e9).floor();
        (0..24 * 360)
            .map(|_| {
                match kind {
                    0 => level += (chance() * 400_000.0).floor(),
                    1 => level += (chance() * 20.0).floor() / 100.0,
                    2 => level += ((chance() - 0.5) * 64.0).floor() * 4_096.0,
                    3 => level = (chance() * 100.0).floor() / 100.0,
                    _ => {}
                }
                level
            })
            .collect()
    };
    (0..series).map(|number| of(number % 5)).collect()
}

#[tokio::test]
async fn row_of_a_tier_takes_no_more_bytes_than_the_docs_say() {
    const SERIES: u64 = 50;
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host) = (HostId::random(), Host::new());
    let midnight = yesterday() - 12 * HOUR;
    let series = server(SERIES);
    for hour in 0..24_usize {
        let start = midnight + i64::try_from(hour).unwrap() * HOUR;
        let rows: Vec<MetricChunk> = (0..)
            .zip(&series)
            .map(|(number, values)| MetricChunk {
                step_ms: 10_000,
                value: values[hour * 360..(hour + 1) * 360].to_vec(),
                ..chunk(start, number)
            })
            .collect();
        let frame = host.frame(&rows, start, start + HOUR - 10_000_000);
        bed.store
            .commit_timed(id, vec![(frame, ClockAhead::NONE)], Vec::new())
            .await
            .unwrap();
    }
    compacted(&bed).await;
    let rows = i64::try_from(SERIES).unwrap() * 24;
    bed.wait_for("SELECT count(*) FROM metrics_1h", rows).await;
    let stats = bed.store.stats();
    for (name, most) in [("metrics_5m", 26.0), ("metrics_1h", 40.0)] {
        let table = stats.tables.iter().find(|table| table.table == name).unwrap();
        let bytes = table.bytes as f64 / table.rows as f64;
        println!("{name}: {bytes:.2} bytes a row");
        assert!(bytes <= most, "{name}: {bytes} bytes a row");
    }
    bed.close().await;
}

#[test]
fn file_that_was_not_finished_is_not_left() {
    let folder = folder();
    let index = crate::shape::table_index_by_name("metrics_5m").unwrap();
    let table = &crate::shape::sql_tables()[index];
    let origins = std::sync::Arc::new(crate::label::Origins::tier([0; 16]));
    let part = crate::compact::Part::begin(folder.path(), table, 0, &origins).unwrap();
    let files = || {
        std::fs::read_dir(folder.path().join("metrics_5m"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 1);
    drop(part);
    assert_eq!(files(), 0);
}
