//! Metrics of this room; those of the sensor are named in `bpf/metric.rs`.

use metrics::{Unit, counter, describe_counter, describe_gauge};

use crate::bpf::metric;
use crate::source::metric as source;

/// Facts that found the channel to the hub full or closed.
const FACTS_DROPPED: &str = "fleetmend_agent_collect_facts_dropped_total";
/// Ticks of the host sampler that came late by more than half an interval.
const HOST_TICKS_LATE: &str = "fleetmend_agent_collect_host_ticks_late_total";
/// Probes of sites, by verdict.
const SITE_PROBES: &str = "fleetmend_agent_collect_site_probes_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(
        FACTS_DROPPED,
        Unit::Count,
        "facts that found the channel to the hub full or closed, by reason"
    );
    describe_counter!(
        HOST_TICKS_LATE,
        Unit::Count,
        "ticks of the host sampler that came late by more than half an interval"
    );
    describe_counter!(SITE_PROBES, Unit::Count, "probes of sites, by verdict");
    describe_counter!(
        metric::RECORDS_READ,
        Unit::Count,
        "records read from the kernel's rings, by family"
    );
    describe_counter!(
        metric::RECORDS_LOST,
        Unit::Count,
        "records that were lost before they were facts, by family"
    );
    describe_counter!(
        metric::FACTS_SENT,
        Unit::Count,
        "facts of the sensor handed to the channel, by source"
    );
    describe_counter!(
        metric::FACTS_DROPPED,
        Unit::Count,
        "facts of the sensor that the channel did not take, by source"
    );
    describe_counter!(
        metric::EVENTS,
        Unit::Count,
        "events that the probes saw and what became of them, by family, outcome and cpu"
    );
    describe_counter!(
        metric::RUNS,
        Unit::Count,
        "runs of the probes' programs, by family and duty"
    );
    describe_gauge!(
        metric::PROGRAM_CPU,
        Unit::Count,
        "part of a core that the probes' programs took lately, by family and duty"
    );
    describe_gauge!(
        metric::SHED_LEVEL,
        Unit::Count,
        "levels that a family of probes sheds by its budget, by family"
    );
    describe_counter!(
        metric::SUSPECTS_DROPPED,
        Unit::Count,
        "suspects that were not profiled because too many were asked for"
    );
    describe_counter!(
        metric::PROFILE_WINDOWS,
        Unit::Count,
        "windows in which system calls were profiled, by occasion"
    );
    describe_counter!(
        metric::PROCESSES_DROPPED,
        Unit::Count,
        "processes that the inventory had no room for"
    );
    describe_sources();
}

fn describe_sources() {
    describe_counter!(
        source::RECORDS,
        Unit::Count,
        "records that a second source read, by source"
    );
    describe_counter!(
        source::LOST,
        Unit::Count,
        "records of a second source that were lost before they were facts, by source and reason"
    );
    describe_counter!(
        source::ARGS_UNKNOWN,
        Unit::Count,
        "executions whose arguments were gone before they could be read"
    );
    describe_counter!(
        source::RAW_DROPPED,
        Unit::Count,
        "raw audit records that their reader had no room for"
    );
}

pub(crate) fn facts_dropped(reason: &'static str) {
    counter!(FACTS_DROPPED, "reason" => reason).increment(1);
}

pub(crate) fn host_tick_late() {
    counter!(HOST_TICKS_LATE).increment(1);
}

pub(crate) fn site_probe(verdict: &'static str) {
    counter!(SITE_PROBES, "verdict" => verdict).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 3);
    }

    #[test]
    fn every_metric_of_the_sensor_and_of_second_sources_is_described() {
        let dense: String = include_str!("metrics.rs").split_whitespace().collect();
        for (module, text) in [
            ("metric", include_str!("bpf/metric.rs")),
            ("source", include_str!("source/metric.rs")),
        ] {
            let lines = text.lines();
            let mut named = 0;
            for (name, _) in lines.filter_map(|line| line.strip_prefix("pub(crate) const ")?.split_once(':'))
            {
                named += 1;
                let described = format!("!({module}::{name},Unit::");
                assert!(dense.contains(&described), "{name} is not described");
            }
            assert!(named > 2);
        }
    }
}
