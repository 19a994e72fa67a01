//! Queries that must end: too many steps, samples or series, no time left, nobody waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use collector_promql::{
    Data, Engine, Labels, Limits, Options, QueryError, QueryTimes, SelectRequest, Selection, SeriesSamples,
    SeriesSource, SourceError, SourceGap,
};
use tokio_util::sync::CancellationToken;

/// Many series that all look the same.
struct Plenty {
    series: usize,
    samples: usize,
    delay: Duration,
}

#[async_trait]
impl SeriesSource for Plenty {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        tokio::time::sleep(self.delay).await;
        if self.series * self.samples > request.samples_max.saturating_mul(2) {
            return Err(SourceError::TooMuch(format!(
                "more than {} samples",
                request.samples_max
            )));
        }
        let series = (0..self.series)
            .map(|number| SeriesSamples {
                labels: Labels::new([
                    ("__name__".to_owned(), "up".to_owned()),
                    ("n".to_owned(), number.to_string()),
                ]),
                times_ms: (0..self.samples)
                    .map(|tick| i64::try_from(tick).unwrap_or(i64::MAX / 100) * 100)
                    .collect(),
                values: vec![1.0; self.samples],
                ..SeriesSamples::default()
            })
            .collect();
        Ok(Selection {
            series,
            gaps: vec![SourceGap {
                from_ms: 5,
                to_ms: 9,
                labels: Labels::default(),
                text: "host h, 3 samples (spool full)".to_owned(),
            }],
            ..Selection::default()
        })
    }
}

fn engine(series: usize, samples: usize, delay: Duration, change: impl Fn(&mut Limits)) -> Engine {
    let mut options = Options::default();
    change(&mut options.limits);
    let source = Plenty {
        series,
        samples,
        delay,
    };
    Engine::new(Arc::new(source), options)
}

fn times(end_ms: i64, step_ms: i64) -> QueryTimes {
    QueryTimes {
        start_ms: 0,
        end_ms,
        step_ms,
    }
}

#[tokio::test]
async fn range_of_too_many_steps_is_bad_data() {
    let engine = engine(1, 1, Duration::ZERO, |_| {});
    let cancel = CancellationToken::new();
    let error = engine
        .range("up", times(11_000_000, 1_000), &cancel)
        .await
        .expect_err("too many steps");
    assert_eq!(error.kind(), "bad_data");
    assert!(
        error
            .to_string()
            .starts_with("exceeded maximum resolution of 11000 points per timeseries"),
        "{error}"
    );
    engine
        .range("up", times(10_999_000, 1_000), &cancel)
        .await
        .expect("as many as allowed");
    for wrong in [times(1, 0), times(1, -1), times(-1, 1)] {
        assert_eq!(
            engine
                .range("up", wrong, &cancel)
                .await
                .expect_err("wrong")
                .kind(),
            "bad_data"
        );
    }
}

#[tokio::test]
async fn query_of_too_many_samples_or_series_is_refused() {
    let cancel = CancellationToken::new();
    let samples = engine(10, 100, Duration::ZERO, |limits| limits.samples_max = 999);
    let error = samples
        .instant("up", 10_000, &cancel)
        .await
        .expect_err("too many samples");
    assert_eq!(error.kind(), "execution");
    assert!(error.to_string().contains("too many samples"), "{error}");

    let series = engine(10, 1, Duration::ZERO, |limits| limits.series_max = 9);
    let error = series
        .instant("up", 10_000, &cancel)
        .await
        .expect_err("too many series");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        ("execution", "the query selects 10 series, 9 are allowed")
    );

    // What is made of few samples may be much, too.
    let grown = engine(10, 1, Duration::ZERO, |limits| limits.samples_max = 1000);
    let error = grown
        .range("up", times(200_000, 1_000), &cancel)
        .await
        .expect_err("too many values");
    assert!(error.to_string().contains("too many samples"), "{error}");
    let error = grown
        .instant("sum_over_time(vector(1)[1y:1ms])", 10_000, &cancel)
        .await
        .expect_err("too many steps");
    assert!(error.to_string().contains("too many samples"), "{error}");
}

/// Series that each have another value at each time, in buckets.
struct Different;

#[async_trait]
impl SeriesSource for Different {
    async fn select(&self, _: &SelectRequest) -> Result<Selection, SourceError> {
        let series = (0..10_u32).map(|number| SeriesSamples {
            labels: Labels::new([
                ("__name__".to_owned(), "different".to_owned()),
                ("le".to_owned(), number.to_string()),
                ("n".to_owned(), number.to_string()),
            ]),
            times_ms: (0..1_000).map(|tick| tick * 1_000).collect(),
            values: (0..1_000_u32).map(|tick| f64::from(tick * 10 + number)).collect(),
            ..SeriesSamples::default()
        });
        Ok(Selection {
            series: series.collect(),
            ..Selection::default()
        })
    }
}

fn holding(samples_max: usize) -> Engine {
    let mut options = Options::default();
    options.limits.samples_max = samples_max;
    options.limits.series_max = 10_000_000;
    Engine::new(Arc::new(Different), options)
}

#[tokio::test]
async fn what_grows_while_it_is_computed_is_refused_before_it_is_there() {
    let cancel = CancellationToken::new();
    // A day of seconds, each with a value and so with a series of its own: 7 billion values, if they were made.
    let error = engine(1, 1, Duration::ZERO, |_| {})
        .instant(
            "max_over_time(count_values(\"v\", vector(time()))[1d:1s])",
            86_400_000,
            &cancel,
        )
        .await
        .expect_err("too many values");
    assert!(error.to_string().contains("too many s"), "{error}");
    let engine = holding(100_000);
    for query in [
        "count_values(\"v\", different)",
        "histogram_quantiles(sum by (le) (different), \"q\", time() / 1000)",
        "different * on () group_left () count_values(\"v\", max(different))",
    ] {
        let error = engine.range(query, times(999_000, 1_000), &cancel).await;
        let error = error.expect_err(query);
        assert!(error.to_string().contains("too many s"), "{query}: {error}");
    }
}

#[tokio::test]
async fn both_sides_of_an_operator_count() {
    let cancel = CancellationToken::new();
    let range = times(999_000, 1_000);
    // 10,000 values on each side, and as many that come out.
    let sum = "sum by (n) (different) + (sum by (n) (different) + sum by (n) (different))";
    holding(50_000)
        .range(sum, range, &cancel)
        .await
        .expect("enough room");
    let error = holding(25_000)
        .range(sum, range, &cancel)
        .await
        .expect_err("too many values");
    assert!(error.to_string().contains("too many samples"), "{error}");
    holding(25_000)
        .range("different", range, &cancel)
        .await
        .expect("one side has room");
}

#[tokio::test]
async fn patterns_and_matchers_are_bounded() {
    let cancel = CancellationToken::new();
    let engine = engine(1, 1, Duration::ZERO, |_| {});
    for query in [
        "up{a=~\"(((x{200}){200}){200})\"}".to_owned(),
        format!("up{{{}}}", "a=~\"b\",".repeat(101)),
        format!("up{{{}}}", "a=\"b\",".repeat(501)),
    ] {
        let error = engine.instant(&query, 0, &cancel).await.expect_err("too much");
        assert_eq!(error.kind(), "bad_data", "{error}");
    }
    let hosts: Vec<String> = (0..1_000)
        .map(|number| format!("host-{number}.example.org"))
        .collect();
    let query = format!("up{{instance=~\"{}\"}}", hosts.join("|"));
    engine
        .instant(&query, 0, &cancel)
        .await
        .expect("a thousand hosts");
}

#[tokio::test]
async fn annotations_are_told_up_to_a_number() {
    let cancel = CancellationToken::new();
    let engine = engine(1, 1, Duration::ZERO, |_| {});
    let query = "quantile_over_time(0.5, up[5m]) or histogram_quantile(time(), up)";
    let answer = engine
        .range(query, times(1_000_000, 1_000), &cancel)
        .await
        .expect("an answer");
    assert!(answer.annotations.warnings.len() <= 51);
    assert!(
        answer
            .annotations
            .warnings
            .iter()
            .any(|text| text.ends_with(" more warnings"))
    );
}

#[tokio::test]
async fn query_without_time_ends() {
    let cancel = CancellationToken::new();
    let slow_source = engine(1, 1, Duration::from_secs(3600), |limits| {
        limits.timeout = Duration::from_millis(20)
    });
    let error = slow_source
        .instant("up", 0, &cancel)
        .await
        .expect_err("a timeout");
    assert_eq!(error, QueryError::Timeout("series selection"));

    let slow_query = engine(50, 4_000, Duration::ZERO, |limits| {
        limits.timeout = Duration::from_millis(50)
    });
    let query = "quantile_over_time(0.5, up[1h])";
    let error = slow_query
        .range(query, times(10_000_000, 1_000), &cancel)
        .await
        .expect_err("a timeout");
    assert_eq!(error.kind(), "timeout");
}

#[tokio::test]
async fn query_without_time_ends_while_its_patterns_are_compiled() {
    let engine = engine(1, 1, Duration::ZERO, |limits| {
        limits.timeout = Duration::from_millis(1)
    });
    let matchers: Vec<String> = (0..50).map(|number| format!("l{number}=~`\\pL{{4}}`")).collect();
    let query = format!("up{{{}}}", matchers.join(","));
    let error = engine
        .instant(&query, 0, &CancellationToken::new())
        .await
        .expect_err("a timeout");
    assert_eq!(error, QueryError::Timeout("query parsing"));
}

#[tokio::test]
async fn cancelled_query_ends() {
    let engine = engine(50, 4_000, Duration::ZERO, |_| {});
    let cancel = CancellationToken::new();
    let query = "quantile_over_time(0.5, up[1h])";
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(engine.range(query, times(10_000_000, 1_000), &cancel), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        cancel.cancel();
    });
    assert_eq!(answer.expect_err("cancelled").kind(), "canceled");
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "ended only after {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn gaps_are_told_beside_the_values() {
    let engine = engine(1, 10, Duration::ZERO, |_| {});
    let answer = engine
        .instant("up + up", 500, &CancellationToken::new())
        .await
        .expect("an answer");
    assert!(matches!(&answer.data, Data::Vector(samples) if samples.len() == 1 && samples[0].value == 2.0));
    assert_eq!(answer.gaps.len(), 1, "both selectors are one request");
    assert!(
        answer
            .annotations
            .infos
            .iter()
            .any(|info| info.contains("3 samples (spool full)"))
    );
    assert_eq!(answer.samples_read, 10);
}

#[test]
fn deep_and_long_queries_are_refused_or_answered() {
    // Half of the stack that the runtime's threads have.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime
        .enable_all()
        .thread_stack_size(1 << 20)
        .build()
        .expect("a runtime");
    let engine = engine(1, 10, Duration::ZERO, |_| {});
    let cancel = CancellationToken::new();
    let wrapped = |before: &str, after: &str, depth: usize| {
        format!("{}up{}", before.repeat(depth), after.repeat(depth))
    };
    let chained = |length: usize| vec!["up"; length].join(" + ");
    for query in [
        wrapped("(", ")", 100),
        wrapped("-", "", 199),
        chained(200),
        wrapped("abs(-", ")", 99),
        wrapped("sum by (job) (", ")", 100),
        wrapped("topk(1, ", ")", 100),
        wrapped("histogram_quantile(0.5, ", ")", 100),
        wrapped("label_replace(", ", \"a\", \"$1\", \"b\", \"(.*)\")", 100),
        wrapped("max_over_time((", ")[1m:1m])", 45),
        wrapped("up + on (n) (", ")", 66),
    ] {
        if let Err(error) = runtime.block_on(engine.instant(&query, 500, &cancel)) {
            panic!("{query}: {error}");
        }
    }
    for query in [
        wrapped("(", ")", 101),
        wrapped("-", "", 201),
        wrapped("-", "", 60_000),
        chained(202),
        wrapped("abs(", ")", 10_000),
        "(".repeat(60_000),
        "[".repeat(60_000),
        format!("up{{a=\"{}\"}}", "x".repeat(100_000)),
    ] {
        let error = runtime
            .block_on(engine.instant(&query, 500, &cancel))
            .expect_err("too deep or too long");
        assert_eq!(error.kind(), "bad_data");
    }
}

#[test]
fn options_say_what_is_wrong_with_them() {
    assert!(Options::default().faults().is_empty());
    let mut options = Options::default();
    options.limits.steps_max = 0;
    options.lookback = Duration::ZERO;
    assert_eq!(options.faults().len(), 2);
}
