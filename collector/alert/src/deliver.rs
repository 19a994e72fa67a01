//! Messages that wait: sent until they are accepted, in their order for each alert and receiver.
//!
//! Each receiver has a loop of its own: one that does not answer delays nobody else's messages.

use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;
use sqlx::{Row as _, SqlitePool};

use crate::error::AlertError;
use crate::task::Shared;
use crate::webhook::Outcome;

/// Messages taken up at once; they are sent one after another.
const BATCH: i64 = 8;
const BACKOFF_BASE_MS: u64 = 1_000;
const BACKOFF_MAX_MS: u64 = 300_000;
const BACKOFF_MIN_MS: u64 = 100;
/// How long to sleep when nothing waits; a new message wakes earlier.
const IDLE: Duration = Duration::from_secs(30);
/// After a message that was not accepted; a receiver that is down is not hammered with its other messages.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Of which receiver. `Others` are those that are not configured any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiving {
    Webhook(usize),
    Others,
}

/// How long there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Unless a new message comes.
    Until(Duration),
    /// Whatever comes.
    Whole(Duration),
}

struct Due {
    delivery_id: String,
    body: String,
    attempts: u32,
    created_at: TimeMicros,
}

/// Sends what is due to one receiver.
pub(crate) async fn round(
    shared: &Shared,
    receiving: Receiving,
    token: &CancellationToken,
) -> Result<Pause, AlertError> {
    let wrap = || AlertError::database("read messages that wait");
    let receivers = names(shared, receiving);
    let now = TimeMicros::now();
    for message in due(&shared.pool, &receivers, now).await.map_err(wrap())? {
        if token.is_cancelled() {
            break;
        }
        if !attempt(shared, receiving, message).await? {
            return Ok(Pause::Whole(AFTER_REFUSAL));
        }
    }
    let next: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT min(next_attempt_at) FROM alert_deliveries d WHERE {FIRST}"
    )))
    .bind(&receivers.0)
    .bind(receivers.1)
    .fetch_one(&shared.pool)
    .await
    .map_err(wrap())?;
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM alert_deliveries WHERE state = 'waiting'")
        .fetch_one(&shared.pool)
        .await
        .map_err(wrap())?;
    metrics::gauge!(crate::metrics::WAITING).set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
    let until = next.map_or(IDLE, |next| {
        let micros = TimeMicros(next).micros_since(TimeMicros::now()).max(0);
        Duration::from_micros(micros.unsigned_abs())
    });
    Ok(Pause::Until(until.clamp(Duration::from_millis(20), IDLE)))
}

/// The names as JSON, and whether the receiver is one of them.
fn names(shared: &Shared, receiving: Receiving) -> (String, bool) {
    let all = shared.receiver_names();
    let (names, among) = match receiving {
        Receiving::Webhook(index) => (all.get(index).cloned().into_iter().collect(), true),
        Receiving::Others => (all, false),
    };
    (serde_json::json!(names).to_string(), among)
}

/// Messages that wait, of one alert and receiver only the oldest.
const FIRST: &str =
    "state = 'waiting' AND (receiver IN (SELECT value FROM json_each(?1))) = ?2 AND NOT EXISTS
   (SELECT 1 FROM alert_deliveries e WHERE e.alert_id = d.alert_id AND e.receiver = d.receiver
    AND e.state = 'waiting' AND (e.created_at, e.delivery_id) < (d.created_at, d.delivery_id))";

/// Due messages, oldest first.
async fn due(
    pool: &SqlitePool,
    receivers: &(String, bool),
    now: TimeMicros,
) -> Result<Vec<Due>, sqlx::Error> {
    let query = format!(
        "SELECT delivery_id, body, attempts, created_at FROM alert_deliveries d
         WHERE {FIRST} AND next_attempt_at <= ?3 ORDER BY created_at, delivery_id LIMIT ?4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(&receivers.0)
        .bind(receivers.1)
        .bind(now.0)
        .bind(BATCH)
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                delivery_id: row.try_get(0)?,
                body: row.try_get(1)?,
                attempts: row.try_get(2)?,
                created_at: TimeMicros(row.try_get(3)?),
            })
        })
        .collect()
}

/// Sends one message; `true` when it was accepted.
async fn attempt(shared: &Shared, receiving: Receiving, message: Due) -> Result<bool, AlertError> {
    let webhook = match receiving {
        Receiving::Webhook(index) => shared.webhooks.get(index),
        Receiving::Others => None,
    };
    let (name, outcome) = match webhook {
        Some(webhook) => {
            let outcome = webhook.send(&message.delivery_id, message.body.clone()).await;
            (webhook.name.as_str(), outcome)
        }
        None => {
            let error = "no receiver of this name is configured any more".to_owned();
            ("", Outcome::Refused { status: None, error })
        }
    };
    let accepted = matches!(outcome, Outcome::Accepted(_));
    note(shared, name, &message, outcome)
        .await
        .map_err(AlertError::database("note an attempt"))?;
    Ok(accepted)
}

async fn note(shared: &Shared, receiver: &str, message: &Due, outcome: Outcome) -> Result<(), sqlx::Error> {
    let now = TimeMicros::now();
    let attempts = message.attempts.saturating_add(1);
    let age = now.micros_since(message.created_at);
    let over = age >= i64::try_from(shared.config.give_up_after.get().as_micros()).unwrap_or(i64::MAX);
    let (state, status, error, next, delivered) = match outcome {
        Outcome::Accepted(status) => ("delivered", Some(status), None, None, Some(now.0)),
        Outcome::Refused { status, error } if over => {
            let delivery = &message.delivery_id;
            tracing::error!(delivery, receiver, error, attempts, "gave up delivering an alert");
            ("given_up", status, Some(error), None, None)
        }
        Outcome::Refused { status, error } => {
            let delivery = &message.delivery_id;
            tracing::warn!(
                delivery,
                receiver,
                error,
                attempts,
                "an alert was not accepted; it is tried again"
            );
            let wait = backoff(attempts, &mut rand::rng());
            let next = now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
            ("waiting", status, Some(error), Some(next.0), None)
        }
    };
    metrics::counter!(crate::metrics::DELIVERIES, "outcome" => state).increment(1);
    sqlx::query(
        "UPDATE alert_deliveries SET state = ?, attempts = ?, last_status = ?, last_error = ?, next_attempt_at = ?,
         delivered_at = ? WHERE delivery_id = ?",
    )
    .bind(state)
    .bind(attempts)
    .bind(status)
    .bind(error)
    .bind(next)
    .bind(delivered)
    .bind(&message.delivery_id)
    .execute(&shared.pool)
    .await?;
    Ok(())
}

/// Full jitter: anything up to a limit that doubles.
fn backoff(attempts: u32, random: &mut impl rand::Rng) -> Duration {
    let limit = BACKOFF_BASE_MS
        .saturating_mul(1_u64 << attempts.saturating_sub(1).min(20))
        .min(BACKOFF_MAX_MS);
    Duration::from_millis(random.random_range(0..=limit).max(BACKOFF_MIN_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_its_limit_and_is_spread() {
        let mut random = rand::rng();
        for attempts in 1..40 {
            let wait = backoff(attempts, &mut random);
            assert!(
                wait <= Duration::from_millis(BACKOFF_MAX_MS)
                    && wait >= Duration::from_millis(BACKOFF_MIN_MS)
            );
        }
        assert!(backoff(1, &mut random) <= Duration::from_secs(1));
        let waits: std::collections::BTreeSet<Duration> = (0..50).map(|_| backoff(12, &mut random)).collect();
        assert!(waits.len() > 25, "{waits:?}");
    }
}
