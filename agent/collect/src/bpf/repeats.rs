//! Acts that the kernel counts instead of telling: the counts come back as rows once their while is over, or when they
//! make room for others.
#![expect(
    unsafe_code,
    reason = "the table of the probes is mapped, to take counts back without a call for each"
)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, MapError};
use fleetmend_ebpf::abi::repeats::{WAYS, WORDS};
use fleetmend_ebpf::abi::{AbiError, Act, KIND_REPEATS, RepeatsRecord, kind_of};
use fleetmend_event::Fact;

use super::clock::BootClock;
use super::enrich::Enricher;
use super::error::FamilyError;
use super::family::map_error;
use super::spec::{Handler, Maps};

/// Rows that are remembered for what is repeated of them, for each set of the table.
const ROWS_OF_A_SET: usize = 2;
/// How long a row is remembered that the table does not hold: its record of repeats may be under way.
const KEEP_NS: u64 = 10_000_000_000;

/// How long acts are counted that are equal to one of which no row was made: a program that does it all the time costs
/// ten records a second.
const UNTOLD_NS: u64 = 100_000_000;

/// The handler of a family of acts, whose object has a table of repeats.
pub(super) struct Acts<H> {
    handler: H,
    sets: usize,
    repeats: Option<Repeats>,
}

impl<H> Acts<H> {
    /// Rows as `handler` makes them, and those of repeats beside them; the table has so many sets.
    pub(super) fn new(handler: H, sets: usize) -> Self {
        Self {
            handler,
            sets,
            repeats: None,
        }
    }
}

impl<H: Handler> Handler for Acts<H> {
    fn begin(&mut self, maps: &mut Maps<'_>, cx: &mut Enricher) -> Result<(), FamilyError> {
        self.repeats = Some(Repeats::map(maps.take("REPEATS")?, self.sets)?);
        self.handler.begin(maps, cx)
    }

    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        if kind_of(bytes)? == KIND_REPEATS {
            let record = RepeatsRecord::parse(bytes)?;
            let row = self
                .repeats
                .as_ref()
                .and_then(|repeats| repeats.row(record.key, record.count, record.time_ns, &cx.clock));
            out.extend(row);
            return Ok(());
        }
        let made = out.len();
        self.handler.record(bytes, cx, out)?;
        let act = Act::parse(bytes)?;
        match (&mut self.repeats, out.get(made)) {
            (Some(repeats), Some(row)) => repeats.remember(&act, row),
            (Some(repeats), None) => repeats.tell_again(&act),
            (None, _) => {}
        }
        Ok(())
    }

    fn wanted_at_slow_pace(&self, kind: u16) -> bool {
        self.handler.wanted_at_slow_pace(kind)
    }

    fn follow(&mut self, bytes: &[u8], cx: &mut Enricher) {
        self.handler.follow(bytes, cx);
    }

    fn tick(&mut self, cx: &mut Enricher, out: &mut Vec<Fact>) {
        self.handler.tick(cx, out);
        if let Some(repeats) = &mut self.repeats {
            repeats.sweep(&cx.clock, out);
        }
    }
}

/// A family's table of repeats, and the rows that they are repeats of.
struct Repeats {
    words: NonNull<AtomicU64>,
    sets: usize,
    /// Keeps the map open.
    _open: Option<MapData>,
    rows: HashMap<u64, Remembered>,
}

struct Remembered {
    row: Fact,
    keep_until_ns: u64,
}

// SAFETY: the mapping belongs to this value alone and is only reached through atomics.
unsafe impl Send for Repeats {}

impl Repeats {
    /// Maps the table.
    fn map(map: Map, sets: usize) -> Result<Self, FamilyError> {
        let map = match map {
            Map::Array(map) => map,
            _ => return Err(map_error("REPEATS")(MapError::InvalidMapType { map_type: 0 })),
        };
        let words = mapping(Some(map.fd().as_fd().as_raw_fd()), sets)
            .map_err(|error| map_error("REPEATS")(MapError::IoError(error)))?;
        Ok(Self {
            words,
            sets,
            _open: Some(map),
            rows: HashMap::new(),
        })
    }

    /// The places of the table, those of a set beside each other.
    fn places(&self) -> &[[AtomicU64; WORDS]] {
        // SAFETY: the mapping is so long, starts on a page, lives as long as `self`, and the kernel writes it by whole
        // words only, which atomics allow.
        let words = unsafe { std::slice::from_raw_parts(self.words.as_ptr(), words_of(self.sets)) };
        words.as_chunks().0
    }

    /// Until when acts of this key are counted; `None` when the table does not hold it.
    fn until(&self, key: u64) -> Option<&AtomicU64> {
        if key == 0 {
            // Of acts that are not counted, and of places that are free.
            return None;
        }
        let set = usize::try_from(key >> 32).ok()?.checked_rem(self.sets)?;
        let places = self.places().get(set * WAYS..(set + 1) * WAYS)?;
        let of_key = |place: &&[AtomicU64; WORDS]| {
            let [at, ..] = place;
            at.load(Ordering::Relaxed) == key
        };
        let [_, until, ..] = places.iter().find(of_key)?;
        Some(until)
    }

    /// No row was made of an act: what is equal to it for the probes may be worth one.
    fn tell_again(&self, act: &Act) {
        if let Some(until) = self.until(act.key) {
            until.store(act.time_ns.saturating_add(UNTOLD_NS), Ordering::Relaxed);
        }
    }

    /// Keeps a row for the repeats that may come.
    fn remember(&mut self, act: &Act, row: &Fact) {
        let has_room = self.rows.len() < self.sets * ROWS_OF_A_SET;
        if act.key != 0 && (has_room || self.rows.contains_key(&act.key)) {
            let row = row.clone();
            let keep_until_ns = act.time_ns.saturating_add(KEEP_NS);
            self.rows.insert(act.key, Remembered { row, keep_until_ns });
        }
    }

    /// The row of so many repeats, the last of them then.
    fn row(&self, key: u64, count: u64, last_ns: u64, clock: &BootClock) -> Option<Fact> {
        let mut row = self.rows.get(&key)?.row.clone();
        let when = (clock.time_of(last_ns), last_ns, count);
        match &mut row {
            Fact::FileEvent(row) => (row.time, row.boot_ns, row.repeats) = when,
            Fact::CredentialEvent(row) => (row.time, row.boot_ns, row.repeats) = when,
            Fact::MemoryEvent(row) => (row.time, row.boot_ns, row.repeats) = when,
            Fact::KernelEvent(row) => (row.time, row.boot_ns, row.repeats) = when,
            Fact::SignalEvent(row) => (row.time, row.boot_ns, row.repeats) = when,
            _ => return None,
        }
        Some(row)
    }

    /// Rows of what was repeated within whiles that are over.
    fn sweep(&mut self, clock: &BootClock, out: &mut Vec<Fact>) {
        let now = clock.boot_ns();
        let mut told = Vec::new();
        for [key, until, count, last] in self.places() {
            if count.load(Ordering::Relaxed) == 0 || now < until.load(Ordering::Relaxed) {
                continue;
            }
            let count = count.swap(0, Ordering::Relaxed);
            // Below 0, as the probes read it: they told these at the very moment when we took them the last time.
            if i64::try_from(count).is_err() {
                continue;
            }
            told.push((key.load(Ordering::Relaxed), count, last.load(Ordering::Relaxed)));
        }
        for (key, count, last_ns) in told {
            out.extend(self.row(key, count, last_ns, clock));
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.retain(|key, remembered| {
            if let Some(until) = self.until(*key) {
                remembered.keep_until_ns = until.load(Ordering::Relaxed).saturating_add(KEEP_NS);
            }
            now < remembered.keep_until_ns
        });
        self.rows = rows;
    }
}

impl Drop for Repeats {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing refers to it any more.
        if unsafe { libc::munmap(self.words.as_ptr().cast(), bytes_of(self.sets)) } != 0 {
            tracing::warn!("cannot unmap the table of repeats");
        }
    }
}

const fn words_of(sets: usize) -> usize {
    sets * WAYS * WORDS
}

const fn bytes_of(sets: usize) -> usize {
    words_of(sets) * size_of::<u64>()
}

/// A mapping of so many sets, of the descriptor's map or, without one, of memory.
fn mapping(fd: Option<RawFd>, sets: usize) -> io::Result<NonNull<AtomicU64>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | if fd.is_none() { libc::MAP_ANONYMOUS } else { 0 };
    let (place, bytes) = (std::ptr::null_mut(), bytes_of(sets));
    // SAFETY: a new mapping at a place of the kernel's choice; it is as long as the map's values.
    let words = unsafe { libc::mmap(place, bytes, protection, flags, fd.unwrap_or(-1), 0) };
    NonNull::new(words.cast())
        .filter(|_| words != libc::MAP_FAILED)
        .ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{Actor, MemoryEvent, MemoryEventKind, Source};

    use super::*;

    const SETS: usize = 32;
    const SECOND: u64 = 1_000_000_000;

    fn table() -> Repeats {
        Repeats {
            words: mapping(None, SETS).unwrap(),
            sets: SETS,
            _open: None,
            rows: HashMap::new(),
        }
    }

    /// Puts an entry in the key's set, as the probes do.
    fn enter(repeats: &Repeats, key: u64, until_ns: u64, count: u64) {
        let set = usize::try_from(key >> 32).unwrap() % SETS;
        let words = [key, until_ns, count, 77];
        for (place, word) in repeats.places()[set * WAYS + 1].iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn told(repeats: &mut Repeats, clock: &BootClock) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        repeats.sweep(clock, &mut out);
        let row = |fact: &Fact| match fact {
            Fact::MemoryEvent(row) => (row.boot_ns, row.repeats),
            other => panic!("{other:?}"),
        };
        out.iter().map(row).collect()
    }

    #[test]
    fn counts_become_rows_once_when_their_while_is_over() {
        let (mut repeats, clock) = (table(), BootClock::now());
        let now = clock.boot_ns();
        let (key, other) = ((5 << 32) | 1, (6 << 32) | 1);
        let act = Act {
            key,
            time_ns: now,
            ..Act::default()
        };
        let row = MemoryEvent::by(
            Actor::default(),
            MemoryEventKind::Ptrace,
            clock.time_of(now),
            now,
            Source::Ebpf,
        );
        repeats.remember(&act, &row.into());
        enter(&repeats, key, now + SECOND, 3);
        enter(&repeats, other, now - 1, 9);
        assert_eq!(
            told(&mut repeats, &clock),
            [],
            "its while is not over; the other has no row"
        );
        enter(&repeats, key, now - 1, 3);
        assert_eq!(told(&mut repeats, &clock), [(77, 3)]);
        assert_eq!(told(&mut repeats, &clock), []);
    }

    #[test]
    fn act_without_a_row_hides_its_equals_for_a_moment_only() {
        let repeats = table();
        let key = (9 << 32) | 1;
        enter(&repeats, key, u64::MAX, 0);
        let act = Act {
            key,
            time_ns: SECOND,
            ..Act::default()
        };
        repeats.tell_again(&act);
        let until = repeats.until(key).map(|until| until.load(Ordering::Relaxed));
        assert_eq!(until, Some(SECOND + UNTOLD_NS));
        assert!(repeats.until(key + 2).is_none());
    }

    #[test]
    fn row_is_kept_as_long_as_the_table_holds_its_act() {
        let (mut repeats, clock) = (table(), BootClock::now());
        let now = clock.boot_ns();
        let row = MemoryEvent::by(
            Actor::default(),
            MemoryEventKind::ExecutableMapping,
            clock.time_of(now),
            now,
            Source::Ebpf,
        );
        let row = Fact::from(row);
        let (held, gone) = ((7 << 32) | 1, (8 << 32) | 1);
        for key in [held, gone] {
            let act = Act {
                key,
                ..Act::default()
            };
            repeats.remember(&act, &row);
        }
        enter(&repeats, held, now, 0);
        assert_eq!(told(&mut repeats, &clock), []);
        let keys: Vec<u64> = repeats.rows.keys().copied().collect();
        assert_eq!(keys, [held]);
    }
}
