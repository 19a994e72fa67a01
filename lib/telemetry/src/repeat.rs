use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets one of many equal log lines through per period, and counts the others.
///
/// Used through [`log_at_most!`](crate::log_at_most), or held as a field where the limit belongs to one peer.
#[derive(Debug)]
pub struct RateLimited {
    every: Duration,
    state: Mutex<Repeats>,
}

#[derive(Debug)]
struct Repeats {
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimited {
    /// At most one line per `every`.
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            state: Mutex::new(Repeats {
                last: None,
                suppressed: 0,
            }),
        }
    }

    /// How many lines were held back since the last one, when it is time for another; otherwise none.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    pub(crate) fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let due = state
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if !due {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// A `tracing` line that appears at most once per so many seconds at this place, with the number held back:
/// `log_at_most!(10, warn, path = %path.display(), "spool is full")`.
#[macro_export]
macro_rules! log_at_most {
    ($seconds:expr, $level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::RateLimited =
            $crate::RateLimited::new(::std::time::Duration::from_secs($seconds));
        if let Some(suppressed) = LIMIT.admit() {
            $crate::tracing::$level!(suppressed, $($line)+);
        }
    }};
}
