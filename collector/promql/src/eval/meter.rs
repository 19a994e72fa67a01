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
}

impl Meter {
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken) -> Self {
        Self {
            deadline,
            cancel,
            since_look: Cell::new(0),
        }
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
