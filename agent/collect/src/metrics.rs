//! Metrics of this room.

use metrics::counter;

/// Facts that found the channel to the hub full or closed.
const FACTS_DROPPED: &str = "fleetmend_agent_collect_facts_dropped_total";
/// Ticks of the host sampler that came late by more than half an interval.
const HOST_TICKS_LATE: &str = "fleetmend_agent_collect_host_ticks_late_total";
/// Probes of sites, by verdict.
const SITE_PROBES: &str = "fleetmend_agent_collect_site_probes_total";

pub(crate) fn facts_dropped(reason: &'static str) {
    counter!(FACTS_DROPPED, "reason" => reason).increment(1);
}

pub(crate) fn host_tick_late() {
    counter!(HOST_TICKS_LATE).increment(1);
}

pub(crate) fn site_probe(verdict: &'static str) {
    counter!(SITE_PROBES, "verdict" => verdict).increment(1);
}
