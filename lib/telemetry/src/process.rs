//! The process about itself, in the names that Prometheus clients agree on.

use std::fs;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use nix::unistd::{SysconfVar, sysconf};

pub(crate) fn describe() {
    describe_counter!(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "user and system time, whole seconds"
    );
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "resident memory");
    describe_gauge!("process_threads", "threads");
    describe_gauge!("process_open_fds", "open file descriptors");
}

/// Reads /proc/self; a figure that cannot be read keeps its last value.
pub(crate) fn record() {
    if let Some(stat) = fs::read_to_string("/proc/self/stat")
        .ok()
        .as_deref()
        .and_then(parse_stat)
    {
        let ticks = system(SysconfVar::CLK_TCK).unwrap_or(100).max(1);
        counter!("process_cpu_seconds_total").absolute(stat.cpu_ticks / ticks);
        gauge!("process_threads").set(stat.threads);
        let page = system(SysconfVar::PAGE_SIZE).unwrap_or(4096);
        let resident = stat.resident_pages.saturating_mul(page) as f64;
        gauge!("process_resident_memory_bytes").set(resident);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let open = u32::try_from(entries.count()).unwrap_or(u32::MAX);
        gauge!("process_open_fds").set(f64::from(open));
    }
}

fn system(variable: SysconfVar) -> Option<u64> {
    u64::try_from(sysconf(variable).ok()??).ok()
}

#[derive(Debug, PartialEq)]
pub(crate) struct Stat {
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: f64,
    pub(crate) resident_pages: u64,
}

/// proc_pid_stat(5): the name in parentheses may hold anything, so fields count from the last one.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    // The first of these is field 3, the state.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        threads: fields.get(17)?.parse().ok()?,
        resident_pages: number(24)?,
    })
}
