//! One host does not page a whole night: what it may begin in a minute is limited, and what is beyond that is one
//! alert that says so.
//!
//! What was left out is not lost: the findings stand in the store, a finding whose rows go on is looked at again with
//! its next row, and so is a metric with its next judgement.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleetmend_control::{ControlError, Transaction};
use fleetmend_event::table::Severity;
use fleetmend_event::{HostId, TimeMicros};

use crate::apply::{become_state, close};
use crate::message::{self, Event};
use crate::store::{self, Alert, State};

/// Rule of the alert that stands for what was left out. No rule of a file may have this name.
pub(crate) const RULE: &str = "too-many-alerts";
const WINDOW: Duration = Duration::from_secs(60);
/// After this long with nothing left out it is over.
const OVER_AFTER_US: i64 = 10 * 60 * 1_000_000;

/// Counts what hosts begin.
pub(crate) struct Gate {
    /// Alerts of one host a minute.
    max: u32,
    window: Mutex<Window>,
}

struct Window {
    begun: Instant,
    /// Emptied every minute; never more entries than hosts.
    admitted: HashMap<HostId, u32>,
    /// What is to be told; emptied every round.
    left_out: BTreeMap<HostId, u32>,
}

/// Whether what is left out is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    Tell,
    /// It was told before, or pages nobody anyway.
    Hush,
}

impl Gate {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            window: Mutex::new(Window {
                begun: Instant::now(),
                admitted: HashMap::new(),
                left_out: BTreeMap::new(),
            }),
        }
    }

    /// Whether `host` may begin one more alert.
    pub(crate) fn admits(&self, host: HostId, telling: Telling, now: Instant) -> bool {
        let mut window = self.window();
        if now.saturating_duration_since(window.begun) >= WINDOW {
            window.begun = now;
            window.admitted.clear();
        }
        let admitted = window.admitted.entry(host).or_insert(0);
        if *admitted < self.max {
            *admitted += 1;
            return true;
        }
        if telling == Telling::Tell {
            metrics::counter!(crate::metrics::LEFT_OUT).increment(1);
            let left_out = window.left_out.entry(host).or_insert(0);
            *left_out = left_out.saturating_add(1);
        }
        false
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what was left out, and when that is over.
pub(crate) async fn tell(
    connection: &mut Transaction,
    gate: &Gate,
    receivers: &[String],
    now: TimeMicros,
) -> Result<(), ControlError> {
    let left_out = std::mem::take(&mut gate.window().left_out);
    for (host, count) in left_out {
        let key = format!("flood {host}");
        let before = store::by_key(connection, &key).await?;
        let before = before.filter(|alert| alert.state == State::Firing);
        let begins = before.is_none();
        let mut alert = before.unwrap_or_else(|| new_alert(host, key, now));
        let count = alert.value.unwrap_or(0.0) + f64::from(count);
        alert.value = Some(count);
        alert.judged_at = now;
        alert.summary = format!(
            "more than {} alerts of this host began within a minute; {count} times one more was left out. Look at the \
             findings of the host",
            gate.max
        );
        if begins {
            alert.fired_at = Some(now);
            become_state(&mut alert, State::Firing, now);
            message::queue(connection, &alert, Event::Firing, &[], receivers, now).await?;
        }
        store::put(connection, &alert).await?;
    }
    for alert in store::in_state(connection, State::Firing, Some(RULE)).await? {
        if now.micros_since(alert.judged_at) >= OVER_AFTER_US {
            close(connection, alert, State::Resolved, now).await?;
        }
    }
    Ok(())
}

fn new_alert(host: HostId, key: String, now: TimeMicros) -> Alert {
    Alert {
        alert_id: uuid::Uuid::now_v7().to_string(),
        key,
        rule: RULE.to_owned(),
        state: State::Firing,
        severity: Severity::High.as_str().to_owned(),
        host_id: Some(host),
        finding_id: None,
        action_id: None,
        subject: "alerts".to_owned(),
        title: "a host has more alerts than are told".to_owned(),
        summary: String::new(),
        value: None,
        started_at: now,
        since: now,
        judged_at: now,
        unknown_since: None,
        row_time: now,
        row_ingested_at: now,
        deadline_us: 0,
        receivers: Vec::new(),
        fired_at: None,
        resolved_at: None,
        changed_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_own_minute() {
        let gate = Gate::new(2);
        let (loud, quiet, now) = (HostId::random(), HostId::random(), Instant::now());
        let admitted = (0..10).filter(|_| gate.admits(loud, Telling::Tell, now)).count();
        assert_eq!(admitted, 2);
        assert!(gate.admits(quiet, Telling::Tell, now));
        assert!(!gate.admits(loud, Telling::Hush, now));
        assert_eq!(gate.window().left_out, BTreeMap::from([(loud, 8)]));
        assert!(gate.admits(loud, Telling::Tell, now + WINDOW));
    }
}
