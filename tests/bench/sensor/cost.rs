//! What a tracer costs the programs that it watches: loops with and without it, in interleaved pairs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Times;
use super::storm::EVENTS_PER_CONNECT;
use crate::instance::Instance;
use crate::process::cpu_seconds;
use crate::report::{Bar, Report, progress};
use crate::statistics::{interval, median};
use crate::work::{self, Kind};

/// What an agent at rest takes at most, in percent of a core, over a window.
const REST_CORE_PCT: f64 = 3.0;
const REST_WINDOW: Duration = Duration::from_secs(2);

/// The loops with the probes and without, in pairs that alternate in order.
pub(super) fn agent(report: &mut Report, times: &Times, instance: &mut Instance) -> Result<()> {
    let mut added = Added::default();
    let mut rests = Vec::new();
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
                rests.push(at_rest(instance, times.rest_within)?);
                with = Loops::measure(times)?;
            } else {
                instance.stop_agent();
                without = Loops::measure(times)?;
            }
        }
        added.pair(with, without);
    }
    added.tell(report, "", true);
    report.condition("agent_core_pct_before_loops", interval(&rests));
    report.condition(
        "victim",
        json!(
            "small C files compiled one after the other by one process; CPU time of the compilers for each"
        ),
    );
    Ok(())
}

/// Waits until a started agent has read what it reads once, which would slow everything beside it: what the probes cost
/// is asked for. Gives what it takes then, in percent of a core.
fn at_rest(instance: &Instance, within: Duration) -> Result<f64> {
    let pid = instance.agent_pid()?;
    let begun = Instant::now();
    loop {
        let before = cpu_seconds(pid)?;
        std::thread::sleep(REST_WINDOW);
        let core_pct = (cpu_seconds(pid)? - before) / REST_WINDOW.as_secs_f64() * 100.0;
        if core_pct <= REST_CORE_PCT || begun.elapsed() > within {
            return Ok(core_pct);
        }
    }
}

/// What came out of the pairs.
#[derive(Debug, Default)]
pub(super) struct Added {
    calls: Vec<f64>,
    connects: Vec<f64>,
    opens: Vec<f64>,
    victim: Vec<f64>,
}

impl Added {
    /// Takes a pair in.
    pub(super) fn pair(&mut self, with: Loops, without: Loops) {
        self.calls.push(with.call_ns - without.call_ns);
        self.connects
            .push((with.connect_ns - without.connect_ns) / f64::from(EVENTS_PER_CONNECT));
        self.opens.push(with.open_ns - without.open_ns);
        self.victim
            .push((with.compile_us / without.compile_us - 1.0) * 100.0);
    }

    /// Adds the figures, with the name of a peer before them; bars are the agent's only.
    pub(super) fn tell(&self, report: &mut Report, peer: &str, bars: bool) {
        let figures: [(&str, &[f64], f64); 4] = [
            ("untraced_syscall_added_ns", &self.calls, 50.0),
            ("traced_added_ns_per_event", &self.connects, 1_000.0),
            ("traced_added_ns_per_open", &self.opens, 1_000.0),
            ("victim_slowdown_pct", &self.victim, 3.0),
        ];
        for (name, values, limit) in figures {
            let name = format!("{peer}{name}");
            let bar = if bars { Bar::AtMost(limit) } else { Bar::None };
            report.figure(&name, median(values), bar);
            report.condition(&name, interval(values));
        }
    }
}

/// One reading of every loop.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loops {
    call_ns: f64,
    connect_ns: f64,
    open_ns: f64,
    compile_us: f64,
}

impl Loops {
    pub(super) fn measure(times: &Times) -> Result<Self> {
        let calls = work::work(Kind::Getppid, times.loop_time, 0)?;
        let connects = work::work(Kind::Connects, times.loop_time, 0)?;
        let opens = work::work(Kind::Opens, times.loop_time, 0)?;
        let job = work::work(Kind::Compile, times.loop_time * 4, 0)?;
        ensure!(
            connects.connects > 0 && opens.opens > 0 && job.compiled > 0,
            "a loop did nothing in its time"
        );
        Ok(Self {
            call_ns: calls.call_ns,
            connect_ns: connects.unit_us * 1e3,
            open_ns: opens.unit_us * 1e3,
            compile_us: job.unit_us,
        })
    }
}
