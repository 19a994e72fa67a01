//! Tasks with a name, a kind and an ordered end.
//!
//! Every task and every long-lived thread of a Fleetmend process is started through [`Tasks`], a tree whose
//! root is the process. The tree knows what runs, what a failure of it means ([`TaskKind`]), and in which
//! order it ends.
//!
//! # Invariants
//! - A drain begins once, with one reason: a signal, a call of [`Tasks::begin`], or a critical task that
//!   failed, panicked or ended early. Later reasons are logged and otherwise ignored.
//! - Children end before their parent: a node's token is cancelled only when nothing runs below it. So what
//!   produces is put in a child of what it feeds, and the consumer sees the last of its input.
//! - Nothing waits for ever: each level of the tree has its share of the deadline. What still runs then is a
//!   *straggler*: it is named in the [`DrainReport`], aborted when it is a future, left behind when it is a
//!   thread (the process ends anyway), and its parent goes on.
//! - A panic stays in its task; it counts as an error of that task.
//!
//! # Tasks and channels
//! The room has no queue. A `watch` counter tells a drain that something ended; [`listen_for_signals`] gives a
//! `watch` that counts requests to reload.

mod backoff;
mod node;
mod report;
mod restart;
mod signals;
mod tasks;

#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use report::{DrainReport, End};
pub use signals::listen_for_signals;
pub use tasks::{TaskKind, Tasks};
pub use tokio_util::sync::CancellationToken;

/// What a task may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
