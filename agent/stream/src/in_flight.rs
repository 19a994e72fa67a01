//! Frames that were sent and are not acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fleetmend_event::{Mark, RecordId};

/// In order of sending; bounded by the window.
#[derive(Debug)]
pub(crate) struct InFlight {
    frames: VecDeque<(RecordId, Instant)>,
    window: usize,
}

impl InFlight {
    pub(crate) fn new(window: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            window: window.max(1),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Frames that may be sent now.
    pub(crate) fn room(&self) -> usize {
        self.window.saturating_sub(self.frames.len())
    }

    pub(crate) fn sent(&mut self, id: RecordId, now: Instant) {
        self.frames.push_back((id, now));
    }

    /// Takes out what `marks` cover; how many that were.
    pub(crate) fn acknowledge(&mut self, marks: &[Mark]) -> usize {
        let before = self.frames.len();
        let covered = |id: &RecordId| {
            marks
                .iter()
                .any(|mark| mark.epoch == id.epoch && mark.lane == id.lane && id.sequence <= mark.sequence)
        };
        self.frames.retain(|(id, _)| !covered(id));
        before.saturating_sub(self.frames.len())
    }

    /// How long the oldest has waited.
    pub(crate) fn oldest(&self, now: Instant) -> Duration {
        self.frames
            .front()
            .map_or(Duration::ZERO, |(_, sent)| now.saturating_duration_since(*sent))
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::{Lane, Sequence, SpoolEpoch};

    use super::*;

    #[test]
    fn marks_take_out_what_they_cover_and_nothing_else() {
        let (epoch, other) = (SpoolEpoch::random(), SpoolEpoch::random());
        let id = |epoch, lane, number| RecordId {
            epoch,
            lane,
            sequence: Sequence(number),
        };
        let mut flight = InFlight::new(4);
        for id in [
            id(epoch, Lane::Events, 1),
            id(epoch, Lane::Events, 2),
            id(other, Lane::Events, 1),
            id(epoch, Lane::Metrics, 1),
        ] {
            flight.sent(id, Instant::now());
        }
        assert_eq!(flight.room(), 0);
        assert_eq!(
            flight.acknowledge(&[Mark {
                epoch,
                lane: Lane::Events,
                sequence: Sequence(1)
            }]),
            1
        );
        assert_eq!(
            flight.acknowledge(&[Mark {
                epoch,
                lane: Lane::Events,
                sequence: Sequence(9)
            }]),
            1
        );
        assert_eq!((flight.len(), flight.room()), (2, 2));
    }
}
