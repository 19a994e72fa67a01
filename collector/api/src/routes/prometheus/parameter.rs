//! Parameters as Prometheus' API takes them: of the query string, and of the form of a POST.

use std::time::Duration;

use axum::RequestExt;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answer::Fault;
use crate::problem::{Code, Problem};
use crate::state::Shared;

/// Where no `start` is given.
pub(super) const EARLIEST_MS: i64 = i64::MIN / 4_000;
/// Where no `end` is given.
pub(super) const LATEST_MS: i64 = i64::MAX / 4_000;
/// Times beyond are no times: year 292 million.
const SECONDS_MAX: f64 = 9_223_372_036_854.775;

/// All parameters; the form's before the query string's.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let in_path = request.uri().query().unwrap_or_default().to_owned();
        let is_form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| {
                kind.trim_start()
                    .to_ascii_lowercase()
                    .starts_with("application/x-www-form-urlencoded")
            });
        let mut all = Vec::new();
        if is_form {
            let body: axum::body::Bytes = request.extract().await.map_err(|_| {
                Problem::new(Code::TooLarge, "the body is longer than 256 KiB").into_response()
            })?;
            all.extend(url::form_urlencoded::parse(&body).into_owned());
        }
        all.extend(url::form_urlencoded::parse(in_path.as_bytes()).into_owned());
        Ok(Self(all))
    }
}

impl Form {
    /// The first value, or the empty string.
    pub(super) fn one(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map_or("", |(_, value)| value.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Milliseconds of a time, when it is given.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, Fault> {
        match self.one(name) {
            "" => Ok(None),
            text => time_ms(text).map(Some).ok_or_else(|| {
                Fault::bad_parameter(name, format!("cannot parse {text:?} to a valid timestamp"))
            }),
        }
    }

    pub(super) fn needed_time(&self, name: &str) -> Result<i64, Fault> {
        self.time(name)?
            .ok_or_else(|| Fault::bad_parameter(name, "cannot parse \"\" to a valid timestamp"))
    }

    pub(super) fn needed_duration_ms(&self, state: &Shared, name: &str) -> Result<i64, Fault> {
        let text = self.one(name);
        state
            .promql
            .duration_ms(text)
            .map_err(|_| Fault::bad_parameter(name, format!("cannot parse {text:?} to a valid duration")))
    }

    pub(super) fn duration(&self, state: &Shared, name: &str) -> Result<Option<Duration>, Fault> {
        if self.one(name).is_empty() {
            return Ok(None);
        }
        let milliseconds = self.needed_duration_ms(state, name)?;
        u64::try_from(milliseconds)
            .map(|milliseconds| Some(Duration::from_millis(milliseconds)))
            .map_err(|_| Fault::bad_parameter(name, "must not be negative"))
    }

    /// 0 for none.
    pub(super) fn limit(&self) -> Result<usize, Fault> {
        match self.one("limit") {
            "" => Ok(0),
            text => text
                .parse()
                .map_err(|_| Fault::bad_parameter("limit", format!("{text:?} is not a number of items"))),
        }
    }
}

/// Seconds since 1970 with a fraction, or RFC 3339, or the two words that old clients use for no bound.
pub(super) fn time_ms(text: &str) -> Option<i64> {
    match text {
        "-9223372036854775808" | "-292273086-05-16T16:47:06Z" => return Some(EARLIEST_MS),
        "9223372036854775807" | "292277025-08-18T07:12:54.999999999Z" => return Some(LATEST_MS),
        _ => {}
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.abs() <= SECONDS_MAX).then(|| milliseconds(seconds));
    }
    let stamp: jiff::Timestamp = text.parse().ok()?;
    Some(stamp.as_millisecond())
}

#[expect(clippy::cast_possible_truncation, reason = "bounded by the caller")]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1_000.0).round() as i64
}

/// A label of the path, written plainly or as `U__` with escapes.
pub(super) fn label_name(text: &str) -> Result<String, Fault> {
    let fault = || Fault::bad_data(format!("invalid label name: {text:?}"));
    if let Some(escaped) = text.strip_prefix("U__") {
        return unescaped(escaped).ok_or_else(fault);
    }
    if text.is_empty() {
        Err(fault())
    } else {
        Ok(text.to_owned())
    }
}

/// `_` twice is one, `_` with hexadecimal digits and `_` is the character of that number.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('_') {
        let (plain, after) = rest.split_at(at);
        out.push_str(plain);
        let after = after.strip_prefix('_')?;
        if let Some(after) = after.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let (digits, after) = after.split_once('_')?;
        if digits.len() > 6 {
            return None;
        }
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        for (text, milliseconds) in [
            ("1435781451.781", 1_435_781_451_781),
            ("1435781451", 1_435_781_451_000),
            ("-1.5", -1_500),
            ("1.4357814e9", 1_435_781_400_000),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51+02:00", 1_435_781_451_000),
        ] {
            assert_eq!(time_ms(text), Some(milliseconds), "{text}");
        }
        for text in ["yesterday", "", "NaN", "1e300", "2015-07-01"] {
            assert_eq!(time_ms(text), None, "{text}");
        }
    }

    #[test]
    fn escaped_label_names_are_read() {
        assert_eq!(label_name("job").unwrap(), "job");
        assert_eq!(label_name("U__cpu_2e_mode").unwrap(), "cpu.mode");
        assert_eq!(label_name("U__a__b").unwrap(), "a_b");
        assert!(label_name("U__a_zz_").is_err());
        assert!(label_name("").is_err());
    }
}
