//! What a tracer costs the programs that it watches: loops with and without it, in interleaved pairs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Times;
use super::storm::EVENTS_PER_CONNECT;
use crate::instance::Instance;
use crate::process::cpu_seconds;
use crate::report::{Bar, Report, progress};
use crate::statistics::{interval, median, quantile};
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

/// What came out of the pairs: readings with the tracer and without it.
#[derive(Debug, Default)]
pub(super) struct Added {
    pairs: Vec<(Loops, Loops)>,
}

impl Added {
    /// Takes a pair in.
    pub(super) fn pair(&mut self, with: Loops, without: Loops) {
        self.pairs.push((with, without));
    }

    /// Adds the figures, with the name of a peer before them; bars are the agent's only. The conditions have every pair,
    /// and what lies between the lower quartiles of both sides: a disturbance only ever slows a loop, and where half of
    /// all readings are disturbed the median of their differences says little.
    pub(super) fn tell(&self, report: &mut Report, peer: &str, bars: bool) {
        let connect = |loops: &Loops| loops.connect_ns / f64::from(EVENTS_PER_CONNECT);
        let more = |with: f64, without: f64| with - without;
        let slower = |with: f64, without: f64| (with / without - 1.0) * 100.0;
        self.tell_one(
            report,
            peer,
            "untraced_syscall_added_ns",
            bars.then_some(50.0),
            |loops| loops.call_ns,
            more,
        );
        self.tell_one(
            report,
            peer,
            "traced_added_ns_per_event",
            bars.then_some(1_000.0),
            connect,
            more,
        );
        self.tell_one(
            report,
            peer,
            "traced_added_ns_per_open",
            bars.then_some(1_000.0),
            |loops| loops.open_ns,
            more,
        );
        self.tell_one(
            report,
            peer,
            "victim_slowdown_pct",
            bars.then_some(3.0),
            |loops| loops.compile_us,
            slower,
        );
    }

    fn tell_one(
        &self,
        report: &mut Report,
        peer: &str,
        name: &str,
        limit: Option<f64>,
        reading: impl Fn(&Loops) -> f64,
        compare: impl Fn(f64, f64) -> f64,
    ) {
        let name = format!("{peer}{name}");
        let with: Vec<f64> = self.pairs.iter().map(|(with, _)| reading(with)).collect();
        let without: Vec<f64> = self.pairs.iter().map(|(_, without)| reading(without)).collect();
        let added: Vec<f64> = with
            .iter()
            .zip(&without)
            .map(|(with, without)| compare(*with, *without))
            .collect();
        report.figure(&name, median(&added), limit.map_or(Bar::None, Bar::AtMost));
        let undisturbed = compare(quantile(&with, 0.25), quantile(&without, 0.25));
        report.condition(
            &name,
            json!({"added": interval(&added), "undisturbed": undisturbed, "with": with, "without": without}),
        );
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
