//! Second sources: what tells of processes, files, credentials and connections where eBPF is refused.
//!
//! For each [`Kind`] of event exactly one source is chosen at the start ([`Sources::choose`]) and shown as the probe
//! `source.<kind>`: REAL, DEGRADED with what it misses, or BROKEN with what would mend it. The order is the kernel's
//! own probes, auditd's log ([`audit`]), the process connector ([`connector`]) or the socket tables ([`sockets`]),
//! and for processes readings of /proc; a name in the configuration takes the place of the order.
//!
//! Invariants:
//! - a kind is never delivered twice: every fact of a source passes [`delivery::Delivery`], which lets through the
//!   kinds that were chosen for it, and a family of probes that another source stands in for is unloaded;
//! - what a source could not learn in time is missing, never made up: arguments that were not caught are an exec with
//!   `args_truncated` and no arguments;
//! - what a source knows that it lost is a gap; what it cannot know that it misses stands in its probe's reason;
//! - rights are used once: the connector is joined before the sandbox, which takes CAP_NET_ADMIN away.
//!
//! Tasks, each a thread and critical, so that one that ends is told and the agent begins again: `connector`, `audit`,
//! `socket-tables`; `sources`, which writes the rows of the probes. Channels: the facts' (dropped, counted, a gap);
//! [`audit::RecordSender`] for whoever matches raw audit records (dropped and counted when full).

pub mod audit;
mod choice;
mod config;
mod connector;
mod delivery;
pub(crate) mod metric;
mod run;
mod sockets;
mod survey;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use config::SourcesConfig;
pub use run::{Rights, Sources};

/// What is told by one source each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Forks, executions and ends.
    Processes,
    /// Files opened for writing, renamed, removed and so on.
    Files,
    /// Connections and listeners.
    Network,
    /// Changes of users, groups and capabilities.
    Credentials,
    /// ptrace and its like.
    Memory,
    /// Modules, mounts, namespaces.
    Kernel,
    /// Signals and faults.
    Signals,
}

/// Where a kind may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// The first that works.
    Auto,
    /// The agent's probes in the kernel.
    Ebpf,
    /// The log of auditd.
    Audit,
    /// The kernel's process connector.
    Connector,
    /// The kernel's socket tables.
    SocketTable,
    /// Readings of /proc.
    Proc,
    /// Nothing: the kind is not told.
    Off,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Processes,
        Self::Files,
        Self::Network,
        Self::Credentials,
        Self::Memory,
        Self::Kernel,
        Self::Signals,
    ];

    /// Its key in the configuration and in the probe's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Files => "files",
            Self::Network => "network",
            Self::Credentials => "credentials",
            Self::Memory => "memory",
            Self::Kernel => "kernel",
            Self::Signals => "signals",
        }
    }

    /// The probe that says how the kernel's own family for it stands.
    pub const fn family_probe(self) -> &'static str {
        match self {
            Self::Processes => "bpf.process",
            Self::Files => "bpf.file",
            Self::Network => "bpf.network",
            Self::Credentials => "bpf.credential",
            Self::Memory => "bpf.memory",
            Self::Kernel => "bpf.kernel",
            Self::Signals => "bpf.signal",
        }
    }

    /// The sources that can tell it, the best first.
    pub const fn sources(self) -> &'static [SourceName] {
        use SourceName::{Audit, Connector, Ebpf, Proc, SocketTable};
        match self {
            Self::Processes => &[Ebpf, Audit, Connector, Proc],
            Self::Network => &[Ebpf, Audit, SocketTable],
            Self::Credentials | Self::Memory => &[Ebpf, Audit, Connector],
            Self::Files | Self::Kernel | Self::Signals => &[Ebpf, Audit],
        }
    }
}

impl SourceName {
    /// Its name in the configuration and in reasons.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Audit => "audit",
            Self::Connector => "connector",
            Self::SocketTable => "socket_table",
            Self::Proc => "proc",
            Self::Off => "off",
        }
    }
}
