//! Rules as they are shown, with the alerts that they have now.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetmend_event::prometheus_names::{label_name, metric_name};
use fleetmend_event::{HostId, TimeMicros};

use crate::error::AlertError;
use crate::record::{Status, status_key};
use crate::rules::{Aggregate, FindingRule, MetricRule};
use crate::task::Alerting;
use crate::template;
use crate::view::{AlertFilter, AlertView};

/// Alerts that are shown with rules.
const ALERTS_MAX: usize = 10_000;

/// Rules that are evaluated together.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleGroupView {
    /// Name.
    pub name: String,
    /// File it comes from; empty for the collector's own settings.
    pub file: String,
    /// How often.
    pub interval: Duration,
    /// Series that one recording rule may give; 0 for the room's limit.
    pub limit: usize,
    /// Its rules.
    pub rules: Vec<RuleView>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleView {
    /// Name of the alert, or of the recorded series.
    pub name: String,
    /// The expression; for rules on findings what they want, in words.
    pub query: String,
    /// Labels that it sets.
    pub labels: BTreeMap<String, String>,
    /// Why its last evaluation failed.
    pub fault: Option<String>,
    /// When it was last evaluated, and how long that took.
    pub evaluated: Option<(TimeMicros, Duration)>,
    /// For rules for alerts: how long it has to hold, how long it keeps firing, its texts, its alerts.
    pub alerting: Option<AlertingView>,
}

/// What a rule for alerts has and a recording rule has not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlertingView {
    /// How long it has to hold.
    pub hold: Duration,
    /// How long it keeps firing.
    pub keep_firing: Duration,
    /// Texts, as templates.
    pub annotations: BTreeMap<String, String>,
    /// Those that are pending or firing.
    pub alerts: Vec<RuleAlert>,
}

/// An alert in Prometheus' form.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleAlert {
    /// Host it is about.
    pub host_id: Option<HostId>,
    /// `alertname`, `severity`, the labels of the series or of the finding.
    pub labels: BTreeMap<String, String>,
    /// Texts, filled in.
    pub annotations: BTreeMap<String, String>,
    /// Whether it fires, or may yet.
    pub firing: bool,
    /// Since when.
    pub active_at: TimeMicros,
    /// Its value, if it has one.
    pub value: Option<f64>,
}

impl Alerting {
    /// Every rule in force.
    ///
    /// # Errors
    /// When the alerts cannot be read.
    pub async fn rule_groups(&self) -> Result<Vec<RuleGroupView>, AlertError> {
        let mut alerts: BTreeMap<String, Vec<AlertView>> = BTreeMap::new();
        for state in ["firing", "pending", "waiting"] {
            let filter = AlertFilter {
                state: Some(state.to_owned()),
                limit: ALERTS_MAX,
                ..AlertFilter::default()
            };
            for alert in self.alerts(filter).await? {
                alerts.entry(alert.rule.clone()).or_default().push(alert);
            }
        }
        let shared = &self.shared;
        let statuses = shared.statuses.lock().clone();
        let every = shared.config.metrics_every.get();
        let metric = |rule: &MetricRule| metric_view(rule, statuses.get(&rule.name), alerts.get(&rule.name));
        let mut groups = Vec::new();
        for group in &shared.rules.groups {
            let key = group.key();
            let mut of_alerts = shared
                .rules
                .metrics
                .iter()
                .filter(|rule| rule.group.as_ref() == Some(&key));
            let rules = group
                .rules
                .iter()
                .enumerate()
                .filter_map(|(place, rule)| match &rule.record {
                    Some(name) => {
                        let status = statuses.get(&status_key(group, place));
                        Some(RuleView {
                            name: name.clone(),
                            query: rule.expr.clone(),
                            labels: rule.labels.clone(),
                            fault: status.and_then(|status| status.fault.clone()),
                            evaluated: status.map(|status| (status.evaluated_at, status.took)),
                            alerting: None,
                        })
                    }
                    None => of_alerts.next().map(&metric),
                });
            groups.push(RuleGroupView {
                name: group.name.clone(),
                file: group.file.clone(),
                interval: group.interval.get(),
                limit: group.limit,
                rules: rules.collect(),
            });
        }
        let own = shared.rules.metrics.iter().filter(|rule| rule.group.is_none());
        groups.push(group_of("metrics", every, own.map(metric).collect()));
        let findings = shared.rules.findings.iter();
        let findings = findings
            .map(|rule| finding_view(rule, alerts.get(&rule.name)))
            .collect();
        groups.push(group_of("findings", shared.config.poll.get(), findings));
        groups.retain(|group| !group.rules.is_empty());
        Ok(groups)
    }
}

fn group_of(name: &str, interval: Duration, rules: Vec<RuleView>) -> RuleGroupView {
    RuleGroupView {
        name: name.to_owned(),
        file: String::new(),
        interval,
        limit: 0,
        rules,
    }
}

fn metric_view(rule: &MetricRule, status: Option<&Status>, alerts: Option<&Vec<AlertView>>) -> RuleView {
    let alerts = alerts.into_iter().flatten().map(|alert| {
        let series: BTreeMap<String, String> = serde_json::from_str(&alert.subject).unwrap_or_default();
        let mut shown = alert_of(
            alert,
            if rule.group.is_some() {
                &rule.metric
            } else {
                &rule.name
            },
        );
        for (name, template) in &rule.annotations {
            let text = template::expand(template, &series, alert.value.unwrap_or(f64::NAN));
            shown.annotations.insert(name.clone(), text);
        }
        shown.labels.extend(series);
        shown
    });
    let named_by = if rule.group.is_some() {
        &rule.metric
    } else {
        &rule.name
    };
    RuleView {
        name: named_by.clone(),
        query: rule.promql.clone().unwrap_or_else(|| expression_of(rule)),
        labels: if rule.promql.is_some() {
            rule.labels.clone()
        } else {
            BTreeMap::from([("severity".to_owned(), rule.severity.as_str().to_owned())])
        },
        fault: status.and_then(|status| status.fault.clone()),
        evaluated: status.map(|status| (status.evaluated_at, status.took)),
        alerting: Some(AlertingView {
            hold: rule.hold.get(),
            keep_firing: rule.keep_firing_for.get(),
            annotations: rule.annotations.clone(),
            alerts: alerts.collect(),
        }),
    }
}

fn finding_view(rule: &FindingRule, alerts: Option<&Vec<AlertView>>) -> RuleView {
    let of_alerts = alerts.into_iter().flatten();
    RuleView {
        name: rule.name.clone(),
        query: format!("findings of severity {} and above", rule.severity.as_str()),
        labels: BTreeMap::new(),
        fault: None,
        evaluated: None,
        alerting: Some(AlertingView {
            alerts: of_alerts.map(|alert| alert_of(alert, &rule.name)).collect(),
            ..AlertingView::default()
        }),
    }
}

fn alert_of(alert: &AlertView, name: &str) -> RuleAlert {
    let mut labels = BTreeMap::from([
        ("alertname".to_owned(), name.to_owned()),
        ("severity".to_owned(), alert.severity.clone()),
    ]);
    if let Some(host) = alert.host_id {
        labels.insert("host_id".to_owned(), host.to_string());
    }
    if let Some(finding) = alert.finding_id {
        labels.insert("finding_id".to_owned(), finding.to_string());
        labels.insert("subject".to_owned(), alert.subject.clone());
    }
    let mut annotations = BTreeMap::from([("title".to_owned(), alert.title.clone())]);
    if !alert.summary.is_empty() {
        annotations.insert("summary".to_owned(), alert.summary.clone());
    }
    RuleAlert {
        host_id: alert.host_id,
        labels,
        annotations,
        firing: alert.state == "firing",
        active_at: alert.started_at,
        value: alert.value,
    }
}

/// What a rule without an expression judges, as PromQL has it.
fn expression_of(rule: &MetricRule) -> String {
    let function = match rule.agg {
        Aggregate::Last => "last_over_time",
        Aggregate::Avg => "avg_over_time",
        Aggregate::Max => "max_over_time",
        Aggregate::Min => "min_over_time",
    };
    let labels: Vec<String> = rule
        .labels
        .iter()
        .map(|(name, value)| format!("{}={value:?}", label_name(name)))
        .collect();
    let (op, limit) = rule.limit();
    format!(
        "{function}({}{{{}}}[{}s]) {} {limit}",
        metric_name(&rule.metric),
        labels.join(","),
        rule.window.get().as_secs(),
        op.as_str()
    )
}
