//! What must be true of everything that is read.

use super::*;

impl World {
    /// Takes in what was read, in any state: a number has one body for ever.
    fn take_in(&mut self, frames: &[SpooledFrame]) {
        assert_numbered(frames);
        for frame in frames {
            let whole = decoded(frame);
            let place = (frame.id.epoch, frame.id.lane);
            let mark = self.known.marks.get(&place).copied().unwrap_or(0);
            if frame.id.lane == Lane::Metrics && frame.id.sequence.0 <= mark {
                // What may be of a copy of the disk is sent once more after a start; the collector has it.
                let before = self.known.bodies.get(&frame.id);
                let same = whole.tombstone || before.is_none_or(|(before, _)| *before == frame.bytes);
                assert!(same, "{:?} is used twice", frame.id);
                continue;
            }
            assert!(frame.id.sequence.0 > mark, "{:?} is sent again", frame.id);
            let highest = self.known.highest.entry(place).or_default();
            *highest = (*highest).max(frame.id.sequence.0);
            if whole.tombstone {
                self.known.sent.insert(frame.id, Vec::new());
                continue;
            }
            if let Some((before, facts)) = self.known.bodies.get(&frame.id) {
                assert_eq!(*before, frame.bytes, "{:?} is used twice", frame.id);
                self.known.sent.insert(frame.id, facts.clone());
                continue;
            }
            let facts = facts_of(frame);
            let unknown = facts.iter().find(|fact| **fact >= self.known.facts);
            assert_eq!(unknown, None, "it was never appended");
            self.known.sent.insert(frame.id, facts.clone());
            self.known.bodies.insert(frame.id, (frame.bytes.clone(), facts));
            self.take_gaps(frame);
        }
    }

    fn take_gaps(&mut self, frame: &SpooledFrame) {
        for row in rows::<Gap>(std::slice::from_ref(frame)) {
            if row.reason == "test" {
                continue;
            }
            if row.reason == "unsynced" {
                let places = self.known.highest.keys().filter(|place| place.1 == row.lane);
                self.known.unsynced.extend(places);
                continue;
            }
            if row.reason == "unclean_stop" {
                self.known.unclean = true;
                continue;
            }
            if row.reason == "disk_full" && row.table != "*" {
                let range = (row.lane, row.from_time, row.to_time);
                self.known.given_up.push(range);
            }
            *self.known.lost.entry(row.lane).or_default() += row.count;
            if row.exactness == fleetmend_event::table::Exactness::AtLeast {
                *self.known.at_least.entry(row.lane).or_default() += 1;
                self.known.lanes_lost.insert(row.lane);
            }
        }
    }

    /// No fact is stored twice.
    pub(super) fn check_stored(&self) {
        let mut stored: HashMap<u64, RecordId> = HashMap::new();
        for (id, facts) in &self.known.stored {
            for fact in facts {
                if let Some(before) = stored.insert(*fact, *id) {
                    panic!("fact {fact} is stored as {before:?} and as {id:?}");
                }
            }
        }
    }

    /// Reads on from where the reader stands.
    pub(super) fn read_some(&mut self, frames: usize) {
        if self.reader.is_none() {
            self.connect();
        }
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
        self.connect();
        let mut frames = self.read(ALL).expect("a spool");
        // Repairs may have noted gaps.
        assert!(self.flush());
        frames.extend(self.read(ALL).expect("a spool"));
        self.take_in(&frames);
        self.check_numbers(&frames);
        self.check_promised();
        self.check_quotas();
        let known = &mut self.known;
        known.lost.clear();
        known.at_least.clear();
        known.damaged.clear();
        known.open_ended.clear();
        known.unsynced.clear();
        (known.unreadable, known.unclean, known.rough) = (false, false, false);
    }

    fn check_numbers(&mut self, frames: &[SpooledFrame]) {
        let mut present: BTreeMap<(SpoolEpoch, Lane), (u64, u64)> = BTreeMap::new();
        for frame in frames {
            let number = frame.id.sequence.0;
            let mark = self.known.marks.get(&(frame.id.epoch, frame.id.lane));
            if frame.id.lane == Lane::Metrics && mark.is_some_and(|mark| number <= *mark) {
                continue;
            }
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
            let told = self.known.told.get(&place).copied().unwrap_or(0);
            assert!(
                first > mark && first <= mark.max(told) + 1,
                "numbers of {place:?} from {} to {first} are gone, and {told} was acknowledged",
                mark + 1
            );
            if last < highest {
                let open_ended = self.known.open_ended.contains(&place) && self.known.unclean;
                let deleted = !present.contains_key(&place) && highest <= told;
                assert!(
                    deleted || open_ended || self.known.unsynced.contains(&place) || self.is_said(lane),
                    "{place:?} ends with {last}, {highest} was read, and no gap row says so"
                );
                self.known.highest.insert(place, last.max(mark));
            }
        }
    }

    /// Whether a gap row says that something of `lane` is lost; damage may have hit that row itself.
    fn is_said(&self, lane: Lane) -> bool {
        let critical = Lane::Critical;
        self.known.at_least.contains_key(&lane)
            || (self.known.damaged.contains(&critical) && self.known.at_least.contains_key(&critical))
            || (self.known.rough && self.known.unclean)
    }

    /// What was promised is at the collector or in the spool, once, or in gap rows.
    fn check_promised(&mut self) {
        let mut there: HashMap<u64, RecordId> = HashMap::new();
        for (id, facts) in self.known.stored.iter().chain(&self.known.sent) {
            for fact in facts {
                let before = there.insert(*fact, *id);
                assert_eq!(before, None, "fact {fact} is also in {id:?}");
            }
        }
        // What was deleted because an earlier store had it is for the collector to say; it sees the numbers missing.
        // So it is with what damage took while that store had it: its gap row came then.
        for (id, facts) in std::mem::take(&mut self.known.restored) {
            let was_hurt = self.known.lanes_lost.contains(&id.lane);
            if !self.known.sent.contains_key(&id) || was_hurt {
                for fact in facts.iter().filter(|fact| !there.contains_key(fact)) {
                    self.known.promised.remove(fact);
                    self.known.dropped.insert(*fact);
                }
            }
        }
        for lane in Lane::ALL.iter().copied() {
            let of_lane = |facts: &BTreeSet<u64>| {
                let missing = |fact: &&u64| {
                    lane_of(**fact) == lane && !there.contains_key(fact) && !self.was_given_up(lane, **fact)
                };
                facts.iter().filter(missing).count() as u64
            };
            let (missing, dropped) = (of_lane(&self.known.promised), of_lane(&self.known.dropped));
            let lost = self.known.lost.get(&lane).copied().unwrap_or(0);
            assert!(
                missing <= lost || self.is_said(lane),
                "{missing} facts of {lane} are missing, {lost} on record: {:?}",
                self.last_seen(lane, &there)
            );
            if self.is_calm {
                assert!(
                    lost <= missing + dropped,
                    "{missing} facts of {lane} are missing, {dropped} more may be, {lost} are on record: {:?}",
                    self.last_seen(lane, &there)
                );
            }
        }
        self.known.promised = there.into_keys().collect();
        self.known.dropped.clear();
    }

    fn was_given_up(&self, lane: Lane, fact: u64) -> bool {
        let time = self.known.times[&fact];
        let mut ranges = self.known.given_up.iter();
        ranges.any(|(of, from, to)| *of == lane && (*from..=*to).contains(&time))
    }

    /// Missing facts of a lane, with the records in which they were read.
    fn last_seen(&self, lane: Lane, there: &HashMap<u64, RecordId>) -> Vec<(u64, Vec<RecordId>)> {
        let missing = self
            .known
            .promised
            .iter()
            .filter(|fact| lane_of(**fact) == lane && !there.contains_key(fact));
        let holds = |fact: &u64| {
            let bodies = self
                .known
                .bodies
                .iter()
                .filter(|(_, (_, facts))| facts.contains(fact));
            bodies.map(|(id, _)| *id).collect()
        };
        missing.map(|fact| (*fact, holds(fact))).collect()
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

/// Numbers of the facts that a frame holds.
fn facts_of(frame: &SpooledFrame) -> Vec<u64> {
    let one = std::slice::from_ref(frame);
    let mut facts: Vec<u64> = units(one);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "they were whole numbers below 2^32"
    )]
    facts.extend(ticks(one).into_iter().map(|second| second as u64));
    let test = rows::<Gap>(one).into_iter().filter(|row| row.reason == "test");
    facts.extend(test.map(|row| row.count));
    facts
}
