//! The baseline in memory: what every watched file was when it was last agreed with.
//!
//! One flat list of records, found by a hash of the path, and a second index from the file's identity (device and
//! inode) to the paths under which it is watched, which the hub's thread shares: a write by another name of the same
//! file is known by it. About 150 bytes a file beside its path.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::class::Class;
use crate::state::FileState;

/// Records by which the list grows: doubling would waste up to half of it.
const GROWTH: usize = 2_048;
/// Names of one file that are watched at once.
const NAMES_MAX: usize = 16;

/// Hashes are their own hashes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map whose keys are hashes.
pub(crate) type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Ready>>;

/// A watched file.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Its path.
    pub(crate) path: Box<Path>,
    /// What it was.
    pub(crate) state: FileState,
    /// Why it is watched.
    pub(crate) class: Class,
    /// Marks of this room: see [`Flags`].
    pub(crate) flags: u8,
    /// The scan that saw it last.
    pub(crate) scan: u8,
}

/// Marks of a record.
pub(crate) struct Flags;

impl Flags {
    /// Its content could not be read: it is compared by its time.
    pub(crate) const UNREADABLE: u8 = 1;
    /// It is not what its package delivered.
    pub(crate) const DISAGREES: u8 = 2;
    /// It had changed just before it was read: its time may not show the next change.
    pub(crate) const RACY: u8 = 4;
}

/// Watched paths by the identity of their file.
#[derive(Debug, Default)]
pub(crate) struct Inodes {
    one: ByHash<u64>,
    more: ByHash<Vec<u64>>,
}

/// The index that the hub's thread asks too.
pub(crate) type SharedInodes = Arc<RwLock<Inodes>>;

impl Inodes {
    /// Whether a file is watched under any name.
    pub(crate) fn contains(&self, identity: (u64, u64)) -> bool {
        self.one.contains_key(&identity_hash(identity))
    }

    fn add(&mut self, identity: (u64, u64), path: u64) {
        let key = identity_hash(identity);
        match self.one.get(&key) {
            None => {
                self.one.insert(key, path);
            }
            Some(known) if *known == path => {}
            Some(_) => {
                let names = self.more.entry(key).or_default();
                if names.len() < NAMES_MAX && !names.contains(&path) {
                    names.push(path);
                }
            }
        }
    }

    fn remove(&mut self, identity: (u64, u64), path: u64) {
        let key = identity_hash(identity);
        if let Some(names) = self.more.get_mut(&key) {
            names.retain(|known| *known != path);
        }
        if self.one.get(&key) == Some(&path) {
            match self.more.get_mut(&key).and_then(Vec::pop) {
                Some(next) => self.one.insert(key, next),
                None => self.one.remove(&key),
            };
        }
        if self.more.get(&key).is_some_and(Vec::is_empty) {
            self.more.remove(&key);
        }
    }

    fn paths(&self, identity: (u64, u64)) -> Vec<u64> {
        let key = identity_hash(identity);
        let more = self.more.get(&key).into_iter().flatten();
        self.one.get(&key).into_iter().chain(more).copied().collect()
    }
}

/// Inodes count up from small numbers, on few devices: multiplied they spread (the constant is 2^64 by the golden ratio).
fn identity_hash((device, inode): (u64, u64)) -> u64 {
    (inode ^ device.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// See the module.
pub(crate) struct Books {
    records: Vec<Record>,
    by_path: ByHash<u32>,
    inodes: SharedInodes,
    hasher: RandomState,
    files_max: usize,
}

impl Books {
    /// Empty books with room for so many files.
    pub(crate) fn new(files_max: usize) -> Self {
        Self {
            records: Vec::new(),
            by_path: ByHash::default(),
            inodes: SharedInodes::default(),
            hasher: RandomState::new(),
            files_max,
        }
    }

    /// The index of identities, to be shared.
    pub(crate) fn inodes(&self) -> SharedInodes {
        self.inodes.clone()
    }

    /// Files in the books.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Every record.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// The record at a place; places move when a record is removed.
    pub(crate) fn at(&self, place: usize) -> Option<&Record> {
        self.records.get(place)
    }

    /// The record of a path.
    pub(crate) fn get(&self, path: &Path) -> Option<&Record> {
        let place = self.by_path.get(&self.hash(path))?;
        let record = self.records.get(usize::try_from(*place).ok()?)?;
        (*record.path == *path).then_some(record)
    }

    /// The record of a path, to mark it. Its identity is changed by [`Books::put`] only.
    pub(crate) fn mark(&mut self, path: &Path, mark: impl FnOnce(&mut Record)) -> bool {
        let place = self.by_path.get(&self.hash(path)).copied();
        let place = place.and_then(|place| usize::try_from(place).ok());
        let record = place.and_then(|place| self.records.get_mut(place));
        match record.filter(|record| *record.path == *path) {
            Some(record) => {
                let before = record.state;
                mark(record);
                debug_assert_eq!(before.identity(), record.state.identity());
                true
            }
            None => false,
        }
    }

    /// The watched paths of a file.
    pub(crate) fn paths_of(&self, identity: (u64, u64)) -> Vec<Box<Path>> {
        let hashes = self.inodes.read().paths(identity);
        let record = |hash| {
            let place = self.by_path.get(&hash)?;
            let record = self.records.get(usize::try_from(*place).ok()?)?;
            (record.state.identity() == identity).then(|| record.path.clone())
        };
        hashes.into_iter().filter_map(record).collect()
    }

    /// Writes a file down, anew or again; `false` when there is no room for another.
    pub(crate) fn put(&mut self, record: Record) -> bool {
        let hash = self.hash(&record.path);
        let identity = record.state.identity();
        if let Some(place) = self
            .by_path
            .get(&hash)
            .and_then(|place| usize::try_from(*place).ok())
        {
            let Some(known) = self
                .records
                .get_mut(place)
                .filter(|known| known.path == record.path)
            else {
                // Two paths of one 64-bit hash: the first one keeps its place.
                return false;
            };
            let mut inodes = self.inodes.write();
            inodes.remove(known.state.identity(), hash);
            inodes.add(identity, hash);
            *known = record;
            return true;
        }
        let Ok(place) = u32::try_from(self.records.len()) else {
            return false;
        };
        if self.records.len() >= self.files_max {
            return false;
        }
        if self.records.len() == self.records.capacity() {
            self.records.reserve_exact(GROWTH);
        }
        self.records.push(record);
        self.by_path.insert(hash, place);
        self.inodes.write().add(identity, hash);
        true
    }

    /// Strikes a file out.
    pub(crate) fn remove(&mut self, path: &Path) -> Option<Record> {
        let hash = self.hash(path);
        let place = *self.by_path.get(&hash)?;
        let at = usize::try_from(place).ok()?;
        self.records.get(at).filter(|record| *record.path == *path)?;
        let record = self.records.swap_remove(at);
        self.by_path.remove(&hash);
        self.inodes.write().remove(record.state.identity(), hash);
        if let Some(moved) = self.records.get(at) {
            self.by_path.insert(self.hash(&moved.path), place);
        }
        Some(record)
    }

    /// Strikes everything out.
    pub(crate) fn clear(&mut self) {
        self.records = Vec::new();
        self.by_path = ByHash::default();
        *self.inodes.write() = Inodes::default();
    }

    fn hash(&self, path: &Path) -> u64 {
        use std::os::unix::ffi::OsStrExt as _;
        self.hasher.hash_one(path.as_os_str().as_bytes())
    }

    /// Bytes that the books take, paths included: for the test of their bound.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let inodes = self.inodes.read();
        let entry = |size: usize, capacity: usize| capacity * (size + 1) * 8 / 7;
        self.records.capacity() * size_of::<Record>()
            + entry(size_of::<(u64, u32)>(), self.by_path.capacity())
            + entry(size_of::<(u64, u64)>(), inodes.one.capacity())
            + self
                .records
                .iter()
                .map(|record| record.path.as_os_str().len())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Digest;

    fn record(path: &str, inode: u64) -> Record {
        Record {
            path: Path::new(path).into(),
            state: FileState {
                mode: libc::S_IFREG | 0o644,
                uid: 0,
                gid: 0,
                device: (8 << 20) | 1,
                inode,
                size: 1,
                changed_ns: 1,
                capabilities: 0,
                digest: Digest::None,
            },
            class: Class::Binary,
            flags: 0,
            scan: 0,
        }
    }

    fn identity(inode: u64) -> (u64, u64) {
        ((8 << 32) | 1, inode)
    }

    #[test]
    fn records_are_found_by_path_and_by_inode_after_any_removal() {
        let mut books = Books::new(100);
        for (path, inode) in [("/a", 1), ("/b", 2), ("/also-b", 2), ("/c", 3)] {
            assert!(books.put(record(path, inode)));
        }
        let names = |books: &Books, inode| {
            let mut paths = books.paths_of(identity(inode));
            paths.sort();
            paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&books, 2), ["/also-b", "/b"]);
        assert!(books.remove(Path::new("/a")).is_some() && books.remove(Path::new("/a")).is_none());
        assert_eq!(books.get(Path::new("/c")).unwrap().state.inode, 3);
        books.remove(Path::new("/b"));
        assert_eq!(names(&books, 2), ["/also-b"]);
        assert!(books.put(record("/c", 9)));
        assert!(!books.inodes().read().contains(identity(3)) && books.inodes().read().contains(identity(9)));
        books.remove(Path::new("/also-b"));
        assert!(!books.inodes().read().contains(identity(2)));
        assert_eq!(books.len(), 1);
    }

    #[test]
    fn hundred_thousand_files_keep_to_their_bound_of_memory_and_of_number() {
        let mut books = Books::new(100_000);
        let mut text = 0;
        for index in 0..100_500_u64 {
            let path = format!("/usr/lib/modules/6.1.0-13-amd64/kernel/drivers/net/module-{index:06}.ko");
            text += if books.put(record(&path, index)) {
                path.len()
            } else {
                0
            };
        }
        assert_eq!(books.len(), 100_000);
        let each = (books.bytes() - text) / 100_000;
        assert!(each <= 200, "{each} bytes a file beside its path");
    }
}
