//! Files that are to be looked at, each once its burst is over.
//!
//! The first event of a file sets the time; what comes until then belongs to the same look, so that a burst is one
//! change with all its writers. A file that changes again and again is looked at rarer, at most every
//! [`SETTLE_MAX`]: within the five seconds that a change may take to be told.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::who::Touch;

/// Files that wait at once.
const FILES_MAX: usize = 4_096;
/// Touches of one file that are kept.
const TOUCHES_MAX: usize = 16;
/// Longest wait for a burst to be over.
const SETTLE_MAX: Duration = Duration::from_millis(3_500);
/// A file that was quiet so long is new again.
const CALM_AFTER: Duration = Duration::from_secs(60);
/// Files of which it is known how often they changed lately.
const RECENT_MAX: usize = 1_024;

/// A file that waits to be looked at.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) due: Instant,
    pub(crate) touches: Vec<Touch>,
    /// How it was noticed, when no touch says.
    pub(crate) noticed: &'static str,
    /// How often it was put off because a package manager was at work, or its work not settled.
    pub(crate) holds: u32,
}

/// See the module.
pub(crate) struct Queue {
    files: HashMap<PathBuf, Pending>,
    recent: HashMap<PathBuf, (Instant, u32)>,
    settle: Duration,
}

impl Queue {
    pub(crate) fn new(settle: Duration) -> Self {
        Self {
            files: HashMap::new(),
            recent: HashMap::new(),
            settle,
        }
    }

    /// Adds what is known of a file; `false` when too many wait.
    pub(crate) fn add(&mut self, path: &Path, noticed: &'static str, touch: Option<Touch>) -> bool {
        if let Some(pending) = self.files.get_mut(path) {
            if let Some(touch) = touch {
                keep(&mut pending.touches, touch);
            }
            return true;
        }
        if self.files.len() >= FILES_MAX {
            return false;
        }
        let due = Instant::now() + self.settle_of(path);
        let touches = touch.into_iter().collect();
        self.files.insert(
            path.to_owned(),
            Pending {
                due,
                touches,
                noticed,
                holds: 0,
            },
        );
        true
    }

    /// Puts one back that could not be decided yet.
    pub(crate) fn put_back(&mut self, path: PathBuf, pending: Pending) {
        match self.files.get_mut(&path) {
            Some(newer) => {
                for touch in pending.touches {
                    keep(&mut newer.touches, touch);
                }
                newer.holds = newer.holds.max(pending.holds);
            }
            None => {
                self.files.insert(path, pending);
            }
        }
    }

    /// Those whose time has come, at most so many.
    pub(crate) fn take_due(&mut self, now: Instant, most: usize) -> Vec<(PathBuf, Pending)> {
        let due = self.files.iter().filter(|(_, pending)| pending.due <= now);
        let paths: Vec<PathBuf> = due.take(most).map(|(path, _)| path.clone()).collect();
        let taken = paths
            .into_iter()
            .filter_map(|path| self.files.remove_entry(&path));
        taken.collect()
    }

    /// When the next one's time comes.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.files.values().map(|pending| pending.due).min()
    }

    /// Whether a file waits.
    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// A change of the file was told.
    pub(crate) fn told(&mut self, path: &Path) {
        let now = Instant::now();
        if self.recent.len() >= RECENT_MAX {
            self.recent
                .retain(|_, (last, _)| now.duration_since(*last) < CALM_AFTER);
            if self.recent.len() >= RECENT_MAX {
                self.recent.clear();
            }
        }
        let entry = self.recent.entry(path.to_owned()).or_insert((now, 0));
        let calm = now.duration_since(entry.0) >= CALM_AFTER;
        *entry = (now, if calm { 1 } else { entry.1.saturating_add(1) });
    }

    fn settle_of(&self, path: &Path) -> Duration {
        let times = self
            .recent
            .get(path)
            .filter(|(last, _)| last.elapsed() < CALM_AFTER)
            .map_or(0, |(_, times)| *times);
        let factor = 1_u32.checked_shl(times.min(16)).unwrap_or(u32::MAX);
        self.settle.saturating_mul(factor).min(SETTLE_MAX)
    }
}

/// One touch for each writer and act, the last of them; beyond the limit the oldest makes room.
fn keep(touches: &mut Vec<Touch>, touch: Touch) {
    let same = |known: &Touch| {
        (
            known.writer.pid,
            known.writer.start_boot_ns,
            known.act,
            known.identity,
        ) == (
            touch.writer.pid,
            touch.writer.start_boot_ns,
            touch.act,
            touch.identity,
        )
    };
    if let Some(known) = touches.iter_mut().find(|known| same(known)) {
        known.time = known.time.max(touch.time);
        known.proven |= touch.proven;
        known.named |= touch.named;
        known.coincides |= touch.coincides;
        return;
    }
    if touches.len() >= TOUCHES_MAX {
        touches.remove(0);
    }
    touches.push(touch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_looked_at_once_its_burst_is_over() {
        let mut queue = Queue::new(Duration::from_secs(1));
        let path = Path::new("/etc/passwd");
        assert!(queue.add(path, "scan", None) && queue.add(path, "scan", None));
        assert!(queue.take_due(Instant::now(), 10).is_empty() && queue.next_due().is_some());
        let later = Instant::now() + Duration::from_secs(2);
        assert_eq!(queue.take_due(later, 10).len(), 1);
        assert!(queue.next_due().is_none());
    }

    #[test]
    fn file_that_changes_again_and_again_is_looked_at_rarer_and_still_in_time() {
        let mut queue = Queue::new(Duration::from_secs(1));
        let path = Path::new("/var/www/index.php");
        let mut waits = Vec::new();
        for _ in 0..4 {
            waits.push(queue.settle_of(path).as_millis());
            queue.told(path);
        }
        assert_eq!(waits, [1_000, 2_000, 3_500, 3_500]);
    }

    #[test]
    fn files_that_wait_are_bounded() {
        let mut queue = Queue::new(Duration::from_secs(1));
        let added = (0..FILES_MAX + 10)
            .filter(|index| queue.add(Path::new(&format!("/f{index}")), "scan", None))
            .count();
        assert_eq!(added, FILES_MAX);
    }
}
