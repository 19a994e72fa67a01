//! The hosts that this collector stores for: their fencing tokens, and what is known of their records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fleetmend_event::{HostId, Mark, RecordId, TimeMicros};
use parking_lot::Mutex;

use super::ledger::Taken;
use crate::admit::{Admitted, admit};
use crate::commit::PreparedCommit;
use crate::error::CommitError;
use crate::mark::{Marks, Pending, StreamKey};

/// A host that did not commit for so long is forgotten here; its next commit or hello brings it back.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// The hosts.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    tokens: HashMap<HostId, Token>,
    marks: Marks,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    number: i64,
    used: Instant,
}

impl Hosts {
    /// The token under which a host is held.
    pub(super) fn token(&self, host: HostId) -> Option<i64> {
        let mut held = self.held.lock();
        let token = held.tokens.get_mut(&host)?;
        token.used = Instant::now();
        Some(token.number)
    }

    /// Holds a host with what the ledger says of it.
    pub(super) fn hold(&self, host: HostId, taken: Taken) {
        let mut held = self.held.lock();
        held.marks.forget_host(host);
        for (id, digest) in taken.digests {
            held.marks
                .raise((host, id.epoch, id.lane), id.sequence.0, digest, TimeMicros(0));
        }
        for (mark, seen_at) in taken.marks {
            held.marks
                .raise((host, mark.epoch, mark.lane), mark.sequence.0, None, seen_at);
        }
        let token = Token {
            number: taken.token,
            used: Instant::now(),
        };
        held.tokens.insert(host, token);
    }

    /// Lets a host go that is held under `token`: what is known of it is true no more.
    pub(super) fn let_go(&self, host: HostId, token: i64) {
        let mut held = self.held.lock();
        if held.tokens.get(&host).is_some_and(|held| held.number == token) {
            held.tokens.remove(&host);
            held.marks.forget_host(host);
        }
    }

    /// Lets hosts go that were silent for long.
    pub(super) fn let_go_silent(&self) {
        let mut held = self.held.lock();
        let Held { tokens, marks } = &mut *held;
        tokens.retain(|host, token| {
            let stays = token.used.elapsed() < FORGOTTEN_AFTER;
            if !stays {
                marks.forget_host(*host);
            }
            stays
        });
    }

    /// Judges a commit; see [`admit`].
    pub(super) fn admit(
        &self,
        pending: &mut Pending,
        host: HostId,
        prepared: PreparedCommit,
    ) -> Result<Admitted, CommitError> {
        admit(&self.held.lock().marks, pending, host, prepared)
    }

    /// Makes what was pending true, and what came before `begun` streams known.
    pub(super) fn apply(&self, pending: &Pending, begun: &[StreamKey], now: TimeMicros) {
        let mut held = self.held.lock();
        held.marks.apply(pending, now);
        for key in begun {
            held.marks.raise(*key, 0, None, now);
        }
    }

    /// The marks of a host.
    pub(super) fn marks_of(&self, host: HostId) -> Vec<Mark> {
        self.held.lock().marks.of_host(host)
    }

    /// The marks of streams.
    pub(super) fn marks(&self, streams: &[StreamKey]) -> Vec<Mark> {
        let held = self.held.lock();
        streams.iter().map(|key| held.marks.of_stream(*key)).collect()
    }

    /// When a host was last heard of.
    pub(super) fn last_of(&self, host: HostId) -> Option<TimeMicros> {
        self.held.lock().marks.last_of_host(host)
    }

    /// Allows the next record of a stream to be any up to `id`.
    pub(super) fn declare_lost(&self, host: HostId, id: RecordId) {
        self.held.lock().marks.declare_lost(host, id);
    }
}
