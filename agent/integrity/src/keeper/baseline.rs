//! What the scanner reports, and what it is to do next.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;

use super::{Keeper, Phase, SCAN_WITHOUT_EVENTS};
use crate::books::{Flags, Record};
use crate::class::Class;
use crate::scan::{Order, Report};
use crate::state::{Digest, FileState, Observed};
use crate::watch::Kind;

/// Stands among the rules of a baseline once programs with others' rights were looked for everywhere.
pub(crate) const SUID_PRINT: u32 = 0x5355_4944;
/// Files of one order: a report must not keep the scanner from what is more urgent for long.
const HASH_BATCH: usize = 16;

impl Keeper {
    /// Takes one report of the scanner.
    pub(super) fn heed(&mut self, report: Report) {
        let over = !matches!(report, Report::Found(_));
        if over && std::mem::take(&mut self.scanning.stale) {
            // It began before everything was forgotten, and saw the rest only.
            self.scanning.ordered = false;
            return;
        }
        match report {
            Report::Found(files) => {
                for (path, class, state) in files {
                    self.found(&path, class, state);
                }
            }
            Report::Walked(unreadable) => self.walked(unreadable),
            Report::Swept => {
                self.scanning.ordered = false;
                self.scanning.next_sweep = Instant::now() + self.config.suid_interval.get();
                self.dirty |= self.scanning.suid_first;
                self.scanning.suid_first = false;
                self.begin_hashing();
            }
            Report::Hashed(files) => {
                self.scanning.ordered = false;
                for (path, found) in files {
                    self.hashed(&path, found);
                }
            }
        }
    }

    fn found(&mut self, path: &Path, class: Class, state: FileState) {
        let number = self.scanning.number;
        if let Some(record) = self.books.get(path) {
            let untouched = record.state.is_untouched(&state);
            self.books.mark(path, |record| record.scan = number);
            if !untouched
                && self
                    .changed
                    .get(path)
                    .is_none_or(|changed| !same(changed.now, state))
            {
                self.suspect(path, "scan", None);
            }
            return;
        }
        let walking = self.scanning.phase == Phase::Walking;
        let quiet = match class {
            Class::Suid => self.scanning.suid_first,
            _ => walking && (self.scanning.first || self.watch.is_fresh(path, Kind::of(&state))),
        };
        if quiet && !self.queue.contains(path) {
            self.write_down(path, class, state, 0);
        } else if self
            .changed
            .get(path)
            .is_none_or(|changed| !same(changed.now, state))
        {
            self.suspect(path, "scan", None);
        }
    }

    /// Writes a file down as it is.
    pub(super) fn write_down(&mut self, path: &Path, class: Class, state: FileState, flags: u8) {
        let record = Record {
            path: path.into(),
            state,
            class,
            flags,
            scan: self.scanning.number,
        };
        if self.books.put(record) {
            self.dirty = true;
        } else {
            self.troubles.left_out = self.troubles.left_out.saturating_add(1);
        }
    }

    fn walked(&mut self, unreadable: u64) {
        self.scanning.ordered = false;
        self.troubles.unreadable = unreadable;
        let number = self.scanning.number;
        let unseen = self
            .books
            .iter()
            .filter(|record| record.scan != number || record.class == Class::Suid);
        let unseen: Vec<_> = unseen.map(|record| record.path.clone()).collect();
        for path in unseen {
            self.suspect(&path, "scan", None);
        }
        // What differs may be as it was again.
        for path in self.changed.paths() {
            self.suspect(&path, "scan", None);
        }
        self.registry.learn_programs();
        let mut interval = self.config.rescan_interval.get();
        if self.delivered != Some(true) {
            interval = interval.min(SCAN_WITHOUT_EVENTS);
        }
        self.scanning.next_walk = Instant::now() + interval;
        if self.scanning.phase == Phase::Walking {
            let files = self.books.len();
            tracing::info!(
                files,
                first = self.scanning.first,
                "integrity knows what is watched"
            );
            self.scanning.first = false;
            self.begin_hashing();
        }
    }

    fn begin_hashing(&mut self) {
        self.scanning.phase = Phase::Hashing;
        self.scanning.cursor = (0, 0);
        if self.packages.exists() {
            let (watch, books) = (&self.watch, &self.books);
            self.packages
                .refresh(|path| watch.class_of(path, Kind::File).is_some() || books.get(path).is_some());
        }
    }

    /// Gives the scanner its next order, when it has none.
    pub(super) fn order_next(&mut self, now: Instant) {
        let waits = self.scanning.ordered && now >= self.scanning.next_walk;
        self.scanning.hurry.store(waits, Ordering::Relaxed);
        if self.scanning.ordered {
            return;
        }
        let order = if now >= self.scanning.next_walk {
            self.scanning.number = self.scanning.number % 250 + 1;
            self.troubles.left_out = 0;
            Order::Walk
        } else if let Some(order) = self.hash_order() {
            order
        } else if self.watch.watches_suid() && now >= self.scanning.next_sweep {
            Order::Sweep
        } else {
            return;
        };
        self.scanning.ordered = self.channels.orders.try_send(order).is_ok();
    }

    /// The next files to hash, those of the most important classes first; none when every one was.
    fn hash_order(&mut self) -> Option<Order> {
        if self.scanning.phase != Phase::Hashing {
            return None;
        }
        let mut files = Vec::new();
        let (mut rank, mut place) = self.scanning.cursor;
        while let Some(class) = Class::from_code(rank) {
            while let Some(record) = self.books.at(place) {
                place += 1;
                if record.class == class && wants_digest(record) {
                    let packaged = self.packages.delivered(&record.path).is_some();
                    files.push((record.path.clone(), packaged));
                }
                if files.len() >= HASH_BATCH {
                    self.scanning.cursor = (rank, place);
                    return Some(Order::Hash(files));
                }
            }
            (rank, place) = (rank + 1, 0);
        }
        self.scanning.cursor = (rank, place);
        if !files.is_empty() {
            return Some(Order::Hash(files));
        }
        // Records move when one is removed: only a search that finds none is the end.
        if self.books.iter().any(wants_digest) {
            self.scanning.cursor = (0, 0);
            return None;
        }
        self.scanning.phase = Phase::Watching;
        self.saved_at = Instant::now()
            .checked_sub(Duration::from_secs(3))
            .unwrap_or(self.saved_at);
        let files = self.books.len();
        tracing::info!(files, "integrity baseline is complete");
        None
    }

    fn hashed(&mut self, path: &Path, found: std::io::Result<Option<Observed>>) {
        let Some(record) = self.books.get(path) else {
            return;
        };
        let (state, class, flags) = (record.state, record.class, record.flags);
        match found {
            Ok(Some(observed)) if observed.state.is_untouched(&state) => {
                let flags = self.flags_of(path, &observed);
                self.write_down(path, class, observed.state, flags);
                self.books.mark(path, |record| record.scan = self.scanning.number);
            }
            Ok(_) => {
                // It changed since it was found: looked at like any other change, and not waited for here.
                self.books.mark(path, |record| record.flags |= Flags::UNREADABLE);
                self.suspect(path, "scan", None);
            }
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "watched file cannot be read");
                self.books
                    .mark(path, |record| record.flags = flags | Flags::UNREADABLE);
            }
        }
    }

    /// The marks of a file that was read.
    pub(super) fn flags_of(&self, path: &Path, observed: &Observed) -> u8 {
        let mut flags = 0;
        if observed.state.is_racy(TimeMicros::now().0.saturating_mul(1_000)) {
            flags |= Flags::RACY;
        }
        let delivered = self.packages.delivered(path);
        if delivered
            .zip(observed.md5)
            .is_some_and(|(delivered, md5)| delivered.md5 != md5)
        {
            flags |= Flags::DISAGREES;
        }
        flags
    }
}

fn wants_digest(record: &Record) -> bool {
    let has_content = record.state.is_regular() || record.state.is_link();
    has_content && record.state.digest == Digest::None && record.flags & Flags::UNREADABLE == 0
}

fn same(known: Option<FileState>, state: FileState) -> bool {
    known.is_some_and(|known| known.is_untouched(&state))
}
