//! Rows as OTLP log records.
//!
//! Columns that OpenTelemetry's semantic conventions know have their names there ([`NAMES`]); all others are
//! `fleetmend.` and the column. Columns without a value are left out; JSON texts stay texts. `fleetmend.record.id` is
//! the same however often a record is sent.

use std::collections::{BTreeMap, HashMap};

use fleetmend_event::table::Severity;
use fleetmend_event::{Fact, HostId};
use serde_json::Value;

use super::message::{
    AnyValue, ArrayValue, ExportLogs, KeyValue, LogRecord, ResourceLogs, ScopeLogs, any_value,
};
use super::{attribute, nanos, rejected, request, resource, scope, text};
use crate::config::Otlp;
use crate::deliver::Encode;
use crate::http::Request;
use crate::record::{Record, Records};
use crate::summary::summary;

/// Table (all, when empty), column, and the attribute of OpenTelemetry's semantic conventions.
const NAMES: &[(&str, &str, &str)] = &[
    ("", "pid", "process.pid"),
    ("", "ppid", "process.parent_pid"),
    ("", "exe", "process.executable.path"),
    ("", "comm", "process.executable.name"),
    ("", "command_line", "process.command_line"),
    ("process_events", "args", "process.command_args"),
    ("process_events", "exit_code", "process.exit.code"),
    ("", "uid", "process.user.id"),
    ("", "container_id", "container.id"),
    ("", "cgroup", "process.linux.cgroup"),
    ("network_events", "local_address", "network.local.address"),
    ("network_events", "local_port", "network.local.port"),
    ("network_events", "remote_address", "network.peer.address"),
    ("network_events", "remote_port", "network.peer.port"),
    ("network_events", "protocol", "network.transport"),
    ("file_events", "path", "file.path"),
    ("integrity_events", "path", "file.path"),
    ("auth_events", "user", "user.name"),
    ("auth_events", "remote_address", "client.address"),
    ("auth_events", "remote_port", "client.port"),
    ("site_probes", "url", "url.full"),
    ("site_probes", "http_status", "http.response.status_code"),
];

/// Columns that are told elsewhere in the record.
const TOLD: [&str; 1] = ["time"];

/// How rows become requests.
pub(crate) struct OtlpLogs {
    attributes: BTreeMap<String, String>,
}

impl OtlpLogs {
    pub(crate) fn new(target: &Otlp) -> Self {
        Self {
            attributes: target.resource_attributes.clone(),
        }
    }
}

/// `SeverityNumber` and its text, as OpenTelemetry's data model of logs has them.
fn severity(fact: &Fact) -> (i32, &'static str) {
    match fact {
        Fact::Finding(finding) => match finding.severity {
            Severity::Info => (9, "INFO"),
            Severity::Low => (10, "INFO2"),
            Severity::Medium => (13, "WARN"),
            Severity::High => (17, "ERROR"),
            Severity::Critical => (21, "FATAL"),
        },
        Fact::Gap(_) => (13, "WARN"),
        // As the data model maps syslog's.
        Fact::LogRecord(line) => match line.priority {
            Some(0) => (21, "FATAL"),
            Some(1) => (19, "ERROR3"),
            Some(2) => (18, "ERROR2"),
            Some(3) => (17, "ERROR"),
            Some(4) => (13, "WARN"),
            Some(5) => (10, "INFO2"),
            Some(7) => (5, "DEBUG"),
            _ => (9, "INFO"),
        },
        _ => (9, "INFO"),
    }
}

fn value(value: Value) -> Option<AnyValue> {
    let value = match value {
        Value::Null | Value::Object(_) => return None,
        Value::Bool(yes) => any_value::Value::BoolValue(yes),
        Value::String(text) => any_value::Value::StringValue(text),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => any_value::Value::IntValue(whole),
            // A whole number beyond i64 is told as text, which is exact.
            None if number.is_u64() => any_value::Value::StringValue(number.to_string()),
            None => any_value::Value::DoubleValue(number.as_f64()?),
        },
        Value::Array(items) => any_value::Value::ArrayValue(ArrayValue {
            values: items.into_iter().filter_map(self::value).collect(),
        }),
    };
    Some(AnyValue { value: Some(value) })
}

fn name(table: &str, column: &str) -> String {
    let known = NAMES
        .iter()
        .find(|(of, name, _)| *name == column && (of.is_empty() || *of == table));
    known.map_or_else(|| format!("fleetmend.{column}"), |(.., name)| (*name).to_owned())
}

fn log_record(record: &Record) -> LogRecord {
    let (severity_number, severity_text) = severity(&record.fact);
    let table = record.table.name;
    let columns = record.columns().into_iter();
    let columns = columns.filter(|(column, _)| !TOLD.contains(&column.as_str()));
    let mut attributes: Vec<KeyValue> = columns
        .filter_map(|(column, found)| Some(attribute(name(table, &column), value(found)?)))
        .collect();
    attributes.push(attribute("fleetmend.record.id", text(record.id())));
    LogRecord {
        time_unix_nano: nanos(record.time),
        observed_time_unix_nano: nanos(record.ingested_at),
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(text(summary(&record.fact))),
        attributes,
        event_name: format!("fleetmend.{table}"),
    }
}

impl Encode<Records> for OtlpLogs {
    fn encode(&self, records: &Records) -> Result<Request, String> {
        let mut hosts: HashMap<HostId, Vec<LogRecord>> = HashMap::new();
        for record in &records.records {
            hosts.entry(record.host).or_default().push(log_record(record));
        }
        let of_host = |(host, log_records): (HostId, Vec<LogRecord>)| ResourceLogs {
            resource: Some(resource(host, records.names.get(&host), &self.attributes)),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records,
            }],
        };
        let message = ExportLogs {
            resource_logs: hosts.into_iter().map(of_host).collect(),
        };
        request("/v1/logs", &message)
    }

    fn rejected(&self, answer: &[u8]) -> Option<(u64, String)> {
        rejected(answer)
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::{TimeMicros, table};

    use super::*;

    #[test]
    fn lines_of_logs_keep_their_severity() {
        let line = |priority| {
            Fact::from(table::LogRecord {
                time: TimeMicros(1),
                source: "journal".to_owned(),
                identifier: "sshd".to_owned(),
                unit: None,
                pid: None,
                uid: None,
                priority,
                facility: None,
                message: "text".to_owned(),
                truncated: false,
                template: 0,
                repeats: 1,
            })
        };
        assert_eq!(severity(&line(Some(3))), (17, "ERROR"));
        assert_eq!(severity(&line(Some(7))), (5, "DEBUG"));
        assert_eq!(severity(&line(None)), (9, "INFO"));
    }
}
