//! Limits on what this host does: a process that runs away, a filesystem that fills, a unit that failed, a site
//! that is down. Pure: facts in, rows out.

use std::collections::{HashMap, HashSet};

use fleetmend_event::table::{
    Finding, FindingKind, ProcessSnapshot, Severity, SiteProbe, SiteVerdict, SubjectKind, UnitState,
};
use fleetmend_event::{Fact, MetricFrame, TimeMicros};
use serde_json::json;

use crate::config::LimitsConfig;
use crate::tracker::{FindingTracker, Notice, Subject};

/// Rule of a process above its CPU limit.
pub const RUNAWAY_PROCESS: &str = "runaway-process";
/// Rule of a full filesystem.
pub const FILESYSTEM_FULL: &str = "filesystem-full";
/// Rule of a failed unit.
pub const UNIT_FAILED: &str = "unit-failed";
/// Rule of a site that is down.
pub const SITE_DOWN: &str = "site-down";

/// Most processes above the limit that are followed.
const HOT_MAX: usize = 1_024;
/// A process that was not heard of for this long is forgotten, in microseconds.
const HOT_STALE_US: i64 = 120_000_000;

/// A filesystem that is in no reading for this long was unmounted, in microseconds.
const UNMOUNTED_US: i64 = 60_000_000;

/// A process above the limit since a time.
struct Hot {
    since: TimeMicros,
    last: TimeMicros,
    samples: u32,
}

/// Watches facts for crossed limits.
pub struct Limits {
    config: LimitsConfig,
    hot: HashMap<(u32, u64), Hot>,
    down: HashMap<String, u32>,
    /// Full filesystems that are in no reading any more, since when.
    absent: HashMap<String, TimeMicros>,
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: LimitsConfig) -> Self {
        Self {
            config,
            hot: HashMap::new(),
            down: HashMap::new(),
            absent: HashMap::new(),
        }
    }

    /// Looks at one fact; returns the rows that follow from it.
    pub fn observe(&mut self, fact: &Fact, tracker: &mut FindingTracker) -> Vec<Finding> {
        match fact {
            Fact::ProcessSnapshot(process) => self.process(process, tracker),
            Fact::Metrics(frame) => self.filesystems(frame, tracker),
            Fact::UnitState(unit) => unit_state(unit, tracker).into_iter().collect(),
            Fact::SiteProbe(probe) => self.site(probe, tracker).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn process(&mut self, process: &ProcessSnapshot, tracker: &mut FindingTracker) -> Vec<Finding> {
        let key = (process.pid, process.start_boot_ns);
        let subject = Subject {
            process: Some(key),
            ..Subject::named(SubjectKind::Process, &process.comm)
        };
        self.hot
            .retain(|_, hot| process.time.micros_since(hot.last) < HOT_STALE_US);
        if process.cpu_core_pct < self.config.process_cpu_core_pct || process.state == "X" {
            self.hot.remove(&key);
            return tracker
                .resolve(process.time, RUNAWAY_PROCESS, &subject)
                .into_iter()
                .collect();
        }
        if self.hot.len() >= HOT_MAX && !self.hot.contains_key(&key) {
            return Vec::new();
        }
        let hot = self.hot.entry(key).or_insert(Hot {
            since: process.time,
            last: process.time,
            samples: 0,
        });
        let open = tracker.confirm(process.time, RUNAWAY_PROCESS, &subject);
        hot.last = process.time;
        hot.samples = hot.samples.saturating_add(1);
        let seconds = process.time.micros_since(hot.since) / 1_000_000;
        let wanted = i64::try_from(self.config.process_cpu_for_s).unwrap_or(i64::MAX);
        if seconds < wanted || hot.samples < 2 || open {
            return Vec::new();
        }
        let notice = runaway(process, subject, seconds, self.config.process_cpu_core_pct);
        tracker.notice(process.time, notice).into_iter().collect()
    }

    fn filesystems(&mut self, frame: &MetricFrame, tracker: &mut FindingTracker) -> Vec<Finding> {
        let mut rows = Vec::new();
        let mut read = HashSet::new();
        let series = frame
            .series
            .iter()
            .zip(&frame.values)
            .filter(|(key, _)| key.name == "system.filesystem.utilization");
        for (key, share) in series {
            let Some(path) = key.labels.get("system.filesystem.mountpoint") else {
                continue;
            };
            read.insert(path.as_str());
            let subject = Subject::named(SubjectKind::Filesystem, path);
            let used_pct = share * 100.0;
            let open = tracker.is_open(FILESYSTEM_FULL, &subject);
            // NaN compares false both ways: what could not be read neither raises nor resolves.
            if !open && used_pct >= self.config.filesystem_used_pct {
                rows.extend(tracker.notice(
                    frame.time,
                    full(path, subject, used_pct, self.config.filesystem_used_pct),
                ));
            } else if open && used_pct < self.config.filesystem_clear_pct {
                rows.extend(tracker.resolve(frame.time, FILESYSTEM_FULL, &subject));
            } else if open {
                tracker.confirm(frame.time, FILESYSTEM_FULL, &subject);
            }
        }
        // A frame without any filesystem is not a reading of them.
        if !read.is_empty() {
            rows.extend(self.unmounted(frame.time, &read, tracker));
        }
        rows
    }

    /// Resolves what was unmounted: one that does not answer is read as NaN, one that is gone is not read.
    fn unmounted(
        &mut self,
        time: TimeMicros,
        read: &HashSet<&str>,
        tracker: &mut FindingTracker,
    ) -> Vec<Finding> {
        self.absent.retain(|path, _| !read.contains(path.as_str()));
        let mut rows = Vec::new();
        for subject in tracker.subjects(FILESYSTEM_FULL) {
            if read.contains(subject.name.as_str()) {
                continue;
            }
            let since = *self.absent.entry(subject.name.clone()).or_insert(time);
            if time.micros_since(since) >= UNMOUNTED_US {
                self.absent.remove(&subject.name);
                rows.extend(tracker.resolve(time, FILESYSTEM_FULL, &subject));
            }
        }
        rows
    }

    fn site(&mut self, probe: &SiteProbe, tracker: &mut FindingTracker) -> Option<Finding> {
        let subject = Subject::named(SubjectKind::Site, &probe.site);
        match probe.verdict {
            SiteVerdict::Unknown => {
                // It is still watched: what was true of it stays so until it is known better.
                tracker.confirm(probe.time, SITE_DOWN, &subject);
                None
            }
            SiteVerdict::Up => {
                self.down.remove(&probe.site);
                tracker.resolve(probe.time, SITE_DOWN, &subject)
            }
            SiteVerdict::Down => {
                let count = self.down.entry(probe.site.clone()).or_insert(0);
                *count = count.saturating_add(1);
                let open = tracker.confirm(probe.time, SITE_DOWN, &subject);
                if open || *count < self.config.site_down_probes {
                    None
                } else {
                    tracker.notice(probe.time, down(probe, subject, *count))
                }
            }
        }
    }
}

fn runaway(process: &ProcessSnapshot, subject: Subject, seconds: i64, limit: f64) -> Notice {
    let used = process.cpu_core_pct;
    Notice {
        kind: FindingKind::Threshold,
        rule: RUNAWAY_PROCESS.to_owned(),
        title: format!(
            "{} (pid {}) has used {used:.0} % of a core for {seconds} s",
            process.comm, process.pid
        ),
        severity: Severity::Medium,
        score: None,
        subject,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: json!([{"feature": "process.cpu_core_pct", "value": used, "expected": limit, "contribution": 1.0}]),
        evidence: json!({
            "cpu_core_pct": used, "window_s": seconds, "cgroup": process.cgroup, "unit": process.unit,
            "exe": process.exe, "command_line": process.command_line, "uid": process.uid,
        }),
    }
}

fn full(path: &str, subject: Subject, used_pct: f64, limit: f64) -> Notice {
    Notice {
        kind: FindingKind::Threshold,
        rule: FILESYSTEM_FULL.to_owned(),
        title: format!("filesystem {path} is {used_pct:.1} % full"),
        severity: Severity::High,
        score: None,
        subject,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: json!([{"feature": "system.filesystem.utilization", "value": used_pct, "expected": limit, "contribution": 1.0}]),
        evidence: json!({"path": path, "used_pct": used_pct}),
    }
}

fn down(probe: &SiteProbe, subject: Subject, count: u32) -> Notice {
    Notice {
        kind: FindingKind::Site,
        rule: SITE_DOWN.to_owned(),
        title: format!("site {} is down: {}", probe.site, probe.reason),
        severity: Severity::High,
        score: None,
        subject,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: json!([{"feature": "site.probes_down", "value": count, "expected": 0, "contribution": 1.0}]),
        evidence: json!({
            "url": probe.url, "reason": probe.reason, "http_status": probe.http_status, "dns_ms": probe.dns_ms,
            "connect_ms": probe.connect_ms, "first_byte_ms": probe.first_byte_ms, "remote_address": probe.remote_address,
        }),
    }
}

fn unit_state(unit: &UnitState, tracker: &mut FindingTracker) -> Option<Finding> {
    let subject = Subject::named(SubjectKind::Unit, &unit.unit);
    if unit.active_state != "failed" {
        return tracker.resolve(unit.time, UNIT_FAILED, &subject);
    }
    if tracker.confirm(unit.time, UNIT_FAILED, &subject) {
        return None;
    }
    let notice = Notice {
        kind: FindingKind::Threshold,
        rule: UNIT_FAILED.to_owned(),
        title: format!("unit {} has failed ({})", unit.unit, unit.result),
        severity: Severity::High,
        score: None,
        subject,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: json!([{"feature": "unit.active_state", "value": unit.active_state, "expected": "active", "contribution": 1.0}]),
        evidence: json!({"unit": unit.unit, "result": unit.result, "sub_state": unit.sub_state, "restart_count": unit.restart_count}),
    };
    tracker.notice(unit.time, notice)
}

#[cfg(test)]
mod tests;
