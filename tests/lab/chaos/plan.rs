//! Which fault comes when: the seed decides, and nothing else.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    AgentsKilled,
    AgentsRestarted,
    CollectorKilled,
    CollectorUpgraded,
    CollectorRestored,
    LinksCut,
    LinksSlow,
    LinksHalfOpen,
    ForcedRetries,
    RudeBatches,
    SpoolDiskFull,
    StoreDiskFull,
    ClockJumps,
    SpoolWiped,
    HostCloned,
}

impl Fault {
    /// Every kind. The first ones are those of a short run.
    pub(super) const ALL: [Fault; 15] = [
        Fault::CollectorUpgraded,
        Fault::AgentsKilled,
        Fault::ForcedRetries,
        Fault::CollectorKilled,
        Fault::LinksCut,
        Fault::RudeBatches,
        Fault::CollectorRestored,
        Fault::AgentsRestarted,
        Fault::LinksHalfOpen,
        Fault::SpoolDiskFull,
        Fault::ClockJumps,
        Fault::LinksSlow,
        Fault::HostCloned,
        Fault::SpoolWiped,
        Fault::StoreDiskFull,
    ];

    /// The kind with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Its name in the timeline.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::AgentsKilled => "agents-killed",
            Fault::AgentsRestarted => "agents-restarted",
            Fault::CollectorKilled => "collector-killed",
            Fault::CollectorUpgraded => "collector-upgraded",
            Fault::CollectorRestored => "collector-restored",
            Fault::LinksCut => "links-cut",
            Fault::LinksSlow => "links-slow",
            Fault::LinksHalfOpen => "links-half-open",
            Fault::ForcedRetries => "forced-retries",
            Fault::RudeBatches => "rude-batches",
            Fault::SpoolDiskFull => "spool-disk-full",
            Fault::StoreDiskFull => "store-disk-full",
            Fault::ClockJumps => "clock-jumps",
            Fault::SpoolWiped => "spool-wiped",
            Fault::HostCloned => "host-cloned",
        }
    }

    /// Done once in a run at most: these change whose loss is whose.
    fn once(self) -> bool {
        matches!(self, Fault::SpoolWiped | Fault::HostCloned)
    }
}

/// The faults of a run in their order; it goes on for ever, and whoever follows it stops when time is over.
pub(super) struct Plan {
    pub(super) random: StdRng,
    kinds: Vec<Fault>,
    round: Vec<Fault>,
}

impl Plan {
    /// Of these kinds only.
    pub(super) fn new(seed: u64, kinds: &[Fault]) -> Self {
        // The first round has a fixed order, so that a short run has the same faults whatever its seed is.
        let mut round = kinds.to_vec();
        round.reverse();
        Self {
            random: StdRng::seed_from_u64(seed),
            kinds: kinds.to_vec(),
            round,
        }
    }

    /// The next fault.
    /// None when each of its kinds came that comes only once.
    pub(super) fn next(&mut self) -> Option<Fault> {
        if self.round.is_empty() {
            self.round = self.kinds.iter().copied().filter(|fault| !fault.once()).collect();
            self.round.shuffle(&mut self.random);
        }
        self.round.pop()
    }

    /// Some of `count` things: each with this chance, and at least one.
    pub(super) fn some_of(&mut self, count: usize, chance: f64) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..count).filter(|_| self.random.random_bool(chance)).collect();
        if chosen.is_empty() && count > 0 {
            chosen.push(self.random.random_range(0..count));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_has_same_faults_and_each_kind_comes() {
        let faults = |seed| {
            let mut plan = Plan::new(seed, &Fault::ALL);
            (0..60).filter_map(|_| plan.next()).collect::<Vec<_>>()
        };
        assert_eq!(faults(3), faults(3));
        assert_ne!(faults(3), faults(4));
        assert!(Fault::ALL.iter().all(|fault| faults(3)[..15].contains(fault)));
        assert_eq!(faults(3).iter().filter(|fault| fault.once()).count(), 2);
    }
}
