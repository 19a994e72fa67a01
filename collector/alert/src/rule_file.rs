//! Rule files of Prometheus: groups of recording rules and of rules for alerts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fleetmend_config::{Faults, HumanDuration, Validate};
use fleetmend_event::table::Severity;
use serde::Deserialize;

use crate::promql;
use crate::rules::{Aggregate, MetricRule};

/// A file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrometheusFile {
    /// Its groups.
    pub groups: Vec<RuleGroup>,
}

/// Rules with one interval.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleGroup {
    /// Name, unique within its file.
    pub name: String,
    /// How often they are evaluated, one after another.
    #[serde(default = "a_minute")]
    pub interval: HumanDuration,
    /// Series that one recording rule may give, 0 for the room's limit; alerts that one rule may give, 0 for no limit.
    #[serde(default)]
    pub limit: usize,
    /// How far behind now expressions are evaluated, so that samples have come in.
    #[serde(default)]
    pub query_offset: HumanDuration,
    /// Labels that every rule sets, beneath its own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// In order.
    #[serde(default)]
    pub rules: Vec<PrometheusRule>,
    /// The file it was read from.
    #[serde(skip)]
    pub file: String,
}

/// A recording rule or a rule for alerts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusRule {
    /// Name of the series it records.
    #[serde(default)]
    pub record: Option<String>,
    /// Name of the alert.
    #[serde(default)]
    pub alert: Option<String>,
    /// The expression.
    pub expr: String,
    /// How long it has to hold.
    #[serde(default, rename = "for")]
    pub hold: HumanDuration,
    /// How long an alert keeps firing after the expression held.
    #[serde(default)]
    pub keep_firing_for: HumanDuration,
    /// Labels that it sets; templates in a rule for alerts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Texts for a person: templates.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

const fn a_minute() -> HumanDuration {
    HumanDuration::from_secs(60)
}

impl Validate for PrometheusFile {
    fn validate(&self, faults: &mut Faults<'_>) {
        for (place, group) in self.groups.iter().enumerate() {
            let key = |name: &str| format!("groups[{place}].{name}");
            let twice = self
                .groups
                .iter()
                .take(place)
                .any(|other| other.name == group.name);
            faults.require(
                !group.name.is_empty() && !twice,
                &key("name"),
                "has to be a name that no other group of the file has",
            );
            faults.require(
                group.interval.get() >= Duration::from_secs(1),
                &key("interval"),
                "has to be at least 1s",
            );
            for (number, rule) in group.rules.iter().enumerate() {
                let key = |name: &str| format!("groups[{place}].rules[{number}].{name}");
                rule.validate(faults, &key);
            }
        }
    }
}

impl PrometheusRule {
    fn validate(&self, faults: &mut Faults<'_>, key: &dyn Fn(&str) -> String) {
        match (&self.record, &self.alert) {
            (Some(name), None) => {
                let good = name
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':'));
                let begins = name.starts_with(|first: char| !first.is_ascii_digit());
                faults.require(good && begins, &key("record"), "is no name of a metric");
                faults.require(
                    self.annotations.is_empty()
                        && self.hold.get().is_zero()
                        && self.keep_firing_for.get().is_zero(),
                    &key("record"),
                    "has neither `for` nor `keep_firing_for` nor `annotations`",
                );
            }
            (None, Some(name)) => faults.require(!name.is_empty(), &key("alert"), "is empty"),
            _ => faults.add(&key("expr"), "needs either `record` or `alert` beside it"),
        }
        for name in self.labels.keys() {
            let good = name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            faults.require(
                good && !name.is_empty() && name != "__name__",
                &key("labels"),
                "has a name that no label may have",
            );
        }
        if let Some(fault) = promql::fault_of(&self.expr) {
            faults.add(&key("expr"), fault);
        }
    }
}

impl RuleGroup {
    /// Identity of the group beside those of other files.
    pub(crate) fn key(&self) -> String {
        format!("{};{}", self.file, self.name)
    }

    /// Its rules for alerts, as the room judges them. `names` are those that are taken.
    pub(crate) fn alerts(&self, names: &mut std::collections::BTreeSet<String>) -> Vec<MetricRule> {
        let mut all = Vec::new();
        for rule in &self.rules {
            let Some(alert) = &rule.alert else { continue };
            let mut name = alert.clone();
            let mut number = 1;
            while !names.insert(name.clone()) {
                number += 1;
                name = format!("{alert} #{number}");
            }
            let mut labels = self.labels.clone();
            labels.extend(rule.labels.clone());
            let severity = severity(labels.get("severity"));
            all.push(MetricRule {
                name,
                metric: alert.clone(),
                labels,
                agg: Aggregate::Last,
                window: a_minute(),
                op: None,
                value: None,
                promql: Some(rule.expr.clone()),
                annotations: rule.annotations.clone(),
                hold: rule.hold,
                keep_firing_for: rule.keep_firing_for,
                hosts: Vec::new(),
                severity,
                receivers: Vec::new(),
                group: Some(self.key()),
            });
        }
        all
    }
}

/// What the label `severity` says to us: our own words, and those that are common.
fn severity(label: Option<&String>) -> Severity {
    match label.map(String::as_str) {
        Some("critical" | "emergency") => Severity::Critical,
        Some("warning" | "medium" | "warn") => Severity::Medium,
        Some("low" | "notice") => Severity::Low,
        Some("info" | "none") => Severity::Info,
        _ => Severity::High,
    }
}

/// The file's name as groups carry it.
pub(crate) fn name_of(path: &Path) -> String {
    path.display().to_string()
}
