//! Rows as they arrive, over server-sent events; the connection is made again when it breaks.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;

use crate::args::Tail;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, clean, complain};
use crate::shown::{bytes, clock, items, plain, rounded, text};

/// Longest event; a longer one is not one of ours.
const EVENT_BYTES_MAX: usize = 4 * 1_024 * 1_024;
const PAUSE: Duration = Duration::from_secs(2);
/// The collector sends a comment every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn run(client: &Client, output: &Output, tail: Tail) -> Result<(), Failure> {
    let mut query = Vec::new();
    if !tail.table.is_empty() {
        query.push(("tables", tail.table.join(",")));
    }
    if let Some(host) = &tail.host {
        query.push(("host", client.host(host).await?));
    }
    let mut left = tail.count;
    // The first connection has to stand; later ones are made again.
    let mut answer = client.stream("live", &query).await?;
    loop {
        let reason = match follow(answer, output, &mut left).await? {
            End::Enough => return Ok(()),
            End::SessionOver => return Err(Failure::Denied("the session ended: log in again".to_owned())),
            End::Broken(reason) => reason,
        };
        complain(&format!("the stream broke off: {reason}; connecting again"));
        answer = loop {
            tokio::time::sleep(PAUSE).await;
            match client.stream("live", &query).await {
                Ok(answer) => break answer,
                Err(Failure::Unreachable(_)) => {}
                Err(failure) => return Err(failure),
            }
        };
    }
}

enum End {
    Enough,
    SessionOver,
    Broken(String),
}

async fn follow(answer: reqwest::Response, output: &Output, left: &mut Option<u64>) -> Result<End, Failure> {
    let mut chunks = answer.bytes_stream();
    let mut events = Events::default();
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
            Err(_) => return Ok(End::Broken("nothing came for a minute".to_owned())),
            Ok(None) => return Ok(End::Broken("the collector closed it".to_owned())),
            Ok(Some(Err(error))) => return Ok(End::Broken(error.without_url().to_string())),
            Ok(Some(Ok(chunk))) => chunk,
        };
        for (event, data) in events.push(&chunk)? {
            let data: Value = serde_json::from_str(&data).unwrap_or_default();
            let lines = match event.as_str() {
                "row" => vec![line(output, &data)],
                "metrics" => metrics(output, &data),
                "lagged" => {
                    complain(&format!(
                        "too slow: {} batches were left out",
                        text(&data, "batches_missed")
                    ));
                    Vec::new()
                }
                "end" if text(&data, "reason") == "session ended" => return Ok(End::SessionOver),
                "end" => return Ok(End::Broken(text(&data, "reason"))),
                _ => Vec::new(),
            };
            for line in lines {
                output.line(&output.cut(line))?;
                if let Some(count) = left {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        return Ok(End::Enough);
                    }
                }
            }
        }
    }
}

/// Puts events together out of the chunks they come in.
#[derive(Default)]
struct Events {
    waiting: Vec<u8>,
}

impl Events {
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<(String, String)>, Failure> {
        self.waiting.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.waiting.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.waiting.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block).into_owned();
            let field = |name: &str| {
                let lines = block
                    .lines()
                    .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                lines
                    .map(|value| value.strip_prefix(' ').unwrap_or(value))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let (event, data) = (field("event"), field("data"));
            if !data.is_empty() {
                events.push((event, data));
            }
        }
        if self.waiting.len() > EVENT_BYTES_MAX {
            return Err(Failure::other("the collector sent an event that is too long"));
        }
        Ok(events)
    }
}

fn line(output: &Output, data: &Value) -> String {
    if output.is_json() {
        return data.to_string();
    }
    let (table, row) = (text(data, "table"), data.get("row").unwrap_or(&Value::Null));
    let what = match table.as_str() {
        "process_events" => process(row),
        "network_events" => network(row),
        "processes" => inventory(row),
        "file_events" | "credential_events" | "memory_events" | "kernel_events" | "signal_events" => act(row),
        "integrity_events" => named(
            row,
            &["verdict", "change", "class", "path", "comm", "pid", "chain"],
        ),
        "auth_events" => named(
            row,
            &[
                "outcome",
                "kind",
                "service",
                "user",
                "target_user",
                "method",
                "remote_address",
                "command",
            ],
        ),
        "log_records" => format!("{}: {}", text(row, "identifier"), text(row, "message")),
        "units" => format!(
            "{} {} {} result={} restarts={} {}",
            text(row, "unit"),
            text(row, "active_state"),
            text(row, "sub_state"),
            text(row, "result"),
            text(row, "restart_count"),
            text(row, "description")
        ),
        "findings" => format!(
            "{} {} {} {} {}",
            text(row, "severity"),
            text(row, "state"),
            text(row, "title"),
            text(row, "subject"),
            text(row, "techniques")
        ),
        "actions" => format!(
            "{} {} {} {} {}",
            text(row, "remedy"),
            text(row, "target"),
            text(row, "stage"),
            text(row, "ending"),
            text(row, "reason")
        ),
        "probe_status" => format!(
            "{} {} {}",
            text(row, "probe"),
            text(row, "state"),
            text(row, "reason")
        ),
        "site_probes" => format!(
            "{} {} {}",
            text(row, "site"),
            text(row, "verdict"),
            text(row, "reason")
        ),
        _ => others(row),
    };
    clean(&format!("{} {table:<14} {}", clock(row, "time"), what.trim_end())).replace('\n', " ")
}

fn process(row: &Value) -> String {
    let about = format!(
        "{} pid={} ppid={} uid={}",
        text(row, "kind"),
        text(row, "pid"),
        text(row, "ppid"),
        text(row, "uid")
    );
    let parent = text(row, "parent_comm");
    let parent = if parent.is_empty() {
        parent
    } else {
        format!(" parent={parent}")
    };
    let tail = match text(row, "kind").as_str() {
        "exec" => text(row, "args"),
        "exit" => {
            let (code, signal) = (text(row, "exit_code"), text(row, "exit_signal"));
            if signal.is_empty() {
                format!("code={code}")
            } else {
                format!("signal={signal}")
            }
        }
        _ => String::new(),
    };
    format!("{about}{parent} {} {tail}", text(row, "comm"))
}

/// What was done, by whom, and what it was done to.
fn act(row: &Value) -> String {
    let about = [
        "path",
        "target",
        "name",
        "detail",
        "call",
        "old_uid",
        "old_euid",
        "euid",
        "attribute",
        "signal",
        "target_pid",
        "target_comm",
        "error",
    ];
    let told = about
        .iter()
        .filter(|name| row.get(**name).is_some_and(|value| !value.is_null()));
    let told: Vec<String> = told.map(|name| format!("{name}={}", text(row, name))).collect();
    let repeats = row.get("repeats").and_then(Value::as_u64).unwrap_or(1);
    let repeats = if repeats > 1 {
        format!(" ×{repeats}")
    } else {
        String::new()
    };
    format!(
        "{}{repeats} pid={} uid={} {} {}",
        text(row, "kind"),
        text(row, "pid"),
        text(row, "uid"),
        text(row, "comm"),
        told.join(" ")
    )
}

/// These columns in this order, those without a value left out.
fn named(row: &Value, names: &[&str]) -> String {
    let told = names
        .iter()
        .filter(|name| row.get(**name).is_some_and(|value| !value.is_null()));
    told.map(|name| text(row, name)).collect::<Vec<_>>().join(" ")
}

fn inventory(row: &Value) -> String {
    let cpu = rounded(row.get("cpu_core_pct").unwrap_or(&Value::Null));
    format!(
        "pid={} ppid={} uid={} {} {} cpu={cpu}% rss={} threads={} {}",
        text(row, "pid"),
        text(row, "ppid"),
        text(row, "uid"),
        text(row, "comm"),
        text(row, "state"),
        bytes(row, "rss_bytes"),
        text(row, "thread_count"),
        text(row, "command_line")
    )
}

fn network(row: &Value) -> String {
    format!(
        "{} pid={} {} {}:{} → {}:{}",
        text(row, "kind"),
        text(row, "pid"),
        text(row, "comm"),
        text(row, "local_address"),
        text(row, "local_port"),
        text(row, "remote_address"),
        text(row, "remote_port")
    )
}

fn others(row: &Value) -> String {
    let Some(object) = row.as_object() else {
        return String::new();
    };
    let shown = object.iter().filter(|(name, value)| {
        !matches!(
            name.as_str(),
            "time"
                | "host_id"
                | "ingested_at"
                | "clock_ahead_us"
                | "record_epoch"
                | "record_sequence"
                | "record_row"
        ) && !value.is_null()
    });
    shown
        .map(|(name, value)| format!("{name}={}", rounded(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn metrics(output: &Output, data: &Value) -> Vec<String> {
    if output.is_json() {
        return vec![data.to_string()];
    }
    let series = items(data, "series").iter().map(|series| {
        let last = items(series, "points")
            .last()
            .and_then(|point| point.get(1))
            .map(rounded)
            .unwrap_or_default();
        let labels = series
            .get("labels")
            .and_then(Value::as_object)
            .map_or_else(String::new, |labels| {
                labels
                    .iter()
                    .map(|(name, value)| format!(" {name}={}", plain(value)))
                    .collect()
            });
        clean(&format!(
            "metrics        {}{labels} {last} {}",
            text(series, "name"),
            text(series, "unit")
        ))
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_inventory_say_first_what_is_asked_first() {
        let row = serde_json::json!({
            "time": "2026-01-02T03:04:05Z", "pid": 7, "start_boot_ns": 5, "ppid": 1, "comm": "hog", "exe": null,
            "command_line": "hog -x", "uid": 0, "state": "R", "cpu_core_pct": 95.89093928404556, "rss_bytes": 2048,
            "thread_count": 2,
        });
        assert_eq!(
            inventory(&row),
            "pid=7 ppid=1 uid=0 hog R cpu=95.89% rss=2.0 KiB threads=2 hog -x"
        );
    }

    #[test]
    fn acts_say_what_was_done_by_whom_and_to_what() {
        let row = serde_json::json!({
            "time": "2026-01-02T03:04:05Z", "kind": "rename", "pid": 7, "uid": 0, "comm": "mv", "path": "/tmp/a",
            "target": "/etc/ld.so.preload", "error": null, "repeats": 3,
        });
        assert_eq!(
            act(&row),
            "rename ×3 pid=7 uid=0 mv path=/tmp/a target=/etc/ld.so.preload"
        );
        let row = serde_json::json!({
            "kind": "user", "pid": 8, "uid": 1000, "euid": 0, "comm": "x", "call": "setuid", "old_uid": 1000,
            "old_euid": 1000, "repeats": 1,
        });
        assert_eq!(
            act(&row),
            "user pid=8 uid=1000 x call=setuid old_uid=1000 old_euid=1000 euid=0"
        );
    }

    #[test]
    fn events_are_put_together_whatever_the_chunks() {
        let stream = b": keep\n\nevent: row\ndata: {\"a\":1}\n\nevent: end\ndata: {}\n\nevent: ro";
        let mut events = Events::default();
        let mut found = Vec::new();
        for byte in stream {
            found.extend(events.push(&[*byte]).unwrap());
        }
        assert_eq!(
            found,
            [
                ("row".to_owned(), "{\"a\":1}".to_owned()),
                ("end".to_owned(), "{}".to_owned())
            ]
        );
    }
}
