//! Answers and faults in Prometheus' form.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::own;
use crate::promql::{PromAnswer, PromData, PromError, PromLabels, PromPoint};

/// Marks a body that is already as its caller wants it, whatever its status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl Fault {
    pub(super) fn bad_data(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_data",
            text: text.into(),
        }
    }

    pub(super) fn bad_parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {text}"))
    }
}

impl From<PromError> for Fault {
    fn from(error: PromError) -> Self {
        let (status, kind) = match &error {
            PromError::BadData(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            PromError::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            PromError::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            // What nginx calls "client closed request": Prometheus answers so too.
            PromError::Canceled(_) => (
                StatusCode::from_u16(499).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                "canceled",
            ),
            PromError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let text = match (&error, error.to_string()) {
            (PromError::BadData(_), text) if !text.starts_with("invalid parameter") => {
                format!("invalid parameter \"query\": {text}")
            }
            (_, text) => text,
        };
        Self { status, kind, text }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.text });
        own(self.status, serde_json::to_vec(&body).unwrap_or_default())
    }
}

/// `data` as the answer.
pub(super) fn ok(data: Value) -> Response {
    own(
        StatusCode::OK,
        serde_json::to_vec(&json!({ "status": "success", "data": data })).unwrap_or_default(),
    )
}

/// A list with its warnings.
pub(super) fn ok_list(items: Vec<Value>, warnings: Vec<String>) -> Response {
    let mut body = json!({ "status": "success", "data": items });
    add(&mut body, "warnings", warnings);
    own(StatusCode::OK, serde_json::to_vec(&body).unwrap_or_default())
}

fn add(body: &mut Value, key: &str, texts: Vec<String>) {
    if let Some(object) = body.as_object_mut()
        && !texts.is_empty()
    {
        object.insert(key.to_owned(), Value::from(texts));
    }
}

pub(super) fn labels_json(labels: &PromLabels) -> Value {
    let pairs = labels
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(value.as_ref())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// The answer to a query, cut off after `limit` series (0: never). Written by hand: a value is text, a time a number with
/// three digits at most, and there may be millions.
pub(super) fn query(answer: PromAnswer, limit: usize) -> Response {
    let PromAnswer {
        data,
        mut warnings,
        infos,
    } = answer;
    let mut out = Vec::with_capacity(4_096);
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":{\"resultType\":\"");
    let mut cut = false;
    match data {
        PromData::Scalar(value) => {
            out.extend_from_slice(b"scalar\",\"result\":");
            point(&mut out, value);
        }
        PromData::Text(time_ms, text) => {
            out.extend_from_slice(b"string\",\"result\":[");
            time(&mut out, time_ms);
            out.push(b',');
            string(&mut out, &text);
            out.push(b']');
        }
        PromData::Vector(samples) => {
            out.extend_from_slice(b"vector\",\"result\":[");
            cut = limit > 0 && samples.len() > limit;
            for (place, (labels, value)) in samples.iter().take(many(limit)).enumerate() {
                series(&mut out, place, labels);
                out.extend_from_slice(b",\"value\":");
                point(&mut out, *value);
                out.push(b'}');
            }
            out.push(b']');
        }
        PromData::Matrix(all) => {
            out.extend_from_slice(b"matrix\",\"result\":[");
            cut = limit > 0 && all.len() > limit;
            for (place, (labels, points)) in all.iter().take(many(limit)).enumerate() {
                series(&mut out, place, labels);
                out.extend_from_slice(b",\"values\":[");
                for (place, value) in points.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    point(&mut out, *value);
                }
                out.extend_from_slice(b"]}");
            }
            out.push(b']');
        }
    }
    out.push(b'}');
    if cut {
        warnings.push("results truncated due to limit".to_owned());
    }
    texts(&mut out, "warnings", &warnings);
    texts(&mut out, "infos", &infos);
    out.push(b'}');
    own(StatusCode::OK, out)
}

const fn many(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

fn texts(out: &mut Vec<u8>, key: &str, texts: &[String]) {
    if !texts.is_empty() {
        out.extend_from_slice(format!(",\"{key}\":").as_bytes());
        out.extend_from_slice(&serde_json::to_vec(texts).unwrap_or_default());
    }
}

fn series(out: &mut Vec<u8>, place: usize, labels: &PromLabels) {
    if place > 0 {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"metric\":{");
    for (place, (name, value)) in labels.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        string(out, value);
    }
    out.push(b'}');
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_default());
}

fn point(out: &mut Vec<u8>, (time_ms, value): PromPoint) {
    out.push(b'[');
    time(out, time_ms);
    out.extend_from_slice(b",\"");
    out.extend_from_slice(number(value).as_bytes());
    out.extend_from_slice(b"\"]");
}

/// Seconds, with three digits when they are not whole.
fn time(out: &mut Vec<u8>, time_ms: i64) {
    let (sign, magnitude) = (if time_ms < 0 { "-" } else { "" }, time_ms.unsigned_abs());
    let (seconds, rest) = (magnitude / 1_000, magnitude % 1_000);
    let text = if rest == 0 {
        format!("{sign}{seconds}")
    } else {
        format!("{sign}{seconds}.{rest:03}")
    };
    out.extend_from_slice(text.as_bytes());
}

/// The shortest digits that give the value back, with an exponent below 1e-6 and from 1e21.
pub(super) fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(negative) => format!("{digits}e-{negative:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_prometheus_writes_them() {
        for (value, text) in [
            (1.0, "1"),
            (-0.25, "-0.25"),
            (0.0, "0"),
            (-0.0, "-0"),
            (1e-7, "1e-07"),
            (1.5e-300, "1.5e-300"),
            (1e21, "1e+21"),
            (999_999_999_999_999_900_000.0, "999999999999999900000"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_have_no_or_three_digits() {
        let text = |time_ms| {
            let mut out = Vec::new();
            time(&mut out, time_ms);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(1_435_781_451_781), "1435781451.781");
        assert_eq!(text(1_435_781_451_000), "1435781451");
        assert_eq!(text(10), "0.010");
        assert_eq!(text(-1_500), "-1.500");
    }
}
