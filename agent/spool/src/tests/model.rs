//! A model of the spool, and the real one on a disk that fails, step by step on one thread.
//!
//! The model knows every fact that was appended, every frame that was ever handed out and what the collector
//! has. After each reading it compares: see [`World::check`].

mod check;
mod turns;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::RecordId;

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
    known: Known,
}

/// What the model remembers.
#[derive(Default)]
struct Known {
    /// Facts appended so far; the next one's number.
    facts: u64,
    /// Facts that flush() has promised and that were in no frame yet.
    promised: BTreeSet<u64>,
    /// Facts that were appended and not promised.
    waiting: BTreeSet<u64>,
    /// Where a fact was found.
    found: HashMap<u64, RecordId>,
    /// Every frame that was ever read with a body.
    bodies: HashMap<RecordId, Bytes>,
    /// Highest number of each epoch and lane that was ever read and is not lost on record.
    highest: BTreeMap<(SpoolEpoch, Lane), u64>,
    /// What was sent since the reader was placed, which the collector may acknowledge.
    sent: BTreeMap<(SpoolEpoch, Lane), u64>,
    /// What the collector has.
    marks: BTreeMap<(SpoolEpoch, Lane), u64>,
    /// Since everything was last compared: rows lost on record per lane, and gap rows that say "at least".
    lost: BTreeMap<Lane, u64>,
    at_least: BTreeMap<Lane, u64>,
    /// Lanes whose files were changed behind the spool's back, or could not be read.
    damaged: BTreeSet<Lane>,
    unreadable: bool,
    /// Where damage ever was: tombstones that the disk refused are made again at the next start.
    hurt: BTreeSet<(SpoolEpoch, Lane)>,
    /// Lanes of which the disk refused to sync what a killed run had left.
    unsynced: BTreeSet<Lane>,
}

fn lane_of(fact: u64) -> Lane {
    [Lane::Critical, Lane::Events, Lane::Events, Lane::Metrics][(fact % 4) as usize]
}

impl World {
    fn new(seed: u64) -> Self {
        clock::fixed::begin(seed);
        let size = ByteSize(6_000);
        let config = SpoolConfig {
            folder: PathBuf::from(FOLDER),
            critical_quota: ByteSize(48_000),
            events_quota: size,
            metrics_quota: size,
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
                let mut reader = spool.handle().reader();
                self.known.sent.clear();
                if resume {
                    reader.resume(&self.marks());
                }
                (self.spool, self.reader) = (Some(spool), Some(reader));
            }
            Err(error) => assert!(
                self.disk.has_faults(),
                "{error:?} after {} operations",
                self.disk.operations() - operations
            ),
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
            match lane_of(fact) {
                Lane::Critical => spool.handle().append(gap(fact)),
                Lane::Events => spool.handle().append(unit(fact)),
                Lane::Metrics => spool.handle().append(tick(&self.series, fact as i64)),
            }
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

    fn acknowledge(&mut self, random: &mut Random) {
        let Some(spool) = &self.spool else { return };
        for (place, highest) in &self.known.sent {
            let mark = self.known.marks.entry(*place).or_default();
            if random.one_in(2) {
                *mark = (*mark).max(random.next() % (*highest + 1));
            }
        }
        let marks = self.marks();
        spool.handle().shared.index.lock().acknowledge(&marks, self.now);
    }

    fn stop(&mut self) {
        let clean = self.flush();
        self.reader = None;
        if let Some(spool) = self.spool.take() {
            spool.writer.finish(self.now);
        }
        if !clean {
            self.known.waiting.clear();
        }
        self.disk.kill();
    }

    /// The process or the host goes down: what was not promised is lost, and said to be.
    fn down(&mut self, power: bool) {
        (self.spool, self.reader) = (None, None);
        self.known.waiting.clear();
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
