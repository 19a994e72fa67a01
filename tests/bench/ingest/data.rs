//! Facts of a made-up host, noisy as real ones are and the same for the same seed, encoded as the spool does.
//!
//! Of the 300 series 55 % are counters, 18 % byte gauges in pages, 15 % never change, 7 % are small whole numbers
//! and 5 % are ratios with two decimals: the mix of the host metrics that budgets for bytes were set with.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Source};
use fleetmend_event::{
    Fact, FactBuffer, Frame, Lane, MetricFrame, RecordId, Sequence, SeriesSet, SpoolEpoch, TimeMicros,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::feed::Stock;
use super::series::series;

/// Series of one host.
pub(crate) const SERIES: u32 = 300;
const PAGE_BYTES: f64 = 4_096.0;
const SECOND_US: i64 = 1_000_000;
const PROGRAMS: [(&str, &str); 6] = [
    ("sh", "/usr/bin/dash"),
    ("grep", "/usr/bin/grep"),
    ("php-fpm8.2", "/usr/sbin/php-fpm8.2"),
    ("cron", "/usr/sbin/cron"),
    ("sed", "/usr/bin/sed"),
    ("curl", "/usr/bin/curl"),
];

/// What the frames hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// So many seconds of every series.
    Metrics {
        /// Samples of each series.
        ticks: u32,
    },
    /// So many execs and exits.
    Events {
        /// Rows of a frame.
        rows: u32,
    },
}

impl Kind {
    /// Where they travel.
    pub(crate) fn lane(self) -> Lane {
        match self {
            Kind::Metrics { .. } => Lane::Metrics,
            Kind::Events { .. } => Lane::Events,
        }
    }

    fn rows(self) -> u32 {
        match self {
            Kind::Metrics { ticks } => ticks * SERIES,
            Kind::Events { rows } => rows,
        }
    }

    /// Time from one frame to the next.
    fn step(self) -> Duration {
        match self {
            Kind::Metrics { ticks } => Duration::from_secs(ticks.into()),
            Kind::Events { .. } => Duration::from_millis(250),
        }
    }
}

/// The stock of every agent, made on the blocking threads.
pub(crate) async fn prepare(kind: Kind, agents: u32, frames: u32, seed: u64) -> Result<Vec<Arc<Stock>>> {
    let tasks: Vec<_> = (0..agents)
        .map(|agent| {
            tokio::task::spawn_blocking(move || stock(kind, frames, seed.wrapping_add(agent.into())))
        })
        .collect();
    let mut stocks = Vec::new();
    for task in tasks {
        stocks.push(task.await.context("make frames")??);
    }
    Ok(stocks)
}

fn stock(kind: Kind, frames: u32, seed: u64) -> Result<Arc<Stock>> {
    let mut host = Host::new(seed);
    let (epoch, lane, step) = (SpoolEpoch::random(), kind.lane(), kind.step());
    let step_us = i64::try_from(step.as_micros()).context("count microseconds")?;
    // The last frame is of now, so that nothing lies in the future.
    let begin = TimeMicros::now().plus_micros(-step_us.saturating_mul(frames.into()));
    let mut buffer = FactBuffer::default();
    let mut encoded = Vec::new();
    for number in 0..frames {
        let from = begin.plus_micros(step_us.saturating_mul(number.into()));
        match kind {
            Kind::Metrics { ticks } => {
                for tick in 0..ticks {
                    buffer.push(host.tick(from.plus_micros(SECOND_US * i64::from(tick))).into());
                }
            }
            Kind::Events { rows } => {
                for row in 0..rows {
                    buffer.push(host.event(from.plus_micros(i64::from(row) * step_us / i64::from(rows))));
                }
            }
        }
        let id = RecordId {
            epoch,
            lane,
            sequence: Sequence(u64::from(number) + 1),
        };
        let to = from.plus_micros(step_us - 1);
        let stamp = Stamp {
            wall: to,
            boot_us: u64::from(number) + 1,
        };
        for (table, batch) in buffer.take(lane).context("make a batch")? {
            let frame = Frame::of_batch(id, table, &batch, stamp, (from, to)).context("encode a frame")?;
            anyhow::ensure!(frame.fits(), "a frame of {} bytes is too long", frame.body.len());
            encoded.push(frame);
        }
    }
    Ok(Arc::new(Stock {
        frames: encoded,
        rows: kind.rows().into(),
    }))
}

/// How a series behaves.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Counter { rate: f64 },
    Pages,
    Constant,
    Small,
    Ratio,
}

/// A made-up host.
pub(crate) struct Host {
    random: StdRng,
    series: SeriesSet,
    behaviours: Vec<Behaviour>,
    values: Vec<f64>,
    load: f64,
    pid: u32,
}

impl Host {
    /// The same for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut behaviours = Vec::new();
        let mut values = Vec::new();
        let keys = series(&mut random, SERIES);
        for index in 0..SERIES {
            let (behaviour, value) = match index % 100 {
                0..55 => {
                    let rate = 10_f64.powf(random.random_range(-1.0..5.0));
                    let start = random.random_range(0.0..1e9_f64).floor();
                    (Behaviour::Counter { rate }, start)
                }
                55..73 => {
                    let pages = random.random_range(1e3..1e6_f64).floor();
                    (Behaviour::Pages, pages * PAGE_BYTES)
                }
                73..88 => {
                    let value = random.random_range(0.0..1e6_f64).floor() * PAGE_BYTES;
                    (Behaviour::Constant, value)
                }
                88..95 => (Behaviour::Small, 1.0),
                _ => (Behaviour::Ratio, 0.3),
            };
            behaviours.push(behaviour);
            values.push(value);
        }
        Self {
            random,
            series: keys.into(),
            behaviours,
            values,
            load: 0.3,
            pid: 1_000,
        }
    }

    /// Nearly normal, with a deviation of one: the sum of three even numbers.
    fn noise(&mut self) -> f64 {
        (0..3).map(|_| self.random.random_range(-1.0..1.0)).sum()
    }

    /// The next sample of every series.
    pub(crate) fn tick(&mut self, time: TimeMicros) -> MetricFrame {
        self.load = (self.load + 0.02 * (0.25 - self.load) + 0.02 * self.noise()).clamp(0.01, 0.98);
        let mut values = std::mem::take(&mut self.values);
        for (value, index) in values.iter_mut().zip(0_usize..) {
            let behaviour = self.behaviours.get(index).copied().unwrap_or(Behaviour::Constant);
            *value = match behaviour {
                Behaviour::Counter { rate } => {
                    let step = rate * (0.3 + 2.0 * self.load) * (1.0 + 0.3 * self.noise());
                    (*value + step.max(0.0)).floor()
                }
                Behaviour::Pages => {
                    ((*value / PAGE_BYTES + 16.0 * self.noise()).floor() * PAGE_BYTES).max(0.0)
                }
                Behaviour::Constant => *value,
                Behaviour::Small => (1.0 + 2.0 * self.load * self.random.random_range(0.0..1.0)).floor(),
                Behaviour::Ratio => ((self.load + 0.02 * self.noise()) * 100.0).round() / 100.0,
            };
        }
        self.values.clone_from(&values);
        MetricFrame {
            time,
            series: self.series.clone(),
            values,
        }
    }

    /// An exec or an exit, in turn.
    pub(crate) fn event(&mut self, time: TimeMicros) -> Fact {
        let program = self.random.random_range(0..PROGRAMS.len());
        let (comm, exe) = PROGRAMS.get(program).copied().unwrap_or(("sh", "/usr/bin/dash"));
        self.pid = if self.pid > 4_000_000 { 1_000 } else { self.pid + 1 };
        let boot_ns = u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000);
        let exec = self.pid.is_multiple_of(2);
        let exit = |value: u64| (!exec).then_some(value);
        let argument = format!("--request={:08x}", self.random.random_range(0..u32::MAX));
        let took = self.random.random_range(500..50_000_u64);
        Fact::from(ProcessEvent {
            time,
            boot_ns,
            kind: if exec {
                ProcessEventKind::Exec
            } else {
                ProcessEventKind::Exit
            },
            pid: self.pid / 2 * 2,
            start_boot_ns: boot_ns - boot_ns % 10_000_000,
            ppid: 812,
            parent_comm: Some("cron".to_owned()),
            parent_exe: Some("/usr/sbin/cron".to_owned()),
            parent_command_line: Some("/usr/sbin/cron -f".to_owned()),
            comm: comm.to_owned(),
            exe: Some(exe.to_owned()),
            args: if exec {
                vec![comm.to_owned(), "-c".to_owned(), argument]
            } else {
                Vec::new()
            },
            args_truncated: false,
            uid: 33,
            gid: 33,
            cgroup: Some("/system.slice/cron.service".to_owned()),
            unit: Some("cron.service".to_owned()),
            container_id: None,
            exit_code: (!exec).then_some(0),
            exit_signal: None,
            duration_us: exit(took),
            user_us: exit(took / 3),
            system_us: exit(took / 5),
            rss_bytes_max: exit(took.saturating_mul(64)),
            source: Source::Ebpf,
            euid: None,
            login_uid: None,
            working_directory: None,
            fileless: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_has_rising_numbers_and_the_rows_it_says() {
        for kind in [Kind::Metrics { ticks: 10 }, Kind::Events { rows: 40 }] {
            let stock = stock(kind, 3, 7).unwrap();
            let numbers: Vec<u64> = stock.frames.iter().map(|frame| frame.id.sequence.0).collect();
            assert_eq!(numbers, [1, 2, 3]);
            for frame in &stock.frames {
                let frame_rows = frame.batch().unwrap().unwrap().num_rows();
                let expected = if kind.lane() == Lane::Metrics { 300 } else { 40 };
                assert_eq!(frame_rows, expected);
            }
        }
    }
}
