//! What is kept of the matches of one correlation: in the order of their events, not of their coming.

use std::collections::{HashMap, VecDeque};

use crate::metrics;

/// Groups of one correlation.
const GROUPS_MAX: usize = 4_096;
/// Matches that one group keeps.
pub(super) const ENTRIES_MAX: usize = 4_096;
/// Matches that all groups of one correlation keep: with the longest values some 64 MiB.
const KEPT_MAX: usize = 65_536;
/// What is kept of the matches of one correlation.
#[derive(Debug, Default)]
pub(crate) struct Window {
    groups: HashMap<Vec<String>, Group>,
    /// Matches of all groups.
    kept: usize,
    /// Matches that came, ever.
    came: u64,
}

/// The matches of one group. Those from before its timespan are kept apart: a log that was read late, or a clock that
/// was put back, spoils nothing of what is there, and what they come to themselves counts.
#[derive(Debug, Default)]
struct Group {
    run: Run,
    behind: Run,
    /// The number of its last match.
    came: u64,
}

/// Matches within one timespan.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// In the order of their times.
    pub(super) entries: VecDeque<Entry>,
    /// The latest of their times.
    pub(super) last: i64,
    /// When it fired.
    pub(super) fired: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) time: i64,
    pub(super) rule: usize,
    pub(super) value: Option<String>,
}

impl Run {
    fn takes(&self, time: i64, span_us: i64) -> bool {
        self.entries.is_empty() || time >= self.last.saturating_sub(span_us)
    }

    fn add(&mut self, entry: Entry, span_us: i64) {
        self.last = if self.entries.is_empty() {
            entry.time
        } else {
            self.last.max(entry.time)
        };
        let from = self.last.saturating_sub(span_us);
        while self.entries.front().is_some_and(|first| first.time < from) {
            self.entries.pop_front();
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.pop_front();
            metrics::correlation_evicted("match", 1);
        }
        let place = self.entries.partition_point(|other| other.time <= entry.time);
        self.entries.insert(place, entry);
    }
}

impl Group {
    fn len(&self) -> usize {
        self.run.entries.len().saturating_add(self.behind.entries.len())
    }
}

impl Window {
    /// Adds a match to its group; the run that it is of.
    pub(super) fn add(&mut self, key: Vec<String>, entry: Entry, span_us: i64) -> &mut Run {
        self.make_room(entry.time.saturating_sub(span_us));
        self.came = self.came.wrapping_add(1);
        let Self { groups, kept, came } = self;
        let group = groups.entry(key).or_default();
        group.came = *came;
        *kept = kept.saturating_sub(group.len());
        let Group { run, behind, .. } = group;
        let (taken, other) = if run.takes(entry.time, span_us) {
            (run, behind)
        } else {
            if !behind.takes(entry.time, span_us) {
                metrics::correlation_evicted("match", behind.entries.len());
                *behind = Run::default();
            }
            (behind, run)
        };
        taken.add(entry, span_us);
        *kept = kept
            .saturating_add(taken.entries.len())
            .saturating_add(other.entries.len());
        taken
    }

    /// Forgets the groups that were quiet longest when they or their matches are too many. Those whose last match is
    /// from before `from` are over; the others are counted.
    fn make_room(&mut self, from: i64) {
        while !self.has_room() {
            let mut came: Vec<u64> = self.groups.values().map(|group| group.came).collect();
            came.sort_unstable();
            // An eighth at once, so that this is not done for every event.
            let until = came.get(came.len() / 8).copied().unwrap_or(u64::MAX);
            let mut forgotten = 0_usize;
            self.groups.retain(|_, group| {
                let goes = group.came <= until;
                let is_over = group.run.last < from && group.behind.last < from;
                forgotten = forgotten.saturating_add(usize::from(goes && !is_over));
                !goes
            });
            metrics::correlation_evicted("group", forgotten);
            self.kept = self.groups.values().map(Group::len).sum();
        }
    }

    fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_MAX && self.kept < KEPT_MAX
    }

    /// Matches that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        let counted: usize = self.groups.values().map(Group::len).sum();
        assert_eq!(counted, self.kept);
        counted
    }

    /// Groups that are kept.
    #[cfg(test)]
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }
}
