//! What a source over SQL asks: for adapters of stores that answer SQL.

use std::collections::BTreeSet;

use fleetmend_event::table::{MetricChunk, Table as _};
use fleetmend_event::{HostId, TimeMicros};

use crate::source::{RowKey, RowSpan};

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn time(value: TimeMicros) -> String {
    format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", value.0)
}

fn hosts_are(hosts: &BTreeSet<HostId>) -> String {
    let ids: Vec<String> = hosts.iter().map(|host| text(&host.to_string())).collect();
    format!("host_id IN ({})", ids.join(", "))
}

/// Rows of a span of `table`, which has to be the name of a table.
pub fn rows_query(table: &str, span: &RowSpan) -> String {
    match span {
        RowSpan::Stored {
            from:
                RowKey {
                    ingested_at,
                    host,
                    time: made,
                },
        } => {
            let (stored, host) = (time(*ingested_at), text(&host.to_string()));
            let made = time(*made);
            format!(
                "SELECT * FROM {table} WHERE ingested_at >= {stored} AND (ingested_at > {stored} OR host_id > {host} \
                 OR (host_id = {host} AND time >= {made})) ORDER BY ingested_at, host_id, time"
            )
        }
        RowSpan::Made { from, to, hosts } => {
            let of_hosts = hosts
                .as_ref()
                .map_or_else(String::new, |hosts| format!(" AND {}", hosts_are(hosts)));
            let order = if table == MetricChunk::NAME {
                "time, host_id, name, unit, labels"
            } else {
                "time, host_id"
            };
            format!(
                "SELECT * FROM {table} WHERE time >= {} AND time < {}{of_hosts} ORDER BY {order}",
                time(*from),
                time(*to)
            )
        }
    }
}

/// Known losses of a table that overlap a time.
pub fn gaps_query(table: &str, from: TimeMicros, to: TimeMicros) -> String {
    format!(
        "SELECT * FROM gaps WHERE \"table\" IN ('*', {}) AND from_time <= {} AND to_time >= {} ORDER BY time",
        text(table),
        time(to),
        time(from)
    )
}
