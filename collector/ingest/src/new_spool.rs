//! A host that knows nothing of what it spooled before: its spool was wiped, or replaced with the disk.
//!
//! An agent names every epoch of which it still has records, also after an unclean stop. One that names none of
//! those that the store has marks of cannot say what it had not sent, and nobody else can: it is a gap. A spool that
//! was wiped before anything of it was stored leaves no trace here: its host looks as if it had just been enrolled.

use std::time::Duration;

use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Lane, Mark, RecordId, Sequence, SpoolEpoch, TimeMicros};

/// Longest that a fact waits in a spool while its collector takes everything: metrics may be sent once a minute.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The gap of a host that says hello with `spooled` and writes `epoch`, of which the store has `durable`, `last`
/// of all at that time; none when the host remembers.
pub(crate) fn gap(
    epoch: SpoolEpoch,
    spooled: &[Mark],
    durable: &[Mark],
    last: Option<TimeMicros>,
) -> Option<(RecordId, Gap)> {
    let remembers = |mark: &Mark| mark.epoch == epoch || spooled.iter().any(|of| of.epoch == mark.epoch);
    if durable.is_empty() || durable.iter().any(remembers) {
        return None;
    }
    let now = TimeMicros::now();
    let wait = i64::try_from(WAIT_MAX.as_micros()).unwrap_or(i64::MAX);
    let gap = Gap {
        time: now,
        table: "*".to_owned(),
        lane: Lane::Events,
        from_time: last.unwrap_or(now).min(now).plus_micros(wait.saturating_neg()),
        to_time: now,
        count: 0,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "spool_replaced".to_owned(),
    };
    // No record of the new epoch: it stands for itself.
    let id = RecordId {
        epoch,
        lane: Lane::Critical,
        sequence: Sequence(0),
    };
    Some((id, gap))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: SpoolEpoch) -> Mark {
        Mark {
            epoch,
            lane: Lane::Events,
            sequence: Sequence(7),
        }
    }

    #[test]
    fn only_a_host_that_remembers_nothing_has_a_gap() {
        let (old, new) = (SpoolEpoch::random(), SpoolEpoch::random());
        let last = Some(TimeMicros::now().plus_millis(-5_000));
        assert_eq!(gap(new, &[], &[], None), None, "its first hello");
        assert_eq!(
            gap(new, &[mark(old)], &[mark(old)], last),
            None,
            "after an unclean stop"
        );
        assert_eq!(gap(old, &[], &[mark(old)], last), None, "after an ordered one");
        let (_, gap) = gap(new, &[mark(new)], &[mark(old)], last).unwrap();
        assert!(Some(gap.from_time) < last && gap.to_time > gap.from_time);
        assert_eq!(gap.reason, "spool_replaced");
    }
}
