//! When blocking work has to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::QueryError;

/// Told to work that blocks: its caller went away, or its time ran out.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    gone: Arc<AtomicBool>,
    deadline: Instant,
    timeout: Duration,
}

/// Says that the caller went away when it is dropped.
#[derive(Debug)]
pub(crate) struct DeadlineGuard(Arc<AtomicBool>);

impl Drop for DeadlineGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Deadline {
    /// So much time from now on, and until the guard is dropped.
    pub(crate) fn after(left: Duration, timeout: Duration) -> (Self, DeadlineGuard) {
        let gone = Arc::new(AtomicBool::new(false));
        let now = Instant::now();
        let stop = Self {
            gone: gone.clone(),
            deadline: now.checked_add(left).unwrap_or(now),
            timeout,
        };
        (stop, DeadlineGuard(gone))
    }

    /// Fails when the work has to end.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(QueryError::Closed);
        }
        if Instant::now() >= self.deadline {
            return Err(QueryError::Timeout {
                timeout: self.timeout,
            });
        }
        Ok(())
    }
}
