//! What the store may use, and for how long it keeps what.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use fleetmend_event::Lane;
use serde::Deserialize;

use crate::clickhouse::config::{ClickHouseConfig, StoreUrl};

/// Configuration of the store; every key has a default but the folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Where facts are kept: `embedded` in the folder, `memory`, or
    /// `clickhouse+https://host:8443/database?cluster=name`.
    pub url: String,
    /// Folder that holds segments, Parquet files and the catalogue; elsewhere than embedded, what queries spill.
    pub folder: PathBuf,
    /// Bytes after which a segment is sealed.
    pub segment_bytes_max: u64,
    /// Seconds after which a segment with rows is sealed, so that a quiet collector compacts too.
    pub segment_age_s_max: u64,
    /// Bytes of decoded rows kept in memory for queries over what is not compacted yet.
    pub hot_cache_bytes_max: u64,
    /// Bytes of frames and of their decoded rows that may wait for the writer; more make `commit` wait.
    pub queue_bytes_max: u32,
    /// Series that a host may have; samples of further ones become a gap. At default rates it has 300.
    pub series_per_host_max: usize,
    /// How long `commit` waits for room and for the disk before it gives up.
    pub commit_timeout_ms: u64,
    /// Free bytes of the file system below which nothing more is accepted: compaction and catalogue need room.
    pub free_bytes_min: u64,
    /// How often maintenance looks for sealed segments, expired files and files to check.
    pub maintenance_interval_ms: u64,
    /// Small files of one table and day that are merged into one.
    pub merge_files_min: usize,
    /// Parquet files of at least this size are not merged any more.
    pub merge_bytes_max: u64,
    /// Files of metrics with at least so many samples are not merged any more.
    pub merge_samples_max: u64,
    /// Seconds after which what is left of a table and day becomes one file, when nothing new came. Longer than a
    /// segment's age, so that days that still grow are left alone.
    pub merge_quiet_s: u64,
    /// Seconds after which samples that came are summed up in the tiers of their day; each time, the day is read anew.
    pub tier_interval_s: u64,
    /// Limits of queries.
    pub query: QueryConfig,
    /// How long and how much is kept.
    pub retention: RetentionConfig,
    /// When the disk is an alarm.
    pub disk_alarm: DiskAlarmConfig,
    /// The store in memory, where it is chosen.
    pub memory: MemoryConfig,
    /// How ClickHouse is spoken to, where it is chosen.
    pub clickhouse: ClickHouseConfig,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "embedded".to_owned(),
            folder: PathBuf::from("/var/lib/fleetmend-collector/store"),
            segment_bytes_max: 16 << 20,
            segment_age_s_max: 600,
            hot_cache_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            series_per_host_max: 10_000,
            commit_timeout_ms: 10_000,
            free_bytes_min: 64 << 20,
            maintenance_interval_ms: 5_000,
            merge_files_min: 8,
            merge_bytes_max: 64 << 20,
            merge_samples_max: 400_000_000,
            merge_quiet_s: 900,
            tier_interval_s: 3_600,
            query: QueryConfig::default(),
            retention: RetentionConfig::default(),
            disk_alarm: DiskAlarmConfig::default(),
            memory: MemoryConfig::default(),
            clickhouse: ClickHouseConfig::default(),
        }
    }
}

/// Limits that no query may exceed, whatever its caller asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Queries of users that run at once; more wait within their own timeout. The collector's own have other turns.
    pub concurrent_max: usize,
    /// Threads of the query runtime.
    pub threads: usize,
    /// Memory of one query for sorting, joining and grouping; what can spill goes to disk beyond it.
    pub memory_bytes_max: usize,
    /// Bytes that all queries together may spill to disk.
    pub spill_bytes_max: u64,
    /// Rows of one answer.
    pub rows_max: usize,
    /// Time of one query.
    pub timeout_ms_max: u64,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            concurrent_max: 4,
            threads: 2,
            memory_bytes_max: 128 << 20,
            spill_bytes_max: 1 << 30,
            rows_max: 100_000,
            timeout_ms_max: 60_000,
        }
    }
}

/// Limits of the store in memory.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes of decoded rows; more are refused until retention made room.
    pub bytes_max: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { bytes_max: 512 << 20 }
    }
}

/// How long and how much is kept; a table's own entry goes before the common one.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Days after which a file is deleted, counted from when its latest row was made, by the store's clock. Of the tiers
    /// of metrics it is 180 for `metrics_5m` and 730 for `metrics_1h` unless they have an entry of their own.
    pub age_days: u32,
    /// Bytes of Parquet files a table may hold; the oldest are deleted first.
    pub table_bytes_max: u64,
    /// Other limits for single tables, by name.
    pub tables: BTreeMap<String, TableRetention>,
    /// Bytes of Parquet files that the tables of a lane may hold together, by lane; without a limit when left out.
    pub lanes: BTreeMap<Lane, u64>,
    /// Bytes that all Parquet files may take; metrics are deleted before events, and events before critical facts,
    /// each the oldest first. 0 for no limit.
    pub total_bytes_max: u64,
}

/// When to raise the alarm for the disk, well before it is full.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskAlarmConfig {
    /// Below this share of free space, in percent. 0 for never.
    pub free_percent_min: f64,
    /// When it will be full in less than this, if it grows on as in the last hours. 0 for never. Looked ahead is eight
    /// times as long as was watched, once in the first hour, and watched are six hours: more than 48 is as 48.
    pub full_within_hours: u32,
}

impl Default for DiskAlarmConfig {
    fn default() -> Self {
        Self {
            free_percent_min: 10.0,
            full_within_hours: 48,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            age_days: 30,
            table_bytes_max: 8 << 30,
            tables: BTreeMap::new(),
            lanes: BTreeMap::new(),
            total_bytes_max: 0,
        }
    }
}

impl RetentionConfig {
    /// Days and bytes of a table.
    pub(crate) fn of_table(&self, name: &str) -> (u32, u64) {
        let own = self.tables.get(name);
        let days = own.and_then(|own| own.age_days).unwrap_or(self.age_days);
        let bytes = own.and_then(|own| own.bytes_max).unwrap_or(self.table_bytes_max);
        (days, bytes)
    }
}

/// Limits of one table; what is left out is the common limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableRetention {
    /// Days.
    pub age_days: Option<u32>,
    /// Bytes of Parquet files.
    pub bytes_max: Option<u64>,
}

impl StoreConfig {
    /// Everything that is wrong with it, as key and reason.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut least = |key: &str, value: u64, least: u64| {
            if value < least {
                faults.push((key.to_owned(), format!("must be at least {least}")));
            }
        };
        least("segment_bytes_max", self.segment_bytes_max, 64 << 10);
        least("segment_age_s_max", self.segment_age_s_max, 1);
        least("queue_bytes_max", self.queue_bytes_max.into(), 1 << 20);
        least("series_per_host_max", self.series_per_host_max as u64, 1);
        least("commit_timeout_ms", self.commit_timeout_ms, 100);
        least("maintenance_interval_ms", self.maintenance_interval_ms, 10);
        least("merge_files_min", self.merge_files_min as u64, 2);
        least("query.concurrent_max", self.query.concurrent_max as u64, 1);
        least("query.threads", self.query.threads as u64, 1);
        least(
            "query.memory_bytes_max",
            self.query.memory_bytes_max as u64,
            1 << 20,
        );
        least("query.rows_max", self.query.rows_max as u64, 1);
        least("query.timeout_ms_max", self.query.timeout_ms_max, 1);
        least("memory.bytes_max", self.memory.bytes_max, 1 << 20);
        least("retention.age_days", self.retention.age_days.into(), 1);
        if !(0.0..100.0).contains(&self.disk_alarm.free_percent_min) {
            faults.push((
                "disk_alarm.free_percent_min".to_owned(),
                "has to be from 0 up to less than 100".to_owned(),
            ));
        }
        faults.extend(self.clickhouse.faults());
        if let Err(reason) = self.address() {
            faults.push(("url".to_owned(), reason));
        }
        for name in self.retention.tables.keys() {
            let is_tier = crate::tier::tier_by_name(name).is_some();
            if !is_tier && fleetmend_event::table::table_by_name(name).is_none() {
                faults.push((
                    format!("retention.tables.{name}"),
                    "no table has this name".to_owned(),
                ));
            }
        }
        faults
    }

    /// Where facts are kept.
    ///
    /// # Errors
    /// What is wrong with `url`.
    pub fn address(&self) -> Result<StoreUrl, String> {
        self.url.parse()
    }

    pub(crate) fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.commit_timeout_ms)
    }

    pub(crate) fn catalogue_file(&self) -> PathBuf {
        self.folder.join("catalogue.sqlite")
    }

    pub(crate) fn segments_folder(&self) -> PathBuf {
        self.folder.join("segments")
    }

    /// Compacted segments that the next backup wants.
    pub(crate) fn kept_folder(&self) -> PathBuf {
        self.folder.join("kept")
    }

    pub(crate) fn parquet_folder(&self) -> PathBuf {
        self.folder.join("parquet")
    }

    pub(crate) fn aside_folder(&self) -> PathBuf {
        self.folder.join("aside")
    }

    pub(crate) fn spill_folder(&self) -> PathBuf {
        self.folder.join("spill")
    }
}
