//! What must be true of everything that is read.

use super::*;

impl World {
    /// Takes in what was read, in any state: a number has one body for ever, and a fact one number.
    fn take_in(&mut self, frames: &[SpooledFrame]) {
        assert_numbered(frames);
        for frame in frames {
            let whole = decoded(frame);
            let place = (frame.id.epoch, frame.id.lane);
            let acknowledged = self.known.marks.get(&place).copied().unwrap_or(0);
            assert!(frame.id.sequence.0 > acknowledged, "{:?} is sent again", frame.id);
            let highest = self.known.highest.entry(place).or_default();
            *highest = (*highest).max(frame.id.sequence.0);
            self.known.sent.insert(place, frame.id.sequence.0);
            if whole.tombstone {
                if !self.known.bodies.contains_key(&frame.id) {
                    self.known.at_least.insert(frame.id.lane, 1);
                }
                continue;
            }
            if let Some(before) = self.known.bodies.get(&frame.id) {
                assert_eq!(*before, frame.bytes, "{:?} is used twice", frame.id);
                continue;
            }
            self.known.bodies.insert(frame.id, frame.bytes.clone());
            self.take_facts(frame);
        }
    }

    fn take_facts(&mut self, frame: &SpooledFrame) {
        let one = std::slice::from_ref(frame);
        let mut facts: Vec<u64> = units(one);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "they were whole numbers below 2^32"
        )]
        facts.extend(ticks(one).into_iter().map(|second| second as u64));
        for row in rows::<Gap>(one) {
            if row.reason == "test" {
                facts.push(row.count);
                continue;
            }
            if row.reason == "unsynced" {
                self.known.unsynced.insert(row.lane);
                continue;
            }
            *self.known.lost.entry(row.lane).or_default() += row.count;
            if row.exactness == fleetmend_event::table::Exactness::AtLeast && row.reason != "unclean_stop" {
                *self.known.at_least.entry(row.lane).or_default() += 1;
            }
        }
        for fact in facts {
            assert!(fact < self.known.facts, "fact {fact} was never appended");
            let before = self.known.found.insert(fact, frame.id);
            let damaged = self.known.damaged.contains(&frame.id.lane) || self.known.unreadable;
            let staged = damaged && frame.id.lane == Lane::Metrics;
            assert!(
                before.is_none() || staged,
                "fact {fact} of {before:?} has a second number, {:?}",
                frame.id
            );
            self.known.promised.remove(&fact);
            self.known.waiting.remove(&fact);
        }
    }

    /// Reads on from where the reader stands.
    pub(super) fn read_some(&mut self, frames: usize) {
        let limit = ReadLimit { frames, bytes: 4_000 };
        if let Some(frames) = self.read(limit) {
            self.take_in(&frames);
        }
    }

    /// On a disk that works, everything is written and read again from what the collector has: nothing that was
    /// promised or sent is missing without a word.
    pub(super) fn check(&mut self) {
        self.disk.heal();
        if self.spool.is_none() {
            self.open(true);
        }
        self.pass(Duration::from_secs(2));
        assert!(self.flush(), "a disk that works takes everything");
        let marks = self.marks();
        let reader = self.spool.as_ref().expect("open").handle().reader();
        self.reader = Some(reader);
        self.known.sent.clear();
        self.reader.as_mut().expect("a reader").resume(&marks);
        let mut frames = self.read(ALL).expect("a spool");
        // Repairs may have noted gaps.
        assert!(self.flush());
        frames.extend(self.read(ALL).expect("a spool"));
        self.take_in(&frames);
        self.check_numbers(&frames);
        self.check_promised();
        self.check_quotas();
        self.known.promised.clear();
        self.known.lost.clear();
        self.known.at_least.clear();
        self.known.damaged.clear();
        self.known.unreadable = false;
    }

    fn check_numbers(&mut self, frames: &[SpooledFrame]) {
        let mut present: BTreeMap<(SpoolEpoch, Lane), (u64, u64)> = BTreeMap::new();
        for frame in frames {
            let number = frame.id.sequence.0;
            let range = present
                .entry((frame.id.epoch, frame.id.lane))
                .or_insert((number, number));
            range.1 = number;
        }
        let places: Vec<_> = self
            .known
            .highest
            .iter()
            .map(|(place, highest)| (*place, *highest))
            .collect();
        for (place, highest) in places {
            let lane = place.1;
            let mark = self.known.marks.get(&place).copied().unwrap_or(0);
            let (first, last) = present.get(&place).copied().unwrap_or((mark + 1, mark));
            assert_eq!(first, mark + 1, "numbers of {place:?} before {first} are gone");
            if last < highest && !self.known.unsynced.contains(&lane) {
                assert!(
                    self.known.hurt.contains(&place) || self.known.unreadable,
                    "{place:?} ends with {last}, and {highest} was read on an honest disk"
                );
                assert!(
                    self.is_said(lane),
                    "{place:?} ends with {last}, {highest} was read, and no gap row says so"
                );
            }
            if last < highest {
                self.known.highest.insert(place, last.max(mark));
            }
        }
    }

    /// Whether a gap row says that something of `lane` is lost; damage may have hit that row itself.
    fn is_said(&self, lane: Lane) -> bool {
        let critical = Lane::Critical;
        self.known.at_least.contains_key(&lane)
            || (self.known.damaged.contains(&critical) && self.known.at_least.contains_key(&critical))
    }

    /// Promised facts that were in no frame are in gap rows.
    fn check_promised(&mut self) {
        for lane in Lane::ALL.iter().copied() {
            let missing = self
                .known
                .promised
                .iter()
                .filter(|fact| lane_of(**fact) == lane)
                .count() as u64;
            let lost = self.known.lost.get(&lane).copied().unwrap_or(0);
            let more = self.is_said(lane);
            // Such a row, or a tombstone, stands for records whose rows nobody knows.
            assert!(
                missing <= lost || more,
                "{missing} facts of {lane} are missing, {lost} on record"
            );
        }
    }

    pub(super) fn check_memory(&self) {
        let Some(spool) = &self.spool else { return };
        let handle = spool.handle();
        assert!(handle.shared.intake.len() <= self.config.intake_facts_max);
        let (bytes, gaps) = spool.writer.waits();
        assert!(bytes <= 3 * (1024 + 256) * 1024, "{bytes} bytes of frames wait");
        assert!(gaps <= 300, "{gaps} gap rows wait");
        for lane in Lane::ALL.iter().copied() {
            assert!(spool.writer.batched(lane) <= SpoolConfig::batch_facts_max(lane));
        }
        let index = handle.shared.index.lock();
        for lane in index
            .epochs
            .iter()
            .flat_map(|epoch| Lane::ALL.iter().map(|lane| epoch.lanes.get(*lane)))
        {
            let numbers: Vec<_> = lane
                .extents
                .iter()
                .map(|extent| (extent.first, extent.next))
                .collect();
            assert!(
                numbers.windows(2).all(|pair| pair[0].1 == pair[1].0),
                "{numbers:?}"
            );
            let shed = lane
                .extents
                .iter()
                .filter(|extent| extent.kind == ExtentKind::Shed)
                .count();
            assert!(
                2 * shed <= lane.extents.len() + 8,
                "tombstones are not merged: {:?}",
                lane.extents
            );
        }
    }

    fn check_quotas(&mut self) {
        self.round(Duration::from_secs(2));
        let handle = self.spool.as_ref().expect("open").handle();
        for lane in handle.stat().lanes {
            assert!(lane.bytes <= lane.quota_bytes, "{lane:?}");
        }
        let sum: u64 = handle.stat().lanes.iter().map(|lane| lane.bytes).sum();
        assert!(
            self.disk.used() as u64 <= sum + (17 << 20),
            "files that nobody knows"
        );
    }
}
