//! Groups of rules of Prometheus' files: each is evaluated on its interval, its rules one after another in their order,
//! so that a rule sees what those before it recorded at the same time.
//!
//! Times of evaluation are multiples of the interval, moved by a part that the group's name decides, so that groups do
//! not all begin at once. How far a group has recorded is noted after each time, so that after a restart what was missed
//! is made up for, at most [`crate::AlertConfig::record_catch_up_max`]; what lies before that is never recorded. Rules for
//! alerts are judged at the newest time alone, and at none that is older than [`JUDGED_LATE_MAX`].
//!
//! A rule that fails does not keep the others from being evaluated, but for rules for alerts that name the series that
//! it would have recorded: whether these hold is not known, and they are judged when it is recorded again.
//!
//! # Limits
//! Groups take turns in one task. One that takes longer than its interval falls behind and then skips what the catch-up
//! leaves out. While a group makes up for much, its alerts over series that it records wait.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use fleetmend_control::ControlError;
use fleetmend_event::TimeMicros;

use crate::error::AlertError;
use crate::evaluate::{self, Within};
use crate::query::QueryError;
use crate::record::{self, Gave, Recorder, Status, micros};
use crate::rule_file::RuleGroup;
use crate::rules::MetricRule;
use crate::store;
use crate::task::Shared;

/// Times of one group that are evaluated before the others have their turn.
const TIMES_AT_ONCE: usize = 20;
/// What was true longer ago than this pages nobody: the next time decides.
const JUDGED_LATE_MAX: Duration = Duration::from_secs(60);

/// What the evaluations before this one came to.
#[derive(Default)]
pub(crate) struct Past {
    recorder: Recorder,
    /// By group: the newest time at which its rules for alerts were judged.
    judged: BTreeMap<String, TimeMicros>,
    /// By group: names of series whose rules failed when they were last evaluated.
    faulty: BTreeMap<String, Vec<String>>,
}

/// What of a group is evaluated at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Records,
    Alerts,
    Both,
}

/// Evaluates what is due of every group. One that fails does not keep the others from it. `true` when more is due.
pub(crate) async fn round(shared: &Shared, past: &mut Past) -> Result<bool, AlertError> {
    let mut outcome = Ok(());
    let mut more = false;
    for group in &shared.rules.groups {
        match evaluate(shared, past, group).await {
            Ok(left) => more |= left,
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome.map(|()| more)
}

async fn evaluate(shared: &Shared, past: &mut Past, group: &RuleGroup) -> Result<bool, AlertError> {
    let now = TimeMicros::now();
    let newest = newest(group, now);
    let alerts_due = group.rules.iter().any(|rule| rule.alert.is_some())
        && now.micros_since(newest) <= micros(JUDGED_LATE_MAX)
        // Not later than: a clock that is put back must not silence a group.
        && past.judged.get(&group.key()) != Some(&newest);
    let mut judge_at = alerts_due.then_some(newest);
    let more = if group.rules.iter().any(|rule| rule.record.is_some()) {
        catch_up(shared, past, group, now, &mut judge_at).await
    } else {
        Ok(false)
    };
    let Some(time) = judge_at else {
        return more;
    };
    // Either there is nothing to record at that time, or it could not be recorded.
    let is_recorded = matches!(more, Ok(false));
    let unrecorded = if is_recorded { Vec::new() } else { names_of(group) };
    let judged = pass(shared, past, group, time, Part::Alerts, unrecorded).await;
    more.and_then(|more| judged.map(|()| more))
}

/// Records what is due. When it comes to the time `judge_at`, the rules for alerts have their place in it, and the time
/// is taken. `true` when more is due.
async fn catch_up(
    shared: &Shared,
    past: &mut Past,
    group: &RuleGroup,
    now: TimeMicros,
    judge_at: &mut Option<TimeMicros>,
) -> Result<bool, AlertError> {
    let cursor = format!("record {}", group.key());
    let wrap = AlertError::database("read how far a group of rules was evaluated");
    let done = store::cursor(&shared.pool, &cursor).await.map_err(wrap)?;
    let due = due(group, done, now, shared.config.record_catch_up_max.get());
    let more = due.len() > TIMES_AT_ONCE;
    for time in due.into_iter().take(TIMES_AT_ONCE) {
        let part = match judge_at.take_if(|judge_at| *judge_at == time) {
            Some(_) => Part::Both,
            None => Part::Records,
        };
        pass(shared, past, group, time, part, Vec::new()).await?;
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

/// Names of series that are not as they should be at the time of an evaluation.
#[derive(Debug)]
struct Doubt {
    /// They are to be recorded yet.
    unrecorded: Vec<String>,
    /// Their rules fail.
    faulty: Vec<String>,
}

impl Doubt {
    /// The series that an expression names, and whether it may yet be recorded.
    fn about(&self, expression: &str) -> Option<(&str, bool)> {
        let unrecorded = self.unrecorded.iter().map(|name| (name.as_str(), true));
        let faulty = self.faulty.iter().map(|name| (name.as_str(), false));
        unrecorded
            .chain(faulty)
            .find(|(name, _)| mentions(expression, name))
    }
}

/// The rules of a group at one time, in their order. One that fails does not keep the others from it. `unrecorded` are
/// names of series that are to be recorded yet.
async fn pass(
    shared: &Shared,
    past: &mut Past,
    group: &RuleGroup,
    time: TimeMicros,
    part: Part,
    unrecorded: Vec<String>,
) -> Result<(), AlertError> {
    let key = group.key();
    let mut outcome = Ok(());
    let mut whole = true;
    let mut doubt = Doubt {
        unrecorded,
        faulty: past.faulty.get(&key).cloned().unwrap_or_default(),
    };
    let mut failed = Vec::new();
    let mut of_alerts = shared
        .rules
        .metrics
        .iter()
        .filter(|rule| rule.group.as_ref() == Some(&key));
    for (place, rule) in group.rules.iter().enumerate() {
        let Some(name) = &rule.record else {
            let Some(alert) = of_alerts.next().filter(|_| part != Part::Records) else {
                continue;
            };
            match judge(shared, group, alert, time, &doubt).await {
                Ok(judged) => whole &= judged,
                Err(error) => {
                    whole = false;
                    outcome = outcome.and(Err(error));
                }
            }
            continue;
        };
        if part == Part::Alerts {
            continue;
        }
        match record::record(shared, &mut past.recorder, group, (place, rule, name), time).await {
            Ok(Gave::Series) => doubt
                .faulty
                .retain(|other| other != name || failed.contains(other)),
            Ok(Gave::Fault) => {
                failed.push(name.clone());
                doubt.faulty.push(name.clone());
            }
            Err(error) => {
                doubt.unrecorded.push(name.clone());
                outcome = outcome.and(Err(error));
            }
        }
    }
    if part != Part::Alerts {
        past.faulty.insert(key.clone(), failed);
    }
    if part != Part::Records && whole {
        past.judged.insert(key, time);
    }
    outcome
}

/// Judges a rule for alerts at one time. `false` when that has to wait for what it asks for. A fault of the rule is its
/// status, not the room's.
async fn judge(
    shared: &Shared,
    group: &RuleGroup,
    rule: &MetricRule,
    time: TimeMicros,
    doubt: &Doubt,
) -> Result<bool, AlertError> {
    let expression = rule.promql.as_deref().unwrap_or_default();
    if let Some((name, waits)) = doubt.about(expression) {
        let fault = format!("not judged: the series {name}, which it asks for, could not be recorded");
        shared.note(
            &rule.name,
            Status {
                evaluated_at: time,
                took: Duration::ZERO,
                fault: Some(fault),
            },
        );
        return Ok(!waits);
    }
    let within = Within {
        offset_us: micros(group.query_offset.get()),
        alerts_max: group.limit,
    };
    match evaluate::metric(shared, rule, time, within).await {
        Ok(()) => Ok(true),
        Err(AlertError::Query(QueryError::Invalid(reason))) => {
            tracing::warn!(
                rule = rule.name,
                group = group.name,
                reason,
                "a rule for alerts cannot be judged"
            );
            metrics::counter!(crate::metrics::FAILURES, "what" => "judging metrics").increment(1);
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Names of the series that a group records.
fn names_of(group: &RuleGroup) -> Vec<String> {
    group
        .rules
        .iter()
        .filter_map(|rule| rule.record.clone())
        .collect()
}

/// Whether an expression names a series. A name that only a pattern matches is not seen.
fn mentions(expression: &str, name: &str) -> bool {
    let of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':');
    expression.match_indices(name).any(|(place, found)| {
        let (before, rest) = expression.split_at_checked(place).unwrap_or((expression, ""));
        let after = rest.get(found.len()..).unwrap_or_default();
        !before.ends_with(of_name) && !after.starts_with(of_name)
    })
}

/// The last time up to now at which a group is evaluated.
fn newest(group: &RuleGroup, now: TimeMicros) -> TimeMicros {
    let interval = micros(group.interval.get()).max(1);
    let mut hasher = DefaultHasher::new();
    group.key().hash(&mut hasher);
    let shift = i64::try_from(hasher.finish() % interval.unsigned_abs()).unwrap_or(0);
    let whole = now.0.saturating_sub(shift).div_euclid(interval);
    TimeMicros(whole.saturating_mul(interval).saturating_add(shift))
}

/// The times that are due, oldest first.
fn due(group: &RuleGroup, done: Option<TimeMicros>, now: TimeMicros, catch_up: Duration) -> Vec<TimeMicros> {
    let interval = micros(group.interval.get()).max(1);
    let last = newest(group, now).0;
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

    #[test]
    fn an_expression_mentions_a_series_by_its_whole_name() {
        for (expression, mentioned) in [
            ("job:cpu:avg > 1", true),
            ("sum(rate(job:cpu:avg[5m])) / 2", true),
            ("{__name__=\"job:cpu:avg\"}", true),
            ("job:cpu:avg5m > 1", false),
            ("my_job:cpu:avg > job:cpu", false),
            ("my_job:cpu:avg > job:cpu:avg", true),
            ("job:cpu", false),
        ] {
            assert_eq!(mentions(expression, "job:cpu:avg"), mentioned, "{expression}");
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
