//! What the agent takes of its host, measured every second at the cost of a few small reads.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::cgroup::{Cgroup, Limit};
use super::files::{KeptFile, read};

/// Span over which processor time is judged: shorter bursts are what a budget is for.
pub(crate) const CPU_WINDOW: Duration = Duration::from_secs(60);
/// Share of the cgroup's limit that the agent lets itself have.
pub(crate) const LIMIT_SHARE: f64 = 0.8;
/// When so much of the time everything waits for memory, the limit bites already, in percent.
const STALLED_PCT_MAX: f64 = 10.0;

/// What was measured; what could not be is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Processor time over the window, in percent of one core; none before the window is full.
    pub(crate) cpu_core_pct: Option<f64>,
    /// Resident memory.
    pub(crate) resident_bytes: Option<u64>,
    /// Memory of the cgroup that cannot be taken back, where it has a limit.
    pub(crate) held_bytes: Option<u64>,
    /// Share of the last 10 s in which the cgroup waited for memory, where it has a limit.
    pub(crate) stalled_pct: Option<f64>,
}

/// What it is judged against.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bounds {
    /// Percent of one core.
    pub(crate) cpu_core_pct: f64,
    /// Resident memory, as declared.
    pub(crate) memory_bytes: u64,
    /// The cgroup's limit.
    pub(crate) limit: Option<Limit>,
}

/// How full the budgets are; 1 is all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    /// Processor time.
    pub(crate) cpu: Option<f64>,
    /// Memory, by the measure that is worst.
    pub(crate) memory: Option<f64>,
}

impl Bounds {
    /// What the agent lets itself have of the cgroup's limit.
    pub(crate) fn share_bytes(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| share_of(limit.bytes))
    }

    /// What is wrong with the declared memory beside the limit.
    pub(crate) fn warning(&self) -> Option<String> {
        let (limit, share) = (self.limit.as_ref()?, self.share_bytes()?);
        (share < self.memory_bytes).then(|| {
            format!(
                "budget.memory is {} MiB, but {} allows {} MiB: 80 % of that count, {} MiB",
                self.memory_bytes >> 20,
                limit.file.display(),
                limit.bytes >> 20,
                share >> 20,
            )
        })
    }

    /// How full the budgets are. Resident memory is judged by what is declared, what the cgroup holds by its limit:
    /// the one counts pages that others pay for, the other what the kernel holds for us.
    pub(crate) fn load(&self, sample: &Sample) -> Load {
        let part = |bytes: u64, of: u64| bytes as f64 / of.max(1) as f64;
        let resident = sample.resident_bytes.map(|bytes| part(bytes, self.memory_bytes));
        let held = sample.held_bytes.zip(self.share_bytes());
        let held = held.map(|(bytes, share)| part(bytes, share));
        let stalled = sample
            .stalled_pct
            .filter(|pct| *pct >= STALLED_PCT_MAX)
            .map(|_| 1.0);
        Load {
            cpu: sample.cpu_core_pct.map(|pct| pct / self.cpu_core_pct),
            memory: [resident, held, stalled].into_iter().flatten().reduce(f64::max),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of bytes is one"
)]
fn share_of(limit_bytes: u64) -> u64 {
    (limit_bytes as f64 * LIMIT_SHARE) as u64
}

/// Reads the samples.
#[derive(Debug)]
pub(crate) struct Meter {
    stat: KeptFile,
    statm: KeptFile,
    ticks_per_s: f64,
    page_bytes: u64,
    cpu: CpuWindow,
}

/// Processor time at some moments of the last window.
#[derive(Debug, Default)]
pub(crate) struct CpuWindow(VecDeque<(Duration, f64)>);

impl Meter {
    pub(crate) fn new() -> Self {
        let system = |variable| {
            sysconf(variable)
                .ok()
                .flatten()
                .and_then(|value| u64::try_from(value).ok())
        };
        Self {
            stat: KeptFile::new("/proc/self/stat"),
            statm: KeptFile::new("/proc/self/statm"),
            ticks_per_s: system(SysconfVar::CLK_TCK).unwrap_or(100).max(1) as f64,
            page_bytes: system(SysconfVar::PAGE_SIZE).unwrap_or(4096),
            cpu: CpuWindow::default(),
        }
    }

    /// Measures at `now` of the boot clock; the cgroup where it has a limit.
    pub(crate) fn sample(&mut self, now: Duration, cgroup: Option<&Cgroup>) -> Sample {
        let used_s = self
            .stat
            .read()
            .ok()
            .and_then(cpu_ticks)
            .map(|ticks| ticks as f64 / self.ticks_per_s);
        let resident = self
            .statm
            .read()
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        Sample {
            cpu_core_pct: used_s.and_then(|used_s| self.cpu.push(now, used_s)),
            resident_bytes: resident.map(|pages| pages.saturating_mul(self.page_bytes)),
            held_bytes: cgroup.and_then(Cgroup::held_bytes),
            stalled_pct: cgroup.and_then(Cgroup::stalled_pct),
        }
    }

    /// Begins the window of processor time anew: what was used on another step says nothing about this one.
    pub(crate) fn forget_cpu(&mut self) {
        self.cpu.0.clear();
    }
}

impl CpuWindow {
    /// Takes in how many seconds were used until `now`; answers with the percent of one core when the window is
    /// full. A boot clock that jumps ahead, as over a suspend, only makes the window empty.
    pub(crate) fn push(&mut self, now: Duration, used_s: f64) -> Option<f64> {
        while self
            .0
            .get(1)
            .is_some_and(|(time, _)| now.saturating_sub(*time) >= CPU_WINDOW)
        {
            self.0.pop_front();
        }
        if self
            .0
            .back()
            .is_none_or(|(time, _)| now.saturating_sub(*time) >= Duration::from_millis(500))
        {
            self.0.push_back((now, used_s));
        }
        let (from, before_s) = self.0.front()?;
        let span = now.saturating_sub(*from);
        (span >= CPU_WINDOW).then(|| (used_s - before_s) / span.as_secs_f64() * 100.0)
    }
}

/// User and system time of proc_pid_stat(5), fields 14 and 15; the name in parentheses may hold anything.
fn cpu_ticks(line: &str) -> Option<u64> {
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()?.saturating_add(next()?))
}

/// Proportional memory, for the metrics; the kernel walks every page for it.
pub(crate) fn proportional_bytes() -> Option<u64> {
    let text = read(Path::new("/proc/self/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn bounds(memory_mib: u64, limit_mib: Option<u64>) -> Bounds {
        let file = PathBuf::from("/sys/fs/cgroup/memory.max");
        Bounds {
            cpu_core_pct: 25.0,
            memory_bytes: memory_mib << 20,
            limit: limit_mib.map(|mib| Limit {
                bytes: mib << 20,
                file,
            }),
        }
    }

    #[test]
    fn declared_memory_above_the_share_of_the_limit_is_said_and_the_share_counts() {
        let above = bounds(144, Some(100));
        assert_eq!(above.share_bytes(), Some(80 << 20));
        let warning = above.warning().unwrap();
        assert!(
            warning.contains("144 MiB") && warning.contains("memory.max allows 100 MiB"),
            "{warning}"
        );
        let held = Sample {
            held_bytes: Some(80 << 20),
            resident_bytes: Some(60 << 20),
            ..Sample::default()
        };
        assert_eq!(above.load(&held).memory, Some(1.0));
        assert_eq!(bounds(144, Some(192)).warning(), None);
        assert_eq!(bounds(144, None).warning(), None);
    }

    #[test]
    fn worst_measure_of_memory_counts_and_a_missing_one_does_not() {
        let bounds = bounds(80, Some(200));
        let sample = Sample {
            resident_bytes: Some(40 << 20),
            held_bytes: Some(120 << 20),
            ..Sample::default()
        };
        let load = bounds.load(&sample);
        assert!((load.memory.unwrap() - 0.75).abs() < 1e-6, "{load:?}");
        assert_eq!(load.cpu, None);
        let stalled = Sample {
            stalled_pct: Some(30.0),
            ..sample
        };
        assert_eq!(bounds.load(&stalled).memory, Some(1.0));
        assert_eq!(bounds.load(&Sample::default()), Load::default());
    }

    #[test]
    fn processor_time_is_judged_over_a_full_window_only() {
        let mut window = CpuWindow::default();
        for second in 0..60_u32 {
            assert_eq!(
                window.push(Duration::from_secs(second.into()), f64::from(second)),
                None
            );
        }
        let full = window.push(Duration::from_secs(60), 60.0).unwrap();
        assert!((full - 100.0).abs() < 1e-6, "{full}");
        let idle = window.push(Duration::from_secs(90), 60.0).unwrap();
        assert!((idle - 50.0).abs() < 1e-6, "half of the window was busy: {idle}");
        assert!(window.0.len() < 64);
    }

    #[test]
    fn this_process_is_measured() {
        let mut meter = Meter::new();
        let sample = meter.sample(Duration::from_secs(1), None);
        assert!(sample.resident_bytes.unwrap() > 1 << 20, "{sample:?}");
        assert!(cpu_ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 13").is_some_and(|ticks| ticks == 42));
        assert!(proportional_bytes().unwrap() > 1 << 20);
    }
}
