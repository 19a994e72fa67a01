//! Scores of a detector that need no threshold: VUS-PR, AUC-PR, best F1. None uses point adjustment.

use crate::data::events;

/// Thresholds of VUS-PR, as TSB-AD has them.
const THRESHOLDS: usize = 250;

/// Volume under the precision-recall surface (Paparrizos et al., VLDB 2022), as TSB-AD 1.5 computes it.
///
/// Labels are widened by up to half the window with a falling weight; recall is multiplied by the share of events
/// that were touched; the area under precision over recall is averaged over all window lengths 0 to `window`.
pub(crate) fn vus_pr(label: &[bool], score: &[f64], window: usize) -> f64 {
    let events = events(label);
    let positives = label.iter().filter(|labelled| **labelled).count() as f64;
    let reached = reached(score);
    let mut predicted = vec![0.0; THRESHOLDS];
    for first in &reached {
        bump(&mut predicted, *first, 1.0);
    }
    cumulate(&mut predicted);
    let areas = (0..=window).map(|window| {
        let weight = widened(label, &events, window);
        let mut hit = vec![0.0; THRESHOLDS];
        let mut beside = vec![0.0; THRESHOLDS];
        for ((weight, first), labelled) in weight.iter().zip(&reached).zip(label) {
            bump(&mut hit, *first, *weight);
            bump(&mut beside, *first, if *labelled { 0.0 } else { *weight });
        }
        let mut found = vec![0.0; THRESHOLDS];
        let zones = zones(&events, window / 2, label.len());
        for (from, to) in &zones {
            let first = reached.get(*from..=*to).unwrap_or_default().iter().min();
            bump(
                &mut found,
                first.copied().unwrap_or(THRESHOLDS),
                1.0 / zones.len() as f64,
            );
        }
        for counts in [&mut hit, &mut beside, &mut found] {
            cumulate(counts);
        }
        let mut before = 0.0;
        let mut area = 0.0;
        for (((hit, beside), found), predicted) in hit.iter().zip(&beside).zip(&found).zip(&predicted) {
            let recall = (hit / (positives + beside / 2.0)).min(1.0) * found;
            area += (recall - before) * hit / predicted;
            before = recall;
        }
        area
    });
    areas.sum::<f64>() / (window + 1) as f64
}

/// For each window the first threshold, from the highest, that its score reaches.
fn reached(score: &[f64]) -> Vec<usize> {
    let mut sorted = score.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let last = score.len().saturating_sub(1);
    let thresholds: Vec<f64> = (0..THRESHOLDS)
        .filter_map(|index| {
            // numpy.linspace(0, n - 1, 250).astype(int), whose last point is exact.
            let position = if index + 1 == THRESHOLDS {
                last
            } else {
                linspace(last, index)
            };
            sorted.get(position).copied()
        })
        .collect();
    score
        .iter()
        .map(|score| thresholds.partition_point(|threshold| threshold > score))
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a position within the series")]
fn linspace(last: usize, index: usize) -> usize {
    (index as f64 * (last as f64 / (THRESHOLDS - 1) as f64)) as usize
}

fn bump(counts: &mut [f64], index: usize, by: f64) {
    if let Some(count) = counts.get_mut(index) {
        *count += by;
    }
}

fn cumulate(counts: &mut [f64]) {
    let mut sum = 0.0;
    for count in counts {
        sum += *count;
        *count = sum;
    }
}

/// Labels as weights, 1 inside an event and falling beside it.
fn widened(label: &[bool], events: &[(usize, usize)], window: usize) -> Vec<f64> {
    let mut weight: Vec<f64> = label
        .iter()
        .map(|labelled| if *labelled { 1.0 } else { 0.0 })
        .collect();
    let half = window / 2;
    let falling = |distance: usize| (1.0 - distance as f64 / window as f64).sqrt();
    for (from, to) in events {
        for distance in 1..=half {
            if let Some(slot) = weight.get_mut(to + distance) {
                *slot += falling(distance);
            }
            if let Some(slot) = from.checked_sub(distance).and_then(|index| weight.get_mut(index)) {
                *slot += falling(distance);
            }
        }
    }
    weight.iter_mut().for_each(|weight| *weight = weight.min(1.0));
    weight
}

/// Events widened by `half` on both sides, those that touch merged.
fn zones(events: &[(usize, usize)], half: usize, windows: usize) -> Vec<(usize, usize)> {
    let mut zones: Vec<(usize, usize)> = Vec::new();
    for (from, to) in events {
        let (from, to) = (
            from.saturating_sub(half),
            (to + half).min(windows.saturating_sub(1)),
        );
        match zones.last_mut() {
            Some(last) if last.1 >= from => last.1 = to,
            _ => zones.push((from, to)),
        }
    }
    zones
}

/// Average precision and the best F1 over all thresholds.
pub(crate) fn precision_recall(label: &[bool], score: &[f64]) -> (f64, f64) {
    let mut order: Vec<(f64, bool)> = score.iter().copied().zip(label.iter().copied()).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = label.iter().filter(|labelled| **labelled).count() as f64;
    let (mut hits, mut taken, mut area, mut best, mut before) = (0.0, 0.0, 0.0, 0.0f64, 0.0);
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        taken += equal.len() as f64;
        hits += equal.iter().filter(|(_, labelled)| *labelled).count() as f64;
        let (precision, recall) = (hits / taken, hits / positives);
        area += (recall - before) * precision;
        before = recall;
        best = best.max(2.0 * hits / (taken + positives));
    }
    (area, best)
}

/// What a threshold found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Episodes {
    /// Share of events during which it alerted.
    pub(crate) recall: f64,
    /// Episodes that touch no event, per day of the series.
    pub(crate) false_per_day: f64,
}

/// Judges alerts window by window; alerts less than `gap` windows apart are one episode.
pub(crate) fn episodes(label: &[bool], alert: &[bool], gap: usize, days: f64) -> Episodes {
    let events = events(label);
    let hit = events
        .iter()
        .filter(|(from, to)| alert.get(*from..=*to).unwrap_or_default().contains(&true))
        .count();
    let mut episodes: Vec<(usize, usize)> = Vec::new();
    for (from, to) in self::events(alert) {
        match episodes.last_mut() {
            Some(last) if from - last.1 <= gap => last.1 = to,
            _ => episodes.push((from, to)),
        }
    }
    let touches = |episode: &(usize, usize)| {
        events
            .iter()
            .any(|(from, to)| episode.0 <= to + gap && episode.1 + gap >= *from)
    };
    let wrong = episodes.iter().filter(|episode| !touches(episode)).count();
    Episodes {
        recall: hit as f64 / events.len().max(1) as f64,
        false_per_day: wrong as f64 / days,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels and scores that the reference values below were computed for with TSB-AD 1.5.
    fn example() -> (Vec<bool>, Vec<f64>) {
        let label: Vec<bool> = (0..1_000)
            .map(|index| (100..120).contains(&index) || (130..135).contains(&index) || index >= 990)
            .collect();
        let score = (0..1_000).map(|index| {
            f64::from((index * 7_919 + 13) % 1_009) / 1_009.0
                + if (105..112).contains(&index) { 0.7 } else { 0.0 }
        });
        (label, score.collect())
    }

    #[test]
    fn vus_pr_is_that_of_tsb_ad() {
        let (label, score) = example();
        for (window, wanted) in REFERENCE {
            let found = vus_pr(&label, &score, window);
            assert!(
                (found - wanted).abs() < 1e-9,
                "window {window}: {found} where TSB-AD has {wanted}"
            );
        }
    }

    const REFERENCE: [(usize, f64); 4] = [
        (0, 0.169686731257),
        (7, 0.173217813238),
        (15, 0.18007786632),
        (60, 0.211901228132),
    ];

    #[test]
    fn perfect_score_is_one_without_widening() {
        let label: Vec<bool> = (0..500).map(|index| (100..140).contains(&index)).collect();
        let score: Vec<f64> = label
            .iter()
            .enumerate()
            .map(|(index, labelled)| f64::from(u8::from(*labelled)) * 2.0 + index as f64 * 1e-6)
            .collect();
        assert!(vus_pr(&label, &score, 0) > 0.97);
        assert_eq!(precision_recall(&label, &score), (1.0, 1.0));
    }

    #[test]
    fn episodes_count_events_and_false_alarms() {
        let label: Vec<bool> = (0..100)
            .map(|index| (20..30).contains(&index) || (80..85).contains(&index))
            .collect();
        let alert: Vec<bool> = (0..100)
            .map(|index| index == 25 || index == 50 || index == 53 || index == 99)
            .collect();
        let found = episodes(&label, &alert, 5, 2.0);
        assert_eq!(
            found,
            Episodes {
                recall: 0.5,
                false_per_day: 1.0
            }
        );
    }
}
