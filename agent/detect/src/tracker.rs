//! Findings that hold: equal ones are counted together, each has one row per change.
//!
//! A finding is known by its rule and what it is about. It is written when it opens, when its count reaches a
//! power of ten, and when it is resolved, so that one attacker with 42,309 requests is one finding with a
//! handful of rows. At most [`FINDINGS_MAX`] are kept; the one that was quiet longest makes room, and its last
//! row says that it is resolved, because nobody follows it any more.
//!
//! Findings of an earlier run are taken back with their ids ([`FindingTracker::restore`]). Each goes on when its
//! cause is seen again, and is resolved when it is not for a time ([`FindingTracker::resolve_unseen`]).

use std::collections::HashMap;

use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind};
use fleetmend_event::{FindingId, TimeMicros};

use crate::metrics;

/// Most findings that are open at once.
const FINDINGS_MAX: usize = 4_096;

/// What was noticed, before it is known whether it is new.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What noticed it.
    pub kind: FindingKind,
    /// Rule or model.
    pub rule: String,
    /// One line for a person.
    pub title: String,
    /// How grave it is.
    pub severity: Severity,
    /// Score, for models.
    pub score: Option<f64>,
    /// What it is about.
    pub subject: Subject,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// ATT&CK tactics.
    pub tactics: Vec<String>,
    /// What made it, as JSON.
    pub factors: serde_json::Value,
    /// The rows that show it, as JSON.
    pub evidence: serde_json::Value,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Kind of thing.
    pub kind: SubjectKind,
    /// Its name.
    pub name: String,
    /// Process, with the boot time of its start, when it is one.
    pub process: Option<(u32, u64)>,
}

impl Subject {
    /// A thing that its name identifies.
    pub fn named(kind: SubjectKind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            process: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    rule: String,
    subject: Subject,
}

struct Open {
    finding: Finding,
    last: TimeMicros,
    /// Of an earlier run, and not seen in this one.
    unseen: bool,
}

/// The findings that hold.
#[derive(Default)]
pub struct FindingTracker {
    open: HashMap<Key, Open>,
    /// Rows of findings that made room, until they are taken.
    evicted: Vec<Finding>,
    changed: bool,
}

impl FindingTracker {
    /// Takes back what was open when an earlier run ended; its time without a notice begins at `now`.
    pub fn restore(&mut self, findings: Vec<Finding>, now: TimeMicros) {
        let open = findings
            .into_iter()
            .filter(|finding| finding.state == FindingState::Open);
        for finding in open.take(FINDINGS_MAX) {
            let last = now;
            self.open.insert(
                key_of(&finding),
                Open {
                    finding,
                    last,
                    unseen: true,
                },
            );
        }
        metrics::findings_open(self.open.len());
    }

    /// The findings that hold, as their last rows.
    pub fn findings(&self) -> Vec<Finding> {
        self.open.values().map(|open| open.finding.clone()).collect()
    }

    /// Whether anything was opened, written or resolved since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The last rows of findings that made room for others since this was asked last.
    pub fn take_evicted(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.evicted)
    }

    /// Says that `rule` still holds for `subject`, if it is open; returns whether it is.
    pub fn confirm(&mut self, time: TimeMicros, rule: &str, subject: &Subject) -> bool {
        let key = Key {
            rule: rule.to_owned(),
            subject: subject.clone(),
        };
        let Some(open) = self.open.get_mut(&key) else {
            return false;
        };
        open.last = open.last.max(time);
        open.unseen = false;
        true
    }

    /// Resolves findings of an earlier run whose cause was not seen since `before`.
    pub fn resolve_unseen(&mut self, time: TimeMicros, before: TimeMicros) -> Vec<Finding> {
        self.resolve_where(time, |open| open.unseen && open.last < before)
    }

    /// Counts a further sign of a behaviour, when that is all that is to be done: it is open, as grave, and no row is
    /// due. Spares making what a row would tell.
    pub(crate) fn count_up(
        &mut self,
        time: TimeMicros,
        rule: &str,
        subject: &Subject,
        severity: Severity,
    ) -> bool {
        let key = Key {
            rule: rule.to_owned(),
            subject: Subject {
                process: None,
                ..subject.clone()
            },
        };
        let Some(open) = self.open.get_mut(&key) else {
            return false;
        };
        let next = open.finding.count.saturating_add(1);
        if severity > open.finding.severity || reaches_power_of_ten(open.finding.count, next) {
            return false;
        }
        open.finding.count = next;
        open.last = open.last.max(time);
        open.unseen = false;
        true
    }

    /// Takes a notice at `time`; returns the row to write, when there is one.
    pub fn notice(&mut self, time: TimeMicros, notice: Notice) -> Option<Finding> {
        self.notice_times(time, notice, 1)
    }

    /// Takes a notice that stands for so many equal ones; returns the row to write, when there is one.
    pub fn notice_times(&mut self, time: TimeMicros, notice: Notice, times: u64) -> Option<Finding> {
        let process = notice.subject.process.filter(|_| is_by_process(notice.kind));
        let key = Key {
            rule: notice.rule.clone(),
            subject: Subject {
                process,
                ..notice.subject.clone()
            },
        };
        if let Some(open) = self.open.get_mut(&key) {
            open.last = open.last.max(time);
            open.unseen = false;
            let before = open.finding.count;
            open.finding.count = before.saturating_add(times);
            // A graver act of the same behaviour must not hide behind a lesser one.
            let graver = notice.kind == FindingKind::Behaviour && notice.severity > open.finding.severity;
            if graver {
                open.finding.severity = notice.severity;
                open.finding.title = notice.title;
                open.finding.factors = notice.factors.to_string();
                open.finding.pid = notice.subject.process.map(|(pid, _)| pid);
                open.finding.start_boot_ns = notice.subject.process.map(|(_, start)| start);
            }
            if !graver && !reaches_power_of_ten(before, open.finding.count) {
                return None;
            }
            open.finding.time = time;
            open.finding.evidence = notice.evidence.to_string();
            metrics::finding(notice.kind.as_str());
            self.changed = true;
            return Some(open.finding.clone());
        }
        self.make_room(time);
        self.changed = true;
        metrics::finding(notice.kind.as_str());
        let finding = Finding {
            count: times.max(1),
            ..opened(time, notice)
        };
        self.open.insert(
            key,
            Open {
                finding: finding.clone(),
                last: time,
                unseen: false,
            },
        );
        metrics::findings_open(self.open.len());
        Some(finding)
    }

    /// Says that `rule` no longer holds for `subject`; returns the row to write when it did.
    pub fn resolve(&mut self, time: TimeMicros, rule: &str, subject: &Subject) -> Option<Finding> {
        let open = self.open.remove(&Key {
            rule: rule.to_owned(),
            subject: subject.clone(),
        })?;
        self.changed = true;
        metrics::findings_open(self.open.len());
        Some(resolved(time, open.finding))
    }

    /// Whether `rule` holds for `subject`.
    pub fn is_open(&self, rule: &str, subject: &Subject) -> bool {
        self.open.contains_key(&Key {
            rule: rule.to_owned(),
            subject: subject.clone(),
        })
    }

    /// Subjects for which `rule` holds.
    pub fn subjects(&self, rule: &str) -> Vec<Subject> {
        self.open
            .keys()
            .filter(|key| key.rule == rule)
            .map(|key| key.subject.clone())
            .collect()
    }

    /// Resolves findings of `kind` that had no new notice since `before`.
    pub fn resolve_quiet(&mut self, time: TimeMicros, kind: FindingKind, before: TimeMicros) -> Vec<Finding> {
        self.resolve_where(time, |open| {
            open.finding.kind == kind && open.last < before && !ends_by_itself(&open.finding.rule)
        })
    }

    fn resolve_where(&mut self, time: TimeMicros, over: impl Fn(&Open) -> bool) -> Vec<Finding> {
        let gone = self.open.extract_if(|_, open| {
            // A clock that was ahead must not keep a finding open until it is that late again.
            open.last = open.last.min(time);
            over(open)
        });
        let rows: Vec<Finding> = gone.map(|(_, open)| resolved(time, open.finding)).collect();
        self.changed |= !rows.is_empty();
        metrics::findings_open(self.open.len());
        rows
    }

    fn make_room(&mut self, time: TimeMicros) {
        if self.open.len() < FINDINGS_MAX {
            return;
        }
        let quietest = self
            .open
            .iter()
            .min_by_key(|(_, open)| open.last)
            .map(|(key, _)| key.clone());
        if let Some(open) = quietest.and_then(|key| self.open.remove(&key)) {
            self.evicted.push(resolved(time, open.finding));
            metrics::finding_evicted();
        }
    }
}

/// Whether findings of this kind are told apart by process. Sigma rules and behaviours are not: the same one by many
/// processes of one program is one finding.
fn is_by_process(kind: FindingKind) -> bool {
    !matches!(kind, FindingKind::Sigma | FindingKind::Behaviour)
}

/// Whether the detector that raised it knows better when it is over: attacks on accounts and news in logs have windows
/// of their own.
fn ends_by_itself(rule: &str) -> bool {
    rule.starts_with("auth-") || rule.starts_with("log-")
}

/// Under what a finding is known; the reverse of what [`FindingTracker::notice`] does.
fn key_of(finding: &Finding) -> Key {
    Key {
        rule: finding.rule.clone(),
        subject: Subject {
            kind: finding.subject_kind,
            name: finding.subject.clone(),
            process: finding
                .pid
                .zip(finding.start_boot_ns)
                .filter(|_| is_by_process(finding.kind)),
        },
    }
}

fn opened(time: TimeMicros, notice: Notice) -> Finding {
    Finding {
        time,
        finding_id: FindingId::random(),
        kind: notice.kind,
        rule: notice.rule,
        title: notice.title,
        severity: notice.severity,
        state: FindingState::Open,
        first_time: time,
        count: 1,
        score: notice.score,
        subject_kind: notice.subject.kind,
        subject: notice.subject.name,
        pid: notice.subject.process.map(|(pid, _)| pid),
        start_boot_ns: notice.subject.process.map(|(_, start)| start),
        techniques: notice.techniques,
        tactics: notice.tactics,
        factors: notice.factors.to_string(),
        evidence: notice.evidence.to_string(),
    }
}

fn resolved(time: TimeMicros, finding: Finding) -> Finding {
    Finding {
        time,
        state: FindingState::Resolved,
        ..finding
    }
}

/// Whether counting on from `before` to `count` passes or reaches a power of ten.
fn reaches_power_of_ten(before: u64, count: u64) -> bool {
    count > before && count.checked_ilog10() > before.checked_ilog10()
}

#[cfg(test)]
mod tests;
