//! Relative frames on the streams of one agent: what is offered, what was agreed on, and what a frame becomes.

use std::time::Instant;

use bytes::Bytes;
use fleetmend_event::Lane;
use fleetmend_event::relative::{Bases, Limits, is_relative};
use fleetmend_proto::v1;

use crate::config::SELF_CONTAINED_FOR;

/// Lives as long as the agent; the bases are those of one stream.
#[derive(Debug, Default)]
pub(crate) struct Relative {
    bases: Option<Bases>,
    /// The collector waits to hear that the bases are gone.
    notice: bool,
    /// Until then none is offered.
    avoided_until: Option<Instant>,
}

impl Relative {
    /// What the hello of a new stream offers.
    pub(crate) fn offer(&self, now: Instant) -> Option<v1::BodyBases> {
        let avoided = self.avoided_until.is_some_and(|until| now < until);
        (!avoided).then(|| Limits::OWN.into())
    }

    /// A stream begins: what its welcome says. A collector that would keep more than was offered is sent no relative
    /// frame, which is always right.
    pub(crate) fn agree(&mut self, offer: Option<v1::BodyBases>, welcome: Option<v1::BodyBases>) {
        let both = offer.zip(welcome).and_then(|(offer, welcome)| {
            let welcome = Limits::from(welcome);
            Limits::from(offer)
                .common(welcome)
                .filter(|both| *both == welcome)
        });
        self.bases = both.map(Bases::new);
        self.notice = false;
    }

    /// The frame as it is sent on this stream, after those that were shortened before it.
    pub(crate) fn shorten(&mut self, lane: Lane, encoded: &Bytes) -> Bytes {
        let Some(bases) = &mut self.bases else {
            return encoded.clone();
        };
        let short = bases.shorten(encoded);
        if is_relative(&short) {
            crate::metrics::relative(lane);
        }
        short
    }

    /// Forgets the bases for the rest of the stream; the next message says so.
    pub(crate) fn clear(&mut self) {
        self.notice |= self.bases.take().is_some();
    }

    /// Whether the message that is made now has to say that the bases are gone.
    pub(crate) fn take_notice(&mut self) -> bool {
        std::mem::take(&mut self.notice)
    }

    /// Offers none on new streams for a while.
    pub(crate) fn avoid(&mut self, now: Instant) {
        self.avoided_until = now.checked_add(SELF_CONTAINED_FOR);
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::frame::Stamp;
    use fleetmend_event::table::{Table as _, TableInfo, UnitState};
    use fleetmend_event::{Frame, RecordId, Sequence, SpoolEpoch, TimeMicros};

    use super::*;

    fn frame(sequence: u64) -> Bytes {
        let rows = [UnitState {
            time: TimeMicros(1),
            unit: "a.service".to_owned(),
            description: HOST.to_owned(),
            load_state: "loaded".to_owned(),
            active_state: "active".to_owned(),
            sub_state: "running".to_owned(),
            main_pid: 1,
            restart_count: 0,
            result: "success".to_owned(),
        }];
        let id = RecordId {
            epoch: SpoolEpoch::from_bytes([1; 16]),
            lane: Lane::Events,
            sequence: Sequence(sequence),
        };
        let stamp = Stamp {
            wall: TimeMicros(1),
            boot_us: 1,
        };
        let batch = UnitState::to_batch(&rows).unwrap();
        Frame::of_batch(
            id,
            &TableInfo::of::<UnitState>(),
            &batch,
            stamp,
            (TimeMicros(1), TimeMicros(1)),
        )
        .unwrap()
        .encode()
    }

    const HOST: &str = "words that no dictionary holds: qzjxkv wpyfgm 8471 2963";

    #[test]
    fn frames_are_relative_only_where_both_ends_said_so() {
        let mut relative = Relative::default();
        let offer = relative.offer(Instant::now());
        let more = v1::BodyBases {
            slots: 1_000,
            ..offer.unwrap()
        };
        for (offer, welcome) in [(offer, None), (None, offer), (offer, Some(more))] {
            relative.agree(offer, welcome);
            for number in 1..3 {
                assert_eq!(relative.shorten(Lane::Events, &frame(number)), frame(number));
            }
        }
        relative.agree(offer, offer);
        assert_eq!(relative.shorten(Lane::Events, &frame(1)), frame(1));
        assert!(is_relative(&relative.shorten(Lane::Events, &frame(2))));
        // Another stream knows nothing of this one.
        relative.agree(offer, offer);
        assert_eq!(relative.shorten(Lane::Events, &frame(3)), frame(3));
    }

    #[test]
    fn bases_that_were_cleared_are_told_once_and_not_made_anew() {
        let mut relative = Relative::default();
        let offer = relative.offer(Instant::now());
        relative.agree(offer, offer);
        relative.shorten(Lane::Events, &frame(1));
        assert!(!relative.take_notice());
        relative.clear();
        relative.clear();
        assert!(relative.take_notice() && !relative.take_notice());
        assert_eq!(relative.shorten(Lane::Events, &frame(2)), frame(2));
        relative.clear();
        assert!(!relative.take_notice());
    }

    #[test]
    fn collector_that_could_not_read_one_is_offered_none_for_a_while() {
        let mut relative = Relative::default();
        let now = Instant::now();
        relative.avoid(now);
        assert_eq!(relative.offer(now), None);
        assert!(relative.offer(now + SELF_CONTAINED_FOR).is_some());
    }
}
