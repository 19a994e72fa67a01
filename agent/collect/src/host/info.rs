//! What the host is.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::HostInfo;

/// Reads what this host is. `healing` is `observe`, `enforce` or `absent`.
pub fn host_info(agent_version: &str, healing: &str) -> HostInfo {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let first_line = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.parse::<i64>().ok());
    HostInfo {
        time: TimeMicros::now(),
        hostname: first_line("/proc/sys/kernel/hostname"),
        os: pretty.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned()),
        kernel: first_line("/proc/sys/kernel/osrelease"),
        arch: std::env::consts::ARCH.to_owned(),
        cpu_count: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_bytes: kibibytes.unwrap_or(0).saturating_mul(1024),
        boot_time: TimeMicros(booted.unwrap_or(0).saturating_mul(1_000_000)),
        agent_version: agent_version.to_owned(),
        healing: healing.to_owned(),
    }
}
