//! The tables in ClickHouse.
//!
//! Version 1, of every table of [`crate::shape::sql_tables`] but the tiers of metrics:
//!
//! | name | what it is |
//! |---|---|
//! | `T_rows` | the rows, on each server its share: `ReplacingMergeTree` |
//! | `T_all` | with a cluster: all servers' shares, `Distributed` by host |
//! | `T` | a view that shows each row once |
//! | `metrics_chunks` | of metrics, each chunk of a series once; the view `metrics` shows samples |
//! | `fleetmend_schema` | which version and which statements were applied |
//!
//! # Rows
//! A row has the columns that SQL shows, of which `record_epoch`, `record_sequence` and `record_row` say which record
//! it came in, and the day that it belongs to by the store's clock. The sorting key ends with the record and the place in
//! it, so that a row that is inserted again is the same key in the same partition: merges drop it, and the views read
//! with `FINAL`, which drops it before they do. A record's day and `ingested_at` are decided once, in the ledger, and
//! never by whoever inserts. Metrics are kept as chunks, one row per series and batch; their place counts chunks
//! of the same series, so that it does not change when other series are left out.
//!
//! # Time
//! A partition is a day. Its parts go whole, by `TTL`, when the days of retention have passed. What comes late by more
//! than a week is in the partition of a week before it came, as in the embedded store.

use arrow::datatypes::{DataType, TimeUnit};
use sha2::{Digest as _, Sha256};

use super::client::Client;
use super::error::EngineError;
use crate::config::RetentionConfig;
use crate::shape::{RECORD_EPOCH, RECORD_ROW, RECORD_SEQUENCE, SqlTable, sql_tables};

/// Version of the tables.
pub(super) const VERSION: u32 = 1;

/// The day that a row belongs to, by the store's clock.
pub(super) const DAY: &str = "day";

/// Columns of a chunk of metrics, in the order they are inserted: name and type.
pub(super) const CHUNK: [(&str, &str); 15] = [
    ("name", "LowCardinality(String)"),
    ("unit", "LowCardinality(String)"),
    ("labels", "String CODEC(ZSTD(1))"),
    ("start_time", "DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))"),
    ("step_ms", "UInt32 CODEC(T64, ZSTD(1))"),
    ("offset_ms", "Array(UInt32) CODEC(ZSTD(1))"),
    ("value", "Array(Float64) CODEC(Gorilla, ZSTD(1))"),
    ("to_time", "DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))"),
    ("samples", "UInt32 CODEC(T64, ZSTD(1))"),
    ("host_id", "LowCardinality(String)"),
    ("ingested_at", "DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))"),
    ("clock_ahead_us", "Nullable(Int64) CODEC(ZSTD(1))"),
    ("record_epoch", "String CODEC(ZSTD(1))"),
    ("record_sequence", "UInt64 CODEC(ZSTD(1))"),
    ("record_row", "UInt32 CODEC(ZSTD(1))"),
];

/// Where rows of a table are inserted.
pub(super) fn target(client: &Client, table: &SqlTable) -> String {
    let kind = if client.url().cluster.is_some() {
        "all"
    } else {
        "rows"
    };
    format!("{}.{}_{kind}", client.url().database, table.info.name)
}

/// Where rows of a table are read, each once: chunks where it is metrics.
pub(super) fn once(client: &Client, table: &SqlTable) -> String {
    let kind = if table.is_metrics() { "_chunks" } else { "" };
    format!("{}.{}{kind}", client.url().database, table.info.name)
}

/// Makes or alters the tables where the last statements that were applied were others.
pub(crate) async fn apply(client: &Client, retention: &RetentionConfig) -> Result<(), EngineError> {
    let (database, on) = (&client.url().database, on_cluster(client));
    let action = "make the database of facts";
    let make = format!("CREATE DATABASE IF NOT EXISTS {database}{on}");
    client.execute_outside(action, &make).await?;
    let engine = if on.is_empty() { "" } else { "Replicated" };
    let journal = format!(
        "CREATE TABLE IF NOT EXISTS {database}.fleetmend_schema{on} (version UInt32, digest String, \
         applied_at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = {engine}MergeTree ORDER BY (version, applied_at)"
    );
    client.execute(action, &journal).await?;
    let statements = statements(client, retention);
    let digest = digest_of(&statements);
    let last = format!(
        "SELECT version, digest FROM {database}.fleetmend_schema ORDER BY version DESC, applied_at DESC LIMIT 1 FORMAT TSV"
    );
    let last = client.execute("read the version of the tables", &last).await?;
    if let Some((found, applied)) = last.trim().split_once('\t') {
        let found = found.parse().unwrap_or(u32::MAX);
        if found > VERSION {
            return Err(EngineError::Newer {
                found,
                known: VERSION,
            });
        }
        if applied == digest {
            return Ok(());
        }
    }
    for statement in &statements {
        client.execute("make a table of facts", statement).await?;
    }
    let note =
        format!("INSERT INTO {database}.fleetmend_schema (version, digest) VALUES ({VERSION}, '{digest}')");
    client.execute("note the version of the tables", &note).await?;
    tracing::info!(
        database,
        version = VERSION,
        "tables of facts in ClickHouse brought up to date"
    );
    Ok(())
}

fn on_cluster(client: &Client) -> String {
    let cluster = client.url().cluster.as_ref();
    cluster.map_or_else(String::new, |cluster| format!(" ON CLUSTER {cluster}"))
}

fn digest_of(statements: &[String]) -> String {
    let hash = Sha256::digest(statements.join(";\n").as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Every statement, in order. Each may be carried out again.
pub(super) fn statements(client: &Client, retention: &RetentionConfig) -> Vec<String> {
    let tables = sql_tables().iter().filter(|table| table.kept_days.is_none());
    tables
        .flat_map(|table| of_table(client, table, retention))
        .collect()
}

fn of_table(client: &Client, table: &SqlTable, retention: &RetentionConfig) -> Vec<String> {
    let (database, on, name) = (&client.url().database, on_cluster(client), table.info.name);
    let (days, _) = retention.of_table(name);
    let columns = columns(table);
    let defined: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("{} {kind}", word(name)))
        .collect();
    let (primary, rest, index) = key(table);
    let engine = if on.is_empty() {
        "ReplacingMergeTree".to_owned()
    } else {
        "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
            .to_owned()
    };
    let mut all = vec![format!(
        "CREATE TABLE IF NOT EXISTS {database}.{name}_rows{on} ({}, INDEX {index}) ENGINE = {engine} PARTITION BY day \
         PRIMARY KEY ({primary}) ORDER BY ({primary}, {rest}record_epoch, record_sequence, record_row) \
         TTL day + toIntervalDay({days}) SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, \
         fsync_part_directory = 1, non_replicated_deduplication_window = 1000",
        defined.join(", ")
    )];
    // What a later version of this program added to a table that is there, and another retention.
    let added: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("ADD COLUMN IF NOT EXISTS {} {kind}", word(name)))
        .collect();
    all.push(format!(
        "ALTER TABLE {database}.{name}_rows{on} {}, MODIFY TTL day + toIntervalDay({days})",
        added.join(", ")
    ));
    let mut from = "rows";
    if let Some(cluster) = &client.url().cluster {
        from = "all";
        all.push(format!(
            "CREATE OR REPLACE TABLE {database}.{name}_all{on} AS {database}.{name}_rows \
             ENGINE = Distributed({cluster}, {database}, {name}_rows, cityHash64(host_id))"
        ));
    }
    let from = format!("{database}.{name}_{from}");
    all.extend(views(database, &on, table, &from));
    all
}

fn views(database: &str, on: &str, table: &SqlTable, from: &str) -> Vec<String> {
    let name = table.info.name;
    if !table.is_metrics() {
        let shown: Vec<String> = table
            .schema
            .fields()
            .iter()
            .map(|field| word(field.name()))
            .collect();
        return vec![format!(
            "CREATE OR REPLACE VIEW {database}.{name}{on} AS SELECT {} FROM {from} FINAL",
            shown.join(", ")
        )];
    }
    let chunk: Vec<String> = CHUNK.iter().map(|(name, _)| word(name)).collect();
    vec![
        format!(
            "CREATE OR REPLACE VIEW {database}.{name}_chunks{on} AS SELECT {} FROM {from} FINAL",
            chunk.join(", ")
        ),
        format!(
            "CREATE OR REPLACE VIEW {database}.{name}{on} AS SELECT \
             fromUnixTimestamp64Micro(toUnixTimestamp64Micro(start_time) + 1000 * \
             toInt64(if(step_ms > 0, (place - 1) * step_ms, offset_ms[place])), 'UTC') AS time, \
             host_id, name, unit, labels, if(isNaN(taken), NULL, taken) AS value, ingested_at, clock_ahead_us \
             FROM (SELECT * EXCEPT value, value AS samples FROM {database}.{name}_chunks) \
             ARRAY JOIN samples AS taken, arrayEnumerate(samples) AS place"
        ),
    ]
}

/// A column's name in a statement: some are words of the language.
pub(super) fn word(column: &str) -> String {
    format!("`{column}`")
}

/// The columns of a table with their types, in the order they are inserted.
pub(super) fn columns(table: &SqlTable) -> Vec<(String, String)> {
    let own = |(name, kind): &(&str, &str)| ((*name).to_owned(), (*kind).to_owned());
    let day = (DAY.to_owned(), "Date".to_owned());
    if table.is_metrics() {
        return CHUNK.iter().map(own).chain([day]).collect();
    }
    let shown = table.schema.fields().iter().map(|field| {
        (
            field.name().clone(),
            kind(field.name(), field.data_type(), field.is_nullable()),
        )
    });
    shown.chain([day]).collect()
}

fn kind(name: &str, data_type: &DataType, nullable: bool) -> String {
    let (plain, codec) = match data_type {
        DataType::Boolean => ("Bool".to_owned(), "ZSTD(1)"),
        DataType::Int32 => ("Int32".to_owned(), "ZSTD(1)"),
        DataType::Int64 => ("Int64".to_owned(), "ZSTD(1)"),
        DataType::UInt32 => ("UInt32".to_owned(), "ZSTD(1)"),
        DataType::UInt64 => ("UInt64".to_owned(), "ZSTD(1)"),
        DataType::Float64 => ("Float64".to_owned(), "ZSTD(1)"),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            ("DateTime64(6, 'UTC')".to_owned(), "Delta, ZSTD(1)")
        }
        DataType::List(item) => (format!("Array({})", list_item(item.data_type())), "ZSTD(1)"),
        DataType::FixedSizeBinary(bytes) => (format!("FixedString({bytes})"), "ZSTD(1)"),
        _ if name == crate::shape::HOST_ID => return "LowCardinality(String)".to_owned(),
        _ => ("String".to_owned(), "ZSTD(1)"),
    };
    match data_type {
        // They are of the sorting key, and every row that is inserted has them.
        _ if matches!(name, RECORD_EPOCH | RECORD_SEQUENCE | RECORD_ROW) => format!("{plain} CODEC({codec})"),
        // Arrays are never null.
        DataType::List(_) => format!("{plain} CODEC({codec})"),
        _ if nullable => format!("Nullable({plain}) CODEC({codec})"),
        _ => format!("{plain} CODEC({codec})"),
    }
}

fn list_item(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::UInt32 => "UInt32",
        DataType::Float64 => "Float64",
        _ => "String",
    }
}

/// First part of the sorting key, further columns of it, and an index over time.
fn key(table: &SqlTable) -> (&'static str, &'static str, &'static str) {
    if table.is_metrics() {
        (
            "name, host_id, labels, start_time",
            "unit, ",
            "until to_time TYPE minmax GRANULARITY 1",
        )
    } else {
        ("host_id, time", "", "at time TYPE minmax GRANULARITY 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clickhouse::config::{ClickHouseConfig, StoreUrl};
    use crate::config::TableRetention;

    fn client(cluster: &str) -> Client {
        let url = format!("clickhouse+https://facts.example/fleet{cluster}");
        let Ok(StoreUrl::ClickHouse(url)) = url.parse() else {
            panic!("an address of ClickHouse");
        };
        Client::new(url, &ClickHouseConfig::default()).unwrap()
    }

    fn of(statements: &[String], part: &str) -> String {
        let found: Vec<&String> = statements
            .iter()
            .filter(|statement| statement.contains(part))
            .collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found[0].clone()
    }

    #[test]
    fn tables_of_one_server_are_keyed_by_host_time_and_record() {
        let mut retention = RetentionConfig::default();
        let of_a_year = TableRetention {
            age_days: Some(365),
            bytes_max: None,
        };
        retention.tables.insert("metrics".to_owned(), of_a_year);
        let all = statements(&client(""), &retention);
        let events = of(&all, "CREATE TABLE IF NOT EXISTS fleet.process_events_rows ");
        for part in [
            "ENGINE = ReplacingMergeTree PARTITION BY day",
            "ORDER BY (host_id, time, record_epoch, record_sequence, record_row)",
            "TTL day + toIntervalDay(30)",
            "`args` Array(String) CODEC(ZSTD(1))",
            "`unit` Nullable(String) CODEC(ZSTD(1))",
        ] {
            assert!(events.contains(part), "{part}: {events}");
        }
        let metrics = of(&all, "CREATE TABLE IF NOT EXISTS fleet.metrics_rows ");
        assert!(
            metrics.contains("ORDER BY (name, host_id, labels, start_time, unit, record_epoch"),
            "{metrics}"
        );
        assert!(metrics.contains("TTL day + toIntervalDay(365)"), "{metrics}");
        let view = of(&all, "VIEW fleet.process_events ");
        assert!(view.ends_with("FROM fleet.process_events_rows FINAL"), "{view}");
        assert!(
            !all.iter()
                .any(|statement| statement.contains("CLUSTER") || statement.contains("Distributed"))
        );
    }

    #[test]
    fn tables_of_a_cluster_are_replicated_and_distributed_by_host() {
        let client = client("?cluster=main");
        let all = statements(&client, &RetentionConfig::default());
        assert!(
            all.iter().all(|statement| statement.contains(" ON CLUSTER main")),
            "each server gets each"
        );
        let events = of(&all, "CREATE TABLE IF NOT EXISTS fleet.process_events_rows ");
        let engine =
            "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')";
        assert!(events.contains(engine), "{events}");
        let all_of = of(&all, "TABLE fleet.process_events_all ");
        assert!(
            all_of.ends_with("Distributed(main, fleet, process_events_rows, cityHash64(host_id))"),
            "a host's rows are on one shard, where FINAL finds them: {all_of}"
        );
        let view = of(&all, "VIEW fleet.process_events ");
        assert!(view.ends_with("FROM fleet.process_events_all FINAL"), "{view}");
        let table = sql_tables()
            .iter()
            .find(|table| table.info.name == "process_events")
            .unwrap();
        assert_eq!(target(&client, table), "fleet.process_events_all");
    }
}
