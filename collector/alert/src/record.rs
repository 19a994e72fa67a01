//! Recording rules: groups that are evaluated on their interval, whose values are stored as series of the collector.
//!
//! Times of evaluation are multiples of the interval, moved by a part that the group's name decides, so that groups do
//! not all begin at once. How far a group came is noted after each time, so that after a restart what was missed is made
//! up for, at most [`crate::AlertConfig::record_catch_up_max`]; what lies before that is never recorded. A series that a
//! rule does not give any more ends with a marker. So long as
//! [`crate::AlertConfig::record_again_after`] says, a time is evaluated once more, and values that changed because samples
//! came late are stored over the first ones. A new group has thereby values for that time before it, too.
//!
//! # Limits
//! Which series a rule gave last is held in memory, so that one that vanishes during a restart has no marker and goes
//! stale by itself. A group that takes longer than its interval falls behind and then skips what the catch-up leaves out.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use fleetmend_control::ControlError;
use fleetmend_event::TimeMicros;

use crate::error::AlertError;
use crate::promql::{PromLabels, Recorded};
use crate::query::QueryError;
use crate::rule_file::{PrometheusRule, RuleGroup};
use crate::store;
use crate::task::Shared;

/// Series of one rule, where its group has no limit of its own.
const SERIES_MAX: usize = 10_000;
/// Times of one group that are evaluated before the others have their turn.
const TIMES_AT_ONCE: usize = 20;

/// What the last evaluations gave.
#[derive(Default)]
pub(crate) struct Recorder {
    /// By group and place of the rule.
    last: BTreeMap<(String, usize), BTreeSet<PromLabels>>,
}

/// How a rule's last evaluation went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) evaluated_at: TimeMicros,
    pub(crate) took: Duration,
    pub(crate) fault: Option<String>,
}

/// Name of a recording rule among the statuses.
pub(crate) fn status_key(group: &RuleGroup, place: usize) -> String {
    format!("{};{place}", group.key())
}

/// Evaluates what is due of every group. One that fails does not keep the others from it. `true` when more is due.
pub(crate) async fn round(shared: &Shared, recorder: &mut Recorder) -> Result<bool, AlertError> {
    let mut outcome = Ok(());
    let mut more = false;
    for group in &shared.rules.groups {
        if group.rules.iter().all(|rule| rule.record.is_none()) {
            continue;
        }
        match evaluate(shared, recorder, group).await {
            Ok(left) => more |= left,
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome.map(|()| more)
}

async fn evaluate(shared: &Shared, recorder: &mut Recorder, group: &RuleGroup) -> Result<bool, AlertError> {
    let cursor = format!("record {}", group.key());
    let wrap = AlertError::database("read how far a group of rules was evaluated");
    let done = store::cursor(&shared.pool, &cursor).await.map_err(wrap)?;
    let due = due(
        group,
        done,
        TimeMicros::now(),
        shared.config.record_catch_up_max.get(),
    );
    let more = due.len() > TIMES_AT_ONCE;
    for time in due.into_iter().take(TIMES_AT_ONCE) {
        for (place, rule) in group.rules.iter().enumerate() {
            let Some(name) = &rule.record else { continue };
            let key = status_key(group, place);
            record(shared, recorder, group, (place, rule, name), time, &key).await?;
        }
        // Only now: what was evaluated twice is stored once.
        let wrap = AlertError::database("note how far a group of rules was evaluated");
        note(shared, &cursor, time).await.map_err(wrap)?;
    }
    Ok(more)
}

async fn note(shared: &Shared, cursor: &str, time: TimeMicros) -> Result<(), ControlError> {
    let mut transaction = shared.pool.begin("alert").await?;
    shared.confirm(&mut transaction).await?;
    store::put_cursor(&mut transaction, cursor, time).await?;
    transaction.commit().await
}

/// The times that are due, oldest first.
fn due(group: &RuleGroup, done: Option<TimeMicros>, now: TimeMicros, catch_up: Duration) -> Vec<TimeMicros> {
    let interval = micros(group.interval.get()).max(1);
    let mut hasher = DefaultHasher::new();
    group.key().hash(&mut hasher);
    let shift = i64::try_from(hasher.finish() % interval.unsigned_abs()).unwrap_or(0);
    let last = now
        .0
        .saturating_sub(shift)
        .div_euclid(interval)
        .saturating_mul(interval)
        + shift;
    let oldest = now.0.saturating_sub(micros(catch_up));
    let mut times = Vec::new();
    let mut time = last;
    while done.is_none_or(|done| time > done.0) && (time >= oldest || time == last) {
        times.push(TimeMicros(time));
        if done.is_none() {
            // A new group has nothing to make up for.
            break;
        }
        time = time.saturating_sub(interval);
    }
    times.reverse();
    times
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// One rule at one time, and once more for late samples. A fault of the rule is its status, not the room's.
async fn record(
    shared: &Shared,
    recorder: &mut Recorder,
    group: &RuleGroup,
    (place, rule, name): (usize, &PrometheusRule, &str),
    time: TimeMicros,
    key: &str,
) -> Result<(), AlertError> {
    let values = match values(shared, group, rule, name, time, key).await {
        Ok(values) => values,
        Err(AlertError::Query(QueryError::Invalid(reason))) => {
            tracing::warn!(
                rule = name,
                group = group.name,
                reason,
                "a recording rule gives nothing"
            );
            metrics::counter!(crate::metrics::RECORD_FAILURES).increment(1);
            BTreeMap::new()
        }
        Err(error) => return Err(error),
    };
    let given: BTreeSet<PromLabels> = values.keys().cloned().collect();
    let before = recorder.last.remove(&(group.key(), place)).unwrap_or_default();
    let ended = before.difference(&given).map(|labels| Recorded {
        labels: labels.clone(),
        value: None,
    });
    let mut samples: Vec<Recorded> = ended.collect();
    samples.extend(values.into_iter().map(|(labels, value)| Recorded {
        labels,
        value: Some(value),
    }));
    store_samples(shared, time, samples).await?;
    recorder.last.insert((group.key(), place), given);
    again(shared, group, rule, name, time, key).await
}

/// Evaluates an older time once more, and stores what differs.
async fn again(
    shared: &Shared,
    group: &RuleGroup,
    rule: &PrometheusRule,
    name: &str,
    time: TimeMicros,
    key: &str,
) -> Result<(), AlertError> {
    let after = micros(shared.config.record_again_after.get());
    let interval = micros(group.interval.get()).max(1);
    // A time at which it was evaluated.
    let back = after / interval * interval;
    if back == 0 {
        return Ok(());
    }
    let time = time.plus_micros(-back);
    let values = match values(shared, group, rule, name, time, key).await {
        Ok(values) => values,
        Err(AlertError::Query(QueryError::Invalid(_))) => return Ok(()),
        Err(error) => return Err(error),
    };
    if values.is_empty() {
        return Ok(());
    }
    let stored = shared.promql()?.instant(name, time).await?;
    let stored: BTreeMap<PromLabels, f64> = stored.series.into_iter().collect();
    let differs = |labels: &PromLabels, value: f64| {
        stored
            .get(labels)
            .is_none_or(|stored| *stored != value && !(stored.is_nan() && value.is_nan()))
    };
    let samples: Vec<Recorded> = values
        .into_iter()
        .filter(|(labels, value)| differs(labels, *value))
        .map(|(labels, value)| Recorded {
            labels,
            value: Some(value),
        })
        .collect();
    metrics::counter!(crate::metrics::RECORDED_AGAIN).increment(samples.len() as u64);
    store_samples(shared, time, samples).await
}

async fn store_samples(shared: &Shared, time: TimeMicros, samples: Vec<Recorded>) -> Result<(), AlertError> {
    if samples.is_empty() {
        return Ok(());
    }
    metrics::counter!(crate::metrics::RECORDED).increment(samples.len() as u64);
    Ok(shared.promql()?.record(time, samples).await?)
}

/// What a rule gives, with the labels of its series.
async fn values(
    shared: &Shared,
    group: &RuleGroup,
    rule: &PrometheusRule,
    name: &str,
    time: TimeMicros,
    key: &str,
) -> Result<BTreeMap<PromLabels, f64>, AlertError> {
    let began = Instant::now();
    let at = time.plus_micros(-micros(group.query_offset.get()));
    let found = shared.promql()?.instant(&rule.expr, at).await;
    let named = found.map_err(AlertError::from).and_then(|found| {
        let most = if group.limit == 0 {
            SERIES_MAX
        } else {
            group.limit.min(SERIES_MAX)
        };
        if found.series.len() > most {
            let reason = format!("exceeded limit of {most} with {} series", found.series.len());
            return Err(AlertError::Query(QueryError::Invalid(reason)));
        }
        let count = found.series.len();
        let named: BTreeMap<PromLabels, f64> = found
            .series
            .into_iter()
            .map(|(labels, value)| (renamed(labels, name, [&group.labels, &rule.labels]), value))
            .collect();
        if named.len() < count {
            let reason = "vector contains metrics with the same labelset after applying rule labels";
            return Err(AlertError::Query(QueryError::Invalid(reason.to_owned())));
        }
        Ok(named)
    });
    let fault = named.as_ref().err().map(|error| match error {
        AlertError::Query(error) => error.to_string(),
        other => other.to_string(),
    });
    shared.note(
        key,
        Status {
            evaluated_at: time,
            took: began.elapsed(),
            fault,
        },
    );
    named
}

fn renamed(mut labels: PromLabels, name: &str, set: [&PromLabels; 2]) -> PromLabels {
    labels.insert("__name__".to_owned(), name.to_owned());
    for (name, value) in set.into_iter().flatten() {
        labels.insert(name.clone(), value.clone());
    }
    labels.retain(|_, value| !value.is_empty());
    labels
}

#[cfg(test)]
mod tests {
    use fleetmend_config::HumanDuration;

    use super::*;

    fn group(seconds: u64) -> RuleGroup {
        RuleGroup {
            name: "g".to_owned(),
            interval: HumanDuration::from_secs(seconds),
            limit: 0,
            query_offset: HumanDuration::default(),
            labels: BTreeMap::new(),
            rules: Vec::new(),
            file: "f".to_owned(),
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn every_interval_is_due_once() {
        let group = group(60);
        let now = TimeMicros(1_000_000_000_000_000);
        let first = due(&group, None, now, HOUR);
        assert_eq!(first.len(), 1, "a new group begins now");
        assert!(first[0] <= now && now.micros_since(first[0]) < 60_000_000);
        assert_eq!(due(&group, Some(first[0]), now, HOUR), []);
        let later = now.plus_micros(300_000_000);
        let times = due(&group, Some(first[0]), later, HOUR);
        let wanted: Vec<TimeMicros> = (1..=5).map(|n| first[0].plus_micros(n * 60_000_000)).collect();
        assert_eq!(times, wanted);
    }

    #[test]
    fn what_is_made_up_for_is_bounded() {
        let group = group(60);
        let now = TimeMicros(1_000_000_000_000_000);
        let long_ago = now.plus_micros(-86_400_000_000);
        assert_eq!(due(&group, Some(long_ago), now, HOUR).len(), 60);
        assert_eq!(due(&group, Some(long_ago), now, Duration::ZERO).len(), 1);
        let ahead = now.plus_micros(86_400_000_000);
        assert_eq!(
            due(&group, Some(ahead), now, HOUR),
            [],
            "a clock that was put back"
        );
    }
}
