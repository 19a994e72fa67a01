//! From the kernel's counters to gaps.

use fleetmend_ebpf::Family;
use fleetmend_event::table::{Exactness, Gap, GapStage, NetworkEvent, ProcessEvent, Table};
use fleetmend_event::{Lane, TimeMicros};

use super::family::Counts;

/// How long a family that lost events is called DEGRADED.
const RECENT_US: i64 = 60_000_000;

/// Remembers what the kernel had counted when it was last looked at.
#[derive(Debug)]
pub(crate) struct LossWatch {
    table: &'static str,
    lane: Lane,
    last: Counts,
    last_time: TimeMicros,
    lost: u64,
    last_loss: Option<TimeMicros>,
}

impl LossWatch {
    pub(crate) fn new(family: Family, now: TimeMicros) -> Self {
        let (table, lane) = match family {
            Family::Process => (ProcessEvent::NAME, ProcessEvent::LANE),
            Family::Network => (NetworkEvent::NAME, NetworkEvent::LANE),
        };
        Self {
            table,
            lane,
            last: Counts::default(),
            last_time: now,
            lost: 0,
            last_loss: None,
        }
    }

    /// Compares with the last look; what was lost since lies between the two.
    pub(crate) fn look(&mut self, counts: Counts, now: TimeMicros) -> Vec<Gap> {
        let from_time = std::mem::replace(&mut self.last_time, now);
        let before = std::mem::replace(&mut self.last, counts);
        let ring_full = counts.ring_full.saturating_sub(before.ring_full);
        let skipped = counts.skipped.saturating_sub(before.skipped);
        let mut gaps = Vec::new();
        for (count, reason, exactness) in [
            (ring_full, "ring_full", Exactness::Exact),
            (skipped, "probe_busy", Exactness::Exact),
        ] {
            if count == 0 {
                continue;
            }
            self.lost = self.lost.saturating_add(count);
            self.last_loss = Some(now);
            gaps.push(Gap {
                time: now,
                table: self.table.to_owned(),
                lane: self.lane,
                from_time,
                to_time: now,
                count,
                exactness,
                stage: GapStage::Kernel,
                reason: reason.to_owned(),
            });
        }
        gaps
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
        let mut watch = LossWatch::new(Family::Process, TimeMicros(100));
        let counts = |ring_full| Counts {
            seen: 50,
            delivered: 50 - ring_full,
            ring_full,
            skipped: 0,
        };
        assert!(watch.look(counts(0), TimeMicros(200)).is_empty());
        let gaps = watch.look(counts(7), TimeMicros(300));
        assert_eq!(
            (gaps[0].from_time, gaps[0].to_time, gaps[0].count),
            (TimeMicros(200), TimeMicros(300), 7)
        );
        assert_eq!(
            (gaps[0].table.as_str(), gaps[0].reason.as_str()),
            ("process_events", "ring_full")
        );
        assert!(watch.look(counts(7), TimeMicros(400)).is_empty());
        assert_eq!(watch.lost(), 7);
        assert!(watch.recent(TimeMicros(400)) && !watch.recent(TimeMicros(300 + RECENT_US)));
    }
}
