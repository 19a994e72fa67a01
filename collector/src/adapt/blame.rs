//! Who sends what the store cannot take: named in ingest's audit.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use collector_ingest::Ingest;
use collector_store::{Committed, FactStore};
use fleetmend_event::HostId;
use fleetmend_event::table::{Gap, GapStage, Table as _};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::broadcast::error::RecvError;

/// How often a host is named for one reason.
const NAMED_EVERY: Duration = Duration::from_mins(10);
/// Hosts and reasons that are remembered for it; with more, some are named again earlier.
const NAMED_MAX: usize = 4_096;

/// Ingest names who sends it.
const CONFLICT: &str = "identity_conflict";

/// Follows the gaps that the store writes because rows cannot be read or are too many.
pub(crate) fn name_refused_rows(store: &dyn FactStore, ingest: &Ingest, tasks: &Tasks) {
    let (mut committed, ingest, token) = (store.subscribe(), ingest.clone(), tasks.token());
    tasks.spawn("refused rows", TaskKind::BestEffort, async move {
        let mut named = Named::default();
        loop {
            let received = tokio::select! {
                () = token.cancelled() => return Ok::<(), Infallible>(()),
                received = committed.recv() => received,
            };
            match received {
                Ok(facts) if facts.table.id == Gap::ID => {
                    for (host, reason) in named.new_ones(&facts) {
                        ingest.blame(host, &format!("refused_rows: {reason}")).await;
                    }
                }
                // Whoever goes on is named later.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    });
}

#[derive(Debug, Default)]
struct Named {
    at: HashMap<(HostId, String), Instant>,
}

impl Named {
    fn new_ones(&mut self, facts: &Committed) -> Vec<(HostId, String)> {
        // Gaps that cannot be read are the store's to tell of.
        let gaps = Gap::from_batch(&facts.batch).unwrap_or_default();
        let of_ingest = gaps
            .into_iter()
            .filter(|gap| gap.stage == GapStage::Ingest && gap.reason != CONFLICT);
        let mut reasons: Vec<String> = of_ingest.map(|gap| gap.reason).collect();
        reasons.sort();
        reasons.dedup();
        reasons.retain(|reason| self.is_new(facts.host, reason));
        reasons.into_iter().map(|reason| (facts.host, reason)).collect()
    }

    fn is_new(&mut self, host: HostId, reason: &str) -> bool {
        if self.at.len() >= NAMED_MAX {
            self.at.clear();
        }
        let key = (host, reason.to_owned());
        let new = self.at.get(&key).is_none_or(|at| at.elapsed() >= NAMED_EVERY);
        if new {
            self.at.insert(key, Instant::now());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_named_once_for_each_reason() {
        let (mut named, host) = (Named::default(), HostId::random());
        assert!(named.is_new(host, "series_limit") && named.is_new(host, "malformed"));
        assert!(!named.is_new(host, "series_limit"));
        assert!(named.is_new(HostId::random(), "series_limit"));
        for number in 0..2 * NAMED_MAX {
            named.is_new(host, &number.to_string());
        }
        assert!(named.at.len() <= NAMED_MAX);
    }
}
