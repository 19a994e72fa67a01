//! Metric rules against the samples: one query a rule, one state a series.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use arrow::array::RecordBatch;
use fleetmend_control::{ControlError, Transaction};
use fleetmend_event::{HostId, TimeMicros};

use crate::apply::{become_state, close, receivers_of};
use crate::error::AlertError;
use crate::flood::{Gate, Telling};
use crate::message::{self, Event};
use crate::promql::{NO_HOST, PromLabels, PromValues};
use crate::query::{numbers, text, texts, time};
use crate::rules::{Aggregate, MetricRule};
use crate::store::{self, Alert, State};
use crate::template;
use crate::threshold::{Active, Judged, Phase, Step, step};

/// Series one rule may watch.
pub(crate) const SERIES_MAX: usize = 20_000;

/// What the keys of these alerts begin with.
const KEY_PREFIX: &str = "metric ";

/// A series: host and labels as JSON.
pub(crate) type SeriesId = (HostId, String);

/// What the samples of the window say.
pub(crate) fn query(rule: &MetricRule, now: TimeMicros) -> String {
    let from = now.plus_micros(-i64::try_from(rule.window.get().as_micros()).unwrap_or(i64::MAX));
    let aggregate = match rule.agg {
        Aggregate::Last => "last_value(value ORDER BY time)",
        Aggregate::Avg => "avg(value)",
        Aggregate::Max => "max(value)",
        Aggregate::Min => "min(value)",
    };
    let mut conditions = vec![
        format!("name = {}", text(&rule.metric)),
        format!("time >= {}", time(from)),
        format!("time <= {}", time(now)),
        // A sample that could not be taken is NaN: missing, not a value.
        "value BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308".to_owned(),
    ];
    for (name, value) in &rule.labels {
        let pair = format!("{}:{}", serde_json::json!(name), serde_json::json!(value));
        conditions.push(format!("strpos(labels, {}) > 0", text(&pair)));
    }
    if !rule.hosts.is_empty() {
        let hosts: Vec<String> = rule.hosts.iter().map(|host| text(&host.to_string())).collect();
        conditions.push(format!("host_id IN ({})", hosts.join(", ")));
    }
    format!(
        "SELECT host_id, labels, {aggregate} AS value FROM metrics WHERE {} GROUP BY host_id, labels LIMIT {SERIES_MAX}",
        conditions.join(" AND ")
    )
}

/// Hosts that lost samples in the window.
pub(crate) fn gap_query(rule: &MetricRule, now: TimeMicros) -> String {
    let from = now.plus_micros(-i64::try_from(rule.window.get().as_micros()).unwrap_or(i64::MAX));
    format!(
        "SELECT DISTINCT host_id FROM gaps WHERE \"table\" IN ('*', 'metrics') AND to_time >= {} AND from_time <= {}",
        time(from),
        time(now)
    )
}

/// The values of a query's result.
pub(crate) fn values(batches: &[RecordBatch]) -> Result<BTreeMap<SeriesId, f64>, AlertError> {
    let wrong = || AlertError::Rows {
        table: "metrics",
        reason: "the answer has other columns than asked for".to_owned(),
    };
    let mut all = BTreeMap::new();
    for batch in batches {
        let hosts = texts(batch, "host_id").ok_or_else(wrong)?;
        let labels = texts(batch, "labels").ok_or_else(wrong)?;
        let found = numbers(batch, "value").ok_or_else(wrong)?;
        for ((host, labels), value) in hosts.into_iter().zip(labels).zip(found) {
            if let Ok(host) = host.parse() {
                all.insert((host, labels), value);
            }
        }
    }
    Ok(all)
}

/// The values of an expression, by the host that a series names and by the labels that its alert has.
pub(crate) fn values_of(rule: &MetricRule, found: &PromValues) -> BTreeMap<SeriesId, f64> {
    let mut all = BTreeMap::new();
    for (series, value) in &found.series {
        let host = series
            .get("host_id")
            .and_then(|host| host.parse().ok())
            .unwrap_or(NO_HOST);
        let mut labels: PromLabels = series.clone();
        labels.remove("__name__");
        for (name, template) in &rule.labels {
            labels.insert(name.clone(), template::expand(template, series, *value));
        }
        labels.retain(|_, value| !value.is_empty());
        let labels = serde_json::to_string(&labels).unwrap_or_default();
        if (rule.hosts.is_empty() || rule.hosts.contains(&host)) && all.len() < SERIES_MAX {
            all.insert((host, labels), *value);
        }
    }
    all
}

/// Hosts of a result.
pub(crate) fn hosts(batches: &[RecordBatch]) -> BTreeSet<HostId> {
    batches
        .iter()
        .filter_map(|batch| texts(batch, "host_id"))
        .flatten()
        .filter_map(|host| host.parse().ok())
        .collect()
}

/// Moves every series of a rule by what was judged now.
pub(crate) async fn apply(
    connection: &mut Transaction,
    rule: &MetricRule,
    gate: &Gate,
    all_receivers: &[String],
    values: &BTreeMap<SeriesId, f64>,
    gaps: &BTreeSet<HostId>,
    now: TimeMicros,
) -> Result<(), ControlError> {
    let mut active: BTreeMap<String, Alert> = BTreeMap::new();
    for state in [State::Pending, State::Firing] {
        let alerts = store::in_state(connection, state, Some(&rule.name)).await?;
        active.extend(alerts.into_iter().map(|alert| (alert.key.clone(), alert)));
    }
    for ((host, labels), value) in values {
        let judged = judge(rule, Some(*value), gaps.contains(host));
        let judged = kept(rule, active.get(&key_of(rule, *host, labels)), judged, now);
        let key = key_of(rule, *host, labels);
        let alert = active.remove(&key);
        let name = Naming {
            rule,
            gate,
            host: *host,
            labels,
            key,
        };
        one(connection, name, all_receivers, alert, judged, now).await?;
    }
    // What has no samples any more is unknown.
    for (key, alert) in active {
        let host = alert.host_id.unwrap_or(NO_HOST);
        let judged = kept(rule, Some(&alert), judge(rule, None, gaps.contains(&host)), now);
        let labels = alert.subject.clone();
        let name = Naming {
            rule,
            gate,
            host,
            labels: &labels,
            key,
        };
        one(connection, name, all_receivers, Some(alert), judged, now).await?;
    }
    Ok(())
}

/// Closes what rules left behind that are not there any more: nobody judges it, so whether it holds is not known.
/// Whoever was told that it fires is told that it is over.
pub(crate) async fn retire(
    connection: &mut Transaction,
    rules: &[MetricRule],
    now: TimeMicros,
) -> Result<(), ControlError> {
    for state in [State::Pending, State::Firing] {
        for mut alert in store::in_state(connection, state, None).await? {
            let of_rule = alert.key.starts_with(KEY_PREFIX);
            if !of_rule || rules.iter().any(|rule| rule.name == alert.rule) {
                continue;
            }
            "its rule was removed; whether it still holds is not known".clone_into(&mut alert.summary);
            close(connection, alert, State::Unknown, now).await?;
        }
    }
    Ok(())
}

struct Naming<'a> {
    rule: &'a MetricRule,
    gate: &'a Gate,
    host: HostId,
    labels: &'a str,
    key: String,
}

/// An alert that is to keep firing is not judged as over yet.
fn kept(rule: &MetricRule, alert: Option<&Alert>, judged: Judged, now: TimeMicros) -> Judged {
    let firing = alert.filter(|alert| alert.state == State::Firing);
    match (judged, firing) {
        (Judged::HoldsNot(_), Some(alert)) => {
            let keep = i64::try_from(rule.keep_firing_for.get().as_micros()).unwrap_or(i64::MAX);
            let over = now.micros_since(alert.unknown_since.unwrap_or(now));
            if over < keep { Judged::Unknown } else { judged }
        }
        _ => judged,
    }
}

fn judge(rule: &MetricRule, value: Option<f64>, gap: bool) -> Judged {
    let (op, limit) = rule.limit();
    let reason = match value {
        _ if gap => "gap",
        // An expression gives what it holds for, and nothing where it does not hold.
        Some(value) if rule.promql.is_some() => return Judged::Holds(value),
        None if rule.promql.is_some() => return Judged::HoldsNot(f64::NAN),
        None => "no_samples",
        Some(value) if op.holds(value, limit) => return Judged::Holds(value),
        Some(value) => return Judged::HoldsNot(value),
    };
    metrics::counter!(crate::metrics::UNKNOWN, "reason" => reason).increment(1);
    Judged::Unknown
}

async fn one(
    connection: &mut Transaction,
    name: Naming<'_>,
    all_receivers: &[String],
    alert: Option<Alert>,
    judged: Judged,
    now: TimeMicros,
) -> Result<(), ControlError> {
    let before = alert.as_ref().map(|alert| Active {
        phase: if alert.state == State::Firing {
            Phase::Firing
        } else {
            Phase::Pending
        },
        since: alert.since,
        judged_at: alert.judged_at,
        unknown_since: alert.unknown_since,
    });
    let said = step(before, judged, name.rule.hold.get(), now);
    let mut alert = match alert {
        Some(alert) => alert,
        None if said == Step::Inactive => return Ok(()),
        None if !name.gate.admits(name.host, Telling::Tell, Instant::now()) => return Ok(()),
        None => new_alert(&name, now),
    };
    match said {
        Step::Inactive => return Ok(()),
        Step::Begin(active) | Step::Stay(active) => keep(&mut alert, active, judged),
        Step::Fire(active, value) => {
            keep(&mut alert, active, judged);
            alert.summary = sentence(name.rule, name.labels, value);
            alert.fired_at = Some(now);
            become_state(&mut alert, State::Firing, now);
            let receivers = receivers_of(all_receivers, &alert.receivers);
            message::queue(connection, &alert, Event::Firing, &[], receivers, now).await?;
        }
        Step::Resolve(value) => {
            alert.value = Some(value).filter(|value| !value.is_nan()).or(alert.value);
            alert.resolved_at = Some(now);
            if name.rule.promql.is_none() {
                alert.summary = sentence(name.rule, name.labels, value);
            }
            become_state(&mut alert, State::Resolved, now);
            let receivers =
                message::told(connection, &alert.alert_id, alert.fired_at.unwrap_or_default()).await?;
            message::queue(connection, &alert, Event::Resolved, &[], &receivers, now).await?;
        }
        Step::Forget => return store::remove(connection, &alert.alert_id).await,
        Step::Lose => {
            alert.resolved_at = Some(now);
            "its samples stopped before it held long enough".clone_into(&mut alert.summary);
            become_state(&mut alert, State::Unknown, now);
        }
    }
    store::put(connection, &alert).await
}

fn keep(alert: &mut Alert, active: Active, judged: Judged) {
    alert.since = active.since;
    alert.judged_at = active.judged_at;
    alert.unknown_since = active.unknown_since;
    if let Judged::Holds(value) = judged {
        alert.value = Some(value);
    }
}

fn new_alert(name: &Naming<'_>, now: TimeMicros) -> Alert {
    let rule = name.rule;
    Alert {
        alert_id: uuid::Uuid::now_v7().to_string(),
        key: name.key.clone(),
        rule: rule.name.clone(),
        state: State::Pending,
        severity: rule.severity.as_str().to_owned(),
        host_id: (name.host != NO_HOST).then_some(name.host),
        finding_id: None,
        action_id: None,
        subject: name.labels.to_owned(),
        title: title(rule),
        summary: String::new(),
        value: None,
        started_at: now,
        since: now,
        judged_at: now,
        unknown_since: None,
        row_time: now,
        row_ingested_at: now,
        deadline_us: 0,
        receivers: rule.receivers.clone(),
        fired_at: None,
        resolved_at: None,
        changed_at: now,
    }
}

fn title(rule: &MetricRule) -> String {
    let (op, limit) = rule.limit();
    match &rule.promql {
        Some(_) if !rule.metric.is_empty() => rule.metric.clone(),
        Some(expression) => expression.clone(),
        None => format!("{} {} {limit}", rule.metric, op.as_str()),
    }
}

fn sentence(rule: &MetricRule, labels: &str, value: f64) -> String {
    if let Some(expression) = &rule.promql {
        let labels = serde_json::from_str(labels).unwrap_or_default();
        let said = ["summary", "description", "message"]
            .iter()
            .find_map(|name| rule.annotations.get(*name));
        return said.map_or_else(
            || format!("{expression} is {value:.4}"),
            |template| template::expand(template, &labels, value),
        );
    }
    let (op, limit) = rule.limit();
    let how = match rule.agg {
        Aggregate::Last => "last",
        Aggregate::Avg => "average",
        Aggregate::Max => "largest",
        Aggregate::Min => "smallest",
    };
    let seconds = rule.window.get().as_secs();
    format!(
        "{} is {value:.4} ({how} of {seconds} s); the limit is {} {limit}",
        rule.metric,
        op.as_str(),
    )
}

fn key_of(rule: &MetricRule, host: HostId, labels: &str) -> String {
    format!("{KEY_PREFIX}{} {host} {labels}", rule.name)
}
