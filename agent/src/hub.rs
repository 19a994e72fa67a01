//! The hub: every fact passes here once, on its way from its source to the spool.
//!
//! One thread. The detector looks at each fact; findings it raises go the same way and to the heal room. It ends
//! when every source has ended and the channel is empty, so that nothing collected is left behind. On the last step of
//! the budget's ladder the detector still sees every fact, and the gate keeps from the spool what is not critical.

use agent_collect::bpf::ProfileHandle;
use agent_collect::host::host_info;
use agent_collect::log::AccessRecord;
use agent_collect::source::audit::AuditRecord;
use agent_detect::Detector;
use agent_detect::sigma::RawEvent;
use agent_heal::HealHandle;
use agent_integrity::Eye;
use agent_spool::SpoolHandle;
use fleetmend_event::Fact;
use fleetmend_event::table::{Finding, FindingState, Severity};
use tokio::sync::mpsc;

use crate::budget::Step;
use crate::budget::gate::Gate;
use crate::status::StatusBoard;

/// Why the model is paused.
const OVER_BUDGET: &str = "the agent is over its budget";

/// What the hub holds.
pub(crate) struct Hub {
    /// Looks at every fact.
    pub(crate) detector: Detector,
    /// Where facts are kept until they are sent.
    pub(crate) spool: SpoolHandle,
    /// Looks at what is done to watched files, when they are watched.
    pub(crate) integrity: Option<Eye>,
    /// Records of the audit log, for rules that are written for them.
    pub(crate) records: mpsc::Receiver<AuditRecord>,
    /// Requests of web servers' access logs, for rules.
    pub(crate) requests: mpsc::Receiver<AccessRecord>,
    /// Who is suspected has its system calls profiled.
    pub(crate) suspects: ProfileHandle,
    /// Where findings become proposals.
    pub(crate) heal: HealHandle,
    /// What `status` shows.
    pub(crate) board: StatusBoard,
    /// What of it is stored, while the agent is over its budget.
    pub(crate) gate: Gate,
}

impl Hub {
    /// Passes facts on until every sender is gone.
    pub(crate) fn run(mut self, mut facts: mpsc::Receiver<Fact>) {
        let mut healing = String::new();
        while let Some(fact) = facts.blocking_recv() {
            if let Some(mode) = healing_mode(&fact).filter(|mode| *mode != healing) {
                mode.clone_into(&mut healing);
                self.pass(host_info(env!("CARGO_PKG_VERSION"), mode).into());
            }
            let thin = self.gate.step() >= Step::Thin;
            self.detector.see_less(thin.then_some(OVER_BUDGET));
            let mut rows = self.detector.observe(&fact);
            // Facts come every second at least, so that no record waits longer.
            while let Ok(record) = self.records.try_recv() {
                rows.extend(self.detector.observe_raw(&raw(record)));
            }
            while let Ok(request) = self.requests.try_recv() {
                rows.extend(self.detector.observe_raw(&web_request(request)));
            }
            if let Some(eye) = &mut self.integrity {
                eye.observe(&fact);
            }
            self.pass(fact);
            let ticked = self.detector.tick();
            let gaps = self.gate.gaps();
            for row in rows.into_iter().chain(ticked).chain(gaps) {
                self.pass(row);
            }
        }
        for gap in self.gate.finish() {
            self.pass(gap);
        }
    }

    fn pass(&mut self, fact: Fact) {
        self.board.note(&fact);
        if let Fact::Finding(finding) = &fact {
            self.heal.offer(finding);
            self.suspect(finding);
        }
        if self.gate.admits(&fact) {
            self.spool.append(fact);
        }
    }

    /// Has the process of a finding profiled that is worth a look today.
    fn suspect(&self, finding: &Finding) {
        let worth = finding.state == FindingState::Open && finding.severity >= Severity::Medium;
        if let (true, Some(pid), Some(start)) = (worth, finding.pid, finding.start_boot_ns) {
            self.suspects.suspect(pid, start);
        }
    }
}

/// A record of the audit log under the names that Sigma has for it.
fn raw(record: AuditRecord) -> RawEvent {
    RawEvent {
        time: record.time,
        product: Some("linux".to_owned()),
        category: None,
        service: Some("auditd".to_owned()),
        fields: record.fields,
    }
}

/// A request under the names that Sigma has for it: of any system's web server, not of Linux alone.
fn web_request(request: AccessRecord) -> RawEvent {
    RawEvent {
        time: request.time,
        product: None,
        category: Some("webserver".to_owned()),
        service: request.service.map(str::to_owned),
        fields: request.fields,
    }
}

/// The healer's mode, when the fact is its state: the host's own row says it.
fn healing_mode(fact: &Fact) -> Option<&'static str> {
    let Fact::ProbeStatus(status) = fact else {
        return None;
    };
    if status.probe != "healer" {
        return None;
    }
    let modes = ["enforce", "observe", "stopped"];
    Some(
        modes
            .into_iter()
            .find(|mode| status.reason.starts_with(mode))
            .unwrap_or("absent"),
    )
}
