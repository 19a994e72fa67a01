//! The book of open findings: which remedy of which finding is to be proposed when. Pure: it takes the time and
//! gives proposals.

use std::collections::{BTreeMap, BTreeSet};

use fleetmend_event::healer::Proposal;
use fleetmend_event::remedy::{Ending, Remedy};
use fleetmend_event::table::{ActionEvent, ActionStage, Finding, FindingState};
use fleetmend_event::{ActionId, FindingId, TimeMicros};

use crate::Config;
use crate::metrics;
use crate::plan::{Diagnosis, diagnose};

/// Open findings that are kept; the oldest goes first.
const CASES_MAX: usize = 512;
/// Proposals of one finding that led to something; then it is a person's. One that only showed what would be
/// done, or met the stop switch, is none.
const TRIES_MAX: u32 = 8;
/// A refusal that may pass (cool-down, budget, stop switch) is asked again after this, doubled each time.
const RETRY_S: i64 = 60;
/// After what healed, the detector has this long to see it.
const SETTLE_S: i64 = 120;
/// What would be done, or could not be done, is asked again after this: the policy may have changed. What
/// would be done is asked again after twice the time each time.
const REST_S: i64 = 600;
/// Doublings at most: ten hours for what would be done, an hour for what may pass.
const DOUBLINGS_MAX: u32 = 6;
/// A proposal without any answer is taken to be lost after this. Longer than verification may take.
const ANSWER_S: i64 = 300;

/// Open findings that have a remedy.
#[derive(Debug, Default)]
pub struct Book {
    cases: BTreeMap<FindingId, Case>,
    /// Remedies that the policy does not grant at all, as the healer said: passed over where it may grant another.
    ungranted: BTreeSet<&'static str>,
}

#[derive(Debug)]
struct Case {
    finding: Finding,
    candidates: Vec<Remedy>,
    at: usize,
    under_way: Option<ActionId>,
    tries: u32,
    // Answers one after the other that were no try.
    idle_answers: u32,
    // It rests because the healer did not want it.
    refused: bool,
    // What was done cannot be told: a person's, whatever changes.
    handed_over: bool,
    next: TimeMicros,
}

impl Book {
    /// Takes note of a finding: opens a case, keeps it current, or closes it.
    pub fn note(&mut self, finding: &Finding, config: &Config, now: TimeMicros) {
        if finding.state == FindingState::Resolved {
            self.cases.remove(&finding.finding_id);
            return;
        }
        if let Some(case) = self.cases.get_mut(&finding.finding_id) {
            case.finding = finding.clone();
            return;
        }
        match diagnose(finding, config) {
            Diagnosis::None(reason) => {
                tracing::debug!(finding_id = %finding.finding_id, rule = finding.rule, reason, "finding has no remedy");
            }
            Diagnosis::Candidates(candidates) => {
                if self.cases.len() >= CASES_MAX && self.cases.pop_first().is_some() {
                    metrics::finding_dropped("book_full");
                }
                let finding = finding.clone();
                let case = Case {
                    candidates,
                    at: 0,
                    under_way: None,
                    tries: 0,
                    idle_answers: 0,
                    refused: false,
                    handed_over: false,
                    next: now,
                    finding,
                };
                self.cases.insert(case.finding.finding_id, case);
            }
        }
    }

    /// Proposals whose time has come. Each is under way from now on.
    pub fn due(&mut self, config: &Config, now: TimeMicros) -> Vec<Proposal> {
        let lifetime_ms = i64::try_from(config.proposal_lifetime.get().as_millis()).unwrap_or(i64::MAX);
        let mut proposals = Vec::new();
        for case in self.cases.values_mut() {
            if now < case.next || case.tries >= TRIES_MAX || case.handed_over {
                continue;
            }
            case.at = case.granted_from(case.at, &self.ungranted).unwrap_or(case.at);
            let Some(remedy) = case.candidates.get(case.at) else {
                continue;
            };
            let proposal = Proposal {
                action_id: ActionId::random(),
                finding: case.finding.clone(),
                remedy: remedy.clone(),
                not_after: now.plus_millis(lifetime_ms),
            };
            case.under_way = Some(proposal.action_id);
            case.tries += 1;
            case.refused = false;
            case.next = later(now, ANSWER_S);
            proposals.push(proposal);
        }
        proposals
    }

    /// A proposal that could not be sent is due again at once.
    pub fn unsent(&mut self, action_id: ActionId, now: TimeMicros) {
        if let Some(case) = under_way(&mut self.cases, action_id) {
            case.under_way = None;
            case.tries = case.tries.saturating_sub(1);
            case.next = now;
        }
    }

    /// Takes note of a step the healer made.
    pub fn step(&mut self, event: &ActionEvent, now: TimeMicros) {
        let Self { cases, ungranted } = self;
        let Some(case) = under_way(cases, event.action_id) else {
            return;
        };
        case.refused = matches!(event.stage, ActionStage::WouldAct | ActionStage::Refused);
        match (event.stage, event.ending) {
            (ActionStage::WouldAct, _) => {
                let wait_s = case.no_try(REST_S);
                case.rest(now, wait_s);
            }
            (ActionStage::Refused, _) if event.reason.starts_with("not-applicable:") => {
                case.next_candidate(now);
            }
            (ActionStage::Refused, _) if event.reason.starts_with("grant:") => {
                let name = case.candidates.get(case.at).map(Remedy::name);
                ungranted.extend(name);
                match case.granted_from(case.at + 1, ungranted) {
                    Some(_) => case.next_candidate(now),
                    None => case.give_up(now),
                }
            }
            // The policy grants the remedy, and not on this target: a harsher one is no answer to that.
            (ActionStage::Refused, _) if event.reason.starts_with("scope:") => case.give_up(now),
            (ActionStage::Refused, _) if event.reason.starts_with("kill-switch:") => {
                let wait_s = case.no_try(RETRY_S);
                case.rest(now, wait_s);
            }
            (ActionStage::Refused, _) => {
                let wait_s = RETRY_S << case.tries.min(DOUBLINGS_MAX);
                case.rest(now, wait_s);
            }
            (ActionStage::Ended, Some(Ending::Healed | Ending::NoOp)) => {
                case.at = 0;
                case.rest(now, SETTLE_S);
            }
            (ActionStage::Ended, Some(Ending::Reverted | Ending::FailedSafe)) => case.next_candidate(now),
            (ActionStage::Ended, _) => case.handed_over = true,
            // It goes on: the ending is waited for.
            (_, _) => case.next = later(now, ANSWER_S),
        }
    }

    /// The healer has another policy, mode or stop switch by now: what it refused, and what was given up, is
    /// proposed anew.
    pub fn reconsider(&mut self, now: TimeMicros) {
        self.ungranted.clear();
        for case in self.cases.values_mut() {
            (case.tries, case.idle_answers) = (0, 0);
            if case.refused {
                (case.at, case.next) = (0, case.next.min(now));
            }
        }
    }

    /// Cases that are open.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether no case is open.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }
}

fn under_way(cases: &mut BTreeMap<FindingId, Case>, action_id: ActionId) -> Option<&mut Case> {
    cases.values_mut().find(|case| case.under_way == Some(action_id))
}

impl Case {
    /// The transaction is still followed: a refused one that was journalled has its ending yet to come.
    fn rest(&mut self, now: TimeMicros, seconds: i64) {
        self.next = later(now, seconds);
    }

    /// The answer does not count as a try; seconds to wait, more each time.
    fn no_try(&mut self, seconds: i64) -> i64 {
        self.tries = self.tries.saturating_sub(1);
        let wait_s = seconds << self.idle_answers.min(DOUBLINGS_MAX);
        self.idle_answers = self.idle_answers.saturating_add(1);
        wait_s
    }

    fn next_candidate(&mut self, now: TimeMicros) {
        self.under_way = None;
        if self.at + 1 < self.candidates.len() {
            self.at += 1;
            self.next = now;
        } else {
            self.give_up(now);
        }
    }

    /// Begins anew after a rest.
    fn give_up(&mut self, now: TimeMicros) {
        self.under_way = None;
        self.at = 0;
        self.next = later(now, REST_S);
    }

    /// The first candidate from `at` on that the policy may grant.
    fn granted_from(&self, at: usize, ungranted: &BTreeSet<&'static str>) -> Option<usize> {
        let mut indexed = self.candidates.iter().enumerate().skip(at);
        let found = indexed.find(|(_, remedy)| !ungranted.contains(remedy.name()));
        found.map(|(index, _)| index)
    }
}

fn later(now: TimeMicros, seconds: i64) -> TimeMicros {
    now.plus_millis(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests;
