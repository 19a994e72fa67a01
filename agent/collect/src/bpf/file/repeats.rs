//! Acts that the kernel counts instead of telling: the counts come back as rows once their window is over.
#![expect(
    unsafe_code,
    reason = "the table of the probes is mapped, to take counts back without a call for each"
)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, MapError};
use fleetmend_ebpf::abi::file::limit::{REPEAT_SETS, REPEAT_WAYS, REPEAT_WORDS};
use fleetmend_event::Fact;
use fleetmend_event::table::FileEvent;

use crate::bpf::clock::BootClock;
use crate::bpf::error::FamilyError;
use crate::bpf::family::map_error;

/// Rows that are remembered for what is repeated of them.
const ROWS_MAX: usize = 4096;
const WORDS: usize = REPEAT_SETS * REPEAT_WAYS * REPEAT_WORDS;
const BYTES: usize = WORDS * size_of::<u64>();

/// See the module.
pub(super) struct Repeats {
    words: NonNull<AtomicU64>,
    /// Keeps the map open.
    _open: MapData,
    rows: HashMap<u64, FileEvent>,
    window_ns: u64,
}

// SAFETY: the mapping belongs to this value alone and is only reached through atomics.
unsafe impl Send for Repeats {}

impl Repeats {
    /// Maps the table.
    pub(super) fn map(map: Map, window_ns: u64) -> Result<Self, FamilyError> {
        let map = match map {
            Map::Array(map) => map,
            _ => return Err(map_error("REPEATS")(MapError::InvalidMapType { map_type: 0 })),
        };
        let fd = map.fd().as_fd().as_raw_fd();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice; it is as long as the map's values.
        let words = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, libc::MAP_SHARED, fd, 0) };
        let words = NonNull::new(words)
            .filter(|_| words != libc::MAP_FAILED)
            .ok_or_else(|| map_error("REPEATS")(MapError::IoError(io::Error::last_os_error())))?;
        Ok(Self {
            words: words.cast(),
            _open: map,
            rows: HashMap::new(),
            window_ns,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is so long, starts on a page, lives as long as `self`, and the kernel writes it by whole
        // words only, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), WORDS) }
    }

    /// Keeps a row for the repeats that may come.
    pub(super) fn remember(&mut self, key: u64, row: &FileEvent) {
        if self.rows.len() < ROWS_MAX || self.rows.contains_key(&key) {
            self.rows.insert(key, row.clone());
        }
    }

    /// The row of so many repeats, the last of them then.
    pub(super) fn row(&self, key: u64, count: u64, last_ns: u64, clock: &BootClock) -> Option<FileEvent> {
        let row = self.rows.get(&key)?;
        Some(FileEvent {
            time: clock.time_of(last_ns),
            boot_ns: last_ns,
            repeats: count,
            ..row.clone()
        })
    }

    /// Rows of what was repeated within windows that are over.
    pub(super) fn sweep(&mut self, clock: &BootClock, out: &mut Vec<Fact>) {
        let now = clock.boot_ns();
        let mut told = Vec::new();
        for place in self.words().as_chunks::<REPEAT_WORDS>().0 {
            let [key, since, count, last] = place;
            if count.load(Ordering::Relaxed) == 0 {
                continue;
            }
            if now.saturating_sub(since.load(Ordering::Relaxed)) < self.window_ns {
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
            out.extend(self.row(key, count, last_ns, clock).map(Fact::from));
        }
        // A row that was told two windows ago has no repeats any more.
        let keep_ns = self.window_ns.saturating_mul(2);
        self.rows
            .retain(|_, row| now.saturating_sub(row.boot_ns) < keep_ns);
    }
}

impl Drop for Repeats {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing refers to it any more.
        if unsafe { libc::munmap(self.words.as_ptr().cast(), BYTES) } != 0 {
            tracing::warn!("cannot unmap the table of repeats");
        }
    }
}
