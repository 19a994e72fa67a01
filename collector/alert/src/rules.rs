//! The rules: files of the operator, then those built in.

use std::collections::{BTreeMap, BTreeSet};

use fleetmend_config::{ConfigFaults, Faults, HumanDuration, Validate};
use fleetmend_event::HostId;
use fleetmend_event::table::{FindingKind, Severity};
use serde::Deserialize;

use crate::promql::{self, CheckExpression};
use crate::rule_file::{self, PrometheusFile, RuleGroup};
use crate::{AlertConfig, RuleError};

/// A rule file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleFile {
    /// Rules on findings, in order.
    pub findings: Vec<FindingRule>,
    /// Rules on metrics.
    pub metrics: Vec<MetricRule>,
}

/// Which findings become alerts. What is left out does not matter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRule {
    /// Name, unique.
    pub name: String,
    /// The least severity.
    #[serde(default = "high")]
    pub severity: Severity,
    /// What noticed it; any when empty.
    #[serde(default)]
    pub kinds: Vec<FindingKind>,
    /// Rules or models that made it; any when empty.
    #[serde(default)]
    pub rules: Vec<String>,
    /// Hosts; any when empty.
    #[serde(default)]
    pub hosts: Vec<HostId>,
    /// Receivers; all when empty.
    #[serde(default)]
    pub receivers: Vec<String>,
    /// How long a remedy may take, in place of the setting for all.
    #[serde(default)]
    pub heal_deadline: Option<HumanDuration>,
}

const fn high() -> Severity {
    Severity::High
}

/// How the samples of a window become one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The newest sample.
    Last,
    /// Their mean.
    Avg,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// How the value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Comparison {
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Greater or equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Less or equal.
    #[serde(rename = "<=")]
    LessOrEqual,
}

impl Comparison {
    pub(crate) fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Comparison::Greater => value > limit,
            Comparison::GreaterOrEqual => value >= limit,
            Comparison::Less => value < limit,
            Comparison::LessOrEqual => value <= limit,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }
}

/// A limit on a metric, judged for each series apart.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricRule {
    /// Name, unique.
    pub name: String,
    /// Metric, such as `system.memory.utilization`; not with `promql`.
    #[serde(default)]
    pub metric: String,
    /// An expression in place of all that says which samples are judged: it holds for each series that it gives.
    #[serde(default)]
    pub promql: Option<String>,
    /// Texts for a person, such as `summary`: templates. With `promql` only.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// How long an alert keeps firing after the expression held. With `promql` only.
    #[serde(default)]
    pub keep_firing_for: HumanDuration,
    /// The group of a rule file of Prometheus.
    #[serde(skip)]
    pub group: Option<String>,
    /// Labels a series has to have; with `promql`, labels that the alert has in addition.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How the samples of the window become one value.
    #[serde(default = "average")]
    pub agg: Aggregate,
    /// How far back samples count.
    #[serde(default = "a_minute")]
    pub window: HumanDuration,
    /// How the value is compared with `value`; not with `promql`.
    #[serde(default)]
    pub op: Option<Comparison>,
    /// The limit; not with `promql`.
    #[serde(default)]
    pub value: Option<f64>,
    /// How long it has to hold.
    #[serde(default, rename = "for")]
    pub hold: HumanDuration,
    /// Hosts; all when empty.
    #[serde(default)]
    pub hosts: Vec<HostId>,
    /// Severity of the alert.
    #[serde(default = "high")]
    pub severity: Severity,
    /// Receivers; all when empty.
    #[serde(default)]
    pub receivers: Vec<String>,
}

const fn average() -> Aggregate {
    Aggregate::Avg
}

const fn a_minute() -> HumanDuration {
    HumanDuration::from_secs(60)
}

impl Validate for RuleFile {
    fn validate(&self, faults: &mut Faults<'_>) {
        for (index, rule) in self.metrics.iter().enumerate() {
            let key = |name: &str| format!("metrics[{index}].{name}");
            match &rule.promql {
                Some(expression) => {
                    if let Some(fault) = promql::fault_of(expression) {
                        faults.add(&key("promql"), fault);
                    }
                    let alone = rule.metric.is_empty() && rule.op.is_none() && rule.value.is_none();
                    faults.require(
                        alone,
                        &key("promql"),
                        "stands in place of `metric`, `op` and `value`",
                    );
                }
                None => {
                    let number = rule.value.is_some_and(f64::is_finite);
                    faults.require(number, &key("value"), "has to be a number");
                    faults.require(rule.op.is_some(), &key("op"), "has to be >, >=, < or <=");
                    faults.require(!rule.metric.is_empty(), &key("metric"), "names no metric");
                }
            }
            let seconds = rule.window.get().as_secs();
            faults.require(
                (1..=86_400).contains(&seconds),
                &key("window"),
                "has to be 1s to 1d",
            );
        }
    }
}

/// All rules in force.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// On findings; the first that matches has it.
    pub findings: Vec<FindingRule>,
    /// On metrics, those of Prometheus' files among them.
    pub metrics: Vec<MetricRule>,
    /// Groups of Prometheus' files.
    pub groups: Vec<RuleGroup>,
}

impl MetricRule {
    /// The comparison and the limit of a rule without an expression.
    pub(crate) fn limit(&self) -> (Comparison, f64) {
        (
            self.op.unwrap_or(Comparison::Greater),
            self.value.unwrap_or(f64::INFINITY),
        )
    }
}

impl Rules {
    /// Reads the files of the configuration and adds the built-in rules.
    ///
    /// # Errors
    /// With file and line of every fault of the first file that has one.
    pub fn load(config: &AlertConfig) -> Result<Self, RuleError> {
        Self::read(config)
    }

    /// As [`Rules::load`], and checks every expression.
    ///
    /// # Errors
    /// As [`Rules::load`].
    pub fn load_checked(config: &AlertConfig, check: CheckExpression) -> Result<Self, RuleError> {
        promql::checking(Some(check), || Self::read(config))
    }

    fn read(config: &AlertConfig) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        for path in &config.rules {
            let file: Result<RuleFile, ConfigFaults> = fleetmend_config::load_from(Some(path), None, "-", []);
            let file = file.map_err(|source| RuleError::File {
                path: path.clone(),
                source,
            })?;
            rules.findings.extend(file.findings);
            rules.metrics.extend(file.metrics);
        }
        let mut names: BTreeSet<String> = rules.metrics.iter().map(|rule| rule.name.clone()).collect();
        names.extend(rules.findings.iter().map(|rule| rule.name.clone()));
        for path in &config.prometheus_rules {
            let file: Result<PrometheusFile, ConfigFaults> =
                fleetmend_config::load_from(Some(path), None, "-", []);
            let file = file.map_err(|source| RuleError::File {
                path: path.clone(),
                source,
            })?;
            for mut group in file.groups {
                group.file = rule_file::name_of(path);
                rules.metrics.extend(group.alerts(&mut names));
                rules.groups.push(group);
            }
        }
        if config.default_rules {
            rules.findings.extend(built_in());
        }
        rules.check(config)?;
        Ok(rules)
    }

    fn check(&self, config: &AlertConfig) -> Result<(), RuleError> {
        let mut names = BTreeSet::from([crate::flood::RULE]);
        let known: BTreeSet<&str> = config
            .receivers
            .iter()
            .map(|receiver| receiver.name.as_str())
            .collect();
        let of_findings = self.findings.iter().map(|rule| (&rule.name, &rule.receivers));
        let of_metrics = self.metrics.iter().map(|rule| (&rule.name, &rule.receivers));
        for (name, receivers) in of_findings.chain(of_metrics) {
            if !names.insert(name.as_str()) {
                return Err(RuleError::Twice(name.clone()));
            }
            if let Some(receiver) = receivers
                .iter()
                .find(|receiver| !known.contains(receiver.as_str()))
            {
                return Err(RuleError::Receiver {
                    rule: name.clone(),
                    receiver: receiver.clone(),
                });
            }
        }
        Ok(())
    }
}

/// What wakes somebody when nothing is configured: whatever is high, and every site that is down.
fn built_in() -> Vec<FindingRule> {
    let rule = |name: &str, severity, kinds| FindingRule {
        name: name.to_owned(),
        severity,
        kinds,
        rules: Vec::new(),
        hosts: Vec::new(),
        receivers: Vec::new(),
        heal_deadline: None,
    };
    vec![
        rule("site-down", Severity::Info, vec![FindingKind::Site]),
        rule("high-severity", Severity::High, Vec::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Rules, RuleError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Rules::load(&AlertConfig {
            rules: vec![path],
            ..AlertConfig::default()
        })
    }

    #[test]
    fn rules_are_read_from_toml_and_yaml() {
        let toml = "[[metrics]]\nname = 'memory'\nmetric = 'system.memory.utilization'\nop = '>'\nvalue = 0.95\nfor = '2m'\n";
        let rules = read("rules.toml", toml).unwrap();
        assert_eq!(rules.metrics[0].hold.get().as_secs(), 120);
        assert_eq!(rules.findings.len(), 2, "the built-in ones follow");
        let yaml = "findings:\n- name: shells\n  kinds: [sigma]\n  severity: medium\n";
        assert_eq!(read("rules.yaml", yaml).unwrap().findings[0].name, "shells");
    }

    #[test]
    fn a_broken_rule_file_names_the_line_and_the_key() {
        let error = read("rules.toml", "[[findings]]\nname = 'a'\nseverty = 'high'\n").unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(
            text.contains("rules.toml") && text.contains('3') && text.contains("severty"),
            "{text}"
        );
        let twice = read(
            "rules.toml",
            "[[findings]]\nname = 'a'\n[[findings]]\nname = 'a'\n",
        )
        .unwrap_err();
        assert!(matches!(twice, RuleError::Twice(_)));
        let nobody = read("rules.toml", "[[findings]]\nname = 'a'\nreceivers = ['x']\n").unwrap_err();
        assert!(matches!(nobody, RuleError::Receiver { .. }));
    }

    fn read_prometheus(content: &str) -> Result<Rules, RuleError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, content).unwrap();
        let config = AlertConfig {
            prometheus_rules: vec![path],
            default_rules: false,
            ..AlertConfig::default()
        };
        Rules::load_checked(&config, |expression| {
            if expression.contains("sum(") {
                return Err("parse error: unclosed left parenthesis".to_owned());
            }
            Ok(())
        })
    }

    #[test]
    fn rule_files_of_prometheus_are_read() {
        let file = "groups:\n- name: g\n  rules:\n  - alert: Down\n    expr: up == 0\n    for: 5m\n    labels: {severity: warning}\n\
            \x20 - alert: Down\n    expr: up == 1\n  - record: a:b\n    expr: b\n";
        let rules = read_prometheus(file).unwrap();
        let of_alerts: Vec<(&str, Severity)> = rules
            .metrics
            .iter()
            .map(|rule| (rule.name.as_str(), rule.severity))
            .collect();
        assert_eq!(
            of_alerts,
            [("Down", Severity::Medium), ("Down #2", Severity::High)]
        );
        assert_eq!(rules.metrics[0].hold.get().as_secs(), 300);
        assert_eq!(rules.groups[0].interval.get().as_secs(), 60);
    }

    #[test]
    fn labels_of_a_group_decide_severity_too() {
        let file = "groups:\n- name: empty\n- name: g\n  labels: {severity: critical}\n  rules:\n  - alert: A\n    expr: up\n\
            \x20 - alert: B\n    expr: up\n    labels: {severity: info}\n";
        let rules = read_prometheus(file).unwrap();
        let severities: Vec<Severity> = rules.metrics.iter().map(|rule| rule.severity).collect();
        assert_eq!(severities, [Severity::Critical, Severity::Info]);
        let recording = "groups:\n- name: g\n  rules:\n  - {record: a, expr: b, keep_firing_for: 1m}\n";
        assert!(read_prometheus(recording).is_err());
    }

    #[test]
    fn faults_of_rule_files_name_file_and_line() {
        let file = "groups:\n- name: g\n  rules:\n  - record: 9x\n    expr: up\n  - alert: A\n    expr: sum(up\n  - expr: up\n";
        let error = read_prometheus(file).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        for part in [
            "prometheus.yml",
            ":4",
            ":7",
            "unclosed left parenthesis",
            "either `record` or `alert`",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let twice = "groups:\n- {name: g, rules: []}\n- {name: g, rules: []}\n";
        assert!(read_prometheus(twice).is_err());
    }
}
