use collector_promql::{Engine, Options, QueryTimes, parse_selector};
use collector_store::{QueryLimits, Store, StoreConfig, to_json_rows};
use fleetmend_event::Fact;
use fleetmend_event::metric::{MetricFrame, SeriesKey as Attributes, SeriesSet};
use fleetmend_shutdown::Tasks;
use tokio_util::sync::CancellationToken;

use super::*;

const MINUTE: i64 = 60_000_000;

fn window(start_s: i64, samples: u64) -> collector_store::SeriesWindow {
    let at = |second: i64| TimeMicros(second * 1_000_000 + 400);
    collector_store::SeriesWindow {
        start: TimeMicros(start_s * 1_000_000),
        length_us: 300_000_000,
        count: samples,
        sum: 3.0,
        min: 1.0,
        max: 2.0,
        first: (at(start_s), 1.0),
        last: (at(start_s + samples as i64 - 1), 2.0),
        growth: 1.0,
        resets: 0,
    }
}

#[test]
fn ends_of_windows_stand_among_the_samples() {
    let key = SeriesKey {
        name: "system.uptime".to_owned(),
        labels: "{}".to_owned(),
        host: OWN_HOST,
        unit: "s".to_owned(),
    };
    let series = StoredSeries {
        key: Arc::new(key),
        times: [10, 700, 1_300]
            .map(|second| TimeMicros(second * 1_000_000))
            .to_vec(),
        values: vec![5.0, f64::NAN, 7.0],
        windows: vec![window(300, 2), window(900, 1), window(1_500, 3)],
    };
    let answer = SeriesAnswer {
        tiers: vec![TierSpan {
            window_us: 300_000_000,
            from: TimeMicros(300_000_000),
            to: TimeMicros(1_800_000_000),
        }],
        series: vec![series],
        ..SeriesAnswer::default()
    };
    let selection = selection_of(answer, &Hosts::default(), "are not kept any more");
    let samples = &selection.series[0];
    assert_eq!(
        samples.times_ms,
        [
            10_000, 300_000, 301_000, 700_000, 900_000, 1_300_000, 1_500_000, 1_502_000
        ]
    );
    assert_eq!(samples.values[3].to_bits(), STALE_BITS);
    assert_eq!(samples.values[4], 2.0);
    let windows = &selection.windows[&samples.labels];
    assert_eq!((windows.len(), windows[0].count), (3, 2));
    assert_eq!(
        (windows[2].first, windows[2].last),
        ((1_500_000, 1.0), (1_502_000, 2.0))
    );
    let note = "values are from 5-minute data between 1970-01-01T00:05:00";
    assert!(selection.notes[0].starts_with(note), "{}", selection.notes[0]);
}

/// Ten hours of yesterday, a sample every minute that is greater by one, and their windows.
async fn ten_hours(store: &Store, host: HostId) -> TimeMicros {
    let day = 24 * 60 * MINUTE;
    let start = TimeMicros::now().0.div_euclid(day) * day - day;
    let attributes = Attributes {
        name: "system.load".to_owned(),
        unit: "1".to_owned(),
        labels: Default::default(),
    };
    let series: SeriesSet = std::iter::once(attributes).collect();
    let fact = |minute: i64| {
        Fact::from(MetricFrame {
            time: TimeMicros(start + minute * MINUTE),
            series: series.clone(),
            values: vec![minute as f64],
        })
    };
    store
        .append_for(host, (0..600).map(fact).collect())
        .await
        .unwrap();
    store.seal().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = store
            .sql("SELECT count(*) AS n FROM metrics_1h", QueryLimits::default())
            .await
            .unwrap();
        let rows = to_json_rows(&answer.batches).unwrap();
        if rows[0]["n"] == 10 {
            return TimeMicros(start);
        }
        assert!(tokio::time::Instant::now() < deadline, "no windows: {rows:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn windows_answer_where_samples_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        folder: folder.path().to_owned(),
        tier_interval_s: 0,
        maintenance_interval_ms: 20,
        free_bytes_min: 0,
        ..StoreConfig::default()
    };
    let store = Store::open(config).await.unwrap();
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    let host = HostId::random();
    let start = ten_hours(&store, host).await;
    let held: Arc<dyn FactStore> = Arc::new(store.clone());
    let directory = Arc::new(Directory::new(Arc::clone(&held)));
    let series = StoreSeries::new(held, directory, Duration::from_secs(20), QueryClass::User);
    let request = |samples_max, longest_ms| SelectRequest {
        matchers: parse_selector("system_load").unwrap(),
        after_ms: millis(start) - 1,
        until_ms: millis(start) + 36_000_000,
        longest_ms,
        samples_max,
        series_max: 10,
    };
    // All samples, while there is room for them.
    let whole = series.select(&request(600, 3_600_000)).await.unwrap();
    assert_eq!((whole.series[0].values.len(), whole.windows.len()), (600, 0));
    assert!(whole.notes.is_empty());
    let hours = series.select(&request(599, 3_600_000)).await.unwrap();
    let ends = (0..10).flat_map(|hour| [hour * 60, hour * 60 + 59]);
    let ends: Vec<f64> = ends.map(f64::from).collect();
    assert_eq!(hours.series[0].values, ends);
    let windows = hours.windows.values().next().unwrap();
    assert_eq!(
        (windows.len(), windows[0].count, windows[1].sum),
        (10, 60, 5_370.0)
    );
    assert!(hours.notes[0].contains("60-minute data"), "{:?}", hours.notes);
    let refused = series.select(&request(599, 299_999)).await.unwrap_err();
    assert!(matches!(refused, SourceError::TooMuch(_)), "{refused}");

    // Whose hosts are not seen, whose windows are not either.
    let foreign = series.seen_by(&HostScope::only([HostId::random()]));
    for samples_max in [599, 600] {
        assert!(
            foreign
                .select(&request(samples_max, 3_600_000))
                .await
                .unwrap()
                .series
                .is_empty()
        );
    }

    // The whole way: a query says for itself how long windows may be, and its answer that there are some.
    let mut options = Options::default();
    options.limits.samples_max = 599;
    let engine = Engine::new(Arc::new(series), options);
    let times = QueryTimes {
        start_ms: millis(start) + 3_599_999,
        end_ms: millis(start) + 35_999_999,
        step_ms: 3_600_000,
    };
    let cancel = CancellationToken::new();
    let answer = engine.range("system_load", times, &cancel).await.unwrap();
    assert!(
        answer
            .annotations
            .infos
            .iter()
            .any(|info| info.contains("60-minute data"))
    );
    let collector_promql::Data::Matrix(matrix) = answer.data else {
        panic!("no matrix");
    };
    let lasts: Vec<f64> = (0..10).map(|hour| f64::from(hour * 60 + 59)).collect();
    assert_eq!(matrix[0].values, lasts);
    let report = tasks.drain(Duration::from_secs(20)).await;
    assert!(report.is_clean(), "{report:?}");
}
