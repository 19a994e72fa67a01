//! Distinct values over time, bounded.

/// Most values that one set remembers; what is compared with must be less.
const VALUES_MAX: usize = 96;
/// What was seen later than this after now was seen by a clock that was set back since.
const AHEAD_NS: u64 = 60_000_000_000;

/// Distinct values with when each was seen last and whether that failed.
pub(super) struct Distinct<T> {
    values: Vec<(T, u64, bool)>,
}

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        Self { values: Vec::new() }
    }
}

/// How many distinct values there are, and how many of them failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) all: usize,
    pub(super) failed: usize,
}

impl<T: Copy + PartialEq> Distinct<T> {
    /// Notes a value at `now`; the one that was not seen for longest makes room.
    pub(super) fn note(&mut self, value: T, now: u64, failed: bool) {
        if let Some(known) = self.values.iter_mut().find(|(known, ..)| *known == value) {
            let ahead = known.1 > now.saturating_add(AHEAD_NS);
            known.1 = if ahead { now } else { known.1.max(now) };
            known.2 = failed;
            return;
        }
        if self.values.len() >= VALUES_MAX {
            let eldest = self
                .values
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, seen, _))| *seen);
            if let Some(index) = eldest.map(|(index, _)| index) {
                self.values.swap_remove(index);
            }
        }
        self.values.push((value, now, failed));
    }

    /// What was seen within `span` before `now`.
    pub(super) fn within(&self, now: u64, span: u64) -> Count {
        let times = now.saturating_sub(span)..=now.saturating_add(AHEAD_NS);
        let recent = self.values.iter().filter(|(_, seen, _)| times.contains(seen));
        recent.fold(Count { all: 0, failed: 0 }, |count, (.., failed)| Count {
            all: count.all + 1,
            failed: count.failed + usize::from(*failed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_clock_that_was_ahead_are_not_of_the_last_minute() {
        const HOUR: u64 = 3_600_000_000_000;
        let mut values = Distinct::default();
        for value in 0..30 {
            values.note(value, 2 * HOUR, true);
        }
        values.note(99, HOUR, false);
        let count = values.within(HOUR, 60_000_000_000);
        assert_eq!(count, Count { all: 1, failed: 0 });
        values.note(0, HOUR, true);
        let count = values.within(HOUR, 60_000_000_000);
        assert_eq!(
            count,
            Count { all: 2, failed: 1 },
            "seen again by the right clock"
        );
    }
}
