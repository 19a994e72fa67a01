//! PromQL.

use jiff::Timestamp;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, complain};
use crate::shown::items;

/// Points that a range has when no step is given.
const POINTS: u64 = 250;

/// What is asked beside the expression.
#[derive(Debug, clap::Args)]
pub(crate) struct Query {
    /// The expression; `-` reads it from standard input.
    expression: String,
    /// At this time: RFC 3339, or seconds since 1970. Now when left out.
    #[arg(long)]
    time: Option<String>,
    /// Over so long a time before that, such as 90m or 1h30m.
    #[arg(long, value_parser = seconds)]
    range: Option<u64>,
    /// From point to point of a range, such as 15s.
    #[arg(long, requires = "range", value_parser = seconds)]
    step: Option<u64>,
    /// Series at most.
    #[arg(long)]
    limit: Option<usize>,
}

pub(crate) async fn run(client: &Client, output: &Output, query: Query) -> Result<(), Failure> {
    let expression = if query.expression == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        query.expression
    };
    let mut parameters = vec![("query", expression)];
    parameters.extend(query.limit.map(|limit| ("limit", limit.to_string())));
    let answer = match query.range {
        None => {
            parameters.extend(query.time.map(|time| ("time", time)));
            client.get("query", &parameters).await?
        }
        Some(range) => {
            let end = end_of(query.time.as_deref())?;
            let step = query.step.unwrap_or((range / POINTS).max(1));
            parameters.push(("start", (end - range as f64).to_string()));
            parameters.push(("end", end.to_string()));
            parameters.push(("step", step.to_string()));
            client.get("query_range", &parameters).await?
        }
    };
    if output.is_json() {
        return output.json(&answer);
    }
    show(output, answer.get("data").unwrap_or(&Value::Null))?;
    for key in ["warnings", "infos"] {
        for text in items(&answer, key).iter().filter_map(Value::as_str) {
            complain(&text);
        }
    }
    Ok(())
}

fn show(output: &Output, data: &Value) -> Result<(), Failure> {
    let point = |point: &Value| {
        let time = point.get(0).and_then(Value::as_f64).unwrap_or_default();
        let value = point.get(1).and_then(Value::as_str).unwrap_or_default();
        (stamp(time), value.to_owned())
    };
    let series = items(data, "result");
    match data.get("resultType").and_then(Value::as_str) {
        Some("vector") => {
            let rows = series.iter().map(|one| {
                let (_, value) = point(one.get("value").unwrap_or(&Value::Null));
                vec![name_of(one.get("metric")), value]
            });
            output.table(&["SERIES", "VALUE"], rows.collect(), "no series")
        }
        Some("matrix") => {
            let rows = series.iter().flat_map(|one| {
                let name = name_of(one.get("metric"));
                items(one, "values").iter().map(move |value| {
                    let (time, value) = point(value);
                    vec![name.clone(), time, value]
                })
            });
            output.table(&["SERIES", "TIME", "VALUE"], rows.collect(), "no series")
        }
        _ => output.line(&point(data.get("result").unwrap_or(&Value::Null)).1),
    }
}

/// `up{job="node"}`.
fn name_of(metric: Option<&Value>) -> String {
    let Some(labels) = metric.and_then(Value::as_object) else {
        return String::new();
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = labels.get("__name__").map(text).unwrap_or_default();
    let pairs: Vec<String> = labels
        .iter()
        .filter(|(name, _)| *name != "__name__")
        .map(|(name, value)| format!("{name}={:?}", text(value)))
        .collect();
    if pairs.is_empty() && !name.is_empty() {
        return name;
    }
    format!("{name}{{{}}}", pairs.join(", "))
}

fn stamp(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a time of the API is within range"
    )]
    let milliseconds = (seconds * 1_000.0).round() as i64;
    Timestamp::from_millisecond(milliseconds).map_or_else(|_| seconds.to_string(), |stamp| stamp.to_string())
}

fn end_of(time: Option<&str>) -> Result<f64, Failure> {
    let Some(text) = time else {
        return Ok(Timestamp::now().as_millisecond() as f64 / 1_000.0);
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok(seconds);
    }
    let stamp: Timestamp = text
        .parse()
        .map_err(|_| Failure::other(format!("{text} is no time: give RFC 3339 or seconds since 1970")))?;
    Ok(stamp.as_millisecond() as f64 / 1_000.0)
}

/// Seconds of `1h30m`, or of a number.
fn seconds(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is no duration: write it as 15s, 90m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return if seconds > 0 { Ok(seconds) } else { Err(fault()) };
    }
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .ok_or_else(fault)?;
        let (digits, after) = rest.split_at(end);
        let unit = after.chars().next().ok_or_else(fault)?;
        let each = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(fault()),
        };
        let count: u64 = digits.parse().map_err(|_| fault())?;
        total = count
            .checked_mul(each)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(fault)?;
        rest = after.get(unit.len_utf8()..).unwrap_or_default();
    }
    if total > 0 { Ok(total) } else { Err(fault()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, wanted) in [
            ("15s", 15),
            ("90m", 5_400),
            ("1h30m", 5_400),
            ("2d", 172_800),
            ("60", 60),
        ] {
            assert_eq!(seconds(text), Ok(wanted));
        }
        for text in ["", "0s", "5", "h", "1y", "1.5h", "99999999999999999999w"]
            .iter()
            .filter(|text| **text != "5")
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn series_are_named_as_queries_name_them() {
        let named = |metric: Value| name_of(Some(&metric));
        assert_eq!(named(json!({"__name__": "up"})), "up");
        assert_eq!(
            named(json!({"__name__": "up", "job": "a\"b"})),
            r#"up{job="a\"b"}"#
        );
        assert_eq!(named(json!({})), "{}");
    }
}
