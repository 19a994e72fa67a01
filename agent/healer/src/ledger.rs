//! The ledger: a hash chain of everything that was proposed, refused, done and measured.
//!
//! # Format, version 1
//!
//! One JSON object a line: `entry` (index, time, previous_hash, hash, body), `salt` and `event` (the step's row
//! as JSON text), the last two null where the entry records no step. `body` is JSON text with what can be known
//! for ever: format, kind, ids, remedy, hash of the target, stage, ending, and `commitment` = SHA-256 of
//! `"fleetmend-commitment-v1\0"`, the salt's 16 bytes and the text of `event`.
//! `hash` = SHA-256 of `"fleetmend-ledger-v1\0"`, index (u64 LE), time in microseconds (i64 LE), the previous
//! hash as its 64 hex digits, and the text of `body`. The first previous hash is 64 zeros.
//!
//! So a row can be erased (salt and event set to null) and the chain still verifies. A line counts once it ends
//! with its newline: what a crash tore is cut off at start, since nothing is done before its entry is synced.
//! Any other fault breaks the chain: the healer then says so and acts no more.

mod chain;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ActionEvent, LedgerEntry};

pub use chain::{Body, Kind, ZERO_HASH, hash_text};
use chain::{Line, verify_line};

/// A longer line is not one of ours.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// The ledger could not be opened, continued or believed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file operation failed.
    #[error("could not {action} the ledger {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An entry is not what its hash says, or does not follow from the one before.
    #[error("the ledger {} is broken at entry {index}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The entry.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// It has the size it may have.
    #[error("the ledger {} has {bytes} bytes, all it may have; archive it and start a new one", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Part of an entry was written, and could not be cut off again: nothing may follow it.
    #[error("the ledger {} ends with half an entry that could not be cut off", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It was given up before.
    #[error("the ledger was given up: {0}")]
    GivenUp(String),
    /// An entry is longer than a line may be.
    #[error("a ledger entry of {bytes} bytes is longer than the {LINE_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// An entry could not be written as JSON.
    #[error("a ledger entry could not be encoded")]
    Encode(#[from] serde_json::Error),
}

impl LedgerError {
    /// Whether the ledger is as it was before, so that the next entry may go well: a full disk passes.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            LedgerError::File { .. } | LedgerError::TooLong { .. } | LedgerError::Encode(_)
        )
    }
}

/// An entry and the step it records.
pub type Recorded = (LedgerEntry, Option<ActionEvent>);

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of entries.
    pub entries: u64,
    /// Hash of the last.
    pub head: String,
    /// Entries whose row was erased.
    pub erased: u64,
    /// Bytes after the last newline: torn by a crash.
    pub torn_bytes: u64,
}

/// The ledger, open for appending. One writer.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Arc<File>,
    // Where each entry begins, and where the next one will.
    offsets: Vec<u64>,
    end: u64,
    head: String,
    bytes_max: u64,
}

impl Ledger {
    /// Opens and verifies the whole chain; `visit` sees every body, oldest first.
    ///
    /// # Errors
    /// When it cannot be read, or is broken.
    pub fn open(
        path: &Path,
        bytes_max: u64,
        visit: &mut dyn FnMut(&LedgerEntry, &Body),
    ) -> Result<Self, LedgerError> {
        let failed = |action| file_fault(action, path);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        if let Some(folder) = path.parent() {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed("sync the folder of"))?;
        }
        let mut offsets = Vec::new();
        let (verified, end) = scan(path, &file, &mut |offset, line, body| {
            offsets.push(offset);
            visit(&line.entry, body);
        })?;
        if verified.torn_bytes > 0 {
            tracing::warn!(
                bytes = verified.torn_bytes,
                "ledger had a torn last line, which is cut off"
            );
            file.set_len(end).map_err(failed("cut the torn end of"))?;
            file.sync_all().map_err(failed("sync"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            offsets,
            end,
            head: verified.head,
            bytes_max,
        })
    }

    /// Verifies the file without changing it.
    ///
    /// # Errors
    /// When it cannot be read, or is broken.
    pub fn verify(path: &Path) -> Result<Verified, LedgerError> {
        let file = File::open(path).map_err(file_fault("open", path))?;
        scan(path, &file, &mut |_, _, _| {}).map(|(verified, _)| verified)
    }

    /// Index of the next entry.
    pub fn next_index(&self) -> u64 {
        u64::try_from(self.offsets.len()).unwrap_or(u64::MAX)
    }

    /// Hash of the last entry.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Appends an entry; it is on the disk when this returns. The event gets the entry's index.
    ///
    /// # Errors
    /// When it could not be made durable; the ledger is then as it was before, unless [`LedgerError::Torn`].
    pub fn append(
        &mut self,
        time: TimeMicros,
        mut body: Body,
        event: Option<ActionEvent>,
    ) -> Result<Recorded, LedgerError> {
        let index = self.next_index();
        let event = event.map(|event| ActionEvent {
            ledger_index: index,
            ..event
        });
        let mut line = Line {
            entry: blank(time, index, &self.head),
            salt: None,
            event: None,
        };
        if let Some(event) = &event {
            let salt: [u8; 16] = rand::random();
            let text = serde_json::to_string(event)?;
            body.commitment = Some(chain::commitment(&salt, &text));
            line.salt = Some(hex::encode(salt));
            line.event = Some(text);
        }
        line.entry.body = serde_json::to_string(&body)?;
        line.entry.hash = chain::hash(&line.entry);
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if text.len() >= LINE_BYTES_MAX {
            return Err(LedgerError::TooLong { bytes: length });
        }
        if self.end.saturating_add(length) > self.bytes_max {
            return Err(LedgerError::Full {
                path: self.path.clone(),
                bytes: self.end,
            });
        }
        let written = (&*self.file)
            .write_all(&text)
            .and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // A half-written line must not stand before the next one.
            let path = self.path.clone();
            let cut = self.file.set_len(self.end).and_then(|()| self.file.sync_data());
            return Err(match cut {
                Ok(()) => LedgerError::File {
                    action: "append to",
                    path,
                    source,
                },
                Err(source) => LedgerError::Torn { path, source },
            });
        }
        self.offsets.push(self.end);
        self.end = self.end.saturating_add(length);
        self.head.clone_from(&line.entry.hash);
        Ok((line.entry, event))
    }

    /// Up to `count_max` entries from `index` on, as something that can be read without holding the ledger.
    pub fn page(&self, index: u64, count_max: usize) -> Page {
        let first = usize::try_from(index).unwrap_or(usize::MAX);
        let begin = self.offsets.get(first).copied().unwrap_or(self.end);
        let last = first.saturating_add(count_max);
        let end = self.offsets.get(last).copied().unwrap_or(self.end);
        Page {
            file: self.file.clone(),
            path: self.path.clone(),
            begin,
            end,
        }
    }
}

/// A run of entries in the file.
#[derive(Debug)]
pub struct Page {
    file: Arc<File>,
    path: PathBuf,
    begin: u64,
    end: u64,
}

impl Page {
    /// Reads the entries.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else by now.
    pub fn read(&self) -> Result<Vec<Recorded>, LedgerError> {
        let mut bytes = vec![0; usize::try_from(self.end.saturating_sub(self.begin)).unwrap_or(0)];
        self.file
            .read_exact_at(&mut bytes, self.begin)
            .map_err(file_fault("read", &self.path))?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let line: Line = serde_json::from_slice(line)?;
                let event = line.event.as_deref().map(serde_json::from_str).transpose()?;
                Ok((line.entry, event))
            })
            .collect()
    }
}

fn blank(time: TimeMicros, index: u64, head: &str) -> LedgerEntry {
    LedgerEntry {
        time,
        index,
        previous_hash: head.to_owned(),
        hash: String::new(),
        body: String::new(),
    }
}

fn file_fault(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> LedgerError + use<> {
    let path = path.to_owned();
    move |source| LedgerError::File {
        action,
        path: path.clone(),
        source,
    }
}

/// Reads and verifies every line; gives also where the last whole one ends.
fn scan(
    path: &Path,
    file: &File,
    visit: &mut dyn FnMut(u64, &Line, &Body),
) -> Result<(Verified, u64), LedgerError> {
    let mut reader = BufReader::new(file);
    let mut verified = Verified {
        entries: 0,
        head: ZERO_HASH.to_owned(),
        erased: 0,
        torn_bytes: 0,
    };
    let mut offset = 0_u64;
    let mut text = Vec::new();
    loop {
        text.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let read = std::io::Read::take(&mut reader, limit).read_until(b'\n', &mut text);
        let length = u64::try_from(read.map_err(file_fault("read", path))?).unwrap_or(u64::MAX);
        if length == 0 {
            return Ok((verified, offset));
        }
        let broken = |reason: String| LedgerError::Broken {
            path: path.to_owned(),
            index: verified.entries,
            reason,
        };
        if text.last() != Some(&b'\n') {
            if length >= limit {
                return Err(broken(format!("it is longer than {LINE_BYTES_MAX} bytes")));
            }
            verified.torn_bytes = length;
            return Ok((verified, offset));
        }
        let (line, body) = verify_line(&text, verified.entries, &verified.head).map_err(broken)?;
        visit(offset, &line, &body);
        verified.entries += 1;
        verified.erased += u64::from(body.commitment.is_some() && line.event.is_none());
        verified.head.clone_from(&line.entry.hash);
        offset = offset.saturating_add(length);
    }
}

#[cfg(test)]
mod tests;
