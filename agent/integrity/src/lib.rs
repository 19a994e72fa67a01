//! Integrity: files that should not change, what became of them, and who did it.
//!
//! What is watched ([`class`]) is written down once, quietly: metadata, and SHA-256 at a slow pace. From then on every
//! difference from this **baseline** is looked at, explained or not, and told as a row of `integrity_events`; one that
//! nothing explains is a finding, until the file is as it was or somebody accepts it (`fleetmend-agent integrity`).
//!
//! # How a change is known
//! By the facts of files that pass through the hub ([`Eye`]), else by inotify; and by scans, which also find what
//! changed while the agent was off. An event only ever makes a file be *looked at*: what is told is what lies on disk.
//! A burst on one file is one look, one second after its beginning. An open for writing is told by the kernel, a write
//! is not: a file that stays open is followed until it is closed.
//!
//! # Who did it
//! The last process that is proven to have touched this very file before it changed (`who`): by device and inode, or by
//! its path if the process lives and has the host's root. The path alone never names anyone. Nobody is better than
//! somebody else: what cannot be proven is in the finding as such.
//!
//! # Invariants
//! - The hub's thread never waits and reads nothing ([`Eye`]); what it cannot hand over is counted and scanned for.
//! - What cannot be read is unknown: it neither raises nor resolves anything.
//! - A change counts as a package manager's only when a process above the writer runs the package manager's own file
//!   (by inode), and the database agrees or changed meanwhile.
//! - Memory is bounded in files, in files that wait, in findings and in writers; a limit that is reached is told.
//! - The baseline survives kill −9 and a full disk: it is replaced whole or not at all, and a damaged one is told.
//!
//! # Threads and channels
//! `integrity` judges. `integrity-scan` reads everything, in the idle class and at a declared pace; it has one order at
//! a time. `integrity-write` puts bytes on disk. Messages from the hub: 4,096, dropped and counted when full. Reports of
//! the scanner: 4, it waits. Facts go to the hub's channel; 4,096 wait when it is full, then rows become a gap.

mod books;
mod changed;
pub mod class;
pub mod config;
pub mod error;
mod explain;
mod eye;
mod keeper;
mod metrics;
mod notify;
mod package;
mod pattern;
mod priority;
mod queue;
mod report;
mod scan;
mod state;
mod store;
mod task;
mod watch;
mod who;

pub use class::Class;
pub use config::Config;
pub use error::RequestError;
pub use eye::Eye;
pub use scan::Paused;
pub use task::{Control, Parts, start};
pub use who::{Ancestor, Ancestry};

use fleetmend_event::Fact;

/// Where the room's facts go.
pub trait Outlet: Send {
    /// Takes a fact without waiting, or gives it back when there is no room.
    ///
    /// # Errors
    /// The fact itself.
    fn offer(&self, fact: Fact) -> Result<(), Fact>;
}

#[cfg(test)]
mod tests;
