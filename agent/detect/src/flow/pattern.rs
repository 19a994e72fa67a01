//! Distinct values over time, bounded.

/// Most values that one set remembers; what is compared with must be less.
const VALUES_MAX: usize = 96;

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
            known.1 = known.1.max(now);
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
        let since = now.saturating_sub(span);
        let recent = self.values.iter().filter(|(_, seen, _)| *seen >= since);
        recent.fold(Count { all: 0, failed: 0 }, |count, (.., failed)| Count {
            all: count.all + 1,
            failed: count.failed + usize::from(*failed),
        })
    }
}
