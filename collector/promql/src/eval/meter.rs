//! What an evaluation may still cost: its deadline, and whether anybody waits for it.

use std::cell::Cell;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::error::QueryError;

/// Values handled between two looks at the clock: well under a millisecond.
const VALUES_BETWEEN_LOOKS: usize = 1 << 16;

/// Watches one evaluation.
pub(crate) struct Meter {
    deadline: Instant,
    cancel: CancellationToken,
    since_look: Cell<usize>,
    held: Cell<usize>,
}

/// Values that stay in memory while something else is computed; they count until it is dropped.
#[must_use]
pub(crate) struct Held<'m> {
    meter: &'m Meter,
    values: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let held = self.meter.held.get().saturating_sub(self.values);
        self.meter.held.set(held);
    }
}

impl Meter {
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken) -> Self {
        Self {
            deadline,
            cancel,
            since_look: Cell::new(0),
            held: Cell::new(0),
        }
    }

    /// Counts values that are kept while what comes next is computed.
    pub(crate) fn hold(&self, values: usize) -> Held<'_> {
        self.held.set(self.held.get().saturating_add(values));
        Held { meter: self, values }
    }

    /// Values that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Counts work, and ends the evaluation when it must.
    pub(crate) fn tick(&self, values: usize) -> Result<(), QueryError> {
        let since = self.since_look.get().saturating_add(values);
        if since < VALUES_BETWEEN_LOOKS {
            self.since_look.set(since);
            return Ok(());
        }
        self.since_look.set(0);
        self.look()
    }

    pub(crate) fn look(&self) -> Result<(), QueryError> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Canceled("expression evaluation"));
        }
        if Instant::now() >= self.deadline {
            return Err(QueryError::Timeout("expression evaluation"));
        }
        Ok(())
    }
}
