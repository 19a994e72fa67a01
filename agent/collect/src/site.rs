//! Web sites: each is probed from this host, phase by phase, and judged up, down or unknown.
//!
//! The verdict never blames a site for a fault of ours: a resolver that does not answer, a network that cannot
//! be reached, no free descriptor, or a witness that fails as well make it *unknown*.

mod fetch;
mod resolve;
mod verdict;

use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus, SiteProbe, SiteVerdict};
use fleetmend_shutdown::{CancellationToken, Tasks};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use crate::config::SiteConfig;
use crate::vigil::Vigil;
use crate::{FactSink, metrics};

pub use fetch::Prober;

/// Starts probing every site of `sites`, each at its own interval, with `prober`; begins again after a fault, which
/// is told.
pub fn spawn(tasks: &Tasks, sites: Vec<SiteConfig>, prober: &Prober, sink: &FactSink) {
    for site in sites {
        let (prober, sink, token) = (prober.clone(), sink.clone(), tasks.token());
        tasks.spawn_restartable("site probe", move || {
            follow(site.clone(), prober.clone(), sink.clone(), token.clone())
        });
    }
}

async fn follow(
    site: SiteConfig,
    prober: Prober,
    sink: FactSink,
    token: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut follower = Follower::new(&site);
    let _watch = Vigil::keep(sink.clone(), token.clone(), vec![follower.probe.clone()]);
    let mut ticks = interval(site.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let row = prober.probe(&site).await;
        follower.report(row, &sink);
    }
}

struct Follower {
    probe: String,
    last: Option<SiteVerdict>,
    probes: u64,
    every: Duration,
}

impl Follower {
    fn new(site: &SiteConfig) -> Self {
        Self {
            probe: format!("site.{}", site.name),
            last: None,
            probes: 0,
            every: site.interval(),
        }
    }

    fn report(&mut self, row: SiteProbe, sink: &FactSink) {
        metrics::site_probe(row.verdict.as_str());
        self.probes = self.probes.saturating_add(1);
        let per_minute = (60 / self.every.as_secs().max(1)).max(1);
        let changed = self.last != Some(row.verdict);
        if changed {
            info!(
                site = row.site,
                verdict = row.verdict.as_str(),
                reason = row.reason,
                "site verdict"
            );
        }
        if changed || self.probes.is_multiple_of(per_minute) {
            let own_fault = row.verdict == SiteVerdict::Unknown;
            let status = ProbeStatus {
                time: TimeMicros::now(),
                probe: self.probe.clone(),
                state: if own_fault {
                    ProbeState::Degraded
                } else {
                    ProbeState::Real
                },
                reason: if own_fault {
                    row.reason.clone()
                } else {
                    format!("probed every {:?}", self.every)
                },
                hint: if own_fault {
                    "check this host's resolver and network".to_owned()
                } else {
                    String::new()
                },
                seen: self.probes,
                delivered: self.probes,
                lost: 0,
            };
            sink.offer(status.into());
        }
        self.last = Some(row.verdict);
        sink.offer(row.into());
    }
}

#[cfg(test)]
mod tests;
