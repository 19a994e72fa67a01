//! The agent's configuration: one file, whose sections are the rooms' own.

use std::path::{Path, PathBuf};

use agent_collect::bpf::BpfConfig;
use agent_collect::process::ProcessConfig;
use agent_collect::{CollectConfig, SourcesConfig};
use agent_detect::DetectConfig;
use agent_heal::Config as HealConfig;
use agent_integrity::Config as IntegrityConfig;
use agent_spool::SpoolConfig;
use agent_stream::StreamConfig;
use fleetmend_config::{ConfigFaults, Faults, Validate};
use fleetmend_telemetry::LogFormat;
use serde::Deserialize;

use crate::budget::BudgetConfig;

/// Prefix of the environment variables that set keys.
const ENVIRONMENT_PREFIX: &str = "FLEETMEND_AGENT";

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentConfig {
    /// Folder of the identity, the spool and what was learnt.
    pub(crate) state_dir: PathBuf,
    /// Unix socket for `status`, health and metrics.
    pub(crate) admin_socket: PathBuf,
    /// How logs are written: `plain` or `json`.
    pub(crate) log_format: LogFormat,
    /// How much of the host the agent may take.
    pub(crate) budget: BudgetConfig,
    /// What is collected.
    pub(crate) collect: CollectConfig,
    /// Probes in the kernel.
    pub(crate) bpf: BpfConfig,
    /// What stands in for the probes.
    pub(crate) sources: SourcesConfig,
    /// The process inventory.
    pub(crate) process: ProcessConfig,
    /// What is detected.
    pub(crate) detect: DetectConfig,
    /// How findings are proposed for repair.
    pub(crate) heal: HealConfig,
    /// Which files should not change.
    pub(crate) integrity: IntegrityConfig,
    /// What waits on disk.
    pub(crate) spool: SpoolConfig,
    /// How it is sent.
    pub(crate) stream: StreamConfig,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/fleetmend-agent"),
            admin_socket: PathBuf::from("/run/fleetmend-agent/admin.sock"),
            log_format: LogFormat::default(),
            budget: BudgetConfig::default(),
            collect: CollectConfig::default(),
            bpf: BpfConfig::default(),
            sources: SourcesConfig::default(),
            process: ProcessConfig::default(),
            detect: DetectConfig::default(),
            heal: HealConfig::default(),
            integrity: IntegrityConfig::default(),
            spool: SpoolConfig::default(),
            stream: StreamConfig::default(),
        }
    }
}

impl AgentConfig {
    /// Reads `main` and the files of `<main without extension>.d` beside it.
    ///
    /// # Errors
    /// Every fault at once.
    pub(crate) fn load(main: &Path) -> Result<Self, ConfigFaults> {
        let mut config: Self =
            fleetmend_config::load(Some(main), Some(&main.with_extension("d")), ENVIRONMENT_PREFIX)?;
        // One number, by either name; two that differ are a fault.
        let egress = config
            .budget
            .egress_bytes_per_s
            .or(config.stream.egress_bytes_per_s);
        config.budget.egress_bytes_per_s = egress;
        config.stream.egress_bytes_per_s = egress;
        let disk = config.budget.disk;
        config.budget.disk = Some(disk.unwrap_or_else(|| crate::budget::disk_needed(&config.spool)));
        Ok(config)
    }

    /// Folder of the host's key and certificate.
    pub(crate) fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    /// File of the findings that hold.
    pub(crate) fn findings_file(&self) -> PathBuf {
        self.state_dir.join("open-findings.json")
    }

    /// Folder of how far logs were read, and of their templates.
    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    /// Folder of the baseline of watched files.
    pub(crate) fn integrity_dir(&self) -> PathBuf {
        self.state_dir.join("integrity")
    }

    /// File that tells the next start how this run ended.
    pub(crate) fn run_file(&self) -> PathBuf {
        self.state_dir.join("run.json")
    }

    /// File of the last trusted time.
    pub(crate) fn time_file(&self) -> PathBuf {
        self.state_dir.join("trusted-time")
    }
}

impl Validate for AgentConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.section("budget", |faults| {
            self.budget
                .validate(&self.spool, self.stream.egress_bytes_per_s, faults);
        });
        faults.section("collect", |faults| add_all(faults, self.collect.faults()));
        faults.section("detect", |faults| add_all(faults, self.detect.faults()));
        faults.section("heal", |faults| self.heal.validate(faults));
        faults.section("integrity", |faults| add_all(faults, self.integrity.faults()));
        faults.section("bpf", |faults| add_all(faults, self.bpf.faults()));
        faults.section("sources", |faults| add_all(faults, self.sources.faults()));
        faults.section("process", |faults| add_all(faults, self.process.faults()));
        faults.section("stream", |faults| self.stream.validate(faults));
        faults.section("spool", |faults| self.spool.validate(faults));
        faults.require(
            self.state_dir.is_absolute(),
            "state_dir",
            "must be an absolute path",
        );
        faults.require(
            self.admin_socket.is_absolute(),
            "admin_socket",
            "must be an absolute path",
        );
    }
}

fn add_all(faults: &mut Faults<'_>, found: Vec<(String, String)>) {
    for (key, message) in found {
        faults.add(&key, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("agent.toml");
        let text = "[collect]\nwitness = 'nowhere'\nhost_interval_ms = 0\nunit_interval_s = 0\n\
            [[collect.sites]]\nname = 'a'\nurl = 'ftp://example.net'\ninterval_s = 0\n\
            [[collect.sites]]\nname = 'a'\nurl = 'http://example.net'\n\
            [detect.limits]\nprocess_cpu_core_pct = -1.0\nfilesystem_used_pct = 500.0\n";
        std::fs::write(&main, text).unwrap();
        let faults = AgentConfig::load(&main).unwrap_err();
        let keys: Vec<&str> = faults.faults.iter().map(|fault| fault.key.as_str()).collect();
        let wanted = [
            "collect.witness",
            "collect.host_interval_ms",
            "collect.unit_interval_s",
            "collect.sites[0].url",
            "collect.sites[0].interval_s",
            "collect.sites[1].name",
            "detect.limits.process_cpu_core_pct",
            "detect.limits.filesystem_used_pct",
        ];
        assert_eq!(keys, wanted, "{faults}");
    }

    fn load(text: &str) -> Result<AgentConfig, ConfigFaults> {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("agent.toml");
        std::fs::write(&main, text).unwrap();
        AgentConfig::load(&main)
    }

    #[test]
    fn budget_that_cannot_be_kept_is_refused() {
        let text = "[budget]\ncpu_core_pct = 0\nmemory = '1MiB'\ndisk = '500MiB'\negress_bytes_per_s = '1MiB'\n\
            [stream]\negress_bytes_per_s = '2MiB'\n";
        let faults = load(text).unwrap_err();
        let keys: Vec<&str> = faults.faults.iter().map(|fault| fault.key.as_str()).collect();
        let wanted = [
            "budget.cpu_core_pct",
            "budget.memory",
            "budget.disk",
            "budget.egress_bytes_per_s",
        ];
        assert_eq!(keys, wanted, "{faults}");
        let disk = faults.to_string();
        assert!(disk.contains("must be at least 544MiB: the quotas"), "{disk}");
    }

    #[test]
    fn disk_of_the_budget_follows_the_spool_where_none_is_set() {
        let mib = |text| load(text).unwrap().budget.disk.unwrap().get() >> 20;
        assert_eq!(mib(""), 544);
        assert_eq!(mib("[spool]\nevents_quota = '2GiB'\n"), 32 + 2048 + 80 + 32);
        assert_eq!(mib("[budget]\ndisk = '1GiB'\n"), 1024);
    }

    #[test]
    fn egress_of_the_budget_is_the_cap_of_the_stream() {
        for section in ["budget", "stream"] {
            let config = load(&format!("[{section}]\negress_bytes_per_s = '1MiB'\n")).unwrap();
            let (budget, stream) = (config.budget.egress_bytes_per_s, config.stream.egress_bytes_per_s);
            assert_eq!(budget.map(fleetmend_config::ByteSize::get), Some(1 << 20));
            assert_eq!(budget, stream);
        }
    }
}
