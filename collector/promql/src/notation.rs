//! How selectors, durations and values are written where a query is not: in the parameters and answers of an API.

use crate::error::QueryError;
use crate::matcher::LabelMatcher;
use crate::number::{exponent, special};
use crate::syntax::ast::Node;
use crate::syntax::{self, QueryTimes};

/// The matchers of a selector such as `up{job="node"}`, without range, `@` or `offset`.
pub fn parse_selector(text: &str) -> Result<Vec<LabelMatcher>, QueryError> {
    let times = QueryTimes {
        start_ms: 0,
        end_ms: 0,
        step_ms: 0,
    };
    match syntax::parse(text, &times)?.root.node {
        Node::Selector(selector) if selector.shift == syntax::ast::Shift::default() => Ok(selector.matchers),
        _ => Err(QueryError::bad_data(format!(
            "{text:?} is not a selector of series"
        ))),
    }
}

/// A query as Prometheus lays it out; one with parts that the grammar's printer does not know comes back as it was.
pub fn format_query(text: &str) -> Result<String, QueryError> {
    // Durations made of `step()` and `range()` are something.
    let times = QueryTimes {
        start_ms: 0,
        end_ms: 1_000,
        step_ms: 1_000,
    };
    syntax::parse(text, &times)?;
    // Its own reader panics over some durations; the query is known to be good.
    let printed =
        std::panic::catch_unwind(|| promql_parser::parser::parse(text).map(|parsed| parsed.prettify()));
    Ok(match printed {
        Ok(Ok(printed)) => printed,
        Ok(Err(_)) | Err(_) => text.trim().to_owned(),
    })
}

/// Milliseconds of `1h30m`, or of a number of seconds.
pub fn parse_duration_ms(text: &str) -> Result<i64, QueryError> {
    let fault = || QueryError::bad_data(format!("cannot parse {text:?} to a valid duration"));
    if let Some(seconds) = syntax::float(text) {
        let milliseconds = (seconds * 1000.0).round();
        if !milliseconds.is_finite() || milliseconds.abs() > i64::MAX as f64 / 1e6 {
            return Err(fault());
        }
        return Ok(crate::number::to_i64(milliseconds));
    }
    syntax::literal_ms(text).ok_or_else(fault)
}

/// A value as Prometheus' API writes it: the shortest digits, with an exponent below 1e-6 and from 1e21.
pub fn format_value(value: f64) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        return exponent(value);
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_prometheus_writes_them() {
        for (value, text) in [
            (1.0, "1"),
            (-0.25, "-0.25"),
            (1e-7, "1e-07"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(format_value(value), text);
        }
    }

    #[test]
    fn durations_are_literals_or_seconds() {
        for (text, milliseconds) in [
            ("15s", 15_000),
            ("1h30m", 5_400_000),
            ("0.5", 500),
            ("-2", -2_000),
            ("10s53ms", 10_053),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(milliseconds));
        }
        for text in ["", "5", "1e30", "NaN", "1m1h", "five", "99999999999999y"]
            .iter()
            .filter(|text| **text != "5")
        {
            assert_eq!(
                parse_duration_ms(text).expect_err("no duration").kind(),
                "bad_data",
                "{text}"
            );
        }
    }

    #[test]
    fn selectors_are_only_selectors() {
        let matchers = parse_selector("up{job=~\"a|b\"}").expect("a selector");
        assert_eq!(matchers.len(), 2);
        assert!(matchers[0].matches("b") && !matchers[0].matches("bb"));
        for text in ["up[5m]", "up offset 5m", "sum(up)", "{}", "1", "up, down", ""] {
            assert!(parse_selector(text).is_err(), "{text}");
        }
    }
}
