//! What the time is. A clock that was set back must not make an expired policy good, so time is never below the
//! ledger's last entry. A clock that ran ahead for a while, and was set right, leaves entries of the future: that
//! this is what happened cannot be told from here, and is for root to say. It is recorded.

use std::io::ErrorKind;
use std::sync::PoisonError;

use fleetmend_event::TimeMicros;

use super::known::ProposalRate;
use super::{Healer, State};
use crate::ledger::{Body, Kind};

/// A clock that is further behind the ledger than steps of a time service are.
const BEHIND_US: i64 = 60_000_000;

/// The time below which it is not, after an entry.
pub(super) fn floor_after(floor: TimeMicros, kind: Kind, time: TimeMicros) -> TimeMicros {
    match kind {
        Kind::Clock => time,
        _ => floor.max(time),
    }
}

impl Healer {
    pub(super) fn now(&self) -> TimeMicros {
        self.now_of(&self.state())
    }

    pub(super) fn now_of(&self, state: &State) -> TimeMicros {
        self.inner.clock.now().max(state.time_floor)
    }

    /// Takes the clock of the host over when root says so, and says when it is to be looked at.
    pub(super) fn notice_clock(&self) {
        self.warn_of_clock();
        match std::fs::remove_file(self.inner.options.accept_clock_file()) {
            Ok(()) => self.accept_clock(),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "word of root on the clock cannot be taken"),
        }
    }

    fn warn_of_clock(&self) {
        let mut state = self.state();
        let behind = state.time_floor.micros_since(self.inner.clock.now()) > BEHIND_US;
        if behind && !state.clock_behind {
            tracing::error!(
                ledger = %state.time_floor,
                "clock of the host is behind the ledger: if it is right, say so with fleetmend-healer accept-clock"
            );
        }
        state.clock_behind = behind;
    }

    fn accept_clock(&self) {
        let proposing = self.inner.proposing.lock();
        let mut rate = proposing.unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let (time, floor) = (self.inner.clock.now(), state.time_floor);
        if time >= floor {
            return;
        }
        let version = state.policy.current().map_or(0, |policy| policy.version);
        let note = format!("root says that the clock is right: it is {time}, not {floor}");
        match self.append(&mut state, time, Body::note(Kind::Clock, version, note), None) {
            Ok(()) => {
                *rate = ProposalRate::default();
                tracing::warn!(before = %floor, "clock of the host was taken over");
            }
            Err(error) => tracing::error!(%error, "clock was not taken over: that cannot be recorded"),
        }
    }
}
