//! Host metrics: once a second, under OpenTelemetry's names, as one [`MetricFrame`] per tick.
//!
//! One OS thread reads the files under /proc and /sys, which it keeps open, and never allocates for a series it
//! has seen before. A value that cannot be read is NaN, never zero. Filesystems and temperatures change slowly
//! and may block: they are read every [`SLOW_TICKS`] ticks and repeated in between, filesystems on threads that
//! a dead one may keep. Ticks that a stall skipped are a gap.

mod capacity;
mod cpu;
mod device;
mod info;
mod memory;
mod network;
mod proc_file;
mod recorder;
mod slow;
mod system;

use std::time::{Duration, Instant};

use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, ProbeState, ProbeStatus, Table as _};
use fleetmend_event::{MetricFrame, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use tracing::warn;

use self::recorder::Recorder;
use crate::pace::{PaceHandle, REASON};
use crate::vigil::Vigil;
use crate::{FactSink, metrics};

pub use info::host_info;

/// Ticks between two readings of what changes slowly.
const SLOW_TICKS: u64 = 10;
/// Ticks between two rows of the probe's status.
const STATUS_TICKS: u64 = 60;

/// One kind of measurement.
trait Reader: Send {
    /// Its name in the probe status, when it fails.
    fn name(&self) -> &'static str;

    /// Reads and records; the error says which file could not be read.
    fn read(&mut self, recorder: &mut Recorder, seconds: f64) -> std::io::Result<()>;
}

/// Reads every host metric.
pub struct HostSampler {
    readers: Vec<Box<dyn Reader>>,
    recorder: Recorder,
    last: Option<Instant>,
    failing: Vec<String>,
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

impl HostSampler {
    /// A sampler that has read nothing yet.
    pub fn new() -> Self {
        let readers: Vec<Box<dyn Reader>> = vec![
            Box::new(cpu::Cpu::default()),
            Box::new(memory::Memory::default()),
            Box::new(memory::Paging::default()),
            Box::new(system::Pressure::default()),
            Box::new(system::Load::default()),
            Box::new(system::Kernel::default()),
            Box::new(device::Disks::default()),
            Box::new(network::Interfaces::default()),
            Box::new(network::Sockets::default()),
            Box::new(network::Protocols::default()),
            Box::new(slow::Slow::new(SLOW_TICKS)),
        ];
        Self {
            readers,
            recorder: Recorder::default(),
            last: None,
            failing: Vec::new(),
        }
    }

    /// Reads everything once. Rates and utilisations are NaN on the first call.
    pub fn sample(&mut self) -> MetricFrame {
        let now = Instant::now();
        let seconds = self
            .last
            .map_or(f64::NAN, |last| now.duration_since(last).as_secs_f64());
        self.last = Some(now);
        let time = TimeMicros::now();
        self.failing.clear();
        self.recorder.begin();
        for reader in &mut self.readers {
            if let Err(error) = reader.read(&mut self.recorder, seconds) {
                self.failing.push(format!("{}: {error}", reader.name()));
            }
        }
        let (series, values) = self.recorder.finish();
        MetricFrame { time, series, values }
    }

    /// What could not be read at the last sample.
    pub fn failing(&self) -> &[String] {
        &self.failing
    }

    fn status(&self, ticks: u64, thin: bool) -> ProbeStatus {
        let degraded = thin || !self.failing.is_empty();
        let mut reasons = self.failing.clone();
        if thin {
            reasons.push("sampled rarer: the agent is over its budget".to_owned());
        }
        ProbeStatus {
            time: TimeMicros::now(),
            probe: "host.metrics".to_owned(),
            state: if degraded {
                ProbeState::Degraded
            } else {
                ProbeState::Real
            },
            reason: if degraded {
                reasons.join("; ")
            } else {
                format!("{} series each second", self.recorder.len())
            },
            hint: match (self.failing.is_empty(), thin) {
                (false, _) => {
                    "check that /proc and /sys are mounted and that the agent may read these files".to_owned()
                }
                (true, true) => "raise the budget: `fleetmend-agent status` names what is over it".to_owned(),
                (true, false) => String::new(),
            },
            seen: ticks,
            delivered: ticks,
            lost: 0,
        }
    }
}

/// Starts the sampling thread: one frame every `interval` to `sink`, and fewer at a slower pace.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(tasks: &Tasks, interval: Duration, sink: FactSink, pace: PaceHandle) -> std::io::Result<()> {
    let watch = Vigil::keep(sink.clone(), tasks.token(), vec!["host.metrics".to_owned()]);
    tasks.spawn_thread("host metrics", TaskKind::Critical, move |token| {
        let _watch = watch;
        let mut sampler = HostSampler::new();
        let mut ticks = Ticks::new(interval, Instant::now());
        let mut count = 0_u64;
        let mut last_time = None;
        let mut told = (Vec::new(), false);
        while !token.is_cancelled() {
            let Some(skipped) = ticks.look(Instant::now(), pace.metric_times()) else {
                // Short naps keep the end of the process prompt.
                std::thread::sleep(ticks.rest(Instant::now()).min(Duration::from_millis(250)));
                continue;
            };
            let frame = sampler.sample();
            if let Some(gap) = gap_of(skipped, last_time, &frame) {
                sink.offer(gap.into());
            }
            last_time = Some(frame.time);
            sink.offer(frame.into());
            sink.report_gaps();
            count = count.saturating_add(1);
            let (failing, thin) = (sampler.failing(), ticks.is_thin());
            if failing != told.0 || thin != told.1 {
                if failing != told.0 {
                    warn!(failing = failing.join("; "), "some host metrics cannot be read");
                }
                told = (failing.to_vec(), thin);
                sink.offer(sampler.status(count, thin).into());
            } else if count % STATUS_TICKS == 2 {
                sink.offer(sampler.status(count, thin).into());
            }
        }
        Ok(())
    })
}

/// When to sample: every interval, or every so many.
#[derive(Debug)]
struct Ticks {
    interval: Duration,
    /// When the last one was due.
    last: Option<Instant>,
    due: Instant,
    times: u32,
    /// Whether it was ever thin since the last tick.
    thinned: bool,
}

/// Ticks that were left out since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Skipped {
    count: u64,
    reason: &'static str,
}

impl Ticks {
    fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(1)),
            last: None,
            due: now,
            times: 1,
            thinned: false,
        }
    }

    /// Whether every tick is wanted now.
    const fn is_thin(&self) -> bool {
        self.times > 1
    }

    /// How long until the next one is due.
    fn rest(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Says whether a tick is due, when one in `times` is wanted, and what was left out before it.
    fn look(&mut self, now: Instant, times: u32) -> Option<Skipped> {
        self.times = times.max(1);
        self.thinned |= self.is_thin();
        if let Some(last) = self.last {
            self.due = last + self.interval * self.times;
        }
        if now < self.due {
            return None;
        }
        let thinned = self.thinned;
        self.thinned = self.is_thin();
        let first_due = self.last.map_or(self.due, |last| last + self.interval);
        let late = now.saturating_duration_since(first_due);
        if now.duration_since(self.due) > self.interval / 2 {
            if !thinned {
                metrics::host_tick_late();
            }
            self.due = now;
        }
        self.last = Some(self.due);
        self.due += self.interval * self.times;
        let count = u64::try_from(late.as_micros() / self.interval.as_micros().max(1)).unwrap_or(u64::MAX);
        let reason = if thinned { REASON } else { "tick_late" };
        Some(Skipped { count, reason })
    }
}

/// The gap of ticks that were left out, by a stall of this thread or by the budget: samples that nobody took are
/// lost like any other.
fn gap_of(skipped: Skipped, last: Option<TimeMicros>, frame: &MetricFrame) -> Option<Gap> {
    if skipped.count == 0 {
        return None;
    }
    let series = u64::try_from(frame.series.len()).unwrap_or(u64::MAX);
    Some(Gap {
        time: frame.time,
        table: MetricChunk::NAME.to_owned(),
        lane: MetricChunk::LANE,
        from_time: last.unwrap_or(frame.time).min(frame.time),
        to_time: frame.time,
        count: skipped.count.saturating_mul(series),
        exactness: Exactness::AtLeast,
        stage: GapStage::Collect,
        reason: skipped.reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_ticks_are_a_gap_from_the_last_one() {
        let frame = HostSampler::new().sample();
        let (second, last) = (Duration::from_secs(1), frame.time.plus_millis(-4_200));
        let begun = Instant::now();
        let mut ticks = Ticks::new(second, begun);
        assert_eq!(ticks.look(begun, 1).map(|skipped| skipped.count), Some(0));
        assert_eq!(ticks.look(begun + second / 2, 1), None);
        let punctual = ticks.look(begun + second, 1).unwrap();
        assert!(gap_of(punctual, Some(last), &frame).is_none());
        let late = ticks.look(begun + second * 26 / 5, 1).unwrap();
        let gap = gap_of(late, Some(last), &frame).unwrap();
        assert_eq!((gap.from_time, gap.to_time), (last, frame.time));
        assert_eq!(gap.count, 3 * frame.series.len() as u64);
        assert_eq!(gap.reason, "tick_late");
    }

    #[test]
    fn ticks_that_a_thin_pace_leaves_out_are_counted_and_the_full_pace_comes_back_at_once() {
        let (second, begun) = (Duration::from_secs(1), Instant::now());
        let mut ticks = Ticks::new(second, begun);
        let budget = |count| {
            Some(Skipped {
                count,
                reason: REASON,
            })
        };
        assert!(ticks.look(begun, 10).is_some());
        assert_eq!(ticks.look(begun + second * 9, 10), None);
        assert_eq!(ticks.look(begun + second * 10, 10), budget(9));
        assert_eq!(ticks.look(begun + second * 11, 10), None);
        assert_eq!(ticks.look(begun + second * 14, 1), budget(3));
        assert_eq!(ticks.rest(begun + second * 14), second);
        let again = ticks.look(begun + second * 15, 1);
        assert_eq!(again.map(|skipped| skipped.count), Some(0));
        assert!(!ticks.is_thin());
    }

    #[test]
    fn this_host_has_at_least_150_series_and_no_reader_fails() {
        let mut sampler = HostSampler::new();
        sampler.sample();
        let frame = sampler.sample();
        assert_eq!(sampler.failing(), &[] as &[String]);
        assert!(frame.series.len() >= 150, "only {} series", frame.series.len());
        assert_eq!(frame.series.len(), frame.values.len());
        let mut keys = frame.series.to_vec();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), frame.series.len(), "a series is recorded twice");
    }

    #[test]
    fn an_unchanged_set_of_series_is_the_same_set() {
        let mut sampler = HostSampler::new();
        sampler.sample();
        let sets: Vec<_> = (0..20).map(|_| sampler.sample().series).collect();
        assert!(
            sets.windows(2)
                .any(|pair| std::sync::Arc::ptr_eq(&pair[0], &pair[1]))
        );
    }

    #[test]
    fn processor_time_is_shared_out_completely() {
        let mut sampler = HostSampler::new();
        sampler.sample();
        let begun = Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(150) {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0);
        let frame = sampler.sample();
        let total: f64 = frame
            .series
            .iter()
            .zip(&frame.values)
            .filter(|(key, _)| {
                key.name == "system.cpu.utilization" && !key.labels.contains_key("cpu.logical_number")
            })
            .map(|(_, value)| value)
            .sum();
        assert!((total - 1.0).abs() < 0.02, "shares add up to {total}");
    }
}
