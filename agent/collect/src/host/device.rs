//! Block devices, from /proc/diskstats.

use std::collections::BTreeMap;
use std::io;

use super::Reader;
use super::proc_file::{ProcFile, number};
use super::recorder::Recorder;

/// Bytes of a sector in /proc/diskstats, whatever the device's own are.
const SECTOR_BYTES: f64 = 512.0;
/// Most devices that are followed.
const DEVICES_MAX: usize = 32;

pub(super) struct Disks {
    stats: ProcFile,
    busy_before: BTreeMap<String, f64>,
}

impl Default for Disks {
    fn default() -> Self {
        Self {
            stats: ProcFile::new("/proc/diskstats"),
            busy_before: BTreeMap::new(),
        }
    }
}

impl Reader for Disks {
    fn name(&self) -> &'static str {
        "disks"
    }

    fn read(&mut self, recorder: &mut Recorder, seconds: f64) -> io::Result<()> {
        let mut busy_now = BTreeMap::new();
        for line in self.stats.read()?.lines() {
            let mut words = line.split_ascii_whitespace().skip(2);
            let Some(device) = words.next() else { continue };
            let fields: Vec<f64> = words.map(number).collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or(f64::NAN);
            let idle = field(0) == 0.0 && field(4) == 0.0;
            if idle
                || device.starts_with("loop")
                || device.starts_with("ram")
                || busy_now.len() >= DEVICES_MAX
            {
                continue;
            }
            record_device(recorder, device, &field);
            let busy = field(9) / 1e3;
            let before = self.busy_before.get(device).copied().unwrap_or(f64::NAN);
            let share = ((busy - before) / seconds).clamp(0.0, 1.0);
            recorder.record(
                "system.disk.io_utilization",
                "1",
                &[("system.device", device)],
                share,
            );
            busy_now.insert(device.to_owned(), busy);
        }
        self.busy_before = busy_now;
        Ok(())
    }
}

fn record_device(recorder: &mut Recorder, device: &str, field: &dyn Fn(usize) -> f64) {
    for (direction, first) in [("read", 0), ("write", 4)] {
        let labels = [("system.device", device), ("disk.io.direction", direction)];
        recorder.record("system.disk.operations", "{operation}", &labels, field(first));
        recorder.record("system.disk.merged", "{operation}", &labels, field(first + 1));
        recorder.record("system.disk.io", "By", &labels, field(first + 2) * SECTOR_BYTES);
        recorder.record("system.disk.operation_time", "s", &labels, field(first + 3) / 1e3);
    }
    let label = [("system.device", device)];
    recorder.record("system.disk.pending_operations", "{operation}", &label, field(8));
    recorder.record("system.disk.io_time", "s", &label, field(9) / 1e3);
    recorder.record("system.linux.disk.weighted_io_time", "s", &label, field(10) / 1e3);
}
