//! `sensor`: what the BPF sensor delivers flat out, and what it costs the programs it watches.
//!
//! The collector only enrols the agent and is stopped then, so that it takes no CPU from the storms; the agent
//! spools to disk meanwhile. It comes back for the critical acts, which are counted in its store. `bpftrace` is
//! measured beside where it is installed, auditd where that is asked for ([`peers`]).

mod account;
mod cost;
mod critical;
mod peers;
mod storm;

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::instance::Instance;
use crate::report::{Bar, Report};

pub(crate) use account::Accounts;
use storm::Bed;

/// Events a second of the paced storm.
const PACED_EVENTS_PER_S: u32 = 50_000;

/// Arguments of `sensor`.
#[derive(clap::Args)]
pub(crate) struct SensorArguments {
    /// Measure auditd too: the rules of audit are replaced, and every new task of this machine stays slower until it is
    /// booted again
    #[arg(long)]
    with_auditd: bool,
    /// Leave the peers out
    #[arg(long, conflicts_with = "with_auditd")]
    no_peers: bool,
}

/// How long everything takes.
struct Times {
    storm: Duration,
    pairs: u32,
    peer_pairs: u32,
    loop_time: Duration,
    /// Longest wait for an agent that was just started to be at rest.
    rest_within: Duration,
}

const FULL: Times = Times {
    storm: Duration::from_secs(15),
    pairs: 16,
    peer_pairs: 6,
    loop_time: Duration::from_millis(1_200),
    rest_within: Duration::from_secs(120),
};

const QUICK: Times = Times {
    storm: Duration::from_secs(2),
    pairs: 2,
    peer_pairs: 1,
    loop_time: Duration::from_millis(300),
    rest_within: Duration::from_secs(4),
};

/// Measures.
pub(crate) fn run(quick: bool, arguments: &SensorArguments) -> Result<Report> {
    let times = if quick { QUICK } else { FULL };
    let cores =
        u32::try_from(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).unwrap_or(1);
    let parameters = json!({
        "storm_s": times.storm.as_secs_f64(), "workers": cores, "pairs": times.pairs,
        "loop_s": times.loop_time.as_secs_f64(), "paced_events_per_s": PACED_EVENTS_PER_S, "quick": quick,
    });
    let mut report = Report::new("sensor", 0, parameters);
    let mut instance = Instance::start()?;
    instance.enrol()?;
    instance.stop_collector();
    instance.write("agent.d/counters.toml", "[bpf]\nstatus_interval_s = 1\n")?;
    let agent = instance.start_agent()?;
    instance.require_probes()?;
    report.condition("probes", instance.probe_states()?);

    let bed = Bed {
        instance: &instance,
        agent,
        workers: cores,
    };
    storm::flat_out(&mut report, &times, &bed)?;
    storm::paced(&mut report, &times, &bed)?;
    storm::fixed(&mut report, &times, &bed)?;
    storm::execs(&mut report, &times, &bed)?;
    let accounts = Accounts::settled(&instance)?;
    report.figure("lost_not_counted", accounts.unaccounted(), Bar::AtMost(0.0));
    report.condition("counters_at_the_end", accounts.total().condition());
    bed.wait_for_all(&mut report)?;
    cost::agent(&mut report, &times, &mut instance)?;
    critical::critical(&mut report, &times, &mut instance, cores)?;
    instance.stop_agent();
    instance.stop_collector();
    if !arguments.no_peers {
        peers::measure(&mut report, &times, arguments.with_auditd, cores)?;
    }
    Ok(report)
}
