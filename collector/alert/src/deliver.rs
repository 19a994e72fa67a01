//! Messages that wait: sent until they are accepted, in their order for each alert and receiver.
//!
//! Each receiver has a loop of its own: one that does not answer delays nobody else's messages.

use std::time::Duration;

use fleetmend_control::{self as control, Control, ControlError};
use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;

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
        let turn_is_over = shared.tenure.get().is_some_and(|tenure| tenure.held().is_none());
        if token.is_cancelled() || turn_is_over {
            break;
        }
        if !attempt(shared, receiving, message).await? {
            return Ok(Pause::Whole(AFTER_REFUSAL));
        }
    }
    let text = format!(
        "SELECT min(next_attempt_at) FROM alert_deliveries d WHERE {}",
        receivers.first()
    );
    let next: Option<Option<i64>> = control::composed(text)
        .bind_all(receivers.values())
        .fetch_value(&shared.pool)
        .await
        .map_err(wrap())?;
    let waiting: Option<i64> =
        control::query("SELECT count(*) FROM alert_deliveries WHERE state = 'waiting'")
            .fetch_value(&shared.pool)
            .await
            .map_err(wrap())?;
    metrics::gauge!(crate::metrics::WAITING)
        .set(f64::from(u32::try_from(waiting.unwrap_or(0)).unwrap_or(u32::MAX)));
    let until = next.flatten().map_or(IDLE, |next| {
        let micros = TimeMicros(next).micros_since(TimeMicros::now()).max(0);
        Duration::from_micros(micros.unsigned_abs())
    });
    Ok(Pause::Until(until.clamp(Duration::from_millis(20), IDLE)))
}

/// Receivers by name, and whether these or all others are meant.
struct Names {
    names: Vec<String>,
    among: bool,
}

impl Names {
    /// Messages that wait, of one alert and receiver only the oldest; the names are its first values.
    fn first(&self) -> String {
        let marks: Vec<String> = (1..=self.names.len()).map(|mark| format!("${mark}")).collect();
        let of_receivers = match (marks.is_empty(), self.among) {
            (true, true) => "false".to_owned(),
            (true, false) => "true".to_owned(),
            (false, true) => format!("receiver IN ({})", marks.join(", ")),
            (false, false) => format!("receiver NOT IN ({})", marks.join(", ")),
        };
        format!(
            "state = 'waiting' AND {of_receivers} AND NOT EXISTS
             (SELECT 1 FROM alert_deliveries e WHERE e.alert_id = d.alert_id AND e.receiver = d.receiver
              AND e.state = 'waiting' AND (e.created_at, e.delivery_id) < (d.created_at, d.delivery_id))"
        )
    }

    fn values(&self) -> impl Iterator<Item = control::Value> {
        self.names.iter().map(Into::into)
    }
}

fn names(shared: &Shared, receiving: Receiving) -> Names {
    let all = shared.receiver_names();
    match receiving {
        Receiving::Webhook(index) => Names {
            names: all.get(index).cloned().into_iter().collect(),
            among: true,
        },
        Receiving::Others => Names {
            names: all,
            among: false,
        },
    }
}

/// Due messages, oldest first.
async fn due(pool: &Control, receivers: &Names, now: TimeMicros) -> Result<Vec<Due>, ControlError> {
    let after = receivers.names.len();
    let text = format!(
        "SELECT delivery_id, body, attempts, created_at FROM alert_deliveries d
         WHERE {} AND next_attempt_at <= ${} ORDER BY created_at, delivery_id LIMIT ${}",
        receivers.first(),
        after + 1,
        after + 2
    );
    let rows = control::composed(text)
        .bind_all(receivers.values())
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

async fn note(shared: &Shared, receiver: &str, message: &Due, outcome: Outcome) -> Result<(), ControlError> {
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
    control::query(
        "UPDATE alert_deliveries SET state = $1, attempts = $2, last_status = $3, last_error = $4, next_attempt_at = $5,
         delivered_at = $6 WHERE delivery_id = $7",
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
