//! The healer: the one process that acts on the host, and trusts nobody's word for it.
//!
//! It runs as root, apart from the agent, with a Unix socket as its only door. The agent proposes; the healer
//! looks for itself, asks its guards, and does at most what a policy signed by the fleet root allows:
//!
//! `proposal → sight → guards → journal → check → apply → verify → healed, or undo`
//!
//! # Invariants
//! - **Deny by default.** Without a policy, with one that expired, or in observe mode it changes nothing and
//!   says what it would do ([`guard`]). A policy ([`policy`]) is verified when it comes and at every start; an
//!   older one is refused. The protected set ([`protect`]) wins over any policy.
//! - **It sees for itself.** Before it acts it measures what the finding says: CPU use of the very process
//!   (pid with start time, held by pidfd), space of the filesystem, state of the unit. What does not hold, or
//!   cannot be seen, is refused.
//! - **Five endings** and no other. Each step is synced to the [`journal`] before the next begins; whatever
//!   was under way when the process died is brought to rest at the next start, before anything new.
//! - **Everything is in the [`ledger`]**, a hash chain that is verified at every start. A ledger that is
//!   broken or full stops all acting for good; one that cannot be written now stops what was to be recorded.
//! - **Its trust follows the fleet's, by itself.** After a rotation of the root it believes a newer trust bundle
//!   when a root of the one before signed it ([`engine::Healer::advance_trust`]); the agent only carries it. Versions
//!   never go back, and what a retired root signed is not in force any more.
//! - A limit that healed is taken off again by itself after the time its grant says.
//! - Stopping is for every peer, resuming for root only. A clock set back makes no expired policy good;
//!   only root can say, for the record, that one which ran ahead has been set right.
//!
//! # Tasks and channels
//! `accept`; per connection `connection`, `answers` (queue of 64, a slow client waits alone) and `follow`;
//! `upkeep` each second; one thread per transaction, at most 4. A `watch` tells followers of new entries.
//!
//! # What is thin
//! Four remedies. No approval by a second person, no fleet budget as leases, no orders from the collector: only
//! the policy and proposals of the local agent. Time is the system clock, not below the ledger's last entry.
//! The ledger is one file that is verified whole at start, and its head is countersigned by nobody yet. It has
//! no listener for metrics; they are counted, and shown by nobody yet.

pub(crate) mod anchors;
pub mod clock;
pub mod command;
pub mod config;
pub mod engine;
pub mod error;
pub mod glob;
pub mod guard;
pub mod history;
pub mod interrupt;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod policy;
pub mod procfs;
pub mod protect;
pub mod remedy;
pub mod server;
pub mod task;
mod words;
