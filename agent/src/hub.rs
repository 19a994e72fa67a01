//! The hub: every fact passes here once, on its way from its source to the spool.
//!
//! One thread. The detector looks at each fact; findings it raises go the same way and to the heal room. It ends
//! when every source has ended and the channel is empty, so that nothing collected is left behind.

use agent_detect::Detector;
use agent_heal::HealHandle;
use agent_spool::SpoolHandle;
use fleetmend_event::Fact;
use tokio::sync::mpsc;

use crate::status::StatusBoard;

/// What the hub holds.
pub(crate) struct Hub {
    /// Looks at every fact.
    pub(crate) detector: Detector,
    /// Where facts are kept until they are sent.
    pub(crate) spool: SpoolHandle,
    /// Where findings become proposals.
    pub(crate) heal: HealHandle,
    /// What `status` shows.
    pub(crate) board: StatusBoard,
}

impl Hub {
    /// Passes facts on until every sender is gone.
    pub(crate) fn run(mut self, mut facts: mpsc::Receiver<Fact>) {
        while let Some(fact) = facts.blocking_recv() {
            let rows = self.detector.observe(&fact);
            self.pass(fact);
            let ticked = self.detector.tick();
            for row in rows.into_iter().chain(ticked) {
                self.pass(row);
            }
        }
    }

    fn pass(&self, fact: Fact) {
        self.board.note(&fact);
        if let Fact::Finding(finding) = &fact {
            self.heal.offer(finding);
        }
        self.spool.append(fact);
    }
}
