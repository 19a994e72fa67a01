//! From the kernel's counters to gaps.

use fleetmend_ebpf::abi::Counter;
use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Lane, TimeMicros};

use super::family::Counts;
use super::spec::FamilySpec;

/// How long a family that lost events is called DEGRADED.
const RECENT_US: i64 = 60_000_000;

/// The counters of losses, with the words that gaps have for them.
const REASONS: [(Counter, &str); 3] = [
    (Counter::RingFull, "ring_full"),
    (Counter::MapFull, "map_full"),
    (Counter::Shed, "shed"),
];

/// Remembers what the kernel had counted when it was last looked at.
#[derive(Debug)]
pub(crate) struct LossWatch {
    table: &'static str,
    lane: Lane,
    last: Counts,
    last_time: TimeMicros,
    last_skips: u64,
    last_skips_time: TimeMicros,
    lost: u64,
    last_loss: Option<TimeMicros>,
}

impl LossWatch {
    pub(crate) fn new(spec: &FamilySpec, now: TimeMicros) -> Self {
        Self {
            table: spec.table,
            lane: spec.lane,
            last: Counts::default(),
            last_time: now,
            last_skips: 0,
            last_skips_time: now,
            lost: 0,
            last_loss: None,
        }
    }

    /// Compares with the last look at the counters; what was lost since lies between the two. One gap for each reason.
    pub(crate) fn look(&mut self, counts: Counts, now: TimeMicros) -> Vec<Gap> {
        let from_time = std::mem::replace(&mut self.last_time, now);
        let before = std::mem::replace(&mut self.last, counts);
        let mut gaps = Vec::new();
        for (counter, reason) in REASONS {
            let count = counts.of(counter).saturating_sub(before.of(counter));
            gaps.extend(self.gap(count, reason, from_time, now));
        }
        gaps
    }

    /// Compares with the last look at how often the kernel skipped a probe.
    pub(crate) fn look_at_skips(&mut self, skipped: u64, now: TimeMicros) -> Option<Gap> {
        let from_time = std::mem::replace(&mut self.last_skips_time, now);
        let before = std::mem::replace(&mut self.last_skips, skipped);
        self.gap(skipped.saturating_sub(before), "probe_busy", from_time, now)
    }

    fn gap(&mut self, count: u64, reason: &str, from_time: TimeMicros, now: TimeMicros) -> Option<Gap> {
        if count == 0 {
            return None;
        }
        self.note(count, now);
        Some(Gap {
            time: now,
            table: self.table.to_owned(),
            lane: self.lane,
            from_time,
            to_time: now,
            count,
            exactness: Exactness::Exact,
            stage: GapStage::Kernel,
            reason: reason.to_owned(),
        })
    }

    /// A loss behind the kernel, such as a full channel.
    pub(crate) fn note(&mut self, count: u64, now: TimeMicros) {
        if count > 0 {
            self.lost = self.lost.saturating_add(count);
            self.last_loss = Some(now);
        }
    }

    /// Everything that was lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn counts(&self) -> Counts {
        self.last
    }

    /// Whether something was lost lately.
    pub(crate) fn recent(&self, now: TimeMicros) -> bool {
        self.last_loss
            .is_some_and(|last| now.micros_since(last) < RECENT_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_lies_between_two_looks_and_counts_what_came_between() {
        let mut watch = LossWatch::new(&crate::bpf::process::SPEC, TimeMicros(100));
        let counts = |ring_full, shed| {
            let mut counts = Counts::default();
            counts.0[Counter::Seen as usize] = 50;
            counts.0[Counter::RingFull as usize] = ring_full;
            counts.0[Counter::Shed as usize] = shed;
            counts
        };
        assert_eq!(watch.look(counts(0, 0), TimeMicros(200)), []);
        let gaps = watch.look(counts(5, 2), TimeMicros(300));
        let told: Vec<(&str, u64)> = gaps.iter().map(|gap| (gap.reason.as_str(), gap.count)).collect();
        assert_eq!(told, [("ring_full", 5), ("shed", 2)]);
        let gap = &gaps[0];
        assert_eq!((gap.from_time, gap.to_time), (TimeMicros(200), TimeMicros(300)));
        assert_eq!(gap.table, "process_events");
        assert_eq!(watch.look(counts(5, 2), TimeMicros(400)), []);
        let skips = watch.look_at_skips(2, TimeMicros(500)).unwrap();
        assert_eq!(
            (skips.from_time, skips.count, skips.reason.as_str()),
            (TimeMicros(100), 2, "probe_busy")
        );
        assert_eq!(watch.lost(), 9);
        assert!(watch.recent(TimeMicros(500)) && !watch.recent(TimeMicros(500 + RECENT_US)));
    }
}
