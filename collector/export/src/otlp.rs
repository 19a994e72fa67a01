//! The OpenTelemetry protocol over HTTP with protobuf and gzip: metrics, and rows of tables as log records.
//!
//! A resource is a host: `host.id`, `host.name`, `service.name` = `fleetmend`, and what the configuration adds. Metrics
//! keep their OpenTelemetry names, units and attributes; those that only grow are cumulative monotonic sums without a
//! start time (it is not known), all others gauges. A log record's event name is `fleetmend.` and the table; its body is
//! one line for a person; its attributes are the row's columns, in the names of [`logs`].

pub mod message;

mod logs;
mod metrics;

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::http::Request;
pub(crate) use logs::OtlpLogs;
use message::{AnyValue, ExportResponse, InstrumentationScope, KeyValue, Resource, any_value};
pub(crate) use metrics::OtlpMetrics;

fn request(path: &'static str, message: &impl Message) -> Result<Request, String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let body = packed
        .write_all(&message.encode_to_vec())
        .and_then(|()| packed.finish())
        .map_err(|error| error.to_string())?;
    Ok(Request {
        path,
        content_type: "application/x-protobuf",
        content_encoding: Some("gzip"),
        headers: &[],
        body: Bytes::from(body),
    })
}

/// How many of what was sent were not taken, by an answer's `partial_success`. Metrics' and logs' have one form.
fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportResponse::decode(answer).ok()?.partial_success?;
    let rejected = u64::try_from(partial.rejected).unwrap_or(0);
    let reason = partial
        .error_message
        .chars()
        .filter(|c| !c.is_control())
        .take(300);
    (rejected > 0).then(|| (rejected, reason.collect()))
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "fleetmend".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn text(value: impl Into<String>) -> AnyValue {
    AnyValue {
        value: Some(any_value::Value::StringValue(value.into())),
    }
}

fn attribute(key: impl Into<String>, value: AnyValue) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(value),
    }
}

/// The host as a resource; `more` does not win over what it is.
fn resource(
    host: fleetmend_event::HostId,
    name: Option<&String>,
    more: &std::collections::BTreeMap<String, String>,
) -> Resource {
    let mut attributes = vec![
        attribute("host.id", text(host.to_string())),
        attribute("service.name", text("fleetmend")),
    ];
    attributes.extend(name.map(|name| attribute("host.name", text(name.clone()))));
    for (key, value) in more {
        if attributes.iter().all(|known| known.key != *key) {
            attributes.push(attribute(key.clone(), text(value.clone())));
        }
    }
    Resource { attributes }
}

/// Nanoseconds since the epoch; times before it are 0, which means unknown.
fn nanos(time: fleetmend_event::TimeMicros) -> u64 {
    u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000)
}
