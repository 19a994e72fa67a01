//! Collect: everything the agent reads from its host becomes facts here.
//!
//! Sources: the kernel's events over BPF ([`bpf`]) or, where it is refused, from elsewhere ([`source`]), processes ([`process`]), host metrics ([`host`]), systemd
//! units ([`unit`]), web sites ([`site`]) and logs ([`log`]). Each says in `probe_status` how much of its promise it keeps.
//!
//! Invariants: no source waits for the hub — what does not fit is dropped, counted, and becomes a gap row
//! ([`FactSink`]); secrets in arguments are masked ([`masking`]) before a fact leaves this room; a value that
//! could not be read is missing, never zero; a fault of ours is never reported as a fault of the target. What the
//! agent's budget does not allow ([`pace`]) is left out with a gap and a DEGRADED probe.

pub mod bpf;
pub mod config;
pub mod host;
pub mod log;
pub mod masking;
mod metrics;
pub mod pace;
pub mod process;
mod sink;
pub mod site;
pub mod source;
pub mod unit;
mod vigil;

pub use config::{CollectConfig, SiteConfig};
pub use pace::{Pace, PaceHandle};
pub use sink::FactSink;
pub use source::{Sources, SourcesConfig};
