use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{HostId, TimeMicros};

use super::compact::compacted;
use super::testbed::{Bed, Host, START, chunk, folder, open};
use crate::{QueryError, SeriesSelect, StoredSeries};

fn everything() -> SeriesSelect {
    SeriesSelect::between(TimeMicros(0), TimeMicros(i64::MAX))
}

/// Series as text: name, host, times in seconds since the start, values.
fn told(series: &[StoredSeries]) -> Vec<(String, HostId, Vec<i64>, Vec<u64>)> {
    let second = |time: &TimeMicros| (time.0 - START) / 1_000_000;
    let of = |series: &StoredSeries| {
        (
            series.key.name.clone(),
            series.key.host,
            series.times.iter().map(second).collect(),
            series.values.iter().map(|value| value.to_bits()).collect(),
        )
    };
    series.iter().map(of).collect()
}

async fn two_hosts(bed: &Bed) -> [Host; 2] {
    let mut hosts = [Host::new(), Host::new()];
    for _ in 0..3 {
        for host in &mut hosts {
            let frame = host.metrics(4);
            bed.store.commit(host.id, vec![frame]).await.unwrap();
        }
    }
    hosts
}

#[tokio::test]
async fn series_are_the_same_hot_and_compacted() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let hosts = two_hosts(&bed).await;
    let hot = bed.store.select(everything()).await.unwrap();
    assert_eq!(hot.series.len(), 8);
    assert!(hot.series.iter().all(|series| series.times.len() == 30));
    compacted(&bed).await;
    let cold = bed.store.select(everything()).await.unwrap();
    assert_eq!(told(&cold.series), told(&hot.series));

    // A part of it, by name, host and time.
    let some = SeriesSelect {
        names: Some(BTreeSet::from(["system.metric.002".to_owned()])),
        hosts: Some(BTreeSet::from([hosts[1].id])),
        ..SeriesSelect::between(TimeMicros(START + 12_000_000), TimeMicros(START + 14_000_000))
    };
    let part = bed.store.select(some.clone()).await.unwrap();
    let wanted = vec![(
        "system.metric.002".to_owned(),
        hosts[1].id,
        vec![13, 14],
        vec![3.0_f64.to_bits(), 4.0_f64.to_bits()],
    )];
    assert_eq!(told(&part.series), wanted);
    let keys = bed.store.series_keys(some).await.unwrap();
    assert_eq!(keys, vec![part.series[0].key.as_ref().clone()]);
    let keep = SeriesSelect {
        keep: Some(Arc::new(|key| key.name.ends_with('3'))),
        ..everything()
    };
    assert_eq!(bed.store.series_keys(keep).await.unwrap().len(), 2);
    bed.close().await;
}

#[tokio::test]
async fn sample_that_came_later_wins_wherever_it_lies() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let of = |start: i64, values: &[f64]| MetricChunk {
        value: values.to_vec(),
        ..chunk(START + start * 1_000_000, 0)
    };
    let first = host.frame(&[of(0, &[1.0, 2.0, f64::NAN])], START, START + 2_000_000);
    bed.store.commit(host.id, vec![first]).await.unwrap();
    compacted(&bed).await;
    let second = host.frame(&[of(1, &[7.0, 8.0, 9.0])], START + 1_000_000, START + 3_000_000);
    bed.store.commit(host.id, vec![second]).await.unwrap();
    for _ in 0..2 {
        let answer = bed.store.select(everything()).await.unwrap();
        assert_eq!(answer.series.len(), 1);
        let times: Vec<i64> = answer.series[0].times.iter().map(|time| time.0 - START).collect();
        assert_eq!(times, [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(answer.series[0].values, [1.0, 7.0, 8.0, 9.0]);
        compacted(&bed).await;
    }
    bed.close().await;
}

#[tokio::test]
async fn more_than_is_allowed_is_an_error() {
    let folder = folder();
    let bed = open(folder.path()).await;
    two_hosts(&bed).await;
    for _ in 0..2 {
        let refused = |select| async { bed.store.select(select).await.unwrap_err() };
        let series = SeriesSelect {
            series_max: 7,
            ..everything()
        };
        assert_eq!(
            refused(series).await,
            QueryError::TooMuch {
                what: "series",
                most: 7
            }
        );
        let samples = SeriesSelect {
            samples_max: 239,
            ..everything()
        };
        assert_eq!(
            refused(samples).await,
            QueryError::TooMuch {
                what: "samples",
                most: 239
            }
        );
        let just = SeriesSelect {
            series_max: 8,
            samples_max: 240,
            ..everything()
        };
        assert_eq!(bed.store.select(just).await.unwrap().series.len(), 8);
        let late = SeriesSelect {
            timeout: Duration::ZERO,
            ..everything()
        };
        assert!(matches!(
            refused(late).await,
            QueryError::Timeout { .. } | QueryError::Busy
        ));
        compacted(&bed).await;
    }
    bed.close().await;
}

#[tokio::test]
async fn damaged_file_is_set_aside_and_told_as_a_gap() {
    let folder = folder();
    let bed = open(folder.path()).await;
    two_hosts(&bed).await;
    compacted(&bed).await;
    let file = std::fs::read_dir(folder.path().join("parquet/metrics"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&file).unwrap();
    // Everything before the footer.
    let end = bytes.len() / 3;
    bytes[4..end].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let answer = bed.store.select(everything()).await.unwrap();
    assert!(answer.series.is_empty(), "{:?}", answer.series);
    assert_eq!(answer.gaps.len(), 1, "{:?}", answer.gaps);
    assert_eq!(answer.gaps[0].gap.count, 240);
    bed.close().await;
}
