//! How far the log was read, kept over restarts as one line of JSON.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Version of the file; another one is not believed.
const VERSION: u32 = 1;
/// Bytes of a file's beginning by which it is known again: more than the stamp of its first record.
const HEAD_BYTES: usize = 128;
/// Largest file of a position.
const FILE_BYTES_MAX: u64 = 4096;

/// A place in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    version: u32,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) offset: u64,
    /// The first bytes, in hexadecimal: an inode comes again, a first record does not.
    head: String,
}

impl Position {
    /// The beginning of an open file.
    pub(super) fn start_of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            version: VERSION,
            device: metadata.dev(),
            inode: metadata.ino(),
            offset: 0,
            head: head(file, HEAD_BYTES)?,
        })
    }

    /// Whether `file` is the one meant, and still holds what was read of it.
    pub(super) fn fits(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else {
            return false;
        };
        metadata.dev() == self.device
            && metadata.ino() == self.inode
            && metadata.len() >= self.offset
            && self.has_head_of(file)
    }

    /// Whether `file` begins as it did.
    pub(super) fn has_head_of(&self, file: &File) -> bool {
        head(file, self.head.len() / 2).is_ok_and(|head| head == self.head)
    }

    /// Takes over more of the beginning of a file that was short when it was opened.
    pub(super) fn renew_head(&mut self, file: &File) {
        if self.head.len() < HEAD_BYTES * 2
            && let Ok(head) = head(file, HEAD_BYTES)
            && head.starts_with(&self.head)
        {
            self.head = head;
        }
    }

    /// Reads a kept position; `None` when there is none that can be believed.
    pub(super) fn load(path: &Path) -> Option<Self> {
        if fs::metadata(path).ok()?.len() > FILE_BYTES_MAX {
            return None;
        }
        let kept: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (kept.version == VERSION).then_some(kept)
    }

    /// Keeps it: written beside and renamed, so that it is whole or the one before.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(&fresh, path)
    }
}

fn head(file: &File, bytes: usize) -> io::Result<String> {
    let mut buffer = [0_u8; HEAD_BYTES];
    let wanted = buffer.get_mut(..bytes.min(HEAD_BYTES)).unwrap_or_default();
    let mut read = 0;
    while let Some(rest) = wanted.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(read).unwrap_or(u64::MAX))? {
            0 => break,
            count => read += count,
        }
    }
    let digits = wanted.get(..read).unwrap_or_default().iter();
    Ok(digits.map(|byte| format!("{byte:02x}")).collect())
}
