use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, TimeMicros};

use super::compact::compacted;
use super::testbed::{Bed, Host, chunk, config, folder, open_with};
use crate::{ClockAhead, QueryLimits, StoreConfig, to_json_rows};

const HOUR: i64 = 3_600_000_000;

fn building(folder: &std::path::Path) -> StoreConfig {
    StoreConfig {
        tier_interval_s: 0,
        ..config(folder)
    }
}

/// Ten seconds of one series, by a clock that is known to be right.
async fn send(bed: &Bed, id: HostId, host: &mut Host, start: i64, values: [f64; 10]) {
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
fn yesterday() -> i64 {
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
