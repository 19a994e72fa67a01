//! What a message says, and how it is written down to be delivered.

use fleetmend_control::{self as control, ControlError, Transaction};
use fleetmend_event::TimeMicros;
use serde_json::{Value, json};

use crate::heal_first::Tried;
use crate::store::Alert;

/// Version of the body; a field is only ever added.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Firing,
    Resolved,
}

impl Event {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Event::Firing => "firing",
            Event::Resolved => "resolved",
        }
    }
}

/// Writes one message per receiver, to be sent when the transaction is committed.
pub(crate) async fn queue(
    connection: &mut Transaction,
    alert: &Alert,
    event: Event,
    tried: &[Tried],
    receivers: &[String],
    now: TimeMicros,
) -> Result<(), ControlError> {
    for receiver in receivers {
        let delivery_id = uuid::Uuid::now_v7().to_string();
        control::query(
            "INSERT INTO alert_deliveries
             (delivery_id, alert_id, receiver, event, body, state, attempts, created_at, next_attempt_at)
             VALUES ($1, $2, $3, $4, $5, 'waiting', 0, $6, $7)",
        )
        .bind(&delivery_id)
        .bind(&alert.alert_id)
        .bind(receiver)
        .bind(event.as_str())
        .bind(body(&delivery_id, alert, event, tried).to_string())
        .bind(now.0)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Receivers that were told that an alert fires since `since`.
pub(crate) async fn told(
    connection: &mut Transaction,
    alert_id: &str,
    since: TimeMicros,
) -> Result<Vec<String>, ControlError> {
    let query = "SELECT DISTINCT receiver FROM alert_deliveries WHERE alert_id = $1 AND event = 'firing'
        AND created_at >= $2 ORDER BY receiver";
    let rows = control::query(query)
        .bind(alert_id)
        .bind(since.0)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

fn body(delivery_id: &str, alert: &Alert, event: Event, tried: &[Tried]) -> Value {
    let tried: Vec<Value> = tried
        .iter()
        .map(|tried| {
            json!({
                "action_id": tried.action_id, "remedy": tried.remedy, "target": tried.target, "ending": tried.ending,
                "refused": tried.refused, "would_act": tried.would_act, "reason": tried.reason, "text": tried.line(),
            })
        })
        .collect();
    json!({
        "version": VERSION,
        "delivery_id": delivery_id,
        "event": event.as_str(),
        "alert": {
            "alert_id": alert.alert_id, "rule": alert.rule, "severity": alert.severity, "host_id": alert.host_id,
            "finding_id": alert.finding_id, "subject": alert.subject, "title": alert.title, "summary": alert.summary,
            "value": alert.value, "started_at": alert.started_at, "fired_at": alert.fired_at,
            "resolved_at": alert.resolved_at,
        },
        "tried": tried,
    })
}
