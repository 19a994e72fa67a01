//! Windows in the place of samples: answers from them beside those from the samples that they were made of.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test ends by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use collector_promql::{
    Answer, Data, Engine, Labels, Options, QueryTimes, STALE_BITS, SelectRequest, Selection, SeriesSamples,
    SeriesSource, SeriesWindow, SourceError, Windows,
};
use tokio_util::sync::CancellationToken;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Between samples.
const EVERY: i64 = 10_000;
const SPAN: i64 = 24 * HOUR;
/// What lies before is windows.
const SEAM: i64 = 18 * HOUR;
const NOTE: &str = "values are from windows";

type Samples = Vec<(i64, f64)>;

/// Series of a day. `length` is that of the windows before the seam, 0 for samples alone.
struct Day {
    series: Vec<(Labels, Samples)>,
    length: i64,
}

#[async_trait]
impl SeriesSource for Day {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        let mut selection = Selection::default();
        for (labels, samples) in &self.series {
            let matches =
                |matcher: &collector_promql::LabelMatcher| matcher.matches(labels.get(&matcher.name));
            if !request.matchers.iter().all(matches) {
                continue;
            }
            let wanted = |from: i64, to: i64| from <= request.until_ms && to > request.after_ms;
            let mut windows = windows(samples, self.length);
            windows.retain(|window| wanted(window.first.0, window.last.0));
            let seam = if self.length == 0 { i64::MIN } else { SEAM };
            let ends = windows.iter().flat_map(|window| [window.first, window.last]);
            let after = samples
                .iter()
                .filter(|(time, _)| *time >= seam && wanted(*time, *time));
            let mut shown: Samples = ends.chain(after.copied()).collect();
            shown.dedup_by_key(|(time, _)| *time);
            let (times_ms, values) = shown.into_iter().unzip();
            selection.series.push(SeriesSamples {
                labels: labels.clone(),
                times_ms,
                values,
                ..SeriesSamples::default()
            });
            if !windows.is_empty() {
                selection.notes = vec![NOTE.to_owned()];
                selection.windows.insert(labels.clone(), windows);
            }
        }
        Ok(selection)
    }
}

/// The windows before the seam.
fn windows(samples: &Samples, length: i64) -> Vec<SeriesWindow> {
    let mut windows: BTreeMap<i64, SeriesWindow> = BTreeMap::new();
    let before = samples
        .iter()
        .filter(|(time, value)| *time < SEAM && !value.is_nan());
    for (time, value) in before.filter(|_| length > 0).copied() {
        let window = windows.entry(time / length).or_insert(SeriesWindow {
            first: (time, value),
            last: (time, value),
            count: 0,
            sum: 0.0,
            min: value,
            max: value,
            growth: 0.0,
            resets: 0,
        });
        let former = window.last.1;
        window.growth += if value < former { value } else { value - former };
        window.resets += u64::from(value < former);
        window.last = (time, value);
        window.count += 1;
        window.sum += value;
        window.min = window.min.min(value);
        window.max = window.max.max(value);
    }
    windows.into_values().collect()
}

/// A number that looks like chance, from 0 to 1.
fn chance(tick: i64) -> f64 {
    let mixed = (tick as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / f64::from(1 << 24)
}

fn series(name: &str, value: impl Fn(i64) -> Option<f64>) -> (Labels, Samples) {
    let ticks = 0..SPAN / EVERY;
    let samples = ticks.filter_map(|tick| Some((tick * EVERY, value(tick)?)));
    (Labels::new([("__name__", name)]), samples.collect())
}

/// Regular, with resets, with gaps, with late and irregular times, and a gauge.
fn day() -> Vec<(Labels, Samples)> {
    let mut total = 0.0;
    let mut grown = Vec::new();
    for tick in 0..SPAN / EVERY {
        total += (chance(tick) * 20.0).floor();
        grown.push(total);
    }
    let at = |tick: i64| grown[usize::try_from(tick).expect("a tick")];
    let since = |tick: i64, every: i64| at(tick) - at(tick - tick % every);
    let mut all = vec![
        series("even_total", |tick| Some(tick as f64 * 3.0)),
        series("regular_total", |tick| Some(at(tick))),
        series("reset_total", |tick| Some(since(tick, 293))),
        series("gaps_total", |tick| (tick % 540 < 400).then(|| at(tick))),
        series("markers_total", |tick| {
            Some(if tick % 540 == 400 {
                f64::from_bits(STALE_BITS)
            } else {
                at(tick)
            })
            .filter(|_| tick % 540 <= 400)
        }),
        series("gauge", |tick| {
            Some((tick as f64 / 500.0).sin() * 40.0 + chance(tick) * 5.0)
        }),
    ];
    let mut uneven = series("uneven_total", |tick| Some(at(tick)));
    for (number, (time, _)) in (0..).zip(&mut uneven.1) {
        *time += (chance(number) * 4_000.0) as i64;
    }
    all.push(uneven);
    all
}

const COUNTERS: [&str; 6] = [
    "even_total",
    "regular_total",
    "reset_total",
    "gaps_total",
    "markers_total",
    "uneven_total",
];

struct Two {
    of_samples: Engine,
    of_windows: Engine,
    day: Vec<(Labels, Samples)>,
    length: i64,
}

impl Two {
    fn new(length: i64) -> Self {
        let engine = |length| {
            let series = day();
            Engine::new(Arc::new(Day { series, length }), Options::default())
        };
        Self {
            of_samples: engine(0),
            of_windows: engine(length),
            day: day(),
            length,
        }
    }

    async fn ask(engine: &Engine, query: &str, times: QueryTimes) -> Answer {
        let answer = engine.range(query, times, &CancellationToken::new()).await;
        answer.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Both answers at every step, as `(time, samples, windows)`; none where there is no value.
    async fn both(&self, query: &str, times: QueryTimes) -> Vec<(i64, Option<f64>, Option<f64>)> {
        let (samples, windows) = (
            Self::ask(&self.of_samples, query, times).await,
            Self::ask(&self.of_windows, query, times).await,
        );
        assert!(samples.annotations.infos.iter().all(|info| info != NOTE));
        assert!(
            windows.annotations.infos.contains(NOTE),
            "{query}: {:?}",
            windows.annotations
        );
        let (samples, windows) = (points(samples), points(windows));
        let steps = (times.start_ms..=times.end_ms).step_by(usize::try_from(times.step_ms).expect("a step"));
        steps
            .map(|at| (at, samples.get(&at).copied(), windows.get(&at).copied()))
            .collect()
    }

    /// The most that a window of this series grows, and the most that two of its samples differ.
    fn spread(&self, name: &str) -> (f64, f64) {
        let (_, samples) = self
            .day
            .iter()
            .find(|(labels, _)| labels.name() == name)
            .expect(name);
        let windows = windows(samples, self.length);
        windows.iter().fold((0.0, 0.0), |(growth, apart), window| {
            (window.growth.max(growth), (window.max - window.min).max(apart))
        })
    }
}

fn points(answer: Answer) -> BTreeMap<i64, f64> {
    let Data::Matrix(mut series) = answer.data else {
        panic!("no matrix");
    };
    assert!(series.len() <= 1);
    let Some(series) = series.pop() else {
        return BTreeMap::new();
    };
    series.times_ms.into_iter().zip(series.values).collect()
}

/// Ranges that end where windows do: at the last millisecond before the next.
fn aligned(length: i64) -> QueryTimes {
    QueryTimes {
        start_ms: 4 * HOUR - 1,
        end_ms: 23 * HOUR - 1,
        step_ms: length,
    }
}

/// Ranges that end anywhere.
fn anywhere() -> QueryTimes {
    QueryTimes {
        start_ms: 4 * HOUR + 7 * MINUTE + 3_500,
        end_ms: 23 * HOUR,
        step_ms: 17 * MINUTE + 1_300,
    }
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0)
}

#[tokio::test]
async fn whole_windows_give_what_their_samples_give() {
    const FUNCTIONS: [&str; 12] = [
        "count_over_time",
        "sum_over_time",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "present_over_time",
        "first_over_time",
        "last_over_time",
        "rate",
        "increase",
        "delta",
        "resets",
    ];
    for length in [5 * MINUTE, HOUR] {
        let two = Two::new(length);
        for name in COUNTERS.iter().chain(&["gauge"]) {
            for function in FUNCTIONS {
                // Across the seam too.
                let query = format!("{function}({name}[2h])");
                for (at, samples, windows) in two.both(&query, aligned(length)).await {
                    let same = match (samples, windows) {
                        (Some(samples), Some(windows)) => near(samples, windows),
                        (samples, windows) => samples == windows,
                    };
                    assert!(
                        same,
                        "{query} at {at}: {samples:?} of samples, {windows:?} of {length}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn counts_of_regular_samples_are_exact_wherever_a_range_ends() {
    for length in [5 * MINUTE, HOUR] {
        let two = Two::new(length);
        for range in ["1m", "7m", "2h", "5h"] {
            for name in ["even_total", "regular_total"] {
                let query = format!("count_over_time({name}[{range}])");
                for (at, samples, windows) in two.both(&query, anywhere()).await {
                    assert_eq!(samples, windows, "{query} at {at}, windows of {length}");
                }
            }
            // Growth that is even is known everywhere.
            let query = format!("rate(even_total[{range}])");
            for (at, samples, windows) in two.both(&query, anywhere()).await {
                let (samples, windows) = (samples.expect("a rate"), windows.expect("a rate"));
                assert!(near(samples, windows), "{query} at {at}: {samples} {windows}");
            }
        }
    }
}

#[tokio::test]
async fn rates_are_off_by_what_the_windows_at_the_ends_grew_at_most() {
    for length in [5 * MINUTE, HOUR] {
        let two = Two::new(length);
        for name in COUNTERS {
            let (growth, _) = two.spread(name);
            let query = format!("increase({name}[2h])");
            for (at, samples, windows) in two.both(&query, anywhere()).await {
                let (samples, windows) = (samples.expect("an increase"), windows.expect("an increase"));
                // Extrapolation adds its part to both.
                assert!(
                    (samples - windows).abs() <= 2.0 * growth * 1.1,
                    "{query} at {at}: {samples} of samples, {windows} of windows that grow by {growth}"
                );
            }
        }
    }
}

#[tokio::test]
async fn sums_are_off_by_what_samples_of_the_windows_at_the_ends_differ() {
    for length in [5 * MINUTE, HOUR] {
        let two = Two::new(length);
        let (_, apart) = two.spread("gauge");
        let held = 2.0 * (length / EVERY) as f64;
        for (at, samples, windows) in two.both("sum_over_time(gauge[2h])", anywhere()).await {
            let (samples, windows) = (samples.expect("a sum"), windows.expect("a sum"));
            assert!(
                (samples - windows).abs() <= held * apart,
                "at {at}: {samples} {windows}"
            );
        }
        for (at, samples, windows) in two.both("avg_over_time(gauge[2h])", anywhere()).await {
            let (samples, windows) = (samples.expect("a mean"), windows.expect("a mean"));
            assert!(
                (samples - windows).abs() <= held * apart / 719.0,
                "at {at}: {samples} {windows}"
            );
        }
        for (function, sign) in [("min_over_time", 1.0), ("max_over_time", -1.0)] {
            for (at, samples, windows) in two.both(&format!("{function}(gauge[2h])"), anywhere()).await {
                let (samples, windows) = (samples.expect("a value"), windows.expect("a value"));
                assert!(
                    (samples - windows) * sign >= 0.0,
                    "{function} at {at}: {samples} {windows}"
                );
            }
        }
    }
}

#[tokio::test]
async fn series_that_was_there_shows_no_holes_between_its_windows() {
    let times = QueryTimes {
        start_ms: HOUR,
        end_ms: 23 * HOUR,
        step_ms: 90_000,
    };
    for length in [5 * MINUTE, HOUR] {
        let two = Two::new(length);
        for name in COUNTERS.iter().chain(&["gauge"]) {
            let (_, apart) = two.spread(name);
            for (at, samples, windows) in two.both(name, times).await {
                if let Some(sample) = samples {
                    let window =
                        windows.unwrap_or_else(|| panic!("{name} has a hole at {at}, windows of {length}"));
                    let most = apart.max(sample.abs() * 1e-9);
                    assert!(
                        (sample - window).abs() <= most,
                        "{name} at {at}: {sample} {window}"
                    );
                }
            }
            // A range within one window.
            let query = format!("avg_over_time({name}[1m])");
            for (at, samples, windows) in two.both(&query, times).await {
                assert!(
                    samples.is_none() || windows.is_some(),
                    "{query} has a hole at {at}"
                );
            }
        }
        // A gap of more than two windows of five minutes is still one.
        if length < HOUR {
            let holes = two.both("gaps_total", times).await;
            let gone = |(_, samples, windows): &&(i64, Option<f64>, Option<f64>)| {
                samples.is_none() && windows.is_none()
            };
            assert!(holes.iter().filter(gone).count() > 50);
        }
    }
}

#[tokio::test]
async fn functions_of_single_samples_see_those_that_are_known() {
    let two = Two::new(HOUR);
    // The first and the last sample of two windows.
    let query = "changes(even_total[2h])";
    for (at, _, windows) in two.both(query, aligned(HOUR)).await {
        if at < SEAM {
            assert_eq!(windows, Some(3.0), "at {at}");
        }
    }
    for query in [
        "quantile_over_time(0.5, gauge[1m])",
        "changes(gauge[1m])",
        "deriv(gauge[1m])",
    ] {
        for (at, _, windows) in two.both(query, anywhere()).await {
            if at < SEAM {
                assert!(
                    windows.is_none_or(|value| !value.is_nan()),
                    "{query} at {at}: {windows:?}"
                );
            }
        }
    }
}

/// Refuses samples, and says how long windows may be.
struct Asked(std::sync::Mutex<Vec<i64>>);

#[async_trait]
impl SeriesSource for Asked {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        self.0.lock().expect("no panic").push(request.longest_ms);
        Ok(Selection {
            windows: Windows::new(),
            ..Selection::default()
        })
    }
}

#[tokio::test]
async fn windows_may_be_as_long_as_a_step_or_a_twelfth_of_a_range() {
    let cases = [
        ("a", HOUR),
        ("rate(a[1h])", 5 * MINUTE),
        ("rate(a[1m])", 5_000),
        ("max_over_time(a[1d:10m])", 10 * MINUTE),
        ("max_over_time(rate(a[10m])[1d:10m])", 50_000),
        ("a + a", HOUR),
    ];
    for (query, longest) in cases {
        let source = Arc::new(Asked(std::sync::Mutex::default()));
        let engine = Engine::new(Arc::clone(&source) as Arc<dyn SeriesSource>, Options::default());
        let times = QueryTimes {
            start_ms: 0,
            end_ms: SPAN,
            step_ms: HOUR,
        };
        Two::ask(&engine, query, times).await;
        assert_eq!(*source.0.lock().expect("no panic"), [longest], "{query}");
        source.0.lock().expect("no panic").clear();
        let cancel = CancellationToken::new();
        engine.instant("a", 0, &cancel).await.expect("an answer");
        assert_eq!(*source.0.lock().expect("no panic"), [0]);
    }
}
