use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};

use super::compact::compacted;
use super::testbed::{Bed, Host, folder, open_with};
use super::tier::{HOUR, building, holding, send, yesterday};
use crate::{QueryError, Resolution, SeriesAnswer, SeriesSelect};

const FIVE: i64 = 300_000_000;
const ROWS: i64 = 24;

/// Two hours with ten samples in every window of five minutes, in a file for each hour, as windows too.
async fn two_hours(bed: &Bed, id: HostId, host: &mut Host, start: i64) {
    for hour in 0..2 {
        for window in 0..12 {
            let begin = start + hour * HOUR + window * FIVE;
            let value = |n: usize| (window * 10) as f64 + n as f64;
            send(bed, id, host, begin, std::array::from_fn(value)).await;
        }
        compacted(bed).await;
    }
    bed.wait_for("SELECT count(*) FROM metrics_5m", ROWS).await;
    bed.wait_for("SELECT count(*) FROM metrics_1h", 2).await;
}

/// Lets the oldest file of samples go.
async fn forget_first_hour(bed: &Bed) {
    let stats = bed.store.stats();
    let metrics = stats
        .tables
        .iter()
        .find(|table| table.table == "metrics")
        .unwrap();
    assert_eq!(metrics.files, 2);
    let limits = holding("metrics", metrics.bytes - 1);
    crate::retain::retain(&bed.store.inner, &limits).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 120);
}

fn select(from: i64, to: i64, resolution: Resolution) -> SeriesSelect {
    SeriesSelect {
        resolution,
        ..SeriesSelect::between(TimeMicros(from - 1), TimeMicros(to))
    }
}

/// Samples, windows as `(start, length)` in minutes, and how many samples both know of; of the only series.
fn told(answer: &SeriesAnswer, start: i64) -> (usize, Vec<(i64, i64)>, u64) {
    assert_eq!(answer.series.len(), 1, "{answer:?}");
    let series = &answer.series[0];
    assert_eq!(series.times.len(), series.values.len());
    assert!(series.times.is_sorted_by(|one, next| one < next));
    let minutes = |micros: i64| micros / 60_000_000;
    let windows = series.windows.iter();
    let windows = windows.map(|window| (minutes(window.start.0 - start), minutes(window.length_us)));
    let counts: u64 = series.windows.iter().map(|window| window.count).sum();
    (
        series.times.len(),
        windows.collect(),
        counts + series.times.len() as u64,
    )
}

#[tokio::test]
async fn range_over_samples_and_windows_has_no_seam() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    two_hours(&bed, id, &mut host, start).await;
    let all = |resolution| bed.store.select(select(start, start + 2 * HOUR, resolution));
    let whole = all(Resolution::Samples).await.unwrap();
    assert_eq!(told(&whole, start), (240, vec![], 240));
    // While all samples are there, they are the answer.
    let finest = all(Resolution::Finest).await.unwrap();
    assert_eq!(told(&finest, start), (240, vec![], 240));
    assert!(finest.tiers.is_empty());

    forget_first_hour(&bed).await;
    let rest = all(Resolution::Samples).await.unwrap();
    assert_eq!(told(&rest, start), (120, vec![], 120));
    let five: Vec<(i64, i64)> = (0..12).map(|window| (window * 5, 5)).collect();
    let finest = all(Resolution::Finest).await.unwrap();
    assert_eq!(told(&finest, start), (120, five.clone(), 240));
    let tier = finest.tiers[0];
    assert_eq!(
        (tier.window_us, tier.from.0, tier.to.0),
        (FIVE, start, start + HOUR)
    );
    let window = finest.series[0].windows[1];
    assert_eq!(
        (window.count, window.sum, window.growth, window.resets),
        (10, 145.0, 9.0, 0)
    );
    assert_eq!(window.first, (TimeMicros(start + FIVE), 10.0));
    assert_eq!(window.last, (TimeMicros(start + FIVE + 9_000_000), 19.0));

    // Late samples of a window whose other samples are gone do not hide it, nor count beside it.
    send(
        &bed,
        id,
        &mut host,
        start + 20_000_000,
        [f64::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    )
    .await;
    let late = all(Resolution::Finest).await.unwrap();
    assert_eq!(told(&late, start), (120, five, 240));

    // Where five minutes are gone too, the hour stands.
    crate::retain::retain(&bed.store.inner, &holding("metrics_5m", 0))
        .await
        .unwrap();
    let coarse = all(Resolution::Finest).await.unwrap();
    assert_eq!(told(&coarse, start), (120, vec![(0, 60)], 240));
    bed.close().await;
}

#[tokio::test]
async fn window_is_given_where_it_reaches_into_the_time() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    two_hours(&bed, id, &mut host, start).await;
    forget_first_hour(&bed).await;
    let of = |from, to| bed.store.select(select(from, to, Resolution::Finest));
    // Between the first and the last sample of a window.
    let within = of(start + FIVE + 3_000_000, start + FIVE + 4_000_000)
        .await
        .unwrap();
    assert_eq!(told(&within, start).1, [(5, 5)]);
    // After the last one.
    let after = of(start + FIVE + 10_000_000, start + 2 * FIVE - 1).await.unwrap();
    assert!(after.series.is_empty(), "{after:?}");
    // From one to the other side of the seam, in the midst of windows.
    let across = of(start + HOUR - FIVE + 5_000_000, start + HOUR + 4_000_000)
        .await
        .unwrap();
    assert_eq!(told(&across, start), (5, vec![(55, 5)], 15));
    bed.close().await;
}

#[tokio::test]
async fn windows_are_given_for_samples_when_they_are_asked_for() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    two_hours(&bed, id, &mut host, start).await;
    // Of today there are no windows yet.
    let now = TimeMicros::now().0;
    send(&bed, id, &mut host, now - 10_000_000, [1.0; 10]).await;
    let of = |longest_us| {
        let resolution = Resolution::windows(longest_us).unwrap();
        bed.store.select(select(start, now, resolution))
    };
    assert_eq!(
        told(&of(HOUR).await.unwrap(), start),
        (10, vec![(0, 60), (60, 60)], 250)
    );
    let five = of(HOUR - 1).await.unwrap();
    assert_eq!((told(&five, start).0, told(&five, start).1.len()), (10, 24));
    assert_eq!(Resolution::windows(FIVE - 1), None);
    let finest = Resolution::Windows { longest_us: 1 };
    let samples = bed.store.select(select(start, now, finest)).await.unwrap();
    assert_eq!(told(&samples, start), (250, vec![], 250));
    bed.close().await;
}

#[tokio::test]
async fn limits_and_hosts_hold_for_windows() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    two_hours(&bed, id, &mut host, start).await;
    let all = || select(start, start + 2 * HOUR, Resolution::Finest);
    // Windows whose samples are there take nothing.
    let whole = SeriesSelect {
        samples_max: 240,
        ..all()
    };
    assert_eq!(told(&bed.store.select(whole).await.unwrap(), start).0, 240);
    crate::retain::retain(&bed.store.inner, &holding("metrics", 0))
        .await
        .unwrap();
    assert_eq!(told(&bed.store.select(all()).await.unwrap(), start).2, 240);
    let refused = |select| async { bed.store.select(select).await.unwrap_err() };
    // 24 of five minutes and two of an hour.
    let most = 8 * 26;
    let samples = |samples_max| SeriesSelect { samples_max, ..all() };
    let error = refused(samples(most - 1)).await;
    assert_eq!(
        error,
        QueryError::TooMuch {
            what: "samples",
            most: most - 1
        }
    );
    assert!(bed.store.select(samples(most)).await.is_ok());
    let error = refused(SeriesSelect {
        series_max: 0,
        ..all()
    })
    .await;
    assert_eq!(
        error,
        QueryError::TooMuch {
            what: "series",
            most: 0
        }
    );
    let late = SeriesSelect {
        timeout: Duration::ZERO,
        ..all()
    };
    assert!(matches!(
        refused(late).await,
        QueryError::Timeout { .. } | QueryError::Busy
    ));
    let nothing = [
        SeriesSelect {
            hosts: Some(BTreeSet::from([HostId::random()])),
            ..all()
        },
        SeriesSelect {
            names: Some(BTreeSet::from(["other".to_owned()])),
            ..all()
        },
        SeriesSelect {
            keep: Some(Arc::new(|_| false)),
            ..all()
        },
    ];
    for select in nothing {
        assert!(bed.store.select(select).await.unwrap().series.is_empty());
    }
    let own = SeriesSelect {
        hosts: Some(BTreeSet::from([id])),
        ..all()
    };
    assert_eq!(told(&bed.store.select(own).await.unwrap(), start).2, 240);
    bed.close().await;
}

#[tokio::test]
async fn damaged_file_of_windows_is_set_aside_and_told_as_a_gap() {
    let folder = folder();
    let bed = open_with(building(folder.path())).await;
    let (id, mut host, start) = (HostId::random(), Host::new(), yesterday());
    two_hours(&bed, id, &mut host, start).await;
    crate::retain::retain(&bed.store.inner, &holding("metrics", 0))
        .await
        .unwrap();
    let files = std::fs::read_dir(folder.path().join("parquet/metrics_5m")).unwrap();
    for file in files {
        let file = file.unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        let end = bytes.len() / 3;
        bytes[4..end].fill(0xa5);
        std::fs::write(&file, bytes).unwrap();
    }
    let answer = bed
        .store
        .select(select(start, start + 2 * HOUR, Resolution::Finest))
        .await
        .unwrap();
    assert_eq!(told(&answer, start), (0, vec![(0, 60), (60, 60)], 240));
    bed.wait_for("SELECT CAST(sum(count) AS BIGINT) FROM gaps", ROWS)
        .await;
    bed.close().await;
}
