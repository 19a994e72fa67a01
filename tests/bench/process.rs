//! What /proc says of a running process: CPU time, memory, BPF.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const MIB: f64 = 1024.0 * 1024.0;
const KIB_PER_MIB: f64 = 1024.0;

/// CPU seconds of a process, its threads, and its children that ended.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    stat_seconds(&PathBuf::from(format!("/proc/{pid}/stat")), 4)
}

/// CPU seconds of the threads of `pid` whose name begins with `name`.
pub(crate) fn thread_cpu_seconds(pid: u32, name: &str) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut seconds = 0.0;
    let mut found = false;
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        let task = entry.context("read a thread's entry")?.path();
        let comm = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if comm.starts_with(name) {
            seconds += stat_seconds(&task.join("stat"), 2)?;
            found = true;
        }
    }
    anyhow::ensure!(found, "process {pid} has no thread whose name begins with {name}");
    Ok(seconds)
}

/// Process ids whose command name is `comm`.
pub(crate) fn comm_pids(comm: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list /proc")? {
        let entry = entry.context("read an entry of /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may be gone by now.
        let told = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if told.trim() == comm {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The sum of the first `fields` of utime, stime, cutime and cstime, in seconds.
fn stat_seconds(path: &std::path::Path, fields: usize) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    // The command's name may hold spaces and parentheses; the numbers follow the last one.
    let (_, rest) = text
        .rsplit_once(')')
        .with_context(|| format!("parse {}", path.display()))?;
    let ticks: f64 = rest
        .split_whitespace()
        .skip(11)
        .take(fields)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    Ok(ticks / per_second as f64)
}

/// CPU of a process in percent of one core, in each of `windows` windows of `window`.
pub(crate) fn cpu_core_pct(pid: u32, windows: u32, window: Duration) -> Result<Vec<f64>> {
    let mut shares = Vec::new();
    let (mut last, mut then) = (cpu_seconds(pid)?, Instant::now());
    for _ in 0..windows {
        std::thread::sleep(window);
        let (cpu, now) = (cpu_seconds(pid)?, Instant::now());
        shares.push((cpu - last) / (now - then).as_secs_f64() * 100.0);
        (last, then) = (cpu, now);
    }
    Ok(shares)
}

/// Proportional set size in MiB.
pub(crate) fn pss_mib(pid: u32) -> Result<f64> {
    kib_line(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Resident set size in MiB.
pub(crate) fn rss_mib(pid: u32) -> Result<f64> {
    kib_line(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Largest resident set size so far in MiB.
pub(crate) fn peak_rss_mib(pid: u32) -> Result<f64> {
    kib_line(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn kib_line(path: &str, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("find {key} in {path}"))?;
    let kib: f64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .with_context(|| format!("parse {key} in {path}"))?;
    Ok(kib / KIB_PER_MIB)
}

/// Memory of the BPF maps and programs that a process holds, in MiB, each counted once.
pub(crate) fn bpf_memory_mib(pid: u32) -> Result<f64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut seen = BTreeSet::new();
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        let path = entry.context("read a descriptor's entry")?.path();
        // It may be closed by now.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
        };
        let Some(memlock) = value("memlock:") else {
            continue;
        };
        let id = value("map_id:")
            .map(|id| ("map", id.to_owned()))
            .or_else(|| value("prog_id:").map(|id| ("program", id.to_owned())));
        if id.is_some_and(|id| seen.insert(id)) {
            bytes += memlock.parse::<f64>().unwrap_or_default();
        }
    }
    Ok(bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_memory_and_cpu_time() {
        let pid = std::process::id();
        assert!(pss_mib(pid).unwrap() > 0.1 && rss_mib(pid).unwrap() > 0.1);
        let begun = Instant::now();
        while cpu_seconds(pid).unwrap() == 0.0 {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "no CPU time was counted"
            );
        }
        assert_eq!(bpf_memory_mib(pid).unwrap(), 0.0);
    }
}
