//! Recording rules: what a rule gives at one time becomes samples of the collector's own series.
//!
//! A series that a rule does not give any more ends with a marker; one whose rule failed does not, since nothing is known
//! of it. So long as [`crate::AlertConfig::record_again_after`] says, a time is evaluated once more, and values that
//! changed because samples came late are stored over the first ones. A new group has thereby values for that time before
//! it, too.
//!
//! # Limits
//! Which series a rule gave last is held in memory, so that one that vanishes during a restart has no marker and goes
//! stale by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;

use crate::error::AlertError;
use crate::promql::{PromLabels, Recorded};
use crate::query::QueryError;
use crate::rule_file::{PrometheusRule, RuleGroup};
use crate::task::Shared;

/// Series of one rule, where its group has no limit of its own.
const SERIES_MAX: usize = 10_000;

/// What the last evaluations gave.
#[derive(Default)]
pub(crate) struct Recorder {
    /// By group and place of the rule.
    last: BTreeMap<(String, usize), BTreeSet<PromLabels>>,
}

/// What came of one rule at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gave {
    /// Its series, none among them.
    Series,
    /// It failed, as it would again: its status says why. Nothing is known of its series.
    Fault,
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

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The time that an expression is asked for, and its samples have, where its group is evaluated at `time`.
fn asked_at(group: &RuleGroup, time: TimeMicros) -> TimeMicros {
    time.plus_micros(-micros(group.query_offset.get()))
}

/// One rule at one time, and once more for late samples. A fault of the rule is its status, not the room's.
pub(crate) async fn record(
    shared: &Shared,
    recorder: &mut Recorder,
    group: &RuleGroup,
    (place, rule, name): (usize, &PrometheusRule, &str),
    time: TimeMicros,
) -> Result<Gave, AlertError> {
    let key = &status_key(group, place);
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
            return Ok(Gave::Fault);
        }
        Err(error) => return Err(error),
    };
    let given: BTreeSet<PromLabels> = values.keys().cloned().collect();
    let rule_key = (group.key(), place);
    // It stays there until the markers are stored.
    let before = recorder.last.get(&rule_key).into_iter().flatten();
    let ended = before
        .filter(|labels| !given.contains(*labels))
        .map(|labels| Recorded {
            labels: labels.clone(),
            value: None,
        });
    let mut samples: Vec<Recorded> = ended.collect();
    samples.extend(values.into_iter().map(|(labels, value)| Recorded {
        labels,
        value: Some(value),
    }));
    store_samples(shared, asked_at(group, time), samples).await?;
    recorder.last.insert(rule_key, given);
    again(shared, group, rule, name, time, key).await?;
    Ok(Gave::Series)
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
    let stored = shared.promql()?.instant(name, asked_at(group, time)).await?;
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
    store_samples(shared, asked_at(group, time), samples).await
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
    let found = shared.promql()?.instant(&rule.expr, asked_at(group, time)).await;
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
