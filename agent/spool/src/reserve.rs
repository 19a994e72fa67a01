//! Room that is kept for gap rows: a full disk can still be told to have been full.
//!
//! The file `reserve` takes [`RESERVE_BYTES`] of the disk and says nothing. When there is no room for the gap rows it
//! is removed, and they are written into the room that it leaves; what is left of that is anybody's. It is made again
//! as soon as the disk takes frames, and until then further rows wait in memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{Access, Disk};
use crate::layout::{self, Layout};

/// Many times what the most gap rows that can wait take.
pub(crate) const RESERVE_BYTES: usize = 64 * 1024;
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_secs(10);

/// The file `reserve`.
#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Whether it is there, whole.
    held: bool,
    tried: Option<Instant>,
}

impl Reserve {
    /// Finds out whether there is one.
    pub(crate) fn open(layout: &Layout) -> Self {
        let (disk, path) = (layout.disk().clone(), layout.reserve());
        let bytes = disk.length(&path).unwrap_or(0);
        Self {
            held: usize::try_from(bytes) == Ok(RESERVE_BYTES),
            disk,
            path,
            tried: None,
        }
    }

    /// Gives its room away; false when that helps nobody.
    pub(crate) fn give(&mut self, refused: &io::Error, now: Instant) -> bool {
        let full = matches!(
            refused.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if !full || !self.held {
            return false;
        }
        (self.held, self.tried) = (false, Some(now));
        // Without the folder's sync the room may not be free yet.
        let given = self.disk.remove(&self.path).and_then(|()| self.sync());
        if let Err(error) = &given {
            tracing::debug!(%error, "the spool's reserve could not be given");
        }
        given.is_ok()
    }

    /// Takes room again, when there is some.
    pub(crate) fn keep(&mut self, now: Instant) {
        if self.held || self.tried.is_some_and(|tried| now < tried + TRY_EVERY) {
            return;
        }
        self.tried = Some(now);
        match self.make() {
            Ok(()) => self.held = true,
            Err(error) => {
                tracing::debug!(%error, "no room for the spool's reserve");
                // A part of it would only be in the way.
                if let Err(error) = layout::remove_if_there(&*self.disk, &self.path) {
                    tracing::debug!(%error, "a part of the spool's reserve stays");
                }
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        let mut file = self.disk.open(&self.path, Access::Create)?;
        file.write_all(&filling())?;
        file.sync_all()?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        self.path
            .parent()
            .map_or(Ok(()), |folder| self.disk.sync_folder(folder))
    }
}

/// Bytes that no filesystem makes smaller (Marsaglia's xorshift64, 2003).
fn filling() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(RESERVE_BYTES / 8).flatten().collect()
}
