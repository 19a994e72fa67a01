//! What changes slowly or may block: filesystems, temperatures, the clock's own estimate of its error.

use std::collections::BTreeSet;
use std::io;

use sysinfo::Components;

use super::Reader;
use super::capacity::{Capacities, Capacity};
use super::proc_file::ProcFile;
use super::recorder::Recorder;

/// Filesystems that hold no user data.
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];
/// Filesystems of a network or a cluster are left out: they are not this host's to fill, and one whose servers
/// are gone answers nobody. Those of a user's process, `fuse` and `fuse.*`, are left out with them.
const REMOTE: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fhgfs",
    "fuse",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "mmfs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "wekafs",
];
/// Most filesystems that are followed.
const FILESYSTEMS_MAX: usize = 32;

struct Value {
    name: &'static str,
    unit: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

pub(super) struct Slow {
    every: u64,
    ticks: u64,
    mounts: ProcFile,
    components: Components,
    values: Vec<Value>,
    capacities: Capacities,
    fault: Option<String>,
}

impl Slow {
    pub(super) fn new(every: u64) -> Self {
        Self {
            every,
            ticks: 0,
            mounts: ProcFile::new("/proc/self/mounts"),
            components: Components::new_with_refreshed_list(),
            values: Vec::new(),
            capacities: Capacities::default(),
            fault: None,
        }
    }

    fn refresh(&mut self) -> io::Result<()> {
        self.values.clear();
        self.fault = None;
        let mounts = self.mounts.read()?.to_owned();
        let mut seen = BTreeSet::new();
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(point), Some(kind)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let wanted = !PSEUDO.contains(&kind) && !is_remote(kind);
            // A device mounted at several places is one filesystem; a place mounted over is the last one's.
            let identity = if kind == "tmpfs" { point } else { device };
            if wanted && seen.len() < FILESYSTEMS_MAX && seen.insert(identity.to_owned()) {
                self.filesystem(device, &unescape(point), kind);
            }
        }
        self.components.refresh(false);
        let temperatures = self
            .components
            .iter()
            .filter_map(|part| Some((part.label().to_owned(), part.temperature()?)));
        for (label, celsius) in temperatures.collect::<Vec<_>>() {
            self.push(
                "hw.temperature",
                "Cel",
                vec![("hw.name", label)],
                f64::from(celsius),
            );
        }
        Ok(())
    }

    fn filesystem(&mut self, device: &str, point: &str, kind: &str) {
        let Capacity {
            blocks,
            free,
            available,
            files,
            files_free,
        } = match self.capacities.of(point) {
            Ok(capacity) => capacity,
            Err(reason) => {
                self.fault = Some(format!("{point}: {reason}"));
                Capacity::UNKNOWN
            }
        };
        if blocks == 0.0 {
            return;
        }
        let labels = |state: Option<&str>| {
            let mut labels = vec![
                ("system.device", device.to_owned()),
                ("system.filesystem.mountpoint", point.to_owned()),
                ("system.filesystem.type", kind.to_owned()),
            ];
            labels.extend(state.map(|state| ("system.filesystem.state", state.to_owned())));
            labels
        };
        let used = blocks - free;
        self.push("system.filesystem.usage", "By", labels(Some("used")), used);
        self.push("system.filesystem.usage", "By", labels(Some("free")), available);
        self.push(
            "system.filesystem.usage",
            "By",
            labels(Some("reserved")),
            free - available,
        );
        // As df does it: what root keeps for itself counts for nobody.
        self.push(
            "system.filesystem.utilization",
            "1",
            labels(None),
            used / (used + available),
        );
        self.push(
            "system.linux.filesystem.inodes",
            "{inode}",
            labels(Some("used")),
            files - files_free,
        );
        self.push(
            "system.linux.filesystem.inodes",
            "{inode}",
            labels(Some("free")),
            files_free,
        );
    }

    fn push(
        &mut self,
        name: &'static str,
        unit: &'static str,
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) {
        self.values.push(Value {
            name,
            unit,
            labels,
            value,
        });
    }
}

impl Reader for Slow {
    fn name(&self) -> &'static str {
        "filesystems and temperatures"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let result = if self.ticks.is_multiple_of(self.every) {
            self.refresh()
        } else {
            Ok(())
        };
        self.ticks = self.ticks.wrapping_add(1);
        for value in &self.values {
            let labels: Vec<(&str, &str)> = value
                .labels
                .iter()
                .map(|(key, value)| (*key, value.as_str()))
                .collect();
            recorder.record(value.name, value.unit, &labels, value.value);
        }
        // Said at every tick until the next reading, not only at the one that met it.
        result.and(
            self.fault
                .as_ref()
                .map_or(Ok(()), |fault| Err(io::Error::other(fault.clone()))),
        )
    }
}

fn is_remote(kind: &str) -> bool {
    REMOTE.contains(&kind) || kind.starts_with("fuse.")
}

/// Undoes the octal escapes of /proc/self/mounts.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
