//! `sensor`: what the BPF sensor delivers flat out, and what it costs the programs it watches.
//!
//! The collector only enrols the agent and is stopped then, so that it takes no CPU from the storm; the agent
//! spools to disk meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::instance::{Instance, probe_of};
use crate::process::{cpu_seconds, thread_cpu_seconds};
use crate::report::{Bar, Report, progress};
use crate::statistics::{interval, median};
use crate::work::{self, Kind, Worker};

/// The thread that empties the rings.
const DRAIN_THREAD: &str = "sensor-drain";
/// Events a second of the paced storm.
const PACED_EVENTS_PER_S: u32 = 50_000;
/// A connection over loopback is seen to connect, to be accepted, and to close twice.
const EVENTS_PER_CONNECT: u32 = 4;
/// How long the counters may take to stand still after a storm.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// Time between two looks at the counters: they are refreshed every second.
const LOOK_EVERY: Duration = Duration::from_millis(2_500);

/// How long everything takes.
struct Times {
    storm: Duration,
    pairs: u32,
    loop_time: Duration,
}

const FULL: Times = Times {
    storm: Duration::from_secs(15),
    pairs: 10,
    loop_time: Duration::from_millis(1_200),
};

const QUICK: Times = Times {
    storm: Duration::from_secs(2),
    pairs: 2,
    loop_time: Duration::from_millis(300),
};

/// Counters of both families together.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counters {
    seen: f64,
    delivered: f64,
    lost: f64,
}

impl Counters {
    fn since(self, before: Counters) -> Counters {
        Counters {
            seen: self.seen - before.seen,
            delivered: self.delivered - before.delivered,
            lost: self.lost - before.lost,
        }
    }

    /// Events that are neither delivered nor counted as lost.
    fn unaccounted(self) -> f64 {
        self.seen - self.delivered - self.lost
    }
}

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
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

    flat_out(&mut report, &times, &instance, agent, cores)?;
    paced(&mut report, &times, &instance, agent, cores)?;
    exec_storm(&mut report, &times, &instance, agent, cores)?;
    let total = settled(&instance)?;
    report.figure("lost_not_counted", total.unaccounted().abs(), Bar::AtMost(0.0));
    report.condition(
        "counters_at_the_end",
        json!({"seen": total.seen, "delivered": total.delivered, "lost": total.lost}),
    );
    pairs(&mut report, &times, &mut instance)?;
    report.not_measured(
        "critical_delivered_pct",
        "needs findings that are counted at the store while a storm runs",
    );
    Ok(report)
}

fn counters(instance: &Instance) -> Result<Counters> {
    let status = instance.status()?;
    let sum = |key: &str| -> Result<f64> {
        let one = |name: &str| {
            let value = probe_of(&status, name)
                .and_then(|probe| probe.get(key))
                .and_then(Value::as_f64);
            value.with_context(|| format!("find {key} of {name} in the agent's status"))
        };
        Ok(one("bpf.process")? + one("bpf.network")?)
    };
    Ok(Counters {
        seen: sum("seen")?,
        delivered: sum("delivered")?,
        lost: sum("lost")?,
    })
}

/// The counters once everything that was seen is accounted for, or once time is up.
fn settled(instance: &Instance) -> Result<Counters> {
    let begun = Instant::now();
    loop {
        std::thread::sleep(LOOK_EVERY);
        let now = counters(instance)?;
        if now.unaccounted() == 0.0 || begun.elapsed() > SETTLE_WITHIN {
            return Ok(now);
        }
    }
}

/// What a storm did and what the agent spent on it.
struct Storm {
    events: Counters,
    seconds: f64,
    drain_core_pct: f64,
    agent_core_pct: f64,
    done: Vec<work::Done>,
}

fn storm(
    instance: &Instance,
    agent: u32,
    kind: Kind,
    time: Duration,
    workers: u32,
    rate: u32,
) -> Result<Storm> {
    let before = settled(instance)?;
    let (drain, whole) = (thread_cpu_seconds(agent, DRAIN_THREAD)?, cpu_seconds(agent)?);
    let begun = Instant::now();
    let started: Vec<Worker> = (0..workers)
        .map(|_| Worker::start(kind, time, rate))
        .collect::<Result<_>>()?;
    let done = started
        .into_iter()
        .map(Worker::finish)
        .collect::<Result<Vec<_>>>()?;
    let seconds = begun.elapsed().as_secs_f64();
    let drain_core_pct = (thread_cpu_seconds(agent, DRAIN_THREAD)? - drain) / seconds * 100.0;
    let agent_core_pct = (cpu_seconds(agent)? - whole) / seconds * 100.0;
    let events = settled(instance)?.since(before);
    Ok(Storm {
        events,
        seconds,
        drain_core_pct,
        agent_core_pct,
        done,
    })
}

impl Storm {
    fn condition(&self) -> Value {
        let sum =
            |count: fn(&work::Done) -> u32| self.done.iter().map(|done| f64::from(count(done))).sum::<f64>();
        json!({
            "seconds": self.seconds, "connects": sum(|done| done.connects), "execs": sum(|done| done.execs),
            "seen": self.events.seen, "delivered": self.events.delivered, "lost": self.events.lost,
            "drain_core_pct": self.drain_core_pct, "agent_core_pct": self.agent_core_pct,
        })
    }
}

fn flat_out(report: &mut Report, times: &Times, instance: &Instance, agent: u32, workers: u32) -> Result<()> {
    progress("connections flat out");
    let storm = storm(instance, agent, Kind::Connects, times.storm, workers, 0)?;
    report.figure(
        "delivered_events_per_s",
        storm.events.delivered / storm.seconds,
        Bar::AtLeast(50_000.0),
    );
    report.figure("seen_events_per_s", storm.events.seen / storm.seconds, Bar::None);
    report.figure("agent_cpu_core_pct_flat_out", storm.agent_core_pct, Bar::None);
    report.condition("connect_storm", storm.condition());
    Ok(())
}

/// The sensor's CPU at a fixed rate. When the machine cannot make the rate, the figure is left out.
fn paced(report: &mut Report, times: &Times, instance: &Instance, agent: u32, workers: u32) -> Result<()> {
    progress(format!("{PACED_EVENTS_PER_S} events a second"));
    let rate = PACED_EVENTS_PER_S / EVENTS_PER_CONNECT / workers.max(1);
    let storm = storm(instance, agent, Kind::Connects, times.storm, workers, rate)?;
    let reached = storm.events.seen / storm.seconds;
    report.condition("paced_storm", storm.condition());
    if reached < f64::from(PACED_EVENTS_PER_S) * 0.9 {
        report.not_measured(
            "sensor_cpu_core_pct_at_50k",
            format!(
                "the load reached only {reached:.0} events/s; at that rate the sensor took {:.2} % of a core",
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

fn exec_storm(
    report: &mut Report,
    times: &Times,
    instance: &Instance,
    agent: u32,
    workers: u32,
) -> Result<()> {
    progress("execs flat out");
    let storm = storm(instance, agent, Kind::Execs, times.storm / 2, workers, 0)?;
    let execs: f64 = storm.done.iter().map(|done| f64::from(done.execs)).sum();
    report.figure("exec_storm_execs_per_s", execs / storm.seconds, Bar::None);
    report.condition("exec_storm", storm.condition());
    Ok(())
}

/// The loops with the probes and without, in interleaved pairs that alternate in order.
fn pairs(report: &mut Report, times: &Times, instance: &mut Instance) -> Result<()> {
    let (mut calls, mut events, mut slower) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..times.pairs {
        progress(format!(
            "loops with and without probes, pair {} of {}",
            pair + 1,
            times.pairs
        ));
        let (mut with, mut without) = (Loops::default(), Loops::default());
        for traced in [pair % 2 == 0, pair % 2 == 1] {
            if traced {
                instance.start_agent_if_stopped()?;
                with = Loops::measure(times)?;
            } else {
                instance.stop_agent();
                without = Loops::measure(times)?;
            }
        }
        calls.push(with.call_ns - without.call_ns);
        events.push((with.connect_ns - without.connect_ns) / f64::from(EVENTS_PER_CONNECT));
        slower.push((with.exec_us / without.exec_us - 1.0) * 100.0);
    }
    report.figure("untraced_syscall_added_ns", median(&calls), Bar::AtMost(50.0));
    report.figure("traced_added_ns_per_event", median(&events), Bar::AtMost(1_000.0));
    report.figure("victim_slowdown_pct", median(&slower), Bar::AtMost(3.0));
    report.condition("untraced_syscall_added_ns", interval(&calls));
    report.condition("traced_added_ns_per_event", interval(&events));
    report.condition("victim_slowdown_pct", interval(&slower));
    report.condition(
        "victim",
        json!("execs of /bin/true flat out from one process; its CPU time for each"),
    );
    Ok(())
}

/// One reading of every loop.
#[derive(Debug, Clone, Copy, Default)]
struct Loops {
    call_ns: f64,
    connect_ns: f64,
    exec_us: f64,
}

impl Loops {
    fn measure(times: &Times) -> Result<Self> {
        let calls = work::work(Kind::Getppid, times.loop_time, 0)?;
        let connects = work::work(Kind::Connects, times.loop_time, 0)?;
        let execs = work::work(Kind::Execs, times.loop_time, 0)?;
        Ok(Self {
            call_ns: calls.call_ns,
            connect_ns: connects.cpu_us * 1e3 / f64::from(connects.connects.max(1)),
            exec_us: execs.cpu_us / f64::from(execs.execs.max(1)),
        })
    }
}
