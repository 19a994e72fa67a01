//! Findings and healing steps as they arrive, turned into alerts.

use std::time::{Duration, Instant};

use fleetmend_control::{ControlError, Transaction};
use fleetmend_event::table::{ActionEvent, Finding, FindingState};
use fleetmend_event::{FindingId, HostId, TimeMicros};

use crate::finding_rule::{is_own, wanted_by};
use crate::flood::{Gate, Telling};
use crate::heal_first::{Decision, Tried, decide};
use crate::message::{self, Event};
use crate::query::Stored;
use crate::rules::FindingRule;
use crate::store::{self, Alert, State};

/// After a remedy helped, rows that were on their way do not begin the alert anew.
const AFTER_HEALED_US: i64 = 60_000_000;

/// A step may be read before the row of its finding, by as much as rows become visible late.
const BEFORE_FINDING_US: i64 = 30_000_000;

/// What the rules and settings say, as this part needs it.
pub(crate) struct Policy<'a> {
    pub(crate) rules: &'a [FindingRule],
    /// Every receiver, for rules that name none.
    pub(crate) receivers: &'a [String],
    pub(crate) settle: Duration,
    pub(crate) heal_deadline: Duration,
    pub(crate) late_after: Duration,
    pub(crate) gate: &'a Gate,
    /// How far findings were read before: what was taken in until then is read again.
    pub(crate) read_until: TimeMicros,
}

impl Policy<'_> {
    fn admits(&self, finding: &Stored<Finding>) -> bool {
        let again = finding.ingested_at <= self.read_until;
        let telling = if again || is_late(self, finding) {
            Telling::Hush
        } else {
            Telling::Tell
        };
        self.gate.admits(finding.host_id, telling, Instant::now())
    }
}

/// Takes over the steps of transactions.
pub(crate) async fn actions(
    connection: &mut Transaction,
    steps: &[Stored<ActionEvent>],
    now: TimeMicros,
) -> Result<(), ControlError> {
    for step in steps {
        let known = store::tried_one(connection, step.host_id, step.row.action_id).await?;
        let mut tried = known.clone().unwrap_or_else(|| Tried::begin(&step.row, now));
        tried.apply(&step.row);
        if known.as_ref() != Some(&tried) {
            store::put_tried(connection, step.host_id, step.row.finding_id, &tried).await?;
        }
    }
    Ok(())
}

/// Takes over rows of findings, in their order.
pub(crate) async fn findings(
    connection: &mut Transaction,
    policy: &Policy<'_>,
    rows: &[Stored<Finding>],
    now: TimeMicros,
) -> Result<(), ControlError> {
    for finding in rows {
        if is_own(finding) {
            metrics::counter!(crate::metrics::IGNORED, "reason" => "own").increment(1);
            continue;
        }
        let key = key_of(finding.host_id, finding.row.finding_id);
        match store::by_key(connection, &key).await? {
            // Read before, or overtaken.
            Some(alert) if finding.arrival() <= (alert.row_ingested_at, alert.row_time) => {}
            Some(alert) => change(connection, policy, alert, finding, now).await?,
            None => begin(connection, policy, key, finding, now).await?,
        }
    }
    Ok(())
}

/// Decides about every finding that waits.
pub(crate) async fn decide_waiting(
    connection: &mut Transaction,
    policy: &Policy<'_>,
    now: TimeMicros,
) -> Result<(), ControlError> {
    for mut alert in store::in_state(connection, State::Waiting, None).await? {
        let (Some(host), Some(finding)) = (alert.host_id, alert.finding_id) else {
            continue;
        };
        let tried = store::tried(connection, host, finding).await?;
        // Only what belongs to this wait: an alert that comes again has remedies of its own.
        let from = alert.since.plus_micros(-BEFORE_FINDING_US);
        let tried: Vec<Tried> = tried.into_iter().filter(|tried| tried.seen_at >= from).collect();
        let deadline = Duration::from_micros(u64::try_from(alert.deadline_us).unwrap_or_default());
        match decide(&tried, alert.since, policy.settle, deadline, now) {
            Decision::Wait => {}
            Decision::Healed(action) => {
                alert.action_id = Some(action);
                alert.summary = summary(&alert.title, &tried);
                become_state(&mut alert, State::Healed, now);
                alert.resolved_at = Some(now);
                store::put(connection, &alert).await?;
            }
            Decision::Fire(why) => {
                alert.action_id = tried.last().map(|tried| tried.action_id);
                alert.summary = format!("{}. Tried: {why}", alert.title);
                alert.fired_at = Some(now);
                become_state(&mut alert, State::Firing, now);
                store::put(connection, &alert).await?;
                let receivers = receivers_of(policy.receivers, &alert.receivers);
                message::queue(connection, &alert, Event::Firing, &tried, receivers, now).await?;
            }
        }
    }
    Ok(())
}

async fn begin(
    connection: &mut Transaction,
    policy: &Policy<'_>,
    key: String,
    finding: &Stored<Finding>,
    now: TimeMicros,
) -> Result<(), ControlError> {
    if finding.row.state == FindingState::Resolved {
        metrics::counter!(crate::metrics::IGNORED, "reason" => "resolved").increment(1);
        return Ok(());
    }
    let Some(rule) = wanted_by(policy.rules, finding) else {
        metrics::counter!(crate::metrics::IGNORED, "reason" => "no_rule").increment(1);
        return Ok(());
    };
    if !policy.admits(finding) {
        return Ok(());
    }
    let row = &finding.row;
    let deadline = rule
        .heal_deadline
        .map_or(policy.heal_deadline, fleetmend_config::HumanDuration::get);
    let mut alert = Alert {
        alert_id: uuid::Uuid::now_v7().to_string(),
        key,
        rule: rule.name.clone(),
        state: State::Waiting,
        severity: row.severity.as_str().to_owned(),
        host_id: Some(finding.host_id),
        finding_id: Some(row.finding_id),
        action_id: None,
        subject: row.subject.clone(),
        title: row.title.clone(),
        summary: row.title.clone(),
        value: row.score,
        started_at: row.first_time,
        since: now,
        judged_at: now,
        unknown_since: None,
        row_time: row.time,
        row_ingested_at: finding.ingested_at,
        deadline_us: i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX),
        receivers: rule.receivers.clone(),
        fired_at: None,
        resolved_at: None,
        changed_at: now,
    };
    let state = if is_late(policy, finding) {
        State::Late
    } else {
        State::Waiting
    };
    become_state(&mut alert, state, now);
    store::put(connection, &alert).await
}

/// A further row of a finding that has an alert.
async fn change(
    connection: &mut Transaction,
    policy: &Policy<'_>,
    mut alert: Alert,
    finding: &Stored<Finding>,
    now: TimeMicros,
) -> Result<(), ControlError> {
    let row = &finding.row;
    alert.row_time = row.time;
    alert.row_ingested_at = finding.ingested_at;
    match (row.state, alert.state) {
        (FindingState::Resolved, State::Firing) => {
            become_state(&mut alert, State::Resolved, now);
            alert.resolved_at = Some(now);
            let host_and_finding = alert.host_id.zip(alert.finding_id);
            let tried = match host_and_finding {
                Some((host, finding)) => store::tried(connection, host, finding).await?,
                None => Vec::new(),
            };
            alert.summary = summary(&row.title, &tried);
            let receivers =
                message::told(connection, &alert.alert_id, alert.fired_at.unwrap_or_default()).await?;
            message::queue(connection, &alert, Event::Resolved, &tried, &receivers, now).await?;
        }
        (FindingState::Resolved, State::Waiting) => {
            become_state(&mut alert, State::Resolved, now);
            alert.resolved_at = Some(now);
            "it was over before anybody had to be paged".clone_into(&mut alert.summary);
        }
        (FindingState::Open, State::Resolved | State::Late)
            if !is_late(policy, finding) && policy.admits(finding) =>
        {
            again(&mut alert, row, now)
        }
        (FindingState::Open, State::Healed) => {
            let quiet = alert.resolved_at.unwrap_or_default().plus_micros(AFTER_HEALED_US);
            if row.time > quiet && !is_late(policy, finding) && policy.admits(finding) {
                again(&mut alert, row, now);
            }
        }
        _ => row.severity.as_str().clone_into(&mut alert.severity),
    }
    store::put(connection, &alert).await
}

fn again(alert: &mut Alert, row: &Finding, now: TimeMicros) {
    become_state(alert, State::Waiting, now);
    alert.since = now;
    alert.fired_at = None;
    alert.resolved_at = None;
    alert.action_id = None;
    row.title.clone_into(&mut alert.title);
    row.title.clone_into(&mut alert.summary);
}

pub(crate) fn become_state(alert: &mut Alert, state: State, now: TimeMicros) {
    metrics::counter!(crate::metrics::TRANSITIONS, "state" => state.as_str()).increment(1);
    tracing::info!(
        alert = alert.alert_id,
        rule = alert.rule,
        state = state.as_str(),
        "alert changed"
    );
    alert.state = state;
    alert.changed_at = now;
}

/// Ends an alert for good. Whoever was told that it fires is told that it is over.
pub(crate) async fn close(
    connection: &mut Transaction,
    mut alert: Alert,
    state: State,
    now: TimeMicros,
) -> Result<(), ControlError> {
    alert.resolved_at = Some(now);
    become_state(&mut alert, state, now);
    if let Some(fired_at) = alert.fired_at {
        let receivers = message::told(connection, &alert.alert_id, fired_at).await?;
        message::queue(connection, &alert, Event::Resolved, &[], &receivers, now).await?;
    }
    store::put(connection, &alert).await
}

fn is_late(policy: &Policy<'_>, finding: &Stored<Finding>) -> bool {
    let late = i64::try_from(policy.late_after.as_micros()).unwrap_or(i64::MAX);
    finding.late_us() > late
}

fn summary(title: &str, tried: &[Tried]) -> String {
    if tried.is_empty() {
        return title.to_owned();
    }
    let lines: Vec<String> = tried.iter().map(Tried::line).collect();
    format!("{title}. Tried: {}", lines.join("; "))
}

pub(crate) fn receivers_of<'a>(all: &'a [String], named: &'a [String]) -> &'a [String] {
    if named.is_empty() { all } else { named }
}

fn key_of(host: HostId, finding: FindingId) -> String {
    format!("finding {host} {finding}")
}
