//! Who sends what the store cannot take: named in ingest's audit.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use collector_ingest::{CONFLICT, Ingest};
use collector_store::{Committed, FactStore, Maker};
use fleetmend_event::HostId;
use fleetmend_event::table::{Gap, GapStage, Table as _};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::broadcast::error::RecvError;

/// How often a host is named for one reason.
const NAMED_EVERY: Duration = Duration::from_mins(10);
/// Hosts and reasons that are remembered for it; with more, some are named again earlier.
const NAMED_MAX: usize = 4_096;

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
                // What a host says of itself accuses nobody.
                Ok(facts) if facts.table.id == Gap::ID && facts.maker == Maker::Store => {
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
        // A reason may name numbers and columns; its first word is what it is.
        reasons.retain(|reason| self.is_new(facts.host, code_of(reason)));
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

/// The word that says what kind of reason it is.
fn code_of(reason: &str) -> &str {
    reason.split([' ', ':']).next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_are_one() {
        assert_eq!(code_of("commit decodes to more than 7 bytes"), "commit");
        assert_eq!(code_of("series_limit"), "series_limit");
        assert_eq!(code_of("corrupt: 12"), "corrupt");
    }

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
