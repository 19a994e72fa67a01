//! The hub: every fact passes here once, on its way from its source to the spool.
//!
//! One thread. The detector looks at each fact; findings it raises go the same way and to the heal room. It ends
//! when every source has ended and the channel is empty, so that nothing collected is left behind. On the last step of
//! the budget's ladder the detector still sees every fact, and the gate keeps from the spool what is not critical.

use agent_collect::host::host_info;
use agent_detect::Detector;
use agent_heal::HealHandle;
use agent_integrity::Eye;
use agent_spool::SpoolHandle;
use fleetmend_event::Fact;
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
            let rows = self.detector.observe(&fact);
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
        }
        if self.gate.admits(&fact) {
            self.spool.append(fact);
        }
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
