//! Queries by chance.

use proptest::prelude::*;
use proptest::sample::select;

/// Well-formed queries for instant vectors, of everything whose value does not depend on the query's own times.
pub(crate) fn vector() -> impl Strategy<Value = String> {
    let selector = (
        select(vec![
            "up",
            "a_total",
            "b_bucket",
            "{job=~\"x|y\"}",
            "up{job!=\"x\"}",
            "none",
        ]),
        shift(),
    )
        .prop_map(|(name, shift)| format!("{name}{shift}"));
    let leaf =
        prop_oneof![4 => selector, 1 => Just("vector(time())".to_owned()), 1 => Just("vector(2)".to_owned())];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (range(inner.clone()), window()).prop_map(|(range, function)| function.replace('#', &range)),
            (inner.clone(), simple()).prop_map(|(vector, function)| function.replace('#', &vector)),
            (inner.clone(), aggregate()).prop_map(|(vector, aggregate)| aggregate.replace('#', &vector)),
            (inner.clone(), operator(), inner.clone())
                .prop_map(|(left, operator, right)| format!("({left}) {operator} ({right})")),
            (inner.clone(), scalar_operator(), number())
                .prop_map(|(left, operator, right)| format!("({left}) {operator} {right}")),
            inner.prop_map(|vector| format!("-({vector})")),
        ]
    })
}

/// Words and signs in any order, now and then a query.
pub(crate) fn soup() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "up",
        "a_total",
        "sum",
        "topk",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "bool",
        "offset",
        "and",
        "or",
        "unless",
        "rate",
        "label_replace",
        "count_values",
        "histogram_quantile",
        "absent",
        "start",
        "end",
        "step",
        "anchored",
        "smoothed",
        "fill",
        "min",
        "max",
        "atan2",
        "inf",
        "nan",
        "time",
        "scalar",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "@",
        "+",
        "-",
        "*",
        "/",
        "%",
        "^",
        "==",
        "!=",
        "=~",
        "!~",
        "<",
        ">=",
        "=",
        "\"x\"",
        "'\\xff'",
        "`(`",
        "\"(.*)\"",
        "1",
        "0",
        "-1",
        "0.5",
        "1e999",
        "0x1f",
        "5m",
        "1y",
        "99999999999y",
        "1ms",
        "5m1d",
        ".",
        "_",
        "#",
        "\n",
        "é",
        "\"",
        "\\",
    ];
    prop_oneof![
        3 => prop::collection::vec(select(WORDS), 0..24).prop_map(|words| words.join(" ")),
        1 => prop::collection::vec(select(WORDS), 0..24).prop_map(|words| words.concat()),
        1 => ".{0,40}",
        2 => (vector(), select(WORDS), any::<prop::sample::Index>()).prop_map(|(query, word, at)| {
            let at = query.char_indices().nth(at.index(query.chars().count())).map_or(0, |(at, _)| at);
            let (before, after) = query.split_at(at);
            format!("{before} {word} {after}")
        }),
    ]
}

fn shift() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "",
        "",
        " offset 1m",
        " offset -30s",
        " @ 250",
        " @ 300 offset 45s",
    ])
}

fn range(inner: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let simple = (
        select(vec!["up", "a_total", "{job=\"x\"}"]),
        select(vec!["10s", "1m", "3m"]),
        shift(),
    )
        .prop_map(|(name, range, shift)| format!("{name}[{range}]{shift}"));
    let subquery = (inner, select(vec!["1m:10s", "2m:37s", "90s:", "20s:1m"]), shift())
        .prop_map(|(inner, range, shift)| format!("({inner})[{range}]{shift}"));
    prop_oneof![simple, subquery]
}

fn window() -> impl Strategy<Value = &'static str> {
    select(vec![
        "rate(#)",
        "increase(#)",
        "delta(#)",
        "irate(#)",
        "idelta(#)",
        "resets(#)",
        "changes(#)",
        "deriv(#)",
        "predict_linear(#, 60)",
        "avg_over_time(#)",
        "sum_over_time(#)",
        "count_over_time(#)",
        "min_over_time(#)",
        "max_over_time(#)",
        "last_over_time(#)",
        "first_over_time(#)",
        "stddev_over_time(#)",
        "mad_over_time(#)",
        "quantile_over_time(0.7, #)",
        "quantile_over_time(scalar(up{job=\"x\"}), #)",
        "present_over_time(#)",
        "absent_over_time(#)",
        "ts_of_max_over_time(#)",
        "double_exponential_smoothing(#, 0.5, 0.3)",
    ])
}

fn simple() -> impl Strategy<Value = &'static str> {
    select(vec![
        "abs(#)",
        "ceil(#)",
        "sqrt(#)",
        "ln(#)",
        "sgn(#)",
        "sin(#)",
        "timestamp(#)",
        "round(#, 3)",
        "clamp(#, 1, 9)",
        "clamp_min(#, scalar(up{job=\"y\"}))",
        "absent(#)",
        "hour(#)",
        "day_of_year(#)",
        "sort(#)",
        "sort_desc(#)",
        "histogram_quantile(0.4, #)",
        "histogram_fraction(0, 1.5, #)",
        "vector(scalar(#))",
        "label_replace(#, \"job\", \"v$1\", \"job\", \"(.*)\")",
        "label_replace(#, \"job\", \"\", \"job\", \".*\")",
        "label_join(#, \"le\", \"-\", \"job\", \"le\")",
        "histogram_count(#)",
        "sort_by_label(#, \"job\")",
    ])
}

fn aggregate() -> impl Strategy<Value = &'static str> {
    select(vec![
        "sum(#)",
        "avg by (job) (#)",
        "min without (le) (#)",
        "max(#)",
        "count by (le, job) (#)",
        "group(#)",
        "stddev(#)",
        "stdvar by (job) (#)",
        "quantile(0.3, #)",
        "count_values(\"v\", #)",
        "count_values without (job) (\"le\", #)",
        "count(topk(2, #))",
        "sum(bottomk by (job) (1, #))",
        "count(limitk(2, #))",
        "limit_ratio(0.5, #)",
        "sum by (__name__) (#)",
    ])
}

fn operator() -> impl Strategy<Value = &'static str> {
    select(vec![
        "+",
        "- on (job)",
        "* ignoring (le)",
        "/ on (job) group_left ()",
        "% on (job) group_right (le)",
        "> bool",
        "<=",
        "== on (job)",
        "and",
        "or",
        "unless",
        "and on (job)",
        "or on (job)",
        "unless on ()",
        "+ on (job) fill (0)",
        "^ ignoring (le) fill_left (1)",
        "atan2",
    ])
}

fn scalar_operator() -> impl Strategy<Value = &'static str> {
    select(vec!["+", "-", "*", "/", "%", "^", ">", "<= bool", "!=", "=="])
}

fn number() -> impl Strategy<Value = &'static str> {
    select(vec![
        "1",
        "-2.5",
        "0",
        "NaN",
        "Inf",
        "scalar(up{job=\"x\"})",
        "time()",
    ])
}
