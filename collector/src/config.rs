//! The collector's configuration: one file, whose sections are the rooms' own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use collector_alert::AlertConfig;
use collector_api::ApiConfig;
use collector_export::ExportConfig;
use collector_ingest::IngestConfig;
use collector_ingest::enrol::EnrolConfig;
use collector_store::StoreConfig;
use fleetmend_config::{ConfigFaults, Faults, Validate};
use fleetmend_control::ControlConfig;
use fleetmend_telemetry::LogFormat;
use serde::Deserialize;

use crate::adapt::{PromqlConfig, check_expression};
use crate::backup::BackupConfig;

/// Prefix of the environment variables that set keys.
const ENVIRONMENT_PREFIX: &str = "FLEETMEND_COLLECTOR";

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CollectorConfig {
    /// Folder of the keys and of the control database.
    pub(crate) state_dir: PathBuf,
    /// How logs are written: `plain` or `json`.
    pub(crate) log_format: LogFormat,
    /// Where agents connect; client certificates are required.
    pub(crate) carrier_listen: SocketAddr,
    /// Where hosts enrol.
    pub(crate) enrolment_listen: SocketAddr,
    /// Where users, tokens, hosts and alerts are kept: SQLite in `state_dir`, or PostgreSQL.
    pub(crate) control: ControlConfig,
    /// What enrolment allows.
    pub(crate) enrolment: EnrolConfig,
    /// What ingest allows.
    pub(crate) ingest: IngestConfig,
    /// Where facts are kept.
    pub(crate) store: StoreConfig,
    /// Where backups go.
    pub(crate) backup: BackupConfig,
    /// Rules and receivers.
    pub(crate) alert: AlertConfig,
    /// API and dashboard.
    pub(crate) api: ApiConfig,
    /// Where facts are sent in addition.
    pub(crate) export: ExportConfig,
    /// Limits of queries in PromQL.
    pub(crate) promql: PromqlConfig,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/fleetmend-collector"),
            log_format: LogFormat::default(),
            carrier_listen: SocketAddr::from(([0, 0, 0, 0], 7444)),
            enrolment_listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            control: ControlConfig::default(),
            enrolment: EnrolConfig::default(),
            ingest: IngestConfig::default(),
            store: StoreConfig::default(),
            backup: BackupConfig::default(),
            alert: AlertConfig::default(),
            api: ApiConfig::default(),
            export: ExportConfig::default(),
            promql: PromqlConfig::default(),
        }
    }
}

impl CollectorConfig {
    /// Reads `main` and the files of `<main without extension>.d` beside it.
    ///
    /// # Errors
    /// Every fault at once.
    pub(crate) fn load(main: &Path) -> Result<Self, ConfigFaults> {
        fleetmend_config::load(Some(main), Some(&main.with_extension("d")), ENVIRONMENT_PREFIX)
    }

    /// Folder of the fleet root, where this host holds it.
    pub(crate) fn root_dir(&self) -> PathBuf {
        self.state_dir.join("root")
    }

    /// Folder of the collector's own keys.
    pub(crate) fn authority_dir(&self) -> PathBuf {
        self.state_dir.join("authority")
    }

    /// The control database where the configuration names no other: users, tokens, hosts, alerts.
    pub(crate) fn control_database(&self) -> PathBuf {
        self.state_dir.join("control.sqlite")
    }
}

impl Validate for CollectorConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.require(
            self.state_dir.is_absolute(),
            "state_dir",
            "must be an absolute path",
        );
        faults.section("control", |faults| self.control.validate(faults));
        faults.section("enrolment", |faults| add_all(faults, self.enrolment.faults()));
        faults.section("ingest", |faults| self.ingest.validate(faults));
        faults.section("store", |faults| add_all(faults, self.store.faults()));
        faults.section("backup", |faults| {
            self.backup.validate(faults);
            let folder = self.backup.folder.as_ref();
            let is_apart = folder.is_none_or(|folder| !folder.starts_with(&self.store.folder));
            let reason = "must not be below store.folder: a restore would move it away with the store";
            faults.require(is_apart, "folder", reason);
        });
        faults.section("export", |faults| self.export.validate(faults));
        faults.section("alert", |faults| self.alert.validate(faults));
        faults.section("promql", |faults| self.promql.validate(faults));
        faults.section("api", |faults| {
            for fault in self.api.faults(false) {
                faults.add(fault.key, fault.reason);
            }
        });
    }
}

fn add_all(faults: &mut Faults<'_>, found: Vec<(String, String)>) {
    for (key, message) in found {
        faults.add(&key, message);
    }
}

/// Reads the configuration and reports every fault.
pub(crate) fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match CollectorConfig::load(path) {
        Ok(config) => {
            if let Err(error) = collector_alert::Rules::load_checked(&config.alert, check_expression) {
                writeln!(out, "{:#}", anyhow::Error::from(error)).context("print the faults")?;
                return Ok(ExitCode::FAILURE);
            }
            writeln!(out, "{}: no faults", path.display()).context("print the result")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            writeln!(out, "{faults}").context("print the faults")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
