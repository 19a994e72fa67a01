//! What holds of every query: it never panics, and a range query gives at each step what an instant query gives.

#![expect(clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

#[path = "properties/query.rs"]
mod query;

use std::sync::Arc;

use async_trait::async_trait;
use collector_promql::{
    Answer, Data, Engine, Labels, NameRemoval, Options, QueryError, QueryTimes, STALE_BITS, SelectRequest,
    Selection, SeriesSamples, SeriesSource, SourceError,
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

const STEP_MS: i64 = 30_000;
const STEPS: i64 = 6;

/// Series that come and go, reset, and hold what floats can hold.
struct Fixture(Vec<SeriesSamples>);

#[async_trait]
impl SeriesSource for Fixture {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        let mut selection = Selection::default();
        for series in &self.0 {
            if !request
                .matchers
                .iter()
                .all(|matcher| matcher.matches(series.labels.get(&matcher.name)))
            {
                continue;
            }
            let (times_ms, values) = (series.times_ms.iter().zip(&series.values))
                .filter(|(time, _)| **time > request.after_ms && **time <= request.until_ms)
                .unzip();
            selection.series.push(SeriesSamples {
                labels: series.labels.clone(),
                times_ms,
                values,
                ..SeriesSamples::default()
            });
        }
        Ok(selection)
    }
}

fn fixture() -> Arc<Fixture> {
    let mut series = Vec::new();
    for (number, (name, job)) in ["up", "a_total", "b_bucket"]
        .iter()
        .flat_map(|name| ["x", "y", "z"].map(|job| (*name, job)))
        .enumerate()
    {
        let number = i64::try_from(number).expect("few series");
        for le in ["1", "2", "+Inf"] {
            let mut pairs = vec![("__name__", name), ("job", job), ("le", le)];
            if name == "up" {
                pairs.pop();
                if le != "1" {
                    continue;
                }
            }
            let step = 7_000 + number * 1_000;
            let times_ms: Vec<i64> = (0..60)
                .map(|tick| tick * step)
                .filter(|time| (time / 60_000) % 5 != number % 5)
                .collect();
            let values = (times_ms.iter())
                .map(|time| match (time / step + number) % 17 {
                    16 => f64::from_bits(STALE_BITS),
                    15 if name == "up" => f64::NAN,
                    14 if name == "up" => f64::INFINITY,
                    other => (other * (number + 1)) as f64 + if le == "1" { 0.0 } else { 5.0 },
                })
                .collect();
            series.push(SeriesSamples {
                labels: Labels::new(pairs),
                times_ms,
                values,
                ..SeriesSamples::default()
            });
        }
    }
    Arc::new(Fixture(series))
}

fn engine(name_removal: NameRemoval) -> Engine {
    Engine::new(
        fixture(),
        Options {
            name_removal,
            ..Options::default()
        },
    )
}

fn times() -> QueryTimes {
    QueryTimes {
        start_ms: 200_000,
        end_ms: 200_000 + STEP_MS * (STEPS - 1),
        step_ms: STEP_MS,
    }
}

fn no_panic(result: &Result<Answer, QueryError>) {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(
            !text.contains("unexpected error") && !text.contains("cannot be parsed"),
            "{text}"
        );
    }
}

/// What a range query says of one step, in the form of an instant query's answer.
fn at_step(answer: &Answer, time_ms: i64) -> Vec<(Labels, f64)> {
    let Data::Matrix(series) = &answer.data else {
        panic!("a range query gives a matrix")
    };
    let mut found = Vec::new();
    for one in series {
        found.extend(
            one.times_ms
                .iter()
                .zip(&one.values)
                .filter(|(time, _)| **time == time_ms)
                .map(|(_, value)| (one.labels.clone(), *value)),
        );
    }
    found
}

fn of_instant(answer: &Answer) -> Vec<(Labels, f64)> {
    let mut found: Vec<(Labels, f64)> = match &answer.data {
        Data::Vector(samples) => samples
            .iter()
            .map(|sample| (sample.labels.clone(), sample.value))
            .collect(),
        Data::Scalar { value, .. } => vec![(Labels::default(), *value)],
        Data::Text { .. } | Data::Matrix(_) => panic!("not asked for"),
    };
    found.sort_by(|left, right| left.0.cmp(&right.0));
    found
}

fn same(left: &[(Labels, f64)], right: &[(Labels, f64)]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .all(|((left_labels, left), (right_labels, right))| {
                // Rows that are not there change the order in which sums are made.
                let near = (left - right).abs() <= 1e-9 * left.abs().max(right.abs());
                left_labels == right_labels && (left == right || near || left.is_nan() && right.is_nan())
            })
}

async fn compare(query: &str, name_removal: NameRemoval) {
    let engine = engine(name_removal);
    let cancel = CancellationToken::new();
    let range = engine.range(query, times(), &cancel).await;
    no_panic(&range);
    let mut failed = false;
    for step in 0..STEPS {
        let time_ms = times().start_ms + step * STEP_MS;
        let instant = engine.instant(query, time_ms, &cancel).await;
        no_panic(&instant);
        match (&range, instant) {
            (Ok(range), Ok(instant)) => {
                let (range, instant) = (at_step(range, time_ms), of_instant(&instant));
                assert!(
                    same(&range, &instant),
                    "{query} at {time_ms}:\nrange   {range:?}\ninstant {instant:?}"
                );
            }
            (Ok(_), Err(error)) => panic!("{query} at {time_ms}: only the instant query fails: {error}"),
            (Err(_), Ok(_)) => {}
            (Err(_), Err(_)) => failed = true,
        }
    }
    // A subquery of a range query also computes steps that are in no window.
    let has_subquery = query.contains(':');
    assert!(
        range.is_ok() || failed || has_subquery,
        "{query}: only the range query fails: {:?}",
        range.err()
    );
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn range_query_equals_instant_queries(query in query::vector(), delayed in any::<bool>()) {
        let name_removal = if delayed { NameRemoval::Delayed } else { NameRemoval::Immediate };
        block_on(compare(&query, name_removal));
    }

    #[test]
    fn no_text_makes_the_parser_panic(query in query::soup()) {
        if let Err(error) = Engine::check(&query) {
            prop_assert!(!error.to_string().contains("cannot be parsed"), "{query}");
        }
    }

    #[test]
    fn no_query_makes_the_evaluator_panic(query in query::soup()) {
        block_on(async {
            let engine = engine(NameRemoval::Delayed);
            let cancel = CancellationToken::new();
            no_panic(&engine.instant(&query, 250_000, &cancel).await);
            no_panic(&engine.range(&query, times(), &cancel).await);
        });
    }
}
