//! Storms: what is delivered of them, and what the agent spends.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::account::Accounts;
use super::{PACED_EVENTS_PER_S, Times};
use crate::instance::Instance;
use crate::process::{cpu_seconds, thread_cpu_seconds};
use crate::report::{Bar, Report, progress};
use crate::work::{self, Done, Kind};

/// What the threads that empty the rings have in common in their names.
const DRAIN_THREADS: &str = "sensor-";
/// A connection over loopback is seen to connect, to be accepted, and to close twice.
pub(super) const EVENTS_PER_CONNECT: u32 = 4;
/// Opens a second of the fixed storm; it has an exec for every hundred and a connection for every fifty.
const STORM_OPENS_PER_S: u32 = 50_000;
/// Longest wait until nothing is shed any more.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
/// Share of a rate that has to be reached for a figure to count.
const REACHED: f64 = 0.9;

/// What a storm did and what the agent spent on it.
struct Storm {
    events: Accounts,
    seconds: f64,
    drain_core_pct: f64,
    agent_core_pct: f64,
    done: Vec<Done>,
}

/// Where a storm is made.
pub(super) struct Bed<'a> {
    pub(super) instance: &'a Instance,
    pub(super) agent: u32,
    pub(super) workers: u32,
}

impl Bed<'_> {
    fn storm(&self, kind: Kind, time: Duration, rate: u32) -> Result<Storm> {
        let before = Accounts::settled(self.instance)?;
        let (drain, whole) = (
            thread_cpu_seconds(self.agent, DRAIN_THREADS)?,
            cpu_seconds(self.agent)?,
        );
        let begun = Instant::now();
        let done = work::side_by_side(self.workers, kind, time, rate)?;
        let seconds = begun.elapsed().as_secs_f64();
        let drain_core_pct = (thread_cpu_seconds(self.agent, DRAIN_THREADS)? - drain) / seconds * 100.0;
        let agent_core_pct = (cpu_seconds(self.agent)? - whole) / seconds * 100.0;
        let events = Accounts::settled(self.instance)?.since(&before);
        Ok(Storm {
            events,
            seconds,
            drain_core_pct,
            agent_core_pct,
            done,
        })
    }

    /// A family that shed tells less for ten seconds more for each of its levels: what is measured then is not all of it.
    pub(super) fn wait_for_all(&self, report: &mut Report) -> Result<()> {
        let begun = Instant::now();
        loop {
            let shedding = self.instance.shedding()?;
            if shedding.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > RECOVERED_WITHIN {
                report.condition("shed_before_a_measurement", json!(shedding));
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Storm {
    fn sum(&self, count: fn(&Done) -> u32) -> f64 {
        self.done.iter().map(|done| f64::from(count(done))).sum()
    }

    fn condition(&self) -> Value {
        json!({
            "seconds": self.seconds, "execs": self.sum(|done| done.execs), "opens": self.sum(|done| done.opens),
            "connects": self.sum(|done| done.connects), "families": self.events.condition(),
            "drain_core_pct": self.drain_core_pct, "agent_core_pct": self.agent_core_pct,
        })
    }
}

/// Connections, as many as all cores can make.
pub(super) fn flat_out(report: &mut Report, times: &Times, bed: &Bed<'_>) -> Result<()> {
    progress("connections flat out");
    let storm = bed.storm(Kind::Connects, times.storm, 0)?;
    let total = storm.events.total();
    report.figure(
        "delivered_events_per_s",
        total.rows / storm.seconds,
        Bar::AtLeast(50_000.0),
    );
    report.figure("seen_events_per_s", total.seen / storm.seconds, Bar::None);
    report.figure("agent_cpu_core_pct_flat_out", storm.agent_core_pct, Bar::None);
    report.condition("connect_storm", storm.condition());
    Ok(())
}

/// The sensor's CPU at a fixed rate of delivered events. When the machine cannot make the rate, the figure is left out.
pub(super) fn paced(report: &mut Report, times: &Times, bed: &Bed<'_>) -> Result<()> {
    progress(format!("{PACED_EVENTS_PER_S} events a second"));
    let rate = PACED_EVENTS_PER_S / EVENTS_PER_CONNECT / bed.workers.max(1);
    bed.wait_for_all(report)?;
    let storm = bed.storm(Kind::Connects, times.storm, rate)?;
    let reached = storm.events.total().delivered / storm.seconds;
    report.condition("paced_storm", storm.condition());
    if reached < f64::from(PACED_EVENTS_PER_S) * REACHED {
        report.not_measured(
            "sensor_cpu_core_pct_at_50k",
            format!(
                "only {reached:.0} events/s were delivered; at that rate the sensor took {:.2} % of a core",
                storm.drain_core_pct
            ),
        );
        return Ok(());
    }
    report.figure(
        "sensor_cpu_core_pct_at_50k",
        storm.drain_core_pct,
        Bar::AtMost(20.0),
    );
    Ok(())
}

/// The fixed storm: 500 execs, 50,000 opens and 1,000 connections a second.
pub(super) fn fixed(report: &mut Report, times: &Times, bed: &Bed<'_>) -> Result<()> {
    progress("the fixed storm: 500 execs, 50,000 opens, 1,000 connections a second");
    bed.wait_for_all(report)?;
    let storm = bed.storm(Kind::Storm, times.storm, STORM_OPENS_PER_S / bed.workers.max(1))?;
    let total = storm.events.total();
    let opens = storm.sum(|done| done.opens) / storm.seconds;
    report.figure("storm_opens_per_s", opens, Bar::None);
    report.figure(
        "storm_delivered_events_per_s",
        total.rows / storm.seconds,
        Bar::None,
    );
    report.figure("storm_lost_events", total.lost, Bar::None);
    report.condition("fixed_storm", storm.condition());
    if opens < f64::from(STORM_OPENS_PER_S) * REACHED {
        report.not_measured(
            "storm_sensor_cpu_core_pct",
            format!("the load reached only {opens:.0} opens/s"),
        );
        return Ok(());
    }
    report.figure(
        "storm_sensor_cpu_core_pct",
        storm.drain_core_pct,
        Bar::AtMost(20.0),
    );
    report.figure("storm_agent_cpu_core_pct", storm.agent_core_pct, Bar::None);
    Ok(())
}

/// Execs, as many as all cores can make.
pub(super) fn execs(report: &mut Report, times: &Times, bed: &Bed<'_>) -> Result<()> {
    progress("execs flat out");
    bed.wait_for_all(report)?;
    let storm = bed.storm(Kind::Execs, times.storm / 2, 0)?;
    report.figure(
        "exec_storm_execs_per_s",
        storm.sum(|done| done.execs) / storm.seconds,
        Bar::None,
    );
    report.condition("exec_storm", storm.condition());
    Ok(())
}
