//! The kernel's events: loads the probe families, drains their rings, and makes facts of the records.
//!
//! Each family (`fleetmend_ebpf::Family`) is an object of its own with a ring of its own. One that the kernel
//! refuses (no permission, no BTF, a hook that is missing, the verifier) is reported with the kernel's own words
//! and leaves the others as they are. What stands in for families that are refused is the choice of [`crate::source`].
//!
//! The rings wake nobody: a thread looks every [`BpfConfig::drain_busy_ms`] while much comes, and backs off to
//! [`BpfConfig::drain_idle_ms_max`] while little or nothing does, which keeps the traced programs fast and an idle
//! host idle.
//!
//! Invariants:
//! - every event that a probe saw is delivered as a fact or counted in a [`fleetmend_event::table::Gap`]: with
//!   stage `kernel` and reason `ring_full` (or `probe_busy`, when the kernel skipped the probe) when it never came,
//!   with stage `collect` when the channel was full or the record could not be read; a gap waits until the channel
//!   takes it;
//! - in a pid namespace of its own every family is DEGRADED: the kernel counts processes in the initial one;
//! - each family has a [`fleetmend_event::table::ProbeStatus`] at the start, when it changes, and every minute; one that
//!   lost events within the last minute is DEGRADED, not REAL;
//! - at the slowest pace ([`crate::pace::Pace::Executions`]) all but executions, kills for lack of memory, the families of
//!   the critical lane and acts on watched files is read, remembered by the inventory, and counted in a gap with stage
//!   `collect` and reason `budget`;
//! - a row is made once the ring of processes holds nothing that happened before its record;
//! - the drain never waits for the channel but at its end, for a second, and holds no more than two batches of records;
//! - process times (`start_boot_ns`) are rounded as [`crate::process::ProcessKey`] says.
//!
//! Tasks: `sensor-drain` (thread, critical: without it events are lost without an end), `process-observer`
//! (thread, critical) and `syscall-profile` (thread, best effort). Channel: the bounded one that wiring gives.
//!
//! Privileges: [`BpfSensor::load`] needs CAP_BPF and CAP_PERFMON (or root); today the agent itself is the loader,
//! once, before it reads any input. [`BpfSensor::run`] needs no more than the descriptors it holds (on kernels before
//! 5.19 with `unprivileged_bpf_disabled` reading the counters needs CAP_BPF still), so the sandbox is set between the
//! two.
//!
//! Limits: TCP only; the process that accepted is known once it acts on the connection itself, before that the
//! listening one is named; connections that were open at the start have no duration.

mod board;
mod bypass;
mod calls;
mod clock;
mod config;
mod credential;
mod diagnose;
mod drain;
mod enrich;
mod error;
mod family;
mod file;
mod kernel;
mod listeners;
mod loss;
mod memory;
pub(crate) mod metric;
mod namespace;
mod network;
mod outlet;
mod preflight;
mod process;
mod profile;
mod reachable;
mod repeats;
mod resource;
mod returns;
mod sensor;
mod signal;
mod source;
mod spec;
mod toll;
mod tracefs;

#[cfg(test)]
mod tests;

pub use board::{Account, DutyReport, FamilyReport, SensorBoard};
pub use clock::BootClock;
pub use config::{BpfConfig, CpuPctMax};
pub(crate) use enrich::text;
pub use error::FamilyError;
pub use file::FilesConfig;
pub(crate) use outlet::Outlet;
pub use preflight::{Forecast, PreflightError, forecast};
pub use profile::{ProfileConfig, ProfileHandle};
pub use sensor::BpfSensor;
