//! Interfaces, sockets and protocol counters, from /proc/net.

use std::io;

use super::Reader;
use super::proc_file::{ProcFile, number};
use super::recorder::Recorder;

/// Most interfaces that are followed: hosts with many containers have thousands.
const INTERFACES_MAX: usize = 32;

pub(super) struct Interfaces(ProcFile);

impl Default for Interfaces {
    fn default() -> Self {
        Self(ProcFile::new("/proc/net/dev"))
    }
}

impl Reader for Interfaces {
    fn name(&self) -> &'static str {
        "interfaces"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let lines = self.0.read()?.lines().skip(2);
        let interfaces = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, rest)| (name.trim(), rest));
        for (name, rest) in interfaces
            .filter(|(name, _)| !name.starts_with("veth"))
            .take(INTERFACES_MAX)
        {
            let fields: Vec<f64> = rest.split_ascii_whitespace().map(number).collect();
            for (direction, first) in [("receive", 0_usize), ("transmit", 8)] {
                let field = |index: usize| fields.get(first + index).copied().unwrap_or(f64::NAN);
                let labels = [
                    ("network.interface.name", name),
                    ("network.io.direction", direction),
                ];
                recorder.record("system.network.io", "By", &labels, field(0));
                recorder.record("system.network.packet.count", "{packet}", &labels, field(1));
                recorder.record("system.network.errors", "{error}", &labels, field(2));
                recorder.record("system.network.packet.dropped", "{packet}", &labels, field(3));
            }
        }
        Ok(())
    }
}

/// Sockets in use, from /proc/net/sockstat.
pub(super) struct Sockets(ProcFile);

impl Default for Sockets {
    fn default() -> Self {
        Self(ProcFile::new("/proc/net/sockstat"))
    }
}

impl Reader for Sockets {
    fn name(&self) -> &'static str {
        "sockets"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        for line in self.0.read()?.lines() {
            let Some((family, rest)) = line.split_once(':') else {
                continue;
            };
            let mut words = rest.split_ascii_whitespace();
            while let (Some(state), Some(value)) = (words.next(), words.next()) {
                let labels = [("family", family), ("state", state)];
                recorder.record("system.linux.sockets", "{socket}", &labels, number(value));
            }
        }
        Ok(())
    }
}

/// Protocol counters, from /proc/net/snmp.
pub(super) struct Protocols(ProcFile);

impl Default for Protocols {
    fn default() -> Self {
        Self(ProcFile::new("/proc/net/snmp"))
    }
}

/// Counters that say something about the host's health.
const COUNTERS: [(&str, &[&str]); 3] = [
    (
        "Tcp",
        &[
            "ActiveOpens",
            "PassiveOpens",
            "AttemptFails",
            "EstabResets",
            "CurrEstab",
            "InSegs",
            "OutSegs",
            "RetransSegs",
            "InErrs",
            "OutRsts",
        ],
    ),
    (
        "Udp",
        &[
            "InDatagrams",
            "NoPorts",
            "InErrors",
            "OutDatagrams",
            "RcvbufErrors",
            "SndbufErrors",
        ],
    ),
    (
        "Ip",
        &[
            "InReceives",
            "InDiscards",
            "OutRequests",
            "OutDiscards",
            "OutNoRoutes",
        ],
    ),
];

impl Reader for Protocols {
    fn name(&self) -> &'static str {
        "protocols"
    }

    fn read(&mut self, recorder: &mut Recorder, _seconds: f64) -> io::Result<()> {
        let text = self.0.read()?;
        for (protocol, counters) in COUNTERS {
            let mut lines = text
                .lines()
                .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
            let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
                continue;
            };
            let lower = protocol.to_ascii_lowercase();
            for counter in counters {
                let position = names.split(' ').position(|name| name == *counter);
                let value = position
                    .and_then(|position| values.split(' ').nth(position))
                    .map_or(f64::NAN, number);
                let labels = [("network.transport", lower.as_str()), ("counter", *counter)];
                recorder.record("system.linux.network.protocol", "{event}", &labels, value);
            }
        }
        Ok(())
    }
}
