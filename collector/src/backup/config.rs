//! Where backups go, how often, and what is kept.

use std::path::PathBuf;

use collector_store::backup::Keep;
use fleetmend_config::{Faults, Validate};
use serde::Deserialize;

/// Configuration of backups; without a folder there are none.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackupConfig {
    /// Folder of the repository, on another disk than the store's; an empty one becomes a repository.
    pub(crate) folder: Option<PathBuf>,
    /// Seconds between the beginnings of two backups: what a lost disk loses at most.
    pub(crate) interval_s: u64,
    /// File of the key; without one nothing is encrypted.
    pub(crate) key_file: Option<PathBuf>,
    /// Back up the collector's keys and its configuration without encryption too.
    pub(crate) keys_in_plain: bool,
    /// Seconds after which the newest backup is too old and a finding says so.
    pub(crate) age_max_s: u64,
    /// What is kept.
    pub(crate) keep: KeepConfig,
}

/// What is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeepConfig {
    /// Hours of which every backup stays, so that any minute of them can be restored.
    pub(crate) all_hours: u32,
    /// Hours of which the newest backup stays.
    pub(crate) hourly: u32,
    /// Days of which the newest backup stays.
    pub(crate) daily: u32,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            folder: None,
            interval_s: 60,
            key_file: None,
            keys_in_plain: false,
            age_max_s: 900,
            keep: KeepConfig::default(),
        }
    }
}

impl Default for KeepConfig {
    fn default() -> Self {
        Self {
            all_hours: 48,
            hourly: 168,
            daily: 30,
        }
    }
}

impl KeepConfig {
    pub(crate) fn keep(&self) -> Keep {
        Keep {
            all_hours: self.all_hours,
            hourly: self.hourly,
            daily: self.daily,
        }
    }
}

impl Validate for BackupConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        let absolute = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path.is_absolute());
        faults.require(absolute(&self.folder), "folder", "must be an absolute path");
        faults.require(absolute(&self.key_file), "key_file", "must be an absolute path");
        faults.require(self.interval_s >= 1, "interval_s", "must be at least 1");
        faults.require(
            self.age_max_s > self.interval_s,
            "age_max_s",
            "must be more than interval_s",
        );
    }
}
