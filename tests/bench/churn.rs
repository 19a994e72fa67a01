//! `churn`: what an attacker, or a broken program, does to fill the sensor's maps and the agent's memory.
//!
//! A fork bomb in a group that bounds it, a process that makes, opens and removes a million distinct paths, a hundred
//! thousand short connections and ten thousand threads at a time, side by side for ten minutes. The agent's memory has
//! to stay flat, what it gave up has to be counted, and none of its tasks may die.

mod bomb;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::http;
use crate::instance::Instance;
use crate::process::{bpf_memory_mib, cpu_seconds, pss_mib};
use crate::report::{Bar, Report, progress};
use crate::sensor::Accounts;
use crate::statistics::median;
use crate::work::{Kind, Worker};
use bomb::Bomb;

/// Distinct paths and connections of the whole run.
const PATHS: f64 = 1_000_000.0;
const CONNECTIONS: f64 = 100_000.0;
/// Threads that live at a time.
const THREADS: u32 = 10_000;
/// Looks at the agent's memory during a run.
const LOOKS: u32 = 120;
/// Before the churn: caches and models fill.
const SETTLE: Duration = Duration::from_secs(20);
const QUICK_S: u64 = 10;

/// Arguments of `churn`.
#[derive(clap::Args)]
pub(crate) struct ChurnArguments {
    /// How long
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
}

/// What the agent holds at a moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    pss_mib: f64,
    bpf_mib: f64,
}

/// Measures.
pub(crate) fn run(quick: bool, arguments: &ChurnArguments) -> Result<Report> {
    let seconds = if quick { QUICK_S } else { arguments.seconds };
    let time = Duration::from_secs(seconds);
    let parameters = json!({
        "seconds": seconds, "paths": PATHS, "connections": CONNECTIONS, "threads": THREADS, "quick": quick,
    });
    let mut report = Report::new("churn", 0, parameters);
    let mut instance = Instance::start()?;
    instance.enrol()?;
    instance.start_healer()?;
    instance.write("agent.d/counters.toml", "[bpf]\nstatus_interval_s = 1\n")?;
    let agent = instance.start_agent()?;
    instance.require_probes()?;
    std::thread::sleep(if quick { Duration::from_secs(2) } else { SETTLE });

    let broken_before = broken(&instance)?;
    let before = Accounts::settled(&instance)?;
    let cpu = cpu_seconds(agent)?;
    let bomb = Bomb::start();
    if let Err(error) = &bomb {
        report.not_measured("fork_bomb", format!("{error:#}"));
    }
    let rate = |count: f64| per_second(count, seconds);
    let workers = [
        Worker::start(Kind::Paths, time, rate(PATHS))?,
        Worker::start(Kind::Connects, time, rate(CONNECTIONS))?,
        Worker::start(Kind::Threads, time, THREADS)?,
    ];
    let looks = watch(&instance, agent, time)?;
    let forked = bomb.map(Bomb::stop).unwrap_or(Ok(0))?;
    let done = workers
        .into_iter()
        .map(Worker::finish)
        .collect::<Result<Vec<_>>>()?;
    let sum =
        |count: fn(&crate::work::Done) -> u32| done.iter().map(|done| f64::from(count(done))).sum::<f64>();
    report.condition(
        "made",
        json!({
            "bombs": forked, "paths": sum(|done| done.paths), "connections": sum(|done| done.connects),
            "threads": sum(|done| done.threads),
        }),
    );
    let agent_core_pct = (cpu_seconds(agent)? - cpu) / time.as_secs_f64() * 100.0;
    report.figure("agent_cpu_core_pct", agent_core_pct, Bar::None);
    memory(&mut report, &looks);
    let events = Accounts::settled(&instance)?.since(&before);
    let total = events.total();
    report.figure("map_evictions", total.evicted, Bar::None);
    report.figure("lost_events", total.lost, Bar::None);
    report.figure("lost_not_counted", events.unaccounted(), Bar::AtMost(0.0));
    report.condition("families", events.condition());
    report.condition("counters", counters(&instance)?);
    // A critical task that dies takes the agent with it, which ends the run; another one says that it is BROKEN. Losses
    // are no death: they make a family DEGRADED.
    let died: Vec<String> = broken(&instance)?.difference(&broken_before).cloned().collect();
    report.figure("tasks_died", died.len() as f64, Bar::AtMost(0.0));
    report.condition("tasks_died", json!(died));
    Ok(report)
}

/// Names of what says that it is BROKEN.
fn broken(instance: &Instance) -> Result<BTreeSet<String>> {
    let status = instance.status()?;
    let probes = status
        .get("probes")
        .and_then(Value::as_array)
        .context("find the probes in the agent's status")?;
    let broken = probes
        .iter()
        .filter(|probe| probe.get("state").and_then(Value::as_str) == Some("BROKEN"));
    let names = broken.filter_map(|probe| probe.get("probe")?.as_str().map(str::to_owned));
    Ok(names.collect())
}

/// So many a second that they are made in the time.
fn per_second(count: f64, seconds: u64) -> u32 {
    let seconds = Duration::from_secs(seconds).as_secs_f64();
    // 600 s are the time that the counts are for: a shorter run makes fewer, at the same rate.
    let rate = count / seconds.max(600.0);
    // Rounded up, and far below the largest number.
    (1..=1_000_000_u32)
        .find(|whole| f64::from(*whole) >= rate)
        .unwrap_or(1)
}

/// Looks at the agent now and then until time is up.
fn watch(instance: &Instance, agent: u32, time: Duration) -> Result<Vec<Look>> {
    let begun = Instant::now();
    let every = (time / LOOKS).max(Duration::from_millis(500));
    let mut looks = Vec::new();
    while begun.elapsed() < time {
        std::thread::sleep(every);
        looks.push(Look {
            pss_mib: pss_mib(agent).context("look at the agent: did it end?")?,
            bpf_mib: bpf_memory_mib(agent)?,
        });
        instance.status().context("ask the agent for its status")?;
        if looks.len().is_multiple_of(20) {
            progress(format!(
                "{:.0} s of {:.0}",
                begun.elapsed().as_secs_f64(),
                time.as_secs_f64()
            ));
        }
    }
    ensure!(looks.len() >= 4, "the run is too short to tell a trend");
    Ok(looks)
}

/// Peaks, and whether the end is higher than the first half.
fn memory(report: &mut Report, looks: &[Look]) {
    let quarter = looks.len() / 4;
    let peak = |of: fn(&Look) -> f64| looks.iter().map(of).fold(0.0, f64::max);
    let growth = |of: fn(&Look) -> f64| {
        let part = |from: usize| -> f64 {
            let values: Vec<f64> = looks.iter().skip(from).take(quarter).map(of).collect();
            median(&values)
        };
        (part(looks.len() - quarter) / part(quarter) - 1.0) * 100.0
    };
    report.figure("agent_pss_peak_mib", peak(|look| look.pss_mib), Bar::AtMost(80.0));
    report.figure(
        "bpf_memory_peak_mib",
        peak(|look| look.bpf_mib),
        Bar::AtMost(24.0),
    );
    // The last quarter beside the second one: in the first, maps and caches fill.
    report.figure(
        "agent_pss_growth_pct",
        growth(|look| look.pss_mib),
        Bar::AtMost(10.0),
    );
    report.figure(
        "bpf_memory_growth_pct",
        growth(|look| look.bpf_mib),
        Bar::AtMost(1.0),
    );
    let values = |of: fn(&Look) -> f64| looks.iter().map(of).collect::<Vec<_>>();
    report.condition("agent_pss_mib", json!(values(|look| look.pss_mib)));
}

/// What the agent counted of losses and evictions, as its metrics tell.
fn counters(instance: &Instance) -> Result<Value> {
    let text = http::get_unix(&instance.path("run/agent/admin.sock"), "/metrics")?;
    let told = ["evicted", "dropped", "lost", "shed", "refused"];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let wanted = lines.filter(|line| told.iter().any(|word| line.contains(word)));
    let pairs = wanted.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        (value != 0.0).then(|| (name.to_owned(), json!(value)))
    });
    Ok(Value::Object(pairs.collect::<Map<String, Value>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_run_keeps_the_rate_of_the_long_one() {
        assert_eq!(per_second(PATHS, 600), 1_667);
        assert_eq!(per_second(PATHS, 60), 1_667);
        assert_eq!(per_second(CONNECTIONS, 1_200), 84);
    }
}
