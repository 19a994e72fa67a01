//! The series of a made-up host: the agent's own names and labels, with devices as servers have them.

use std::collections::BTreeMap;

use fleetmend_event::SeriesKey;
use rand::Rng as _;
use rand::rngs::StdRng;

const INTERFACES: [[&str; 4]; 3] = [
    ["eth0", "eth1", "docker0", "lo"],
    ["ens3", "ens4", "bond0", "lo"],
    ["enp1s0", "enp2s0", "virbr0", "lo"],
];
const DISKS: [[&str; 2]; 3] = [["sda", "sdb"], ["vda", "vdb"], ["nvme0n1", "nvme1n1"]];
const MOUNTS: [&str; 6] = ["/", "/boot", "/home", "/srv", "/var", "/var/log"];
const CPU_MODES: [&str; 8] = [
    "idle",
    "interrupt",
    "iowait",
    "nice",
    "softirq",
    "steal",
    "system",
    "user",
];
const MEMORY: [&str; 13] = [
    "active",
    "anonymous",
    "available",
    "committed",
    "dirty",
    "inactive",
    "kernel_stack",
    "locked",
    "mapped",
    "page_tables",
    "slab.reclaimable",
    "slab.unreclaimable",
    "writeback",
];
const PROTOCOL: [(&str, &str); 12] = [
    ("ActiveOpens", "tcp"),
    ("AttemptFails", "tcp"),
    ("CurrEstab", "tcp"),
    ("EstabResets", "tcp"),
    ("InErrs", "tcp"),
    ("InSegs", "tcp"),
    ("OutRsts", "tcp"),
    ("OutSegs", "tcp"),
    ("PassiveOpens", "tcp"),
    ("RetransSegs", "tcp"),
    ("InDatagrams", "udp"),
    ("OutDatagrams", "udp"),
];
const PRESSURE: [(&str, &str); 6] = [
    ("full", "cpu"),
    ("full", "io"),
    ("full", "memory"),
    ("some", "cpu"),
    ("some", "io"),
    ("some", "memory"),
];

/// The first `count` series of a host whose devices `random` chooses.
pub(crate) fn series(random: &mut StdRng, count: u32) -> Vec<SeriesKey> {
    let pick = |random: &mut StdRng| random.random_range(0..3_usize);
    let interfaces = INTERFACES.get(pick(random)).copied().unwrap_or_default();
    let disks = DISKS.get(pick(random)).copied().unwrap_or_default();
    let mut keys = Keys(Vec::new());
    for mode in CPU_MODES {
        for cpu in ["0", "1", "2", "3", "4", "5", "6", "7"] {
            let labels = [("cpu.logical_number", cpu), ("cpu.mode", mode)];
            keys.add("system.cpu.time", "s", &labels);
        }
        keys.add("system.cpu.time", "s", &[("cpu.mode", mode)]);
        keys.add("system.cpu.utilization", "1", &[("cpu.mode", mode)]);
    }
    for interface in interfaces {
        for direction in ["receive", "transmit"] {
            let labels = [
                ("network.interface.name", interface),
                ("network.io.direction", direction),
            ];
            keys.add("system.network.errors", "{error}", &labels);
            keys.add("system.network.io", "By", &labels);
            keys.add("system.network.packet.count", "{packet}", &labels);
            keys.add("system.network.packet.dropped", "{packet}", &labels);
        }
    }
    for disk in disks {
        for direction in ["read", "write"] {
            let labels = [("disk.io.direction", direction), ("system.device", disk)];
            keys.add("system.disk.io", "By", &labels);
            keys.add("system.disk.merged", "{operation}", &labels);
            keys.add("system.disk.operation_time", "s", &labels);
            keys.add("system.disk.operations", "{operation}", &labels);
        }
        let labels = [("system.device", disk)];
        keys.add("system.disk.io_time", "s", &labels);
        keys.add("system.disk.io_utilization", "1", &labels);
        keys.add("system.disk.pending_operations", "{operation}", &labels);
        keys.add("system.linux.disk.weighted_io_time", "s", &labels);
    }
    let disk = disks.first().copied().unwrap_or_default();
    for (mount, number) in MOUNTS.iter().zip(1_u32..) {
        let device = format!("/dev/{disk}{number}");
        let of_mount = [
            ("system.device", device.as_str()),
            ("system.filesystem.mountpoint", mount),
            ("system.filesystem.type", "ext4"),
        ];
        for state in ["free", "reserved", "used"] {
            let labels = [&of_mount[..], &[("system.filesystem.state", state)]].concat();
            keys.add("system.filesystem.usage", "By", &labels);
            keys.add("system.linux.filesystem.inodes", "{inode}", &labels);
        }
        keys.add("system.filesystem.utilization", "1", &of_mount);
    }
    for word in MEMORY {
        keys.add(&format!("system.linux.memory.{word}"), "By", &[]);
    }
    for state in ["buffers", "cached", "free", "shared", "slab", "used"] {
        keys.add("system.memory.usage", "By", &[("system.memory.state", state)]);
    }
    for (counter, transport) in PROTOCOL {
        let labels = [("counter", counter), ("network.transport", transport)];
        keys.add("system.linux.network.protocol", "{event}", &labels);
    }
    for (kind, resource) in PRESSURE {
        keys.add(
            "system.linux.pressure.time",
            "s",
            &[("kind", kind), ("resource", resource)],
        );
        for window in ["avg10", "avg300", "avg60"] {
            let labels = [("kind", kind), ("resource", resource), ("window", window)];
            keys.add("system.linux.pressure.share", "1", &labels);
        }
    }
    for family in ["TCP", "TCP6", "UDP", "UDP6", "RAW", "FRAG"] {
        for state in ["alloc", "inuse", "memory"] {
            let labels = [("family", family), ("state", state)];
            keys.add("system.linux.sockets", "{socket}", &labels);
        }
    }
    for number in 0_u32.. {
        if keys.0.len() >= count as usize {
            break;
        }
        keys.add(
            "system.cpu.frequency",
            "Hz",
            &[("cpu.logical_number", &number.to_string())],
        );
    }
    keys.0.truncate(count as usize);
    keys.0
}

struct Keys(Vec<SeriesKey>);

impl Keys {
    fn add(&mut self, name: &str, unit: &str, labels: &[(&str, &str)]) {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.0.push(SeriesKey {
            name: name.to_owned(),
            unit: unit.to_owned(),
            labels,
        });
    }
}
