//! All journal files of this host, followed over rotation, flush and restart.
//!
//! A file is known by its own id, which stays when it is renamed; how many of its entries were read is kept over
//! restarts. On the very first run every file is taken up at its end. Later a file that was never seen is read
//! from its head: journald rotated. When journald flushes /run to /var it writes entries again into files of
//! another folder: of these only what is newer than everything read from the first folder is taken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::JournalEntry;
use super::file::{JournalError, JournalFile, Next};

/// Most journal files that are followed; journald keeps 100 by default.
const FILES_MAX: usize = 1_024;
/// A journal that nothing was written to for so long is one that journald has left behind.
const QUIET_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Entries that are read of one file before the next has its turn.
const TURN: u64 = 256;
/// What was kept of a time so far ahead of the clock was told by one that has been set back since.
const AHEAD_MAX_US: u64 = 60_000_000;

/// How far the journal was read, as kept over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalPositions {
    /// When the journal was taken up first, in microseconds; 0 before that.
    #[serde(default)]
    since_us: u64,
    /// Entries read, by the id of the file.
    #[serde(default)]
    read: BTreeMap<String, u64>,
    /// Newest entry read, by folder.
    #[serde(default)]
    newest: BTreeMap<PathBuf, u64>,
}

enum State {
    Open(Box<JournalFile>),
    /// Read to its end, and nothing will be added.
    Done,
    Broken,
}

struct Followed {
    path: PathBuf,
    folder: PathBuf,
    id: String,
    /// Entries up to this time are not taken.
    floor_us: u64,
    newest_us: u64,
    read: u64,
    /// Of a file that is gone, how many entries were read when that was seen last.
    gone_at: Option<u64>,
    state: State,
}

impl Followed {
    /// Entries that nobody will read of a file that is gone; `None` while they are still read.
    fn left_unread(&mut self) -> Option<u64> {
        let State::Open(open) = &self.state else {
            return Some(0);
        };
        let left = open.entries().saturating_sub(open.read());
        let stands = self.gone_at.replace(open.read()) == Some(open.read());
        (left == 0 || stands).then_some(left)
    }

    fn is_reused_by(&self, path: &Path) -> bool {
        let closed = !matches!(self.state, State::Open(_));
        closed && self.path != path && JournalFile::open(path).is_ok_and(|file| hex(file.id()) != self.id)
    }
}

/// What was met while reading, since it was taken.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Entries that are damaged, each of them.
    pub(crate) damaged: u64,
    /// Entries at least that a damaged file holds and nobody will read.
    pub(crate) unread: u64,
    /// Files that vanished or were cut before they were read.
    pub(crate) files: Vec<String>,
}

/// See the module.
pub(crate) struct Journal {
    roots: Vec<PathBuf>,
    machine: Option<String>,
    files: HashMap<(u64, u64), Followed>,
    kept: JournalPositions,
    trouble: Trouble,
    broken: BTreeMap<PathBuf, String>,
    more: bool,
    live: bool,
}

impl Journal {
    /// A journal below these folders, of this machine (of every one when it is not known), on from `kept`.
    pub(crate) fn new(roots: Vec<PathBuf>, machine: Option<String>, kept: JournalPositions) -> Self {
        Self {
            roots,
            machine,
            files: HashMap::new(),
            kept,
            trouble: Trouble::default(),
            broken: BTreeMap::new(),
            more: false,
            live: false,
        }
    }

    /// Folders that hold journal files, for a watch: the roots and those of this machine.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for root in &self.roots {
            folders.push(root.clone());
            let below = fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            folders.extend(below.filter(|path| path.is_dir() && self.is_ours(path)));
        }
        folders
    }

    /// Looks for new files, and forgets those that are gone and read.
    pub(crate) fn scan(&mut self, now_us: u64) {
        self.forget_the_future(now_us);
        let first = self.kept.since_us == 0;
        let mut present = HashSet::new();
        self.live = false;
        for folder in self.folders() {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let mut beyond = 0_u64;
            for path in entries.map(|entry| entry.path()).filter(|path| is_journal(path)) {
                let Ok(about) = fs::metadata(&path) else { continue };
                let key = (about.dev(), about.ino());
                present.insert(key);
                self.live |= about.is_file() && is_written(&about);
                // An open file keeps its inode; that of one which is closed may be another file's by now.
                let reused = self
                    .files
                    .get(&key)
                    .is_some_and(|known| known.is_reused_by(&path));
                if reused && let Some(gone) = self.files.remove(&key) {
                    self.kept.read.remove(&gone.id);
                    self.broken.remove(&gone.path);
                }
                if let Some(known) = self.files.get_mut(&key) {
                    known.path = path;
                } else if about.is_file() && self.files.len() < FILES_MAX {
                    self.take_up(key, path, folder.clone(), first);
                } else if about.is_file() {
                    beyond = beyond.saturating_add(1);
                }
            }
            if beyond > 0 {
                let reason = format!("{beyond} files more than the {FILES_MAX} that are followed");
                self.broken.insert(folder, reason);
            } else {
                self.broken.remove(&folder);
            }
        }
        if !self.files.is_empty() && first {
            self.kept.since_us = now_us.max(1);
        }
        let gone: Vec<_> = self
            .files
            .keys()
            .filter(|key| !present.contains(*key))
            .copied()
            .collect();
        for key in gone {
            // What journald removed while it was read is read to its end through its descriptor first. Entries that its
            // header counts and nothing links, as after a crash of the host, never come.
            let left = self.files.get_mut(&key).and_then(Followed::left_unread);
            if let Some(left) = left
                && let Some(file) = self.files.remove(&key)
            {
                self.trouble.unread = self.trouble.unread.saturating_add(left.min(1));
                self.kept.read.remove(&file.id);
                self.broken.remove(&file.path);
            }
        }
    }

    /// A host may begin with a clock that is ahead: what is written once it is right is not older than what was read.
    fn forget_the_future(&mut self, now_us: u64) {
        let latest_us = now_us.saturating_add(AHEAD_MAX_US);
        let right = |time_us: &mut u64| {
            if *time_us > latest_us {
                *time_us = now_us.max(1);
            }
        };
        right(&mut self.kept.since_us);
        self.kept.newest.values_mut().for_each(right);
        for followed in self.files.values_mut() {
            right(&mut followed.floor_us);
            right(&mut followed.newest_us);
        }
    }

    fn take_up(&mut self, key: (u64, u64), path: PathBuf, folder: PathBuf, first: bool) {
        let mut file = match JournalFile::open(&path) {
            Ok(file) => file,
            Err(error) => {
                // One that is being made has no header yet: the next look tells.
                if fs::metadata(&path).is_ok_and(|about| about.len() == 0) {
                    return;
                }
                self.give_up(&path, &error, 0);
                let (id, state) = (String::new(), State::Broken);
                let followed = Followed {
                    path,
                    folder,
                    id,
                    floor_us: 0,
                    newest_us: 0,
                    read: 0,
                    gone_at: None,
                    state,
                };
                self.files.insert(key, followed);
                return;
            }
        };
        let id = hex(file.id());
        let elsewhere = self.kept.newest.iter().filter(|(other, _)| **other != folder);
        let copied_us = elsewhere.map(|(_, newest)| *newest).max().unwrap_or(0);
        let (position, mut floor_us) = match self.kept.read.get(&id) {
            Some(read) => (*read, 0),
            None if first => (file.entries(), 0),
            None => (0, self.kept.since_us.max(copied_us)),
        };
        // In a folder that is followed already a new file holds new entries only.
        if self.kept.newest.contains_key(&folder) {
            floor_us = floor_us.min(self.kept.since_us);
        }
        let over = file.is_archived() && (file.times().1 <= floor_us || position >= file.entries());
        let skipped = if over { Ok(()) } else { file.skip_to(position) };
        let read = if over { file.entries() } else { file.read() };
        let state = match skipped {
            Err(error) => {
                self.give_up(&path, &error, file.entries().saturating_sub(file.read()));
                State::Broken
            }
            Ok(()) if over => State::Done,
            Ok(()) => State::Open(Box::new(file)),
        };
        let followed = Followed {
            path,
            folder,
            id,
            floor_us,
            newest_us: 0,
            read,
            gone_at: None,
            state,
        };
        self.files.insert(key, followed);
    }

    /// Reads up to `entries_max` entries and hands each to `take`; returns how many.
    pub(crate) fn read(&mut self, entries_max: u64, mut take: impl FnMut(JournalEntry)) -> u64 {
        let mut taken = 0;
        self.more = false;
        let mut given_up = Vec::new();
        for followed in self.files.values_mut() {
            let State::Open(file) = &mut followed.state else {
                continue;
            };
            let left = entries_max.saturating_sub(taken).min(TURN);
            let trouble = &mut self.trouble;
            let read = read_turn(file, left, followed.floor_us, trouble, |entry| {
                followed.newest_us = followed.newest_us.max(entry.realtime_us);
                taken += 1;
                take(entry);
            });
            followed.read = file.read();
            match read {
                Ok(()) if file.read() < file.entries() => self.more = true,
                Ok(()) if file.is_archived() => followed.state = State::Done,
                Ok(()) => {}
                Err(error) => {
                    let unread = file.entries().saturating_sub(file.read());
                    given_up.push((followed.path.clone(), error, unread));
                    followed.state = State::Broken;
                }
            }
        }
        for (path, error, unread) in given_up {
            self.give_up(&path, &error, unread);
        }
        taken
    }

    /// Whether the last reading left entries behind.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// Files that are read, and those that cannot be, with the reason.
    pub(crate) fn standing(&self) -> (usize, &BTreeMap<PathBuf, String>) {
        let usable = self
            .files
            .values()
            .filter(|file| !matches!(file.state, State::Broken));
        (usable.count(), &self.broken)
    }

    /// Whether journald writes to any of the files.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// What was met since this was asked last.
    pub(crate) fn take_trouble(&mut self) -> Trouble {
        std::mem::take(&mut self.trouble)
    }

    /// How far everything was read.
    pub(crate) fn positions(&mut self) -> JournalPositions {
        for file in self.files.values() {
            let newest = self.kept.newest.entry(file.folder.clone()).or_default();
            *newest = (*newest).max(file.newest_us);
            if !file.id.is_empty() {
                self.kept.read.insert(file.id.clone(), file.read);
            }
        }
        self.kept.clone()
    }

    fn give_up(&mut self, path: &Path, error: &JournalError, unread: u64) {
        let reason = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        tracing::warn!(path = %path.display(), reason, "journal file is passed over");
        // The count comes from a damaged file: no more entries than fit into it.
        let fit = fs::metadata(path).map_or(0, |about| about.len() / 64);
        self.trouble.unread = self.trouble.unread.saturating_add(unread.min(fit).max(1));
        self.trouble.files.push(format!("{}: {reason}", path.display()));
        self.broken.insert(path.to_owned(), reason);
    }

    fn is_ours(&self, path: &Path) -> bool {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return false;
        };
        // `<machine id>`, and `<machine id>.<namespace>` for units with a journal of their own.
        let id = name.split('.').next().unwrap_or_default();
        match &self.machine {
            Some(machine) => id == machine,
            None => id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        }
    }
}

fn read_turn(
    file: &mut JournalFile,
    entries_max: u64,
    floor_us: u64,
    trouble: &mut Trouble,
    mut take: impl FnMut(JournalEntry),
) -> Result<(), JournalError> {
    if file.read() >= file.entries() {
        file.refresh()?;
    }
    for _ in 0..entries_max {
        match file.next_entry()? {
            Next::Entry(entry) if entry.realtime_us <= floor_us => {}
            Next::Entry(entry) => take(*entry),
            Next::Skipped(_) => trouble.damaged = trouble.damaged.saturating_add(1),
            Next::End => return Ok(()),
        }
    }
    Ok(())
}

/// journald touches a file with each entry. A time of the future is of a clock that was set back since.
fn is_written(about: &fs::Metadata) -> bool {
    about
        .modified()
        .is_ok_and(|at| at.elapsed().unwrap_or_default() < QUIET_MAX)
}

fn hex(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `*.journal`, and `*.journal~` that was not closed in order.
fn is_journal(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "journal" || extension == "journal~")
}

/// The id of this machine, as journald names its folder.
pub(crate) fn machine_id() -> io::Result<String> {
    fs::read_to_string("/etc/machine-id").map(|text| text.trim().to_owned())
}
