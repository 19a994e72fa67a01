//! A model of the spool, and the real one on a disk that fails, step by step on one thread.
//!
//! The model knows every fact that was appended, every frame that was ever handed out and what the collector
//! has. After each reading it compares: see [`World::check`].

mod cases;
mod check;
mod turns;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::{Fact, RecordId};

use super::sim::{Random, SimDisk};
use super::*;
use crate::clock;
use crate::index::ExtentKind;
use crate::layout;

const FOLDER: &str = "/spool";

/// A spool, its disk, its collector, and what is known of them.
struct World {
    disk: SimDisk,
    config: SpoolConfig,
    spool: Option<Spool>,
    reader: Option<SpoolReader>,
    now: Instant,
    ticket: u64,
    series: SeriesSet,
    trace: Vec<String>,
    /// Neither disk nor host fail: every count has to be exact.
    is_calm: bool,
    known: Known,
}

/// What the model remembers.
#[derive(Default)]
struct Known {
    /// Facts appended so far; the next one's number.
    facts: u64,
    /// Facts that flush() has promised: all that were there when everything was last compared, and those since.
    promised: BTreeSet<u64>,
    /// Facts that were appended and not promised.
    waiting: BTreeSet<u64>,
    /// Facts that were appended and whose run ended before a flush: they may be there or not.
    dropped: BTreeSet<u64>,
    /// Every frame that was ever read with a body, and its facts.
    bodies: HashMap<RecordId, (Bytes, Vec<u64>)>,
    /// Highest number of each epoch and lane that was ever read and is not lost on record.
    highest: BTreeMap<(SpoolEpoch, Lane), u64>,
    /// What was sent since the reader was placed, with its facts, which the collector may store.
    sent: BTreeMap<RecordId, Vec<u64>>,
    /// What the collector has.
    marks: BTreeMap<(SpoolEpoch, Lane), u64>,
    stored: BTreeMap<RecordId, Vec<u64>>,
    /// What the collector had before its store was replaced.
    restored: BTreeMap<RecordId, Vec<u64>>,
    /// Highest marks that the spool was ever told: what is before them it may have deleted.
    told: BTreeMap<(SpoolEpoch, Lane), u64>,
    /// Since everything was last compared: rows lost on record per lane, and gap rows that say "at least".
    lost: BTreeMap<Lane, u64>,
    at_least: BTreeMap<Lane, u64>,
    /// When each fact was.
    times: HashMap<u64, TimeMicros>,
    /// Ranges of frames that were ever counted as lost when the disk was full: it may have refused to let go of them
    /// until much later.
    given_up: Vec<(Lane, TimeMicros, TimeMicros)>,
    /// Lanes of which a gap row ever said "at least".
    lanes_lost: BTreeSet<Lane>,
    /// Lanes whose files were changed behind the spool's back, or could not be read.
    damaged: BTreeSet<Lane>,
    unreadable: bool,
    /// Where damage ever was.
    hurt: BTreeSet<(SpoolEpoch, Lane)>,
    /// Of what was hurt, what was being written when its run ended without order: nothing on disk says where it ended.
    open_ended: BTreeSet<(SpoolEpoch, Lane)>,
    /// Lanes of epochs of which the disk refused to sync what a killed run had left.
    unsynced: BTreeSet<(SpoolEpoch, Lane)>,
    /// Since everything was last compared: whether a gap row of an unclean stop was read, and whether a disk refused
    /// or an operation was cut short.
    unclean: bool,
    rough: bool,
}

fn lane_of(fact: u64) -> Lane {
    [Lane::Critical, Lane::Events, Lane::Events, Lane::Metrics][(fact % 4) as usize]
}

impl World {
    fn new(seed: u64) -> Self {
        clock::fixed::begin(seed);
        let config = SpoolConfig {
            folder: PathBuf::from(FOLDER),
            critical_quota: ByteSize(48_000),
            events_quota: ByteSize(6_000),
            metrics_quota: ByteSize(12_000),
            segment_size: ByteSize(2_500),
            intake_facts_max: 64,
            retention: HumanDuration::from_secs(30),
            ..SpoolConfig::default()
        };
        Self {
            disk: SimDisk::new(seed),
            config,
            spool: None,
            reader: None,
            now: Instant::now(),
            ticket: 0,
            series: Arc::from([SeriesKey::new("system.cpu.time", "s", [])]),
            trace: Vec::new(),
            is_calm: false,
            known: Known::default(),
        }
    }

    /// Opens the spool; only a folder that cannot be listed or locked may keep it closed.
    fn open(&mut self, resume: bool) {
        let operations = self.disk.operations();
        match Spool::open_on(self.config.clone(), Arc::new(self.disk.clone())) {
            Ok((spool, recovered)) => {
                assert_eq!(recovered.epoch, spool.handle().epoch());
                self.trace.push(format!("{recovered:?}"));
                (self.spool, self.reader) = (Some(spool), None);
                if resume {
                    self.connect();
                }
            }
            Err(error) => assert!(
                self.disk.has_faults(),
                "{error:?} after {} operations",
                self.disk.operations() - operations
            ),
        }
    }

    /// The collector says what it has, and the spool is read from there.
    fn connect(&mut self) {
        let Some(spool) = &self.spool else { return };
        let mut reader = spool.handle().reader();
        self.known.sent.clear();
        reader.resume(&self.marks());
        self.reader = Some(reader);
        self.tell();
    }

    /// The spool knows these marks.
    fn tell(&mut self) {
        for (place, mark) in &self.known.marks {
            let told = self.known.told.entry(*place).or_default();
            *told = (*told).max(*mark);
        }
    }

    fn marks(&self) -> Vec<Mark> {
        let marks = self.known.marks.iter();
        marks
            .map(|((epoch, lane), number)| mark(*epoch, *lane, *number))
            .collect()
    }

    fn append(&mut self, rows: usize) {
        let Some(spool) = &self.spool else { return };
        for _ in 0..rows {
            let fact = self.known.facts;
            self.known.facts += 1;
            self.known.waiting.insert(fact);
            let fact_of_lane = match lane_of(fact) {
                Lane::Critical => Fact::from(gap(fact)),
                Lane::Events => unit(fact).into(),
                Lane::Metrics => tick(&self.series, fact as i64).into(),
            };
            self.known.times.insert(fact, fact_of_lane.time());
            spool.handle().append(fact_of_lane);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        clock::fixed::advance(time);
    }

    /// One round of the writer, after `later`.
    fn round(&mut self, later: Duration) {
        self.pass(later);
        if let Some(spool) = &mut self.spool {
            let taken = spool.handle().shared.intake.take(Instant::now(), usize::MAX);
            spool.writer.work(taken, self.now, false);
        }
        self.check_memory();
    }

    /// Whether everything appended so far is durable, or its loss is.
    fn flush(&mut self) -> bool {
        let Some(spool) = &self.spool else { return false };
        let handle = spool.handle();
        self.ticket += 1;
        let ticket = self.ticket;
        handle
            .shared
            .intake
            .request(|requests| requests.flush_ticket = ticket);
        // Gaps that a round notes late are written in the next.
        for _ in 0..3 {
            self.round(Duration::from_millis(1));
            if handle.shared.progress.borrow().flushed_ticket >= ticket {
                let waiting = std::mem::take(&mut self.known.waiting);
                self.known.promised.extend(waiting);
                return true;
            }
            self.pass(Duration::from_secs(2));
        }
        false
    }

    /// What a reader finds from where it stands, with repairs of what it meets.
    fn read(&mut self, limit: ReadLimit) -> Option<Vec<SpooledFrame>> {
        let mut frames = Vec::new();
        loop {
            let handle = self.spool.as_ref()?.handle();
            let more = self.reader.as_ref()?.read_here(limit);
            let damage = handle.shared.intake.wants_repair();
            match more {
                Ok(more) => frames.extend(more),
                Err(error) => {
                    assert!(self.disk.has_faults(), "{error:?}");
                    break;
                }
            }
            if !damage || self.disk.has_faults() {
                break;
            }
            self.round(Duration::ZERO);
        }
        Some(frames)
    }

    /// The collector stores a part of what was sent to it; the spool hears of it, or its connection ends before.
    fn store(&mut self, random: &mut Random, heard: bool) {
        let places: BTreeMap<(SpoolEpoch, Lane), u64> = self
            .known
            .sent
            .keys()
            .map(|id| ((id.epoch, id.lane), id.sequence.0))
            .collect();
        for (place, highest) in places {
            if random.one_in(2) {
                let mark = self.known.marks.entry(place).or_default();
                *mark = (*mark).max(random.next() % (highest + 1));
            }
        }
        let (marks, stored) = (&self.known.marks, &mut self.known.stored);
        self.known.sent.retain(|id, facts| {
            let waits = marks
                .get(&(id.epoch, id.lane))
                .is_none_or(|mark| id.sequence.0 > *mark);
            if !waits {
                stored.insert(*id, std::mem::take(facts));
            }
            waits
        });
        self.check_stored();
        let Some(spool) = &self.spool else { return };
        if heard && self.reader.is_some() {
            let marks = self.marks();
            spool.handle().shared.index.lock().acknowledge(&marks, self.now);
            self.tell();
        } else {
            self.reader = None;
            self.known.sent.clear();
        }
    }

    /// The collector's store is replaced by an older copy of itself.
    fn restore(&mut self, random: &mut Random) {
        for mark in self.known.marks.values_mut() {
            if random.one_in(2) {
                *mark -= random.next() % (*mark + 1);
            }
        }
        let (marks, restored) = (&self.known.marks, &mut self.known.restored);
        self.known.stored.retain(|id, facts| {
            let stays = marks
                .get(&(id.epoch, id.lane))
                .is_some_and(|mark| id.sequence.0 <= *mark);
            if !stays {
                restored.insert(*id, std::mem::take(facts));
            }
            stays
        });
        self.reader = None;
        self.known.sent.clear();
    }

    fn stop(&mut self) {
        let clean = self.flush();
        self.reader = None;
        if let Some(spool) = self.spool.take() {
            spool.writer.finish(self.now);
        }
        if !clean {
            self.drop_waiting();
        }
        self.disk.kill();
    }

    fn drop_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.known.waiting);
        self.known.dropped.extend(waiting);
    }

    /// The process or the host goes down: what was not promised is lost, and said to be.
    fn down(&mut self, power: bool) {
        self.reader = None;
        if let Some(spool) = self.spool.take() {
            let epoch = spool.handle().epoch();
            let open = self.known.hurt.iter().filter(|place| place.0 == epoch);
            self.known.open_ended.extend(open);
        }
        self.drop_waiting();
        if power {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
    }

    fn corrupt(&mut self, random: &mut Random) {
        let segments: Vec<PathBuf> = self
            .disk
            .files(Path::new(FOLDER))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "frames"))
            .collect();
        let Some(path) = segments.get(random.below(segments.len())) else {
            return;
        };
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let Some(layout::Entry::Segment { lane, .. }) = layout::parse_entry(name) else {
            return;
        };
        self.known.damaged.insert(lane);
        let epoch = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        let epoch = epoch.and_then(layout::parse_epoch).expect("an epoch").1;
        self.known.hurt.insert((epoch, lane));
        let (what, at) = (random.below(4), random.below(1 << 20));
        self.trace.push(format!("{what} at {at} in {}", path.display()));
        self.disk.corrupt(path, |bytes| {
            let length = bytes.len().max(1);
            match what {
                0 => bytes.truncate(at % length),
                1 => bytes[at % length..]
                    .iter_mut()
                    .take(600)
                    .for_each(|byte| *byte = 0),
                2 if !bytes.is_empty() => {
                    bytes.drain(at % length..(at % length + 90).min(length));
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at % length) {
                        *byte ^= 1 << (at % 8);
                    }
                }
            }
        });
    }
}
