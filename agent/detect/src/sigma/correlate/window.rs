//! What is kept of the matches of one correlation: in the order of their events, not of their coming.

use std::collections::{HashMap, VecDeque};

use crate::metrics;

/// Groups of one correlation.
const GROUPS_MAX: usize = 4_096;
/// Matches that one group keeps.
pub(super) const ENTRIES_MAX: usize = 4_096;
/// Matches that all groups of one correlation keep: with the longest values some 64 MiB.
const KEPT_MAX: usize = 65_536;
/// Matches in a row that are from before a group's timespan, and its clock was put back.
const BEHIND_MAX: usize = 3;

/// What is kept of the matches of one correlation.
#[derive(Debug, Default)]
pub(crate) struct Window {
    groups: HashMap<Vec<String>, Group>,
    /// Matches of all groups.
    kept: usize,
}

/// The matches of one group. Those from before its timespan are kept apart: a log that was read late, or a clock that
/// was put back, spoils nothing of what is there, and what they come to themselves counts.
#[derive(Debug, Default)]
struct Group {
    run: Run,
    behind: Run,
    /// Matches that went behind since the last one that did not.
    in_a_row: usize,
    /// The time of the run that took the last match.
    touched: i64,
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

    /// Adds a match.
    fn add(&mut self, entry: Entry, span_us: i64) {
        if self.run.takes(entry.time, span_us) {
            self.in_a_row = 0;
        } else {
            self.in_a_row = self.in_a_row.saturating_add(1);
            if !self.behind.takes(entry.time, span_us) {
                self.behind = Run::default();
            }
            if self.in_a_row > BEHIND_MAX {
                self.run = std::mem::take(&mut self.behind);
                self.in_a_row = 0;
            }
        }
        let run = self.latest();
        run.add(entry, span_us);
        self.touched = run.last;
    }

    /// The run that took the last match.
    fn latest(&mut self) -> &mut Run {
        if self.in_a_row == 0 {
            &mut self.run
        } else {
            &mut self.behind
        }
    }
}

impl Window {
    /// Adds a match to its group; the run that it is of.
    pub(super) fn add(&mut self, key: Vec<String>, entry: Entry, span_us: i64) -> &mut Run {
        self.make_room(entry.time, span_us);
        let group = self.groups.entry(key).or_default();
        let before = group.len();
        group.add(entry, span_us);
        self.kept = self.kept.saturating_sub(before).saturating_add(group.len());
        group.latest()
    }

    /// Forgets groups whose timespan is over, and when they or their matches are too many, those that were quiet
    /// longest.
    fn make_room(&mut self, now: i64, span_us: i64) {
        if self.has_room() {
            return;
        }
        // A group of the time to come is of a clock that was put back since.
        let (from, until) = (now.saturating_sub(span_us), now.saturating_add(span_us));
        self.groups
            .retain(|_, group| group.touched >= from && group.touched <= until);
        self.count();
        if self.has_room() {
            return;
        }
        let mut times: Vec<i64> = self.groups.values().map(|group| group.touched).collect();
        times.sort_unstable();
        // An eighth at once, so that this is not done for every event.
        let wanted = (times.len() / 8).max(1);
        let until = times.get(wanted).copied().unwrap_or(i64::MAX);
        let mut left = wanted;
        let before = self.groups.len();
        self.groups.retain(|_, group| {
            let goes = left > 0 && group.touched <= until;
            left = left.saturating_sub(usize::from(goes));
            !goes
        });
        metrics::correlation_evicted("group", before.saturating_sub(self.groups.len()));
        self.count();
    }

    fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_MAX && self.kept < KEPT_MAX
    }

    fn count(&mut self) {
        self.kept = self.groups.values().map(Group::len).sum();
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
