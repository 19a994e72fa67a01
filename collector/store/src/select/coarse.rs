//! Windows of tiers in the place of samples that are gone, or that nobody asked for.
//!
//! # The seam
//! It is found by counting, series by series and window by window, and not by dates: files of one day expire at different
//! times, for their age or for their bytes, and late samples come when a day has expired long since. A window says how many
//! samples it was made of. Where as many are still there ([`Resolution::Finest`]) the samples stay and the window goes;
//! where some are gone the window stands for all, and what is left of them goes. So nothing counts twice and nothing falls
//! between the two. The same holds between a finer tier and a coarser one, by the sum of what the finer knows of.
//!
//! Samples and windows are therefore read for whole windows of the longest tier, and cut to the time asked for afterwards.
//! A window is given when its first and last sample reach into that time.
//!
//! # What is read
//! Tiers only for times of which samples may be gone: before the latest time of the oldest file of samples, or before the
//! table's age, whichever is later, and an hour more, for hosts whose clocks are wrong. Of a clock that is ahead by more
//! than that, windows may be missing next to the seam.

use std::collections::HashSet;
use std::sync::Arc;

use fleetmend_event::table::MetricChunk;
use fleetmend_event::{Table as _, TimeMicros};

use super::{Piece, Resolution, SeriesSelect, SeriesWindow, StoredSeries, TierSpan};
use crate::chunk::Wanted;
use crate::inner::Inner;
use crate::shape::table_index_by_name;
use crate::tier::{DAY_MICROS, LONGEST_MICROS, TIERS, Tier, Window};
use crate::view::ParquetFile;

/// What a window counts of the samples that a selection may give: so many take about the bytes of one.
pub(super) const WINDOW_SAMPLES: usize = 8;

/// How much a host's clock may be ahead for its windows to be looked for.
const CLOCK_MICROS: i64 = 3_600 * 1_000_000;

/// Before the latest window of a tier, how far back samples are read beside it: hosts whose clock is behind, or that send
/// late, have their latest windows earlier.
const RECENT_MICROS: i64 = 6 * 3_600 * 1_000_000;

/// What is read for a selection.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// First and last time of samples.
    pub(super) samples: (i64, i64),
    /// Tiers, the finest first.
    pub(super) tiers: Vec<TierPlan>,
}

/// What is read of a tier.
#[derive(Debug, Clone, Copy)]
pub(super) struct TierPlan {
    pub(super) tier: &'static Tier,
    /// Place of its table.
    pub(super) table: usize,
    /// First and last beginning of a window.
    pub(super) span: (i64, i64),
    /// Whether a window goes before samples of which there are as many.
    goes_first: bool,
}

impl Plan {
    /// Samples alone.
    pub(super) fn samples(span: (i64, i64)) -> Self {
        Self {
            samples: span,
            tiers: Vec::new(),
        }
    }

    /// What `select` needs; `files` are those of samples.
    pub(super) fn of(inner: &Inner, select: &SeriesSelect, files: &[Arc<ParquetFile>]) -> Self {
        match select.resolution {
            Resolution::Samples => Self::samples(select.span()),
            Resolution::Finest => Self::finest(inner, select.span(), files),
            Resolution::Windows { longest_us } => Self::windows(inner, select.span(), files, longest_us),
        }
    }

    fn finest(inner: &Inner, (from, to): (i64, i64), files: &[Arc<ParquetFile>]) -> Self {
        let gone = gone_until(inner, files);
        if from > gone {
            return Self::samples((from, to));
        }
        let until = to.min(gone);
        let tiers = TIERS
            .iter()
            .filter_map(|tier| TierPlan::of(tier, (from, until), false));
        Self {
            samples: (floor(from), end(until).max(to)),
            tiers: tiers.collect(),
        }
    }

    fn windows(inner: &Inner, (from, to): (i64, i64), files: &[Arc<ParquetFile>], longest_us: i64) -> Self {
        let Some(chosen) = TIERS.iter().rposition(|tier| tier.window_micros <= longest_us) else {
            return Self::finest(inner, (from, to), files);
        };
        let tiers = TIERS.iter().enumerate().skip(chosen);
        let tiers: Vec<TierPlan> = tiers
            .filter_map(|(place, tier)| TierPlan::of(tier, (from, to), place == chosen))
            .collect();
        let unmade = tiers
            .first()
            .and_then(|plan| unmade_from(inner, plan.table, files));
        let Some(unmade) = unmade else {
            return Self::finest(inner, (from, to), files);
        };
        Self {
            samples: (floor(from).max(unmade), to),
            tiers,
        }
    }
}

impl TierPlan {
    fn of(tier: &'static Tier, (from, to): (i64, i64), goes_first: bool) -> Option<Self> {
        // Whole windows of the longest tier, so that what is known of these can be counted; one window before says what
        // the first one grew from.
        let first = floor(from).saturating_sub(tier.window_micros);
        Some(Self {
            tier,
            table: table_index_by_name(tier.name)?,
            span: (first, end(to)),
            goes_first,
        })
    }

    /// Whether all samples of a window are among those that were read, so that nobody needs it. Each piece is in order.
    pub(super) fn is_needless(&self, window: &Window, pieces: &[Piece]) -> bool {
        let end = window.start.saturating_add(self.tier.window_micros);
        let known = pieces
            .iter()
            .map(|piece| samples_in(&piece.times, &piece.values, (window.start, end)));
        !self.goes_first && known.fold(0, i64::saturating_add) >= window.count
    }

    /// What of its files can matter.
    pub(super) fn wanted(&self, select: &SeriesSelect) -> Wanted {
        Wanted {
            names: select.names.clone(),
            hosts: select.hosts.clone(),
            from: self.span.0,
            to: self.span.1,
        }
    }
}

/// Until when, by the store's clock, samples may be gone. Files expire in the order of their latest times: whatever is later
/// than that of the oldest one left is still there.
fn gone_until(inner: &Inner, files: &[Arc<ParquetFile>]) -> i64 {
    let now = TimeMicros::now().0;
    let (days, _) = inner.config.retention.of_table(MetricChunk::NAME);
    let by_age = now.saturating_sub(i64::from(days).saturating_mul(DAY_MICROS));
    let oldest = files.iter().map(|file| file.true_to.0).min().unwrap_or(now);
    by_age.max(oldest).saturating_add(CLOCK_MICROS)
}

/// From when on samples may not have become windows of this tier yet; none where it has no windows at all. Its latest day is
/// still made anew, and days of before there were tiers never were made.
fn unmade_from(inner: &Inner, table: usize, files: &[Arc<ParquetFile>]) -> Option<i64> {
    let tier = inner.view.table(table).files;
    let newest = tier.iter().max_by_key(|file| file.to)?;
    let made: HashSet<i64> = tier.iter().map(|file| file.day).collect();
    // By the day a file belongs to: one clock that is wrong stretches its span over years.
    let unmade = files.iter().map(|file| file.day);
    let unmade = unmade.filter(|day| *day <= newest.day && !made.contains(day));
    // Samples of a file may be of the day before.
    let unmade = unmade
        .min()
        .map(|day| day.saturating_sub(1).saturating_mul(DAY_MICROS));
    let recent = newest.to.0.saturating_sub(RECENT_MICROS);
    Some(unmade.map_or(recent, |unmade| unmade.min(recent)))
}

/// The beginning of the longest window that `time` is in.
fn floor(time: i64) -> i64 {
    time.div_euclid(LONGEST_MICROS).saturating_mul(LONGEST_MICROS)
}

/// The last time of the longest window that `time` is in.
fn end(time: i64) -> i64 {
    floor(time).saturating_add(LONGEST_MICROS - 1)
}

/// Samples of one series, and the windows that stand where there are none.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) times: Vec<i64>,
    pub(super) values: Vec<f64>,
    pub(super) windows: Vec<SeriesWindow>,
}

impl Resolved {
    /// Puts the windows of a tier where they belong; those of finer ones are in their place already.
    pub(super) fn put(&mut self, plan: &TierPlan, mut windows: Vec<Window>) {
        // Of two of one time, as a series that was cut has them, the one that knows more.
        windows.sort_unstable_by_key(|window| (window.start, -window.count));
        windows.dedup_by_key(|window| window.start);
        let length = plan.tier.window_micros;
        let mut taken = Vec::new();
        let mut before = None;
        for window in &windows {
            let known = self.count(window.start, window.start.saturating_add(length));
            if window.count > known || (plan.goes_first && window.count == known) {
                taken.push(SeriesWindow::of(window, before, length));
            }
            before = Some(window);
        }
        if taken.is_empty() {
            return;
        }
        let times = std::mem::take(&mut self.times);
        let values = std::mem::take(&mut self.values);
        let left = times
            .into_iter()
            .zip(values)
            .filter(|(time, _)| !lies_in(&taken, *time));
        (self.times, self.values) = left.unzip();
        self.windows.retain(|window| !lies_in(&taken, window.start.0));
        self.windows.append(&mut taken);
        self.windows.sort_unstable_by_key(|window| window.start);
    }

    /// How many samples are known of from `start` to before `end`.
    fn count(&self, start: i64, end: i64) -> i64 {
        let samples = samples_in(&self.times, &self.values, (start, end));
        let first = self.windows.partition_point(|window| window.start.0 < start);
        let last = self.windows.partition_point(|window| window.start.0 < end);
        let windows = self.windows.get(first..last).unwrap_or_default();
        let counts = windows.iter().map(|window| window.count);
        counts.fold(samples, |sum, count| {
            sum.saturating_add(i64::try_from(count).unwrap_or(i64::MAX))
        })
    }

    /// What of it is of the time asked for, both ends included.
    pub(super) fn cut(&mut self, (from, to): (i64, i64)) {
        let end = self.times.partition_point(|time| *time <= to);
        self.times.truncate(end);
        self.values.truncate(end);
        let first = self.times.partition_point(|time| *time < from);
        self.times.drain(..first);
        self.values.drain(..first.min(self.values.len()));
        self.windows
            .retain(|window| window.first.0.0 <= to && window.last.0.0 >= from);
    }
}

/// How many samples were taken from `start` to before `end`.
fn samples_in(times: &[i64], values: &[f64], (start, end): (i64, i64)) -> i64 {
    let first = times.partition_point(|time| *time < start);
    let last = times.partition_point(|time| *time < end);
    let values = values.get(first..last).unwrap_or_default();
    i64::try_from(values.iter().filter(|value| !value.is_nan()).count()).unwrap_or(i64::MAX)
}

fn lies_in(windows: &[SeriesWindow], time: i64) -> bool {
    let after = windows.partition_point(|window| window.start.0 <= time);
    let window = after.checked_sub(1).and_then(|place| windows.get(place));
    window.is_some_and(|window| time < window.end().0)
}

/// The time that windows of each length stand for, over all series.
pub(crate) fn tiers_of(series: &[StoredSeries]) -> Vec<TierSpan> {
    let mut spans: Vec<TierSpan> = Vec::new();
    for window in series.iter().flat_map(|series| &series.windows) {
        let of_length = |span: &&mut TierSpan| span.window_us == window.length_us;
        match spans.iter_mut().find(of_length) {
            Some(span) => {
                span.from = span.from.min(window.start);
                span.to = span.to.max(window.end());
            }
            None => spans.push(TierSpan {
                window_us: window.length_us,
                from: window.start,
                to: window.end(),
            }),
        }
    }
    spans.sort_unstable_by_key(|span| span.window_us);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(length: i64, goes_first: bool) -> TierPlan {
        let tier = TIERS.iter().find(|tier| tier.window_micros == length).unwrap();
        TierPlan::of(tier, (0, i64::MAX), goes_first).unwrap()
    }

    const FIVE: i64 = 300_000_000;
    const HOUR: i64 = LONGEST_MICROS;

    /// A window of samples a minute apart.
    fn window(start: i64, count: i64) -> Window {
        let last = start + (count - 1) * 60_000_000;
        Window {
            start,
            count,
            sum: count as f64,
            min: 1.0,
            max: 1.0,
            first: (start, 1.0),
            last: (last, 1.0),
            resets: 0,
            increase: 0.0,
        }
    }

    /// A sample a minute, from minute `from` to before minute `to`.
    fn minutes(from: i64, to: i64) -> Resolved {
        let times: Vec<i64> = (from..to).map(|minute| minute * 60_000_000).collect();
        Resolved {
            values: vec![1.0; times.len()],
            times,
            windows: Vec::new(),
        }
    }

    fn told(resolved: &Resolved) -> (Vec<i64>, Vec<(i64, i64)>) {
        let minutes = resolved.times.iter().map(|time| time / 60_000_000);
        let windows = resolved.windows.iter();
        (
            minutes.collect(),
            windows
                .map(|window| (window.start.0 / 60_000_000, window.length_us / 60_000_000))
                .collect(),
        )
    }

    #[test]
    fn samples_stay_where_all_are_there_and_windows_stand_where_some_are_gone() {
        // Of the second window two samples are left, of the third all.
        let mut resolved = minutes(8, 15);
        let windows = vec![window(0, 5), window(FIVE, 5), window(2 * FIVE, 5)];
        resolved.put(&plan(FIVE, false), windows);
        assert_eq!(told(&resolved), ((10..15).collect(), vec![(0, 5), (5, 5)]));
        // Late samples make more than the window knows of.
        let mut resolved = minutes(0, 5);
        resolved.put(&plan(FIVE, false), vec![window(0, 4)]);
        assert_eq!(told(&resolved), ((0..5).collect(), vec![]));
        // A sample that could not be taken is none.
        let mut resolved = minutes(0, 5);
        resolved.values[2] = f64::NAN;
        resolved.put(&plan(FIVE, false), vec![window(0, 5)]);
        assert_eq!(told(&resolved), (vec![], vec![(0, 5)]));
    }

    #[test]
    fn coarser_window_stands_where_the_finer_ones_are_gone() {
        let mut resolved = minutes(110, 130);
        resolved.put(
            &plan(FIVE, false),
            (18..26).map(|n| window(n * FIVE, 5)).collect(),
        );
        let hours = (0..3).map(|hour| window(hour * HOUR, 60));
        resolved.put(&plan(HOUR, false), hours.take(2).collect());
        // Of the second hour the finer tier has half an hour only.
        assert_eq!(told(&resolved), ((120..130).collect(), vec![(0, 60), (60, 60)]));
    }

    #[test]
    fn window_that_was_asked_for_goes_before_as_many_samples() {
        let mut resolved = minutes(0, 12);
        resolved.put(&plan(FIVE, true), vec![window(0, 5), window(FIVE, 4)]);
        assert_eq!(told(&resolved), ((5..12).collect(), vec![(0, 5)]));
    }

    #[test]
    fn windows_are_given_when_they_reach_into_the_time() {
        let mut resolved = minutes(10, 20);
        resolved.put(&plan(FIVE, false), vec![window(0, 5), window(FIVE, 5)]);
        resolved.cut((4 * 60_000_000 + 1, 11 * 60_000_000));
        assert_eq!(told(&resolved), (vec![10, 11], vec![(5, 5)]));
    }
}
