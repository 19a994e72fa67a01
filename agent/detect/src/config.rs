//! Configuration of this room.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::auth::AuthConfig;
use crate::logs::LogsConfig;
use crate::sigma::{DisabledRule, RuleOptions};

/// What is detected, and from when on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectConfig {
    /// Folders of Sigma rules, read with all folders below them. Packaged rules first, then the site's own; a rule
    /// replaces those of the same id in folders before.
    pub rule_dirs: Vec<PathBuf>,
    /// Sigma rules that are switched off, by id or title, each with the reason.
    pub disabled_rules: Vec<DisabledRule>,
    /// What `%name%` stands for in Sigma values with the modifier `expand`.
    pub placeholders: BTreeMap<String, Vec<String>>,
    /// Seconds without a new match after which a Sigma finding is resolved.
    pub sigma_quiet_s: u64,
    /// Limits on processes, filesystems, units and sites.
    pub limits: LimitsConfig,
    /// Detectors over several facts.
    pub behaviour: BehaviourConfig,
    /// The host-anomaly model.
    pub anomaly: AnomalyConfig,
    /// Attacks on accounts.
    pub auth: AuthConfig,
    /// What logs do that they did not.
    pub logs: LogsConfig,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            rule_dirs: vec![
                PathBuf::from("/usr/share/fleetmend/rules"),
                PathBuf::from("/etc/fleetmend/rules"),
            ],
            disabled_rules: Vec::new(),
            placeholders: BTreeMap::new(),
            sigma_quiet_s: 600,
            limits: LimitsConfig::default(),
            behaviour: BehaviourConfig::default(),
            anomaly: AnomalyConfig::default(),
            auth: AuthConfig::default(),
            logs: LogsConfig::default(),
        }
    }
}

/// Detectors over several facts, see `docs/detections.md`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BehaviourConfig {
    /// Whether they run.
    pub enabled: bool,
    /// Ports tried at one address within a minute that are a scan.
    pub scan_ports: u32,
    /// Bytes sent to an address that is not usual, within an hour or spread over a day, that are an exfiltration.
    pub exfiltration_bytes: u64,
    /// What is expected here, and so not raised.
    pub expected: Vec<Expected>,
}

impl Default for BehaviourConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            scan_ports: 20,
            exfiltration_bytes: 50_000_000,
            expected: Vec::new(),
        }
    }
}

/// A detection that is expected of a program.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Its name, such as `bpf-load`.
    pub rule: String,
    /// Path of the program, a `*` at the end for any that begins so; without it, of every program.
    #[serde(default)]
    pub exe: Option<String>,
}

impl BehaviourConfig {
    /// Whether this detection is expected of a program at `exe`.
    pub(crate) fn expects(&self, rule: &str, exe: Option<&str>) -> bool {
        let meets = |wanted: &str, exe: &str| match wanted.strip_suffix('*') {
            Some(start) => exe.starts_with(start),
            None => exe == wanted,
        };
        self.expected
            .iter()
            .filter(|expected| expected.rule == rule)
            .any(|expected| {
                let wanted = expected.exe.as_deref();
                wanted.is_none_or(|wanted| exe.is_some_and(|exe| meets(wanted, exe)))
            })
    }

    fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, reason: String| faults.push((format!("behaviour.{key}"), reason));
        if !(2..=64).contains(&self.scan_ports) {
            fault("scan_ports", "must be from 2 to 64".to_owned());
        }
        if self.exfiltration_bytes == 0 {
            fault("exfiltration_bytes", "must be above 0".to_owned());
        }
        for expected in &self.expected {
            if !crate::behaviour::detections().any(|detection| detection.rule == expected.rule) {
                let known: Vec<&str> = crate::behaviour::detections().map(|known| known.rule).collect();
                fault(
                    "expected",
                    format!(
                        "no detection is called {:?}; there are {}",
                        expected.rule,
                        known.join(", ")
                    ),
                );
            }
            if expected.exe.as_deref().is_some_and(|exe| !exe.starts_with('/')) {
                fault("expected", "exe must be a full path".to_owned());
            }
        }
        faults
    }
}

/// Limits that are findings when crossed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// CPU use of one process, in percent of one core, above which it may be running away.
    pub process_cpu_core_pct: f64,
    /// Seconds it must stay there.
    pub process_cpu_for_s: u64,
    /// Used share of a filesystem, in percent, from which it is full.
    pub filesystem_used_pct: f64,
    /// Used share below which it is no longer full; the distance keeps a finding from flapping.
    pub filesystem_clear_pct: f64,
    /// Consecutive probes that must find a site down.
    pub site_down_probes: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            process_cpu_core_pct: 90.0,
            process_cpu_for_s: 300,
            filesystem_used_pct: 90.0,
            filesystem_clear_pct: 85.0,
            site_down_probes: 2,
        }
    }
}

/// The host-anomaly model's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalyConfig {
    /// Whether the model runs.
    pub enabled: bool,
    /// Folder of the model: graph, manifest and golden data.
    pub model_dir: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// Where what was learnt is kept over restarts.
    pub state_file: PathBuf,
    /// Seconds of one window.
    pub window_s: f64,
    /// Seconds that are watched before the first fit; nothing is raised until then.
    pub warmup_s: f64,
    /// Wanted alerts per host and day.
    pub alerts_per_day: f64,
}

impl Default for AnomalyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            model_dir: PathBuf::from("/usr/share/fleetmend/models/host-anomaly"),
            onnxruntime: PathBuf::from("/usr/lib/fleetmend/libonnxruntime.so"),
            state_file: PathBuf::from("/var/lib/fleetmend-agent/host-anomaly.state"),
            window_s: 5.0,
            warmup_s: 3_600.0,
            alerts_per_day: 1.0,
        }
    }
}

impl DetectConfig {
    /// Where the Sigma rules come from and what the site says of them.
    pub fn rule_options(&self) -> RuleOptions {
        RuleOptions {
            folders: self.rule_dirs.clone(),
            disabled: self.disabled_rules.clone(),
            placeholders: self.placeholders.clone(),
        }
    }

    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let limits = &self.limits;
        let mut faults = Vec::new();
        let mut check = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                faults.push((key.to_owned(), reason.to_owned()));
            }
        };
        let unsaid = self
            .disabled_rules
            .iter()
            .any(|disabled| disabled.rule.is_empty() || disabled.reason.is_empty());
        check(
            unsaid,
            "disabled_rules",
            "each needs a rule (id or title) and a reason",
        );
        let positive = |value: f64| value.is_finite() && value > 0.0;
        check(
            !positive(limits.process_cpu_core_pct),
            "limits.process_cpu_core_pct",
            "must be above 0",
        );
        let used = limits.filesystem_used_pct;
        check(
            !positive(used) || used > 100.0,
            "limits.filesystem_used_pct",
            "must be above 0 and at most 100",
        );
        check(
            limits.filesystem_clear_pct >= used,
            "limits.filesystem_clear_pct",
            "must be below filesystem_used_pct",
        );
        check(
            limits.site_down_probes == 0,
            "limits.site_down_probes",
            "must be at least 1",
        );
        let (window, warmup) = (self.anomaly.window_s, self.anomaly.warmup_s);
        check(
            !window.is_finite() || window < 1.0,
            "anomaly.window_s",
            "must be at least 1",
        );
        check(
            !warmup.is_finite() || warmup < window * 4.0,
            "anomaly.warmup_s",
            "must be at least four windows",
        );
        check(
            !positive(self.anomaly.alerts_per_day),
            "anomaly.alerts_per_day",
            "must be above 0",
        );
        faults.extend(self.auth.faults());
        faults.extend(self.behaviour.faults());
        faults
    }
}
