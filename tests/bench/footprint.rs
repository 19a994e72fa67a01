//! `footprint`: CPU and memory of a whole instance, idle and under the standard load.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::instance::Instance;
use crate::process::{bpf_memory_mib, cpu_core_pct, pss_mib};
use crate::report::{Bar, Report, progress};
use crate::statistics::{interval, median};
use crate::work::{self, Kind, Worker};

/// How long everything takes.
struct Times {
    settle: Duration,
    windows: u32,
    window: Duration,
    pairs: u32,
    pair_window: Duration,
}

const FULL: Times = Times {
    // Four times the time that the model watches before its first fit.
    settle: Duration::from_secs(80),
    windows: 6,
    window: Duration::from_secs(10),
    pairs: 8,
    pair_window: Duration::from_secs(5),
};

const QUICK: Times = Times {
    settle: Duration::from_secs(5),
    windows: 2,
    window: Duration::from_secs(2),
    pairs: 2,
    pair_window: Duration::from_secs(1),
};

/// Added to a load so that it outlasts what is measured under it.
const MARGIN: Duration = Duration::from_secs(2);

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let times = if quick { QUICK } else { FULL };
    let parameters = json!({
        "execs_per_s": work::EXECS_PER_S, "opens_per_s": work::OPENS_PER_S, "connects_per_s": work::CONNECTS_PER_S,
        "windows": times.windows, "window_s": times.window.as_secs(), "settle_s": times.settle.as_secs(),
        "pairs": times.pairs, "pair_window_s": times.pair_window.as_secs(), "quick": quick,
    });
    let mut report = Report::new("footprint", 0, parameters);
    let mut instance = Instance::start()?;
    instance.enrol()?;
    instance.start_healer()?;
    let agent = instance.start_agent()?;
    instance.require_probes()?;
    progress(format!("settle for {:?}", times.settle));
    std::thread::sleep(times.settle);
    report.condition(
        "models",
        instance.status()?.get("models").cloned().unwrap_or_default(),
    );

    idle_and_load(&mut report, &times, agent)?;
    report.figure("agent_pss_mib", pss_mib(agent)?, Bar::AtMost(80.0));
    report.figure("bpf_memory_mib", bpf_memory_mib(agent)?, Bar::AtMost(24.0));
    report.figure("healer_pss_mib", pss_mib(instance.healer_pid()?)?, Bar::None);
    report.figure(
        "collector_pss_mib",
        pss_mib(instance.collector_pid()?)?,
        Bar::None,
    );
    traced(&mut report, &times, &mut instance)?;
    without_models(&mut report, &times, &mut instance)?;
    Ok(report)
}

fn idle_and_load(report: &mut Report, times: &Times, agent: u32) -> Result<()> {
    progress("measure idle");
    let idle = cpu_core_pct(agent, times.windows, times.window)?;
    report.figure("agent_idle_cpu_core_pct", median(&idle), Bar::AtMost(1.0));
    report.condition("agent_idle_cpu_core_pct", interval(&idle));

    progress("measure under the standard load");
    let worker = Worker::start(Kind::Standard, times.window * (times.windows + 1) + MARGIN, 0)?;
    // The first window of the load is not counted: caches and queues fill.
    std::thread::sleep(times.window);
    let load = cpu_core_pct(agent, times.windows, times.window)?;
    let done = worker.finish()?;
    report.figure("agent_load_cpu_core_pct", median(&load), Bar::AtMost(3.0));
    report.condition("agent_load_cpu_core_pct", interval(&load));
    let seconds = done.wall_us / 1e6;
    report.condition(
        "load_reached",
        json!({
            "execs_per_s": f64::from(done.execs) / seconds, "opens_per_s": f64::from(done.opens) / seconds,
            "connects_per_s": f64::from(done.connects) / seconds,
        }),
    );
    Ok(())
}

/// CPU of the load with the probes and without, in interleaved pairs that alternate in order.
fn traced(report: &mut Report, times: &Times, instance: &mut Instance) -> Result<()> {
    let mut added = Vec::new();
    for pair in 0..times.pairs {
        progress(format!(
            "load with and without probes, pair {} of {}",
            pair + 1,
            times.pairs
        ));
        let mut with = 0.0;
        let mut without = 0.0;
        // The agent runs at the start of even pairs and is stopped at the start of odd ones.
        for traced in [pair % 2 == 0, pair % 2 == 1] {
            if traced {
                instance.start_agent_if_stopped()?;
                with = load_core_pct(times)?;
            } else {
                instance.stop_agent();
                without = load_core_pct(times)?;
            }
        }
        added.push(with - without);
    }
    report.figure("traced_added_core_pct", median(&added), Bar::AtMost(2.0));
    report.condition("traced_added_core_pct", interval(&added));
    Ok(())
}

fn load_core_pct(times: &Times) -> Result<f64> {
    let done = work::work(Kind::Standard, times.pair_window, 0)?;
    Ok(done.cpu_us / done.wall_us * 100.0)
}

fn without_models(report: &mut Report, times: &Times, instance: &mut Instance) -> Result<()> {
    progress("measure without models");
    instance.stop_agent();
    instance.write("agent.d/no-models.toml", "[detect.anomaly]\nenabled = false\n")?;
    let agent = instance.start_agent()?;
    std::thread::sleep(times.settle / 3);
    report.figure("agent_pss_no_models_mib", pss_mib(agent)?, Bar::AtMost(48.0));
    Ok(())
}
