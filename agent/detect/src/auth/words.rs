//! What a finding says.

use fleetmend_event::table::{AuthEvent, FindingKind, Severity};
use serde_json::{Value, json};

use crate::tracker::{Notice, Subject};

/// Title, severity, techniques and reasons of a finding.
pub(super) struct Words {
    title: String,
    severity: Severity,
    techniques: &'static [&'static str],
    tactic: &'static str,
    factors: Vec<Value>,
}

impl Words {
    pub(super) fn new(
        title: String,
        severity: Severity,
        techniques: &'static [&'static str],
        tactic: &'static str,
    ) -> Self {
        Self {
            title,
            severity,
            techniques,
            tactic,
            factors: Vec::new(),
        }
    }

    /// Adds a number that crossed its threshold.
    pub(super) fn because(mut self, feature: &str, value: u64, threshold: u64) -> Self {
        self.factors.push(json!({
            "feature": feature,
            "value": value,
            "expected": format!("< {threshold}"),
            "contribution": null,
        }));
        self
    }
}

pub(super) fn notice(rule: &str, subject: Subject, event: &AuthEvent, words: &Words) -> Notice {
    Notice {
        kind: FindingKind::Behaviour,
        rule: rule.to_owned(),
        title: words.title.clone(),
        severity: words.severity,
        score: None,
        subject,
        techniques: words
            .techniques
            .iter()
            .map(|technique| (*technique).to_owned())
            .collect(),
        tactics: vec![words.tactic.to_owned()],
        factors: Value::Array(words.factors.clone()),
        evidence: json!({ "auth_events": event }),
    }
}
