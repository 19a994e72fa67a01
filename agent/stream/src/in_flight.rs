//! Frames that were sent and are not acknowledged, and what may still be sent.
//!
//! The window counts frames, the credit bytes of them since the session began. When either is used up, the critical
//! lane goes beyond it by what is kept for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fleetmend_event::frame::{FRAME_BODY_BYTES_MAX, HEADER_BYTES};
use fleetmend_event::{Mark, RecordId};

use crate::source::SourceLanes;

/// Frames that the critical lane may send beyond the window.
const CRITICAL_FRAMES: usize = 16;
/// Bytes that it may send beyond the credit, by the protocol.
const CRITICAL_BYTES: u64 = 512 * 1024;
/// A frame is read only where the largest one may be sent: how long it is is known when it was read.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + FRAME_BODY_BYTES_MAX;

/// In order of sending; bounded by window and credit.
#[derive(Debug)]
pub(crate) struct InFlight {
    frames: VecDeque<(RecordId, Instant)>,
    window: usize,
    /// Bytes of frames that may be sent in all; none from a collector that gives no credit.
    credit: Option<u64>,
    sent_bytes: u64,
}

/// What may be sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl InFlight {
    /// A window of frames and the credit of the welcome, 0 when the collector gives none.
    pub(crate) fn new(window: usize, credit: u64) -> Self {
        Self {
            frames: VecDeque::new(),
            window: window.max(1),
            credit: (credit > 0).then_some(credit),
            sent_bytes: 0,
        }
    }

    /// The collector grants bytes of frames in all; 0 leaves it.
    pub(crate) fn grant(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = bytes.max(*credit);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// What may be sent now of these lanes; none when there is no room for a frame.
    pub(crate) fn room(&self, lanes: SourceLanes) -> Option<Room> {
        let (more_frames, more_bytes) = match lanes {
            SourceLanes::All => (0, 0),
            SourceLanes::Critical => (CRITICAL_FRAMES, CRITICAL_BYTES),
        };
        let window = self.window.saturating_add(more_frames);
        let frames = window.saturating_sub(self.frames.len());
        let bytes = self.credit.map_or(usize::MAX, |credit| {
            let left = credit.saturating_add(more_bytes).saturating_sub(self.sent_bytes);
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        (frames > 0 && bytes >= FRAME_BYTES_MAX).then_some(Room { frames, bytes })
    }

    /// A frame was sent.
    pub(crate) fn sent(&mut self, id: RecordId, now: Instant) {
        self.frames.push_back((id, now));
    }

    /// Bytes of frames left in a message.
    pub(crate) fn spent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
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
        let mut flight = InFlight::new(4, 0);
        for id in [
            id(epoch, Lane::Events, 1),
            id(epoch, Lane::Events, 2),
            id(other, Lane::Events, 1),
            id(epoch, Lane::Metrics, 1),
        ] {
            flight.sent(id, Instant::now());
        }
        assert_eq!(flight.room(SourceLanes::All), None);
        let critical = flight.room(SourceLanes::Critical);
        assert_eq!(critical.map(|room| room.frames), Some(CRITICAL_FRAMES));
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
        let room = flight.room(SourceLanes::All).map(|room| room.frames);
        assert_eq!((flight.len(), room), (2, Some(2)));
    }

    #[test]
    fn credit_that_is_used_up_leaves_the_critical_lane_what_is_kept_for_it() {
        let mut flight = InFlight::new(64, 600_000);
        let room = flight.room(SourceLanes::All);
        assert_eq!(room.map(|room| room.bytes), Some(600_000));
        flight.spent(400_000);
        assert_eq!(flight.room(SourceLanes::All), None, "a large frame would not fit");
        let critical = flight.room(SourceLanes::Critical).map(|room| room.bytes);
        assert_eq!(critical, Some(200_000 + 512 * 1024));
        flight.spent(500_000);
        assert_eq!(flight.room(SourceLanes::Critical), None, "that is bounded too");
        flight.grant(0);
        assert_eq!(flight.room(SourceLanes::Critical), None);
        flight.grant(1_200_000);
        assert_eq!(
            flight.room(SourceLanes::All).map(|room| room.bytes),
            Some(300_000)
        );
        flight.grant(700_000);
        let room = flight.room(SourceLanes::All).map(|room| room.bytes);
        assert_eq!(room, Some(300_000), "credit never falls");
        let mut old = InFlight::new(1, 0);
        old.spent(usize::MAX);
        old.grant(1);
        assert!(
            old.room(SourceLanes::All).is_some(),
            "a collector that gives none limits by the window"
        );
    }
}
