//! What logs do that they did not: a program that says something new and bad, errors that became many, storms.
//!
//! | rule | when | severity |
//! |---|---|---|
//! | `log-new-error` | a program whose lines are known writes one of a new template, and it is an error | low; medium from critical on |
//! | `log-error-rate` | errors of a program in five minutes are far above what five minutes usually bring | medium |
//! | `log-storm` | lines of a program were counted and not stored | low |
//!
//! Learning is quiet: a program is known after `learn_s`, and its rate after [`BUCKETS_MIN`] times five minutes. Lines
//! of our own programs raise nothing. An error is a line of priority 3 or less, or, where there is no priority, one
//! that holds a word for it. Templates, programs and what is raised in a day are bounded.

mod baseline;
mod config;

use std::collections::HashMap;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Finding, FindingKind, LogRecord, Severity, SubjectKind};
use serde_json::{Value, json};

use crate::tracker::{FindingTracker, Notice, Subject};
pub(crate) use baseline::LogBaseline;
use baseline::Seen;
pub use config::LogsConfig;

/// Source of rows that tell of a log: see `agent_collect::log::AGENT`, which this room does not depend on.
const AGENT: &str = "agent";
/// Our own programs begin so.
const OURS: &str = "fleetmend";
/// Length of a bucket, in microseconds.
const BUCKET_US: i64 = 300_000_000;
/// Buckets that are learnt before a rate can be high.
const BUCKETS_MIN: u64 = 12;
/// Fewer errors in five minutes are never many.
const ERRORS_MIN: f64 = 10.0;
/// A rate is high from so many deviations, and from so many times, above the mean on.
const DEVIATIONS: f64 = 6.0;
const TIMES: f64 = 4.0;
/// A finding holds so long without a further line, in microseconds.
const HOLD_US: i64 = 3_600_000_000;
/// Findings that are followed: twice as many as the tracker keeps open.
const OPEN_MAX: usize = 8_192;
/// New errors that are raised in a day; further ones are learnt only.
const NEW_A_DAY: u32 = 50;
const DAY_US: i64 = 24 * 3_600_000_000;
/// A clock in a log that is ahead of ours by more is not believed, in microseconds.
const AHEAD_US: i64 = 60_000_000;

/// Words that say error where nothing else does.
const ERROR_WORDS: [&str; 10] = [
    "error",
    "fatal",
    "panic",
    "segfault",
    "exception",
    "traceback",
    "corrupt",
    "out of memory",
    "i/o error",
    "failed",
];

/// Programs whose failures are judged as authentications.
const AUTHENTICATE: [&str; 6] = ["sshd", "sshd-session", "sshd-auth", "sudo", "su", "login"];

/// Watches lines of logs.
pub(crate) struct Logs {
    config: LogsConfig,
    baseline: LogBaseline,
    open: HashMap<(&'static str, Subject), TimeMicros>,
    new_today: (i64, u32),
}

impl Logs {
    /// A detector that goes on from what was learnt.
    pub(crate) fn new(config: LogsConfig, baseline: LogBaseline) -> Self {
        Self {
            config,
            baseline,
            open: HashMap::new(),
            new_today: (0, 0),
        }
    }

    /// What was learnt, to be kept.
    pub(crate) fn baseline(&self) -> &LogBaseline {
        &self.baseline
    }

    /// Templates and programs that made room for others since this was asked last.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        self.baseline.take_evicted()
    }

    /// Looks at one line; returns the rows that follow from it.
    pub(crate) fn observe(
        &mut self,
        line: &LogRecord,
        now: TimeMicros,
        tracker: &mut FindingTracker,
    ) -> Vec<Finding> {
        if !self.config.enabled || line.identifier.starts_with(OURS) {
            return Vec::new();
        }
        let time = if line.time.micros_since(now) > AHEAD_US {
            now
        } else {
            line.time
        };
        let subject = subject(line);
        if line.source == AGENT {
            let words = (
                format!("{} logs more than is stored", line.identifier),
                Severity::Low,
            );
            return self.raise("log-storm", subject, time, words, json!([]), line, tracker);
        }
        let is_error = is_error(line);
        let seen = self.baseline.see(line, time, is_error);
        if !is_error {
            return Vec::new();
        }
        let mut rows = Vec::new();
        if self.is_news(&seen, time) {
            let grave = line.priority.is_some_and(|priority| priority <= 2);
            let severity = if grave { Severity::Medium } else { Severity::Low };
            let words = (
                format!("{} logs an error that it never logged", line.identifier),
                severity,
            );
            rows.extend(self.raise(
                "log-new-error",
                subject.clone(),
                time,
                words,
                json!([]),
                line,
                tracker,
            ));
        }
        if seen.buckets >= BUCKETS_MIN && seen.errors >= limit(&seen) {
            let words = (
                format!("{} logs errors far more often than it does", line.identifier),
                Severity::Medium,
            );
            let factors = json!([{
                "feature": "errors in 5 minutes",
                "value": seen.errors,
                "expected": format!("< {:.0}", limit(&seen)),
                "contribution": null,
            }]);
            rows.extend(self.raise("log-error-rate", subject, time, words, factors, line, tracker));
        }
        rows
    }

    /// Learns that lines until `to` may be missing: what is open was not quiet then, as far as anybody knows.
    pub(crate) fn miss(&mut self, to: TimeMicros) {
        for held in self.open.values_mut() {
            *held = (*held).max(to.plus_micros(HOLD_US));
        }
    }

    /// Resolves what has been quiet long enough.
    pub(crate) fn tick(&mut self, now: TimeMicros, tracker: &mut FindingTracker) -> Vec<Finding> {
        let quiet = self.open.extract_if(|_, until| {
            // A clock that was ahead holds nothing for longer than the right one would.
            *until = (*until).min(now.plus_micros(HOLD_US));
            *until < now
        });
        quiet
            .filter_map(|((rule, subject), _)| tracker.resolve(now, rule, &subject))
            .collect()
    }

    fn is_news(&mut self, seen: &Seen, time: TimeMicros) -> bool {
        let learn_us = i64::try_from(self.config.learn_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        if !seen.new_template || seen.known_for_us < learn_us {
            return false;
        }
        let day = time.0.div_euclid(DAY_US);
        if self.new_today.0 != day {
            self.new_today = (day, 0);
        }
        self.new_today.1 += 1;
        self.new_today.1 <= NEW_A_DAY
    }

    #[expect(clippy::too_many_arguments, reason = "each is one column of the finding")]
    fn raise(
        &mut self,
        rule: &'static str,
        subject: Subject,
        time: TimeMicros,
        (title, severity): (String, Severity),
        factors: Value,
        line: &LogRecord,
        tracker: &mut FindingTracker,
    ) -> Vec<Finding> {
        let notice = Notice {
            kind: FindingKind::Behaviour,
            rule: rule.to_owned(),
            title,
            severity,
            score: None,
            subject: subject.clone(),
            techniques: Vec::new(),
            tactics: Vec::new(),
            factors,
            evidence: json!({ "log_records": line }),
        };
        let rows = tracker.notice_times(time, notice, line.repeats);
        if self.open.len() >= OPEN_MAX {
            // The tracker has given up the others, and said so.
            self.open
                .retain(|(rule, subject), _| tracker.is_open(rule, subject));
        }
        self.open.insert((rule, subject), time.plus_micros(HOLD_US));
        rows.into_iter().collect()
    }
}

/// Errors from which a bucket is far above the others.
fn limit(seen: &Seen) -> f64 {
    ERRORS_MIN
        .max(seen.mean + DEVIATIONS * seen.deviation)
        .max(TIMES * seen.mean)
}

/// The unit, when it is known, and else the program as one.
fn subject(line: &LogRecord) -> Subject {
    match &line.unit {
        Some(unit) => Subject::named(SubjectKind::Unit, unit),
        None => Subject::named(SubjectKind::Process, &line.identifier),
    }
}

fn is_error(line: &LogRecord) -> bool {
    match line.priority {
        Some(priority) => priority <= 3,
        None if AUTHENTICATE.contains(&line.identifier.as_str()) => false,
        None => {
            let text = line.message.to_ascii_lowercase();
            ERROR_WORDS.iter().any(|word| text.contains(word))
        }
    }
}

#[cfg(test)]
mod tests;
