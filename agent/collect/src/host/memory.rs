//! Memory, swap and paging, from /proc/meminfo and /proc/vmstat.

use std::io;

use super::Reader;
use super::proc_file::{ProcFile, number};
use super::recorder::Recorder;

pub(super) struct Memory(ProcFile);

impl Default for Memory {
    fn default() -> Self {
        Self(ProcFile::new("/proc/meminfo"))
    }
}

/// Lines of /proc/meminfo that are a state of `system.memory.usage`.
const STATES: [(&str, &str); 5] = [
    ("MemFree", "free"),
    ("Buffers", "buffers"),
    ("Cached", "cached"),
    ("Shmem", "shared"),
    ("Slab", "slab"),
];
/// Further lines, each a series of its own.
const OTHERS: [(&str, &str); 12] = [
    ("Dirty", "system.linux.memory.dirty"),
    ("Writeback", "system.linux.memory.writeback"),
    ("Active", "system.linux.memory.active"),
    ("Inactive", "system.linux.memory.inactive"),
    ("AnonPages", "system.linux.memory.anonymous"),
    ("Mapped", "system.linux.memory.mapped"),
    ("SReclaimable", "system.linux.memory.slab.reclaimable"),
    ("SUnreclaim", "system.linux.memory.slab.unreclaimable"),
    ("KernelStack", "system.linux.memory.kernel_stack"),
    ("PageTables", "system.linux.memory.page_tables"),
    ("Committed_AS", "system.linux.memory.committed"),
    ("Mlocked", "system.linux.memory.locked"),
];

impl Reader for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let text = self.0.read()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map_or(f64::NAN, |value| number(value.trim_end_matches("kB")) * 1024.0)
        };
        let (total, available) = (field("MemTotal"), field("MemAvailable"));
        recorder.record("system.memory.limit", "By", &[], total);
        recorder.record("system.linux.memory.available", "By", &[], available);
        recorder.record("system.memory.utilization", "1", &[], (total - available) / total);
        recorder.record(
            "system.memory.usage",
            "By",
            &[("system.memory.state", "used")],
            total - available,
        );
        for (line, state) in STATES {
            recorder.record(
                "system.memory.usage",
                "By",
                &[("system.memory.state", state)],
                field(line),
            );
        }
        for (line, name) in OTHERS {
            recorder.record(name, "By", &[], field(line));
        }
        let (swap, free) = (field("SwapTotal"), field("SwapFree"));
        recorder.record(
            "system.paging.usage",
            "By",
            &[("system.paging.state", "used")],
            swap - free,
        );
        recorder.record(
            "system.paging.usage",
            "By",
            &[("system.paging.state", "free")],
            free,
        );
        let share = if swap > 0.0 { (swap - free) / swap } else { 0.0 };
        recorder.record("system.paging.utilization", "1", &[], share);
        Ok(())
    }
}

pub(super) struct Paging(ProcFile);

impl Default for Paging {
    fn default() -> Self {
        Self(ProcFile::new("/proc/vmstat"))
    }
}

type Labels = &'static [(&'static str, &'static str)];

/// Counters of /proc/vmstat with their series.
const COUNTERS: [(&str, &str, Labels); 12] = [
    (
        "pgfault",
        "system.paging.faults",
        &[("system.paging.fault.type", "minor")],
    ),
    (
        "pgmajfault",
        "system.paging.faults",
        &[("system.paging.fault.type", "major")],
    ),
    (
        "pswpin",
        "system.paging.operations",
        &[("system.paging.direction", "in")],
    ),
    (
        "pswpout",
        "system.paging.operations",
        &[("system.paging.direction", "out")],
    ),
    (
        "pgpgin",
        "system.linux.paging.bytes",
        &[("system.paging.direction", "in")],
    ),
    (
        "pgpgout",
        "system.linux.paging.bytes",
        &[("system.paging.direction", "out")],
    ),
    (
        "pgscan_direct",
        "system.linux.reclaim.scanned",
        &[("reclaim", "direct")],
    ),
    (
        "pgscan_kswapd",
        "system.linux.reclaim.scanned",
        &[("reclaim", "kswapd")],
    ),
    (
        "pgsteal_direct",
        "system.linux.reclaim.taken",
        &[("reclaim", "direct")],
    ),
    (
        "pgsteal_kswapd",
        "system.linux.reclaim.taken",
        &[("reclaim", "kswapd")],
    ),
    ("oom_kill", "system.linux.oom_kills", &[]),
    ("allocstall_normal", "system.linux.allocation_stalls", &[]),
];

impl Reader for Paging {
    fn name(&self) -> &'static str {
        "paging"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let text = self.0.read()?;
        for (line, name, labels) in COUNTERS {
            let value = text
                .lines()
                .find_map(|text| text.strip_prefix(line)?.strip_prefix(' '))
                .map_or(f64::NAN, number);
            let (unit, factor) = if line.starts_with("pgpg") {
                ("By", 1024.0)
            } else {
                ("{operation}", 1.0)
            };
            recorder.record(name, unit, labels, value * factor);
        }
        Ok(())
    }
}
