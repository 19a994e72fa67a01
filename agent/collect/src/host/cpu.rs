//! Processor time, from /proc/stat.

use std::collections::BTreeMap;
use std::io;

use super::Reader;
use super::proc_file::{ProcFile, number};
use super::recorder::Recorder;

/// Order of the columns in /proc/stat; guest time is contained in user and nice.
const MODES: [&str; 8] = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "interrupt",
    "softirq",
    "steal",
];
/// Ticks per second of /proc/stat, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Cpu {
    stat: ProcFile,
    before: BTreeMap<String, [f64; 8]>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            stat: ProcFile::new("/proc/stat"),
            before: BTreeMap::new(),
        }
    }
}

impl Reader for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let text = self.stat.read()?;
        let mut count = 0_u32;
        for line in text.lines() {
            let Some((head, rest)) = line.split_once(' ') else {
                continue;
            };
            if let Some(number) = head.strip_prefix("cpu") {
                count += u32::from(!number.is_empty());
                let now = ticks(rest);
                let before = self.before.insert(number.to_owned(), now);
                record_cpu(recorder, number, &now, before.as_ref());
            } else {
                record_other(recorder, head, rest);
            }
        }
        recorder.record("system.cpu.logical.count", "{cpu}", &[], f64::from(count));
        Ok(())
    }
}

fn ticks(rest: &str) -> [f64; 8] {
    let mut ticks = [f64::NAN; 8];
    for (slot, text) in ticks.iter_mut().zip(rest.split_ascii_whitespace()) {
        *slot = number(text);
    }
    ticks
}

fn record_cpu(recorder: &mut Recorder, number: &str, now: &[f64; 8], before: Option<&[f64; 8]>) {
    let spent = |index: usize| match (now.get(index), before.and_then(|before| before.get(index))) {
        // iowait may run backwards by the kernel's own account.
        (Some(now), Some(before)) => (now - before).max(0.0),
        _ => f64::NAN,
    };
    let all: f64 = (0..MODES.len()).map(spent).sum();
    for (index, mode) in MODES.iter().enumerate() {
        let labels = [("cpu.mode", *mode), ("cpu.logical_number", number)];
        let labels = if number.is_empty() {
            labels.get(..1).unwrap_or_default()
        } else {
            labels.as_slice()
        };
        let seconds = now.get(index).map_or(f64::NAN, |ticks| ticks / TICKS_PER_SECOND);
        recorder.record("system.cpu.time", "s", labels, seconds);
        recorder.record(
            "system.cpu.utilization",
            "1",
            labels,
            if all > 0.0 { spent(index) / all } else { f64::NAN },
        );
    }
}

fn record_other(recorder: &mut Recorder, head: &str, rest: &str) {
    let first = || number(rest.split(' ').next().unwrap_or_default());
    match head {
        "ctxt" => recorder.record("system.linux.context_switches", "{switch}", &[], first()),
        "intr" => recorder.record("system.linux.interrupts", "{interrupt}", &[], first()),
        "processes" => recorder.record("system.process.created", "{process}", &[], first()),
        "procs_running" => recorder.record(
            "system.process.count",
            "{process}",
            &[("process.state", "running")],
            first(),
        ),
        "procs_blocked" => recorder.record(
            "system.process.count",
            "{process}",
            &[("process.state", "blocked")],
            first(),
        ),
        _ => {}
    }
}
