//! Alerts, what was tried, and cursors, in the control database. Every function works inside the caller's transaction.

use fleetmend_event::remedy::Ending;
use fleetmend_event::{ActionId, FindingId, HostId, TimeMicros};

use fleetmend_control::{self as control, ControlError, Executor, Row, Transaction};

use crate::heal_first::Tried;

/// An alert as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alert {
    pub(crate) alert_id: String,
    /// What it is about: one alert at a time has it.
    pub(crate) key: String,
    pub(crate) rule: String,
    pub(crate) state: State,
    pub(crate) severity: String,
    pub(crate) host_id: Option<HostId>,
    pub(crate) finding_id: Option<FindingId>,
    pub(crate) action_id: Option<ActionId>,
    pub(crate) subject: String,
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) value: Option<f64>,
    pub(crate) started_at: TimeMicros,
    /// Since when it waits or holds.
    pub(crate) since: TimeMicros,
    /// When a condition on a metric was last judged.
    pub(crate) judged_at: TimeMicros,
    pub(crate) unknown_since: Option<TimeMicros>,
    /// Time of the last row of the finding that was applied.
    pub(crate) row_time: TimeMicros,
    /// When that row was taken in.
    pub(crate) row_ingested_at: TimeMicros,
    pub(crate) deadline_us: i64,
    /// Receivers by name; empty for all.
    pub(crate) receivers: Vec<String>,
    pub(crate) fired_at: Option<TimeMicros>,
    pub(crate) resolved_at: Option<TimeMicros>,
    pub(crate) changed_at: TimeMicros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A metric's condition holds, not long enough yet.
    Pending,
    /// A finding waits for a remedy.
    Waiting,
    /// Somebody was paged.
    Firing,
    /// It is over.
    Resolved,
    /// A remedy helped before anybody was paged.
    Healed,
    /// It arrived too late to page anybody.
    Late,
    /// It was pending and could not be judged any more.
    Unknown,
}

impl State {
    const ALL: [State; 7] = [
        State::Pending,
        State::Waiting,
        State::Firing,
        State::Resolved,
        State::Healed,
        State::Late,
        State::Unknown,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Waiting => "waiting",
            State::Firing => "firing",
            State::Resolved => "resolved",
            State::Healed => "healed",
            State::Late => "late",
            State::Unknown => "unknown",
        }
    }

    fn of(word: &str) -> Result<Self, ControlError> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| stored("a state"))
    }
}

const fn stored(what: &'static str) -> ControlError {
    ControlError::Stored(what)
}

/// In the order of [`alert_of`]. Named wherever alerts are read: a connection that was open when a column was added
/// may still know the table without it.
pub(crate) const COLUMNS: &str = "alert_id, key, rule, state, severity, host_id, finding_id, action_id, subject, title, summary, \
    value, started_at, since, judged_at, unknown_since, row_time, deadline_us, receivers, fired_at, resolved_at, changed_at, \
    row_ingested_at";

pub(crate) fn alert_of(row: &Row) -> Result<Alert, ControlError> {
    let optional_time = |index: usize| -> Result<Option<TimeMicros>, ControlError> {
        Ok(row.try_get::<Option<i64>>(index)?.map(TimeMicros))
    };
    let time = |index: usize| -> Result<TimeMicros, ControlError> { Ok(TimeMicros(row.try_get(index)?)) };
    Ok(Alert {
        alert_id: row.try_get(0)?,
        key: row.try_get(1)?,
        rule: row.try_get(2)?,
        state: State::of(row.try_get(3)?)?,
        severity: row.try_get(4)?,
        host_id: id(row.try_get(5)?)?,
        finding_id: id(row.try_get(6)?)?,
        action_id: id(row.try_get(7)?)?,
        subject: row.try_get(8)?,
        title: row.try_get(9)?,
        summary: row.try_get(10)?,
        value: row.try_get(11)?,
        started_at: time(12)?,
        since: time(13)?,
        judged_at: time(14)?,
        unknown_since: optional_time(15)?,
        row_time: time(16)?,
        deadline_us: row.try_get(17)?,
        receivers: serde_json::from_str(row.try_get(18)?).map_err(|_| stored("a list of receivers"))?,
        fired_at: optional_time(19)?,
        resolved_at: optional_time(20)?,
        changed_at: time(21)?,
        row_ingested_at: time(22)?,
    })
}

fn id<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, ControlError> {
    text.map(|text| text.parse().map_err(|_| stored("an id")))
        .transpose()
}

/// The last alert of a key.
pub(crate) async fn by_key(connection: &mut Transaction, key: &str) -> Result<Option<Alert>, ControlError> {
    let query = format!("SELECT {COLUMNS} FROM alert_alerts WHERE key = $1 ORDER BY started_at DESC LIMIT 1");
    let query = control::composed(query);
    let row = query.bind(key).fetch_optional(connection).await?;
    row.as_ref().map(alert_of).transpose()
}

/// Alerts in this state, of one rule or of all.
pub(crate) async fn in_state(
    connection: &mut Transaction,
    state: State,
    rule: Option<&str>,
) -> Result<Vec<Alert>, ControlError> {
    let query = format!(
        "SELECT {COLUMNS} FROM alert_alerts WHERE state = $1 AND ($2 IS NULL OR rule = $2) ORDER BY alert_id"
    );
    let rows = control::composed(query)
        .bind(state.as_str())
        .bind(rule)
        .fetch_all(connection)
        .await?;
    rows.iter().map(alert_of).collect()
}

/// Writes an alert, new or changed.
pub(crate) async fn put(connection: &mut Transaction, alert: &Alert) -> Result<(), ControlError> {
    let receivers = serde_json::to_string(&alert.receivers).unwrap_or_else(|_| "[]".to_owned());
    let marks: Vec<String> = (1..=COLUMNS.split(',').count())
        .map(|mark| format!("${mark}"))
        .collect();
    let others = COLUMNS.split(", ").skip(1);
    let taken: Vec<String> = others
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    control::composed(format!(
        "INSERT INTO alert_alerts ({COLUMNS}) VALUES ({}) ON CONFLICT (alert_id) DO UPDATE SET {}",
        marks.join(", "),
        taken.join(", ")
    ))
    .bind(&alert.alert_id)
    .bind(&alert.key)
    .bind(&alert.rule)
    .bind(alert.state.as_str())
    .bind(&alert.severity)
    .bind(alert.host_id.map(|id| id.to_string()))
    .bind(alert.finding_id.map(|id| id.to_string()))
    .bind(alert.action_id.map(|id| id.to_string()))
    .bind(&alert.subject)
    .bind(&alert.title)
    .bind(&alert.summary)
    .bind(alert.value)
    .bind(alert.started_at.0)
    .bind(alert.since.0)
    .bind(alert.judged_at.0)
    .bind(alert.unknown_since.map(|time| time.0))
    .bind(alert.row_time.0)
    .bind(alert.deadline_us)
    .bind(receivers)
    .bind(alert.fired_at.map(|time| time.0))
    .bind(alert.resolved_at.map(|time| time.0))
    .bind(alert.changed_at.0)
    .bind(alert.row_ingested_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes an alert that never was one: pending, and over.
pub(crate) async fn remove(connection: &mut Transaction, alert_id: &str) -> Result<(), ControlError> {
    control::query("DELETE FROM alert_alerts WHERE alert_id = $1")
        .bind(alert_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// What was tried for a finding, oldest first.
pub(crate) async fn tried(
    connection: &mut Transaction,
    host: HostId,
    finding: FindingId,
) -> Result<Vec<Tried>, ControlError> {
    let query =
        "SELECT action_id, remedy, target, refused, would_act, ending, reason, seen_at FROM alert_tried
        WHERE host_id = $1 AND finding_id = $2 ORDER BY seen_at, action_id";
    let rows = control::query(query)
        .bind(host.to_string())
        .bind(finding.to_string())
        .fetch_all(connection)
        .await?;
    rows.iter().map(tried_of).collect()
}

/// One transaction, when a step of it was read before.
pub(crate) async fn tried_one(
    connection: &mut Transaction,
    host: HostId,
    action: ActionId,
) -> Result<Option<Tried>, ControlError> {
    let query =
        "SELECT action_id, remedy, target, refused, would_act, ending, reason, seen_at FROM alert_tried
        WHERE host_id = $1 AND action_id = $2";
    let row = control::query(query)
        .bind(host.to_string())
        .bind(action.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(tried_of).transpose()
}

fn tried_of(row: &Row) -> Result<Tried, ControlError> {
    let ending: Option<&str> = row.try_get(5)?;
    let ending = ending
        .map(str::parse::<Ending>)
        .transpose()
        .map_err(|_| stored("an ending"))?;
    let action_id = id(row.try_get(0)?)?.ok_or_else(|| stored("an id"))?;
    Ok(Tried {
        action_id,
        remedy: row.try_get(1)?,
        target: row.try_get(2)?,
        refused: row.try_get(3)?,
        would_act: row.try_get(4)?,
        ending,
        reason: row.try_get(6)?,
        seen_at: TimeMicros(row.try_get(7)?),
    })
}

/// Writes what is known of a transaction.
pub(crate) async fn put_tried(
    connection: &mut Transaction,
    host: HostId,
    finding: FindingId,
    tried: &Tried,
) -> Result<(), ControlError> {
    control::query(
        "INSERT INTO alert_tried
         (host_id, action_id, finding_id, remedy, target, refused, would_act, ending, reason, seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (host_id, action_id) DO UPDATE SET finding_id = excluded.finding_id, remedy = excluded.remedy,
             target = excluded.target, refused = excluded.refused, would_act = excluded.would_act,
             ending = excluded.ending, reason = excluded.reason, seen_at = excluded.seen_at",
    )
    .bind(host.to_string())
    .bind(tried.action_id.to_string())
    .bind(finding.to_string())
    .bind(&tried.remedy)
    .bind(&tried.target)
    .bind(tried.refused)
    .bind(tried.would_act)
    .bind(tried.ending.map(Ending::as_str))
    .bind(&tried.reason)
    .bind(tried.seen_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Up to where a table was read.
pub(crate) async fn cursor(
    connection: impl Executor,
    name: &str,
) -> Result<Option<TimeMicros>, ControlError> {
    let found: Option<i64> = control::query("SELECT ingested_at FROM alert_cursors WHERE name = $1")
        .bind(name)
        .fetch_value(connection)
        .await?;
    Ok(found.map(TimeMicros))
}

/// Notes up to where a table was read.
pub(crate) async fn put_cursor(
    connection: &mut Transaction,
    name: &str,
    place: TimeMicros,
) -> Result<(), ControlError> {
    let put = "INSERT INTO alert_cursors (name, ingested_at) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET ingested_at = excluded.ingested_at";
    control::query(put)
        .bind(name)
        .bind(place.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what is long over.
pub(crate) async fn sweep(connection: &mut Transaction, before: TimeMicros) -> Result<(), ControlError> {
    let over = "DELETE FROM alert_alerts WHERE changed_at < $1 AND state IN ('resolved', 'healed', 'late', 'unknown')";
    control::query(over)
        .bind(before.0)
        .execute(&mut *connection)
        .await?;
    let orphans = "DELETE FROM alert_deliveries WHERE created_at < $1 AND alert_id NOT IN (SELECT alert_id FROM alert_alerts)";
    control::query(orphans)
        .bind(before.0)
        .execute(&mut *connection)
        .await?;
    control::query("DELETE FROM alert_tried WHERE seen_at < $1")
        .bind(before.0)
        .execute(&mut *connection)
        .await?;
    Ok(())
}
