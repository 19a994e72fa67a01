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

    fn status(&self, ticks: u64) -> ProbeStatus {
        let degraded = !self.failing.is_empty();
        ProbeStatus {
            time: TimeMicros::now(),
            probe: "host.metrics".to_owned(),
            state: if degraded {
                ProbeState::Degraded
            } else {
                ProbeState::Real
            },
            reason: if degraded {
                self.failing.join("; ")
            } else {
                format!("{} series each second", self.recorder.len())
            },
            hint: String::new(),
            seen: ticks,
            delivered: ticks,
            lost: 0,
        }
    }
}

/// Starts the sampling thread: one frame every `interval` to `sink`.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(tasks: &Tasks, interval: Duration, sink: FactSink) -> std::io::Result<()> {
    tasks.spawn_thread("host metrics", TaskKind::Critical, move |token| {
        let mut sampler = HostSampler::new();
        let mut next = Instant::now();
        let mut ticks = 0_u64;
        let mut last_time = None;
        let mut failing = Vec::new();
        while !token.is_cancelled() {
            let now = Instant::now();
            if now < next {
                // Short naps keep the end of the process prompt.
                std::thread::sleep((next - now).min(Duration::from_millis(250)));
                continue;
            }
            let late = now.duration_since(next);
            if late > interval / 2 {
                metrics::host_tick_late();
                next = now;
            }
            next += interval;
            let frame = sampler.sample();
            if let Some(gap) = skipped(late, interval, last_time, &frame) {
                sink.offer(gap.into());
            }
            last_time = Some(frame.time);
            sink.offer(frame.into());
            sink.report_gaps();
            ticks = ticks.saturating_add(1);
            if sampler.failing() != failing {
                failing = sampler.failing().to_vec();
                warn!(failing = failing.join("; "), "some host metrics cannot be read");
                sink.offer(sampler.status(ticks).into());
            } else if ticks % STATUS_TICKS == 2 {
                sink.offer(sampler.status(ticks).into());
            }
        }
        Ok(())
    })
}

/// The gap of the ticks that a stall of this thread skipped: samples that nobody took are lost like any other.
fn skipped(late: Duration, interval: Duration, last: Option<TimeMicros>, frame: &MetricFrame) -> Option<Gap> {
    let ticks = u64::try_from(late.as_micros() / interval.as_micros().max(1)).unwrap_or(u64::MAX);
    if ticks == 0 {
        return None;
    }
    let series = u64::try_from(frame.series.len()).unwrap_or(u64::MAX);
    Some(Gap {
        time: frame.time,
        table: MetricChunk::NAME.to_owned(),
        lane: MetricChunk::LANE,
        from_time: last.unwrap_or(frame.time).min(frame.time),
        to_time: frame.time,
        count: ticks.saturating_mul(series),
        exactness: Exactness::AtLeast,
        stage: GapStage::Collect,
        reason: "tick_late".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_ticks_are_a_gap_from_the_last_one() {
        let frame = HostSampler::new().sample();
        let (second, last) = (Duration::from_secs(1), frame.time.plus_millis(-4_200));
        assert!(skipped(second / 2, second, Some(last), &frame).is_none());
        let gap = skipped(second * 16 / 5, second, Some(last), &frame).unwrap();
        assert_eq!((gap.from_time, gap.to_time), (last, frame.time));
        assert_eq!(gap.count, 3 * frame.series.len() as u64);
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
