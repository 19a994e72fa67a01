//! From a sign to a finding.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Finding, FindingKind, Severity, SubjectKind};
use serde_json::{Value, json};

use super::Detection;
use crate::config::BehaviourConfig;
use crate::lineage::{Lineage, Who};
use crate::tracker::{FindingTracker, Notice, Subject};

/// What was noticed.
pub(crate) struct Sign<'a> {
    /// Which detection noticed it.
    pub(crate) what: &'static Detection,
    /// How grave it is when everything about the process is known.
    pub(crate) severity: Severity,
    /// When.
    pub(crate) time: TimeMicros,
    /// What it is about; equal ones are counted together.
    pub(crate) subject: Subject,
    /// Who did it, where a process did.
    pub(crate) who: Option<&'a Who<'a>>,
    /// Parent of the process, for the chain of a process that is not known.
    pub(crate) ppid: Option<u32>,
}

impl<'a> Sign<'a> {
    /// A sign about the program of whoever did it; equal acts of its processes are one finding.
    pub(crate) fn of(
        what: &'static Detection,
        severity: Severity,
        time: TimeMicros,
        who: &'a Who<'a>,
        ppid: Option<u32>,
    ) -> Self {
        Self {
            what,
            severity,
            time,
            subject: program(who),
            who: Some(who),
            ppid,
        }
    }
}

/// What is told of it; made only when a row is written.
pub(crate) struct Told {
    /// One line for a person.
    pub(crate) title: String,
    /// What made it: names and values, and what was expected.
    pub(crate) factors: Vec<(&'static str, Value, Value)>,
    /// The rows that show it.
    pub(crate) evidence: Value,
}

/// Where signs go.
pub(crate) struct Raise<'a> {
    config: &'a BehaviourConfig,
    /// The descent of processes.
    pub(crate) lineage: &'a Lineage,
    tracker: &'a mut FindingTracker,
    rows: &'a mut Vec<Finding>,
}

impl<'a> Raise<'a> {
    pub(crate) fn new(
        config: &'a BehaviourConfig,
        lineage: &'a Lineage,
        tracker: &'a mut FindingTracker,
        rows: &'a mut Vec<Finding>,
    ) -> Self {
        Self {
            config,
            lineage,
            tracker,
            rows,
        }
    }

    /// Takes a sign; `told` is asked only when a row is to be written.
    pub(crate) fn sign(&mut self, sign: Sign<'_>, told: impl FnOnce() -> Told) {
        let exe = sign.who.and_then(|who| who.exe);
        if self.config.expects(sign.what.rule, exe) {
            return;
        }
        let unknown = sign.what.by_descent && sign.who.is_some_and(|who| !who.known);
        let severity = if unknown {
            lower(sign.severity)
        } else {
            sign.severity
        };
        if self
            .tracker
            .count_up(sign.time, sign.what.rule, &sign.subject, severity)
        {
            return;
        }
        let mut told = told();
        if let Some(who) = sign.who {
            let chain = self.lineage.chain(who, sign.ppid);
            told.factors
                .push(("process.lineage", Value::from(chain), Value::Null));
        }
        if unknown {
            told.title.push_str("; its ancestors are not all known");
            told.factors
                .push(("process.lineage_known", json!(false), json!(true)));
        }
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let factors = told.factors.into_iter().map(
            |(feature, value, expected)| json!({"feature": feature, "value": value, "expected": expected, "contribution": null}),
        );
        let notice = Notice {
            kind: FindingKind::Behaviour,
            rule: sign.what.rule.to_owned(),
            title: told.title,
            severity,
            score: None,
            subject: sign.subject,
            techniques: words(sign.what.techniques),
            tactics: words(sign.what.tactics),
            factors: factors.collect(),
            evidence: told.evidence,
        };
        self.rows.extend(self.tracker.notice(sign.time, notice));
    }
}

/// The program as the subject: equal acts of its processes are one finding.
pub(crate) fn program(who: &Who<'_>) -> Subject {
    Subject {
        process: (who.pid != 0).then_some((who.pid, who.start)),
        ..Subject::named(SubjectKind::Process, who.comm)
    }
}

fn lower(severity: Severity) -> Severity {
    match severity {
        Severity::Critical => Severity::High,
        Severity::High => Severity::Medium,
        Severity::Medium | Severity::Low => Severity::Low,
        Severity::Info => Severity::Info,
    }
}
