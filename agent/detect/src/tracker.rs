//! Findings that hold: equal ones are counted together, each has one row per change.
//!
//! A finding is known by its rule and what it is about. It is written when it opens, when its count reaches a
//! power of ten, and when it is resolved, so that one attacker with 42,309 requests is one finding with a
//! handful of rows. At most [`FINDINGS_MAX`] are kept; the one that was quiet longest makes room.

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
}

/// The findings that hold.
#[derive(Default)]
pub struct FindingTracker {
    open: HashMap<Key, Open>,
}

impl FindingTracker {
    /// Takes a notice at `time`; returns the row to write, when there is one.
    pub fn notice(&mut self, time: TimeMicros, notice: Notice) -> Option<Finding> {
        // Sigma rules speak of behaviour: the same one by many processes of one program is one finding.
        let by_process = notice.kind != FindingKind::Sigma;
        let process = notice.subject.process.filter(|_| by_process);
        let key = Key {
            rule: notice.rule.clone(),
            subject: Subject {
                process,
                ..notice.subject.clone()
            },
        };
        if let Some(open) = self.open.get_mut(&key) {
            open.last = open.last.max(time);
            open.finding.count = open.finding.count.saturating_add(1);
            if !is_power_of_ten(open.finding.count) {
                return None;
            }
            open.finding.time = time;
            open.finding.evidence = notice.evidence.to_string();
            metrics::finding(notice.kind.as_str());
            return Some(open.finding.clone());
        }
        self.make_room();
        metrics::finding(notice.kind.as_str());
        let finding = opened(time, notice);
        self.open.insert(
            key,
            Open {
                finding: finding.clone(),
                last: time,
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
        let quiet = |open: &Open| open.finding.kind == kind && open.last < before;
        let keys: Vec<Key> = self
            .open
            .iter()
            .filter(|(_, open)| quiet(open))
            .map(|(key, _)| key.clone())
            .collect();
        let rows = keys
            .iter()
            .filter_map(|key| self.open.remove(key))
            .map(|open| resolved(time, open.finding))
            .collect();
        metrics::findings_open(self.open.len());
        rows
    }

    fn make_room(&mut self) {
        if self.open.len() < FINDINGS_MAX {
            return;
        }
        let quietest = self
            .open
            .iter()
            .min_by_key(|(_, open)| open.last)
            .map(|(key, _)| key.clone());
        if let Some(key) = quietest {
            self.open.remove(&key);
            metrics::finding_evicted();
        }
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

fn is_power_of_ten(count: u64) -> bool {
    count > 0
        && 10_u64
            .checked_pow(count.ilog10())
            .is_some_and(|power| power == count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn notice(rule: &str, subject: &str) -> Notice {
        Notice {
            kind: FindingKind::Sigma,
            rule: rule.into(),
            title: "t".into(),
            severity: Severity::High,
            score: None,
            subject: Subject {
                process: Some((7, 7)),
                ..Subject::named(SubjectKind::Process, subject)
            },
            techniques: vec![],
            tactics: vec![],
            factors: json!([]),
            evidence: json!({}),
        }
    }

    #[test]
    fn many_equal_notices_are_one_finding_with_few_rows() {
        let mut tracker = FindingTracker::default();
        let rows: Vec<Finding> = (0..42_309)
            .filter_map(|time| tracker.notice(TimeMicros(time), notice("r", "sh")))
            .collect();
        assert_eq!(
            rows.iter().map(|row| row.count).collect::<Vec<_>>(),
            [1, 10, 100, 1_000, 10_000]
        );
        assert!(
            rows.windows(2)
                .all(|pair| pair[0].finding_id == pair[1].finding_id)
        );
    }

    #[test]
    fn quiet_finding_is_resolved_once_and_opens_anew_as_another() {
        let mut tracker = FindingTracker::default();
        let first = tracker.notice(TimeMicros(10), notice("r", "sh")).unwrap();
        assert!(
            tracker
                .resolve_quiet(TimeMicros(20), FindingKind::Sigma, TimeMicros(10))
                .is_empty()
        );
        let gone = tracker.resolve_quiet(TimeMicros(30), FindingKind::Sigma, TimeMicros(11));
        assert_eq!(
            (gone.len(), gone[0].state, gone[0].finding_id),
            (1, FindingState::Resolved, first.finding_id)
        );
        assert_ne!(
            tracker
                .notice(TimeMicros(40), notice("r", "sh"))
                .unwrap()
                .finding_id,
            first.finding_id
        );
    }

    #[test]
    fn open_findings_are_bounded() {
        let mut tracker = FindingTracker::default();
        for index in 0..FINDINGS_MAX + 100 {
            tracker.notice(
                TimeMicros(i64::try_from(index).unwrap()),
                notice("r", &index.to_string()),
            );
        }
        assert_eq!(tracker.open.len(), FINDINGS_MAX);
        let subject = |index: usize| Subject {
            process: None,
            ..Subject::named(SubjectKind::Process, &index.to_string())
        };
        assert!(!tracker.is_open("r", &subject(0)) && tracker.is_open("r", &subject(FINDINGS_MAX + 99)));
    }
}
