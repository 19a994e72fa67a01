//! Pressure, load, and the kernel's tables.

use std::io;

use super::Reader;
use super::proc_file::{ProcFile, number};
use super::recorder::Recorder;

/// Pressure stall information: the share of time in which some or all tasks waited.
pub(super) struct Pressure([(&'static str, ProcFile); 3]);

impl Default for Pressure {
    fn default() -> Self {
        Self([
            ("cpu", ProcFile::new("/proc/pressure/cpu")),
            ("memory", ProcFile::new("/proc/pressure/memory")),
            ("io", ProcFile::new("/proc/pressure/io")),
        ])
    }
}

impl Reader for Pressure {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let mut failed = None;
        for (resource, file) in &mut self.0 {
            // A kernel without PSI has no such files: the series are then absent, not zero.
            match file.read() {
                Ok(text) => record_pressure(recorder, resource, text),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn record_pressure(recorder: &mut Recorder, resource: &str, text: &str) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let labels = [("resource", resource), ("kind", kind), ("window", name)];
            if name == "total" {
                let labels = labels.get(..2).unwrap_or_default();
                recorder.record("system.linux.pressure.time", "s", labels, number(value) / 1e6);
            } else {
                recorder.record("system.linux.pressure.share", "1", &labels, number(value) / 100.0);
            }
        }
    }
}

/// Load averages.
pub(super) struct Load(ProcFile);

impl Default for Load {
    fn default() -> Self {
        Self(ProcFile::new("/proc/loadavg"))
    }
}

impl Reader for Load {
    fn name(&self) -> &'static str {
        "load"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let text = self.0.read()?;
        let names = [
            "system.cpu.load_average.1m",
            "system.cpu.load_average.5m",
            "system.cpu.load_average.15m",
        ];
        let mut words = text.split(' ');
        for name in names {
            recorder.record(name, "{thread}", &[], words.next().map_or(f64::NAN, number));
        }
        let threads = words
            .next()
            .and_then(|word| word.split_once('/'))
            .map_or(f64::NAN, |(_, all)| number(all));
        recorder.record("system.linux.threads", "{thread}", &[], threads);
        Ok(())
    }
}

/// File handles, inodes, uptime, entropy.
pub(super) struct Kernel {
    file_nr: ProcFile,
    inode_nr: ProcFile,
    uptime: ProcFile,
    entropy: ProcFile,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            file_nr: ProcFile::new("/proc/sys/fs/file-nr"),
            inode_nr: ProcFile::new("/proc/sys/fs/inode-nr"),
            uptime: ProcFile::new("/proc/uptime"),
            entropy: ProcFile::new("/proc/sys/kernel/random/entropy_avail"),
        }
    }
}

impl Reader for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let mut words = self.file_nr.read()?.split_ascii_whitespace();
        let (used, limit) = (
            words.next().map_or(f64::NAN, number),
            words.nth(1).map_or(f64::NAN, number),
        );
        recorder.record(
            "system.linux.file_handles",
            "{handle}",
            &[("state", "used")],
            used,
        );
        recorder.record(
            "system.linux.file_handles",
            "{handle}",
            &[("state", "limit")],
            limit,
        );
        let mut words = self.inode_nr.read()?.split_ascii_whitespace();
        recorder.record(
            "system.linux.inodes",
            "{inode}",
            &[("state", "allocated")],
            words.next().map_or(f64::NAN, number),
        );
        recorder.record(
            "system.linux.inodes",
            "{inode}",
            &[("state", "free")],
            words.next().map_or(f64::NAN, number),
        );
        let uptime = self.uptime.read()?.split(' ').next().map_or(f64::NAN, number);
        recorder.record("system.uptime", "s", &[], uptime);
        recorder.record("system.linux.entropy", "bit", &[], number(self.entropy.read()?));
        Ok(())
    }
}
