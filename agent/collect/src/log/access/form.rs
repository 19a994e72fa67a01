//! The forms of a line, taken apart.
//!
//! | form | example |
//! |---|---|
//! | common | `192.0.2.1 - ann [07/Jan/2026:13:05:01 +0000] "GET /x?y HTTP/1.1" 200 12` |
//! | combined | the same, and `"referer" "user agent"`; what follows is passed over |
//! | with its host | `www.example.org:443 192.0.2.1 - ann [07/Jan/2026:…` (Apache's `vhost_combined`) |
//! | JSON | one object a line, with the names that nginx, Caddy and Traefik have for these |
//!
//! Most of a line is chosen by whoever sent the request. nginx writes a quote of his as `\x22` and Apache as `\"`, so
//! that the first bare one begins the request. What stands before it is taken apart from its end: the name of a user
//! may hold blanks and brackets. A line that was cut is taken as far as it goes: padding must not hide a request.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fleetmend_event::TimeMicros;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::log::stamp;

/// Longest method; a longer first word is none.
const METHOD_BYTES_MAX: usize = 32;

/// What stands for "nothing" in the forms of text.
const NOTHING: &str = "-";

/// The name of a field, and the names that it has in JSON.
const JSON_NAMES: [(&str, &[&str]); 9] = [
    (
        "c-ip",
        &[
            "remote_addr",
            "client_ip",
            "remote_ip",
            "clientip",
            "ClientHost",
            "c-ip",
        ],
    ),
    (
        "cs-method",
        &["request_method", "method", "RequestMethod", "cs-method"],
    ),
    (
        "cs-host",
        &["http_host", "host", "RequestHost", "server_name", "vhost"],
    ),
    (
        "cs-username",
        &["remote_user", "user_id", "ClientUsername", "user"],
    ),
    (
        "cs-version",
        &["server_protocol", "proto", "protocol", "RequestProtocol"],
    ),
    (
        "sc-status",
        &["status", "DownstreamStatus", "status_code", "sc-status"],
    ),
    (
        "sc-bytes",
        &["body_bytes_sent", "bytes_sent", "size", "DownstreamContentSize"],
    ),
    (
        "cs-referer",
        &["http_referer", "referer", "referrer", "request_Referer"],
    ),
    (
        "cs-user-agent",
        &["http_user_agent", "user_agent", "agent", "request_User-Agent"],
    ),
];
/// Names of the request's target in JSON.
const JSON_TARGETS: &[&str] = &["request_uri", "uri", "RequestPath", "url", "path"];
/// Names of the time in JSON, where it is RFC 3339.
const JSON_TIMES: &[&str] = &["time_iso8601", "@timestamp", "timestamp", "time", "StartUTC"];
/// Headers that Caddy logs as lists.
const JSON_HEADERS: [(&str, &str); 2] = [("cs-user-agent", "User-Agent"), ("cs-referer", "Referer")];

/// What a line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) time: Option<TimeMicros>,
    pub(super) fields: BTreeMap<String, String>,
}

impl Request {
    fn put(&mut self, name: &str, value: &str) {
        if !value.is_empty() && value != NOTHING {
            self.fields
                .entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }

    /// Rules look for paths and for queries in `cs-uri-query`: it is the target whole.
    fn put_target(&mut self, target: &str) {
        self.put("c-uri", target);
        self.put("cs-uri-query", target);
        self.put("cs-uri-stem", target.split('?').next().unwrap_or(target));
    }

    /// `GET /x?y HTTP/1.1`; whatever else a client sent in its place is the target.
    fn put_line(&mut self, line: &str) {
        let rest = match line.split_once(' ') {
            Some((method, rest)) if is_method(method) => {
                self.put("cs-method", method);
                rest
            }
            _ => line,
        };
        let target = match rest.rsplit_once(' ') {
            Some((target, version)) if version.starts_with("HTTP/") => {
                self.put("cs-version", version);
                target
            }
            _ => rest,
        };
        self.put_target(target);
    }
}

/// Takes a line apart; `None` when it has none of the forms.
pub(super) fn parse(line: &str) -> Option<Request> {
    if line.trim_start().starts_with('{') {
        json(line)
    } else {
        text(line)
    }
}

fn text(line: &str) -> Option<Request> {
    let (head, rest) = quoted(line);
    if head.len() == line.len() {
        return None;
    }
    let (who, when) = head.trim_end().strip_suffix(']')?.rsplit_once('[')?;
    let mut request = Request {
        time: instant(when),
        ..Request::default()
    };
    put_who(&mut request, who.trim_end())?;
    let (asked, rest) = quoted(rest);
    request.put_line(&unescaped(asked));
    let mut words = rest.trim_start().splitn(3, ' ');
    let (status, bytes) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !is_number(status) && !status.is_empty() {
        return None;
    }
    request.put("sc-status", status);
    if is_number(bytes) {
        request.put("sc-bytes", bytes);
    }
    let mut rest = words.next().unwrap_or_default();
    for name in ["cs-referer", "cs-user-agent"] {
        let Some(inner) = rest.trim_start().strip_prefix('"') else {
            break;
        };
        let (value, after) = quoted(inner);
        request.put(name, &unescaped(value));
        rest = after;
    }
    Some(request)
}

/// `[HOST] ADDRESS IDENT USER`.
fn put_who(request: &mut Request, who: &str) -> Option<()> {
    let (first, rest) = who.split_once(' ')?;
    let (second, others) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_address = |word: &str| word.parse::<IpAddr>().is_ok();
    let (address, rest) = if is_address(second) && !is_address(first) {
        request.put("cs-host", without_port(first));
        (second, others)
    } else {
        (first, rest)
    };
    request.put("c-ip", address);
    if let Some((_ident, user)) = rest.split_once(' ') {
        request.put("cs-username", &unescaped(user));
    }
    Some(())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if is_number(port) => name,
        _ => host,
    }
}

/// What stands before the next bare quote, and what follows it; everything where the line was cut before.
fn quoted(text: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' => escaped = true,
            b'"' => {
                let after = text.get(at.saturating_add(1)..);
                return (text.get(..at).unwrap_or_default(), after.unwrap_or_default());
            }
            _ => {}
        }
    }
    (text, "")
}

/// The bytes that the client sent; what is no UTF-8 becomes U+FFFD.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = if *byte == b'\\' {
            escape(after)
        } else {
            (*byte, after)
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte that stands behind a backslash, and what follows it.
fn escape(rest: &[u8]) -> (u8, &[u8]) {
    match rest {
        [b'x', high, low, after @ ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => (high << 4 | low, after),
            _ => (b'\\', rest),
        },
        [b'n', after @ ..] => (b'\n', after),
        [b'r', after @ ..] => (b'\r', after),
        [b't', after @ ..] => (b'\t', after),
        [b'b', after @ ..] => (0x08, after),
        [b'v', after @ ..] => (0x0b, after),
        [b'f', after @ ..] => (0x0c, after),
        [byte @ (b'"' | b'\\'), after @ ..] => (*byte, after),
        _ => (b'\\', rest),
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// `07/Jan/2026:13:05:01 +0000`.
fn instant(text: &str) -> Option<TimeMicros> {
    let time = Timestamp::strptime("%d/%b/%Y:%H:%M:%S %z", text).ok()?;
    Some(TimeMicros(time.as_microsecond()))
}

fn is_method(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= METHOD_BYTES_MAX
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || b"-_".contains(&byte))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn json(line: &str) -> Option<Request> {
    let Ok(Value::Object(line)) = serde_json::from_str::<Value>(line) else {
        return None;
    };
    let inner = line.get("request").and_then(Value::as_object);
    let places: Vec<&Map<String, Value>> = std::iter::once(&line).chain(inner).collect();
    let find = |names: &[&str]| {
        let in_place = |place: &&Map<String, Value>| names.iter().find_map(|name| word(place.get(*name)?));
        places.iter().find_map(in_place)
    };
    let mut request = Request {
        time: find(JSON_TIMES).and_then(|time| stamp::instant(&time)),
        ..Request::default()
    };
    for (name, names) in JSON_NAMES {
        if let Some(value) = find(names) {
            request.put(name, &value);
        }
    }
    let headers = places
        .iter()
        .find_map(|place| place.get("headers").and_then(Value::as_object));
    for (name, header) in JSON_HEADERS {
        if let Some(value) = headers.and_then(|headers| word(headers.get(header)?)) {
            request.put(name, &value);
        }
    }
    if let Some(target) = find(JSON_TARGETS) {
        request.put_target(&target);
    }
    if let Some(asked) = line.get("request").and_then(Value::as_str) {
        request.put_line(asked);
    }
    let is_request = request.fields.contains_key("c-uri") || request.fields.contains_key("cs-method");
    is_request.then_some(request)
}

/// A text, a number, or the first of a list.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => values.first().and_then(Value::as_str).map(str::to_owned),
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
    }
}
