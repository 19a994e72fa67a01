//! Messages that wait: sent until they are accepted, in their order for each alert and receiver.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use futures::future::join_all;
use sqlx::{Row as _, SqlitePool};

use crate::error::AlertError;
use crate::task::Shared;
use crate::webhook::{Outcome, Webhook};

/// Messages taken up at once; one receiver's are sent one after another.
const BATCH: i64 = 64;
const BACKOFF_BASE_MS: u64 = 1_000;
const BACKOFF_MAX_MS: u64 = 300_000;
const BACKOFF_MIN_MS: u64 = 100;
/// How long to sleep when nothing waits; a new message wakes earlier.
const IDLE: Duration = Duration::from_secs(30);

struct Due {
    delivery_id: String,
    receiver: String,
    body: String,
    attempts: u32,
    created_at: TimeMicros,
}

/// Sends what is due, and says how long there is nothing to do.
pub(crate) async fn round(shared: &Shared) -> Result<Duration, AlertError> {
    let wrap = || AlertError::database("read messages that wait");
    let now = TimeMicros::now();
    let mut by_receiver: BTreeMap<String, Vec<Due>> = BTreeMap::new();
    for due in due(&shared.pool, now).await.map_err(wrap())? {
        by_receiver.entry(due.receiver.clone()).or_default().push(due);
    }
    // One receiver that does not answer does not hold up the others.
    let sent = by_receiver
        .into_values()
        .map(|messages| one_receiver(shared, messages));
    for result in join_all(sent).await {
        result?;
    }
    let next: Option<i64> =
        sqlx::query_scalar("SELECT min(next_attempt_at) FROM alert_deliveries WHERE state = 'waiting'")
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
    Ok(until.clamp(Duration::from_millis(20), IDLE))
}

/// Due messages, oldest first; of one alert and receiver only the oldest that waits.
async fn due(pool: &SqlitePool, now: TimeMicros) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT delivery_id, receiver, body, attempts, created_at FROM alert_deliveries d
         WHERE state = 'waiting' AND next_attempt_at <= ? AND NOT EXISTS
           (SELECT 1 FROM alert_deliveries e WHERE e.alert_id = d.alert_id AND e.receiver = d.receiver
            AND e.state = 'waiting' AND (e.created_at, e.delivery_id) < (d.created_at, d.delivery_id))
         ORDER BY created_at, delivery_id LIMIT ?",
    )
    .bind(now.0)
    .bind(BATCH)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                delivery_id: row.try_get(0)?,
                receiver: row.try_get(1)?,
                body: row.try_get(2)?,
                attempts: row.try_get(3)?,
                created_at: TimeMicros(row.try_get(4)?),
            })
        })
        .collect()
}

async fn one_receiver(shared: &Shared, messages: Vec<Due>) -> Result<(), AlertError> {
    for message in messages {
        let webhook: Option<&Webhook> = shared
            .webhooks
            .iter()
            .find(|webhook| webhook.name == message.receiver);
        let outcome = match webhook {
            Some(webhook) => webhook.send(&message.delivery_id, message.body.clone()).await,
            None => {
                let error = "no receiver of this name is configured any more".to_owned();
                Outcome::Refused { status: None, error }
            }
        };
        let accepted = matches!(outcome, Outcome::Accepted(_));
        note(shared, &message, outcome)
            .await
            .map_err(AlertError::database("note an attempt"))?;
        if !accepted {
            // The rest waits for its own time; a receiver that is down is not hammered.
            break;
        }
    }
    Ok(())
}

async fn note(shared: &Shared, message: &Due, outcome: Outcome) -> Result<(), sqlx::Error> {
    let now = TimeMicros::now();
    let attempts = message.attempts.saturating_add(1);
    let age = now.micros_since(message.created_at);
    let over = age >= i64::try_from(shared.config.give_up_after.get().as_micros()).unwrap_or(i64::MAX);
    let (state, status, error, next, delivered) = match outcome {
        Outcome::Accepted(status) => ("delivered", Some(status), None, None, Some(now.0)),
        Outcome::Refused { status, error } if over => {
            let (delivery, receiver) = (&message.delivery_id, &message.receiver);
            tracing::error!(delivery, receiver, error, attempts, "gave up delivering an alert");
            ("given_up", status, Some(error), None, None)
        }
        Outcome::Refused { status, error } => {
            let (delivery, receiver) = (&message.delivery_id, &message.receiver);
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
