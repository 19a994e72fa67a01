//! A disk that forgets what was not synced.
//!
//! Contents belong to files, names to folders. A write is in the file at once and on the disk after a sync of the
//! file; a name appears, moves or goes at once, and on the disk after a sync of its folder. What a power cut leaves of
//! the rest is the choice of [`Left`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::trace::Call;

const SECTOR: u64 = 512;

/// What is left of changes that were not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left {
    /// All of them, as after a kill.
    Everything,
    /// None.
    Synced,
    /// Some: of names, those up to some moment; of each file's writes, those that a seed chooses, which may be torn.
    Chance(u64),
}

#[derive(Debug, Default, Clone)]
struct File {
    is_folder: bool,
    synced: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Resize(u64),
}

#[derive(Debug, Clone)]
enum Naming {
    Made(PathBuf, usize),
    /// From, to, and what: its new name may be kept although the old one never was.
    Moved(PathBuf, PathBuf, usize),
    Gone(PathBuf),
}

impl Naming {
    /// The folder whose sync keeps it; both, for a move between two.
    fn folders(&self) -> Vec<&Path> {
        let paths = match self {
            Naming::Made(path, _) | Naming::Gone(path) => vec![path],
            Naming::Moved(from, to, _) => vec![from, to],
        };
        paths.into_iter().filter_map(|path| path.parent()).collect()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Made(path, file) => {
                names.insert(path.clone(), *file);
            }
            Naming::Gone(path) => {
                names.remove(path);
            }
            Naming::Moved(from, to, file) => {
                // A folder moves with all that is in it.
                let moved: Vec<PathBuf> = names
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in moved {
                    let rest = path.strip_prefix(from).unwrap();
                    let to = if rest.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(rest)
                    };
                    let file = names.remove(&path).unwrap();
                    names.insert(to, file);
                }
                names.insert(to.clone(), *file);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    /// As the process sees them.
    names: BTreeMap<PathBuf, usize>,
    /// As they are on the disk.
    synced: BTreeMap<PathBuf, usize>,
    /// Not on the disk yet.
    namings: Vec<Naming>,
}

impl Disk {
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Open { path, emptied } => {
                if !self.names.contains_key(path) {
                    self.make(path, false);
                }
                if *emptied {
                    self.change(path, Change::Resize(0));
                }
            }
            Call::Write { path, at, bytes } => self.change(
                path,
                Change::Write {
                    at: *at,
                    bytes: bytes.clone(),
                },
            ),
            Call::Resize { path, bytes } => self.change(path, Change::Resize(*bytes)),
            Call::Rename { from, to } => {
                let file = *self.names.get(from).expect("a file that is moved is known");
                self.name(Naming::Moved(from.clone(), to.clone(), file));
            }
            Call::Link { from, to } => {
                let file = *self.names.get(from).expect("a file that is linked is known");
                self.name(Naming::Made(to.clone(), file));
            }
            Call::Unlink { path } => self.name(Naming::Gone(path.clone())),
            Call::MakeFolder { path } => self.make(path, true),
            Call::Sync { path } => self.sync(path),
            Call::Said(_) => {}
        }
    }

    fn make(&mut self, path: &Path, is_folder: bool) {
        self.files.push(File {
            is_folder,
            ..File::default()
        });
        let file = self.files.len() - 1;
        self.name(Naming::Made(path.to_owned(), file));
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push(naming);
    }

    fn change(&mut self, path: &Path, change: Change) {
        let file = *self
            .names
            .get(path)
            .unwrap_or_else(|| panic!("{} is not known", path.display()));
        self.files[file].changes.push(change);
    }

    fn sync(&mut self, path: &Path) {
        let is_folder = path.as_os_str().is_empty()
            || self
                .names
                .get(path)
                .is_some_and(|file| self.files[*file].is_folder);
        if is_folder {
            let (kept, waiting): (Vec<Naming>, Vec<Naming>) = std::mem::take(&mut self.namings)
                .into_iter()
                .partition(|naming| naming.folders().contains(&path));
            kept.iter().for_each(|naming| naming.apply(&mut self.synced));
            // What was made and then moved has its new name only.
            let is_moved = |naming: &Naming| {
                let Naming::Made(made, _) = naming else {
                    return false;
                };
                let moved = |kept: &Naming| matches!(kept, Naming::Moved(from, ..) if from == made);
                kept.iter().any(moved)
            };
            self.namings = waiting.into_iter().filter(|naming| !is_moved(naming)).collect();
        } else if let Some(file) = self.names.get(path).copied() {
            let file = &mut self.files[file];
            for change in std::mem::take(&mut file.changes) {
                put(&mut file.synced, &change);
            }
        }
    }

    /// Writes what is left to a real folder.
    pub(crate) fn leave(&self, left: Left, to: &Path) {
        let mut chance = Chance(match left {
            Left::Chance(seed) => seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            _ => 1,
        });
        let names = match left {
            Left::Everything => self.names.clone(),
            Left::Synced => self.synced.clone(),
            Left::Chance(_) => {
                let mut names = self.synced.clone();
                // A journal of names keeps their order.
                let kept = chance.below(self.namings.len() as u64 + 1) as usize;
                self.namings
                    .iter()
                    .take(kept)
                    .for_each(|naming| naming.apply(&mut names));
                names
            }
        };
        for (path, file) in &names {
            let is_there = |folder: &Path| folder.as_os_str().is_empty() || names.contains_key(folder);
            if !path.ancestors().skip(1).all(is_there) {
                continue;
            }
            let file = &self.files[*file];
            let path = to.join(path);
            if file.is_folder {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, contents(file, left, &mut chance)).unwrap();
            }
        }
    }
}

fn contents(file: &File, left: Left, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = file.synced.clone();
    for change in &file.changes {
        match (left, change) {
            (Left::Synced, _) => {}
            (Left::Everything, change) => put(&mut bytes, change),
            (Left::Chance(_), Change::Resize(_)) if chance.below(2) == 0 => put(&mut bytes, change),
            (Left::Chance(_), Change::Write { at, bytes: written }) => match chance.below(3) {
                0 => put(&mut bytes, change),
                1 => put(&mut bytes, &torn(*at, written, chance)),
                _ => {}
            },
            _ => {}
        }
    }
    bytes
}

/// A write of which only the sectors before some place are there.
fn torn(at: u64, written: &[u8], chance: &mut Chance) -> Change {
    let first = SECTOR - at % SECTOR;
    let sectors = (written.len() as u64).saturating_sub(first).div_ceil(SECTOR) + 1;
    let kept = chance.below(sectors + 1);
    let bytes = match kept {
        0 => 0,
        kept => (first + (kept - 1) * SECTOR).min(written.len() as u64),
    };
    Change::Write {
        at,
        bytes: written[..bytes as usize].to_vec(),
    }
}

fn put(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Resize(bytes) => file.resize(*bytes as usize, 0),
        Change::Write { bytes, .. } if bytes.is_empty() => {}
        Change::Write { at, bytes } => {
            let end = *at as usize + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// Xorshift: the same seed, the same disk.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn disk_forgets_what_was_not_synced() {
    let call = |path: &str, text: &str, at| Call::Write {
        path: PathBuf::from(path),
        at,
        bytes: text.as_bytes().to_vec(),
    };
    let open = |path: &str| Call::Open {
        path: PathBuf::from(path),
        emptied: false,
    };
    let sync = |path: &str| Call::Sync {
        path: PathBuf::from(path),
    };
    let mut disk = Disk::default();
    for call in [
        open("a"),
        call("a", "one", 0),
        sync("a"),
        sync(""),
        call("a", "two", 3),
        open("b"),
        sync("b"),
    ] {
        disk.apply(&call);
    }
    let read = |left| {
        let folder = tempfile::tempdir().unwrap();
        disk.leave(left, folder.path());
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
        (text("a"), text("b"))
    };
    assert_eq!(
        read(Left::Everything),
        (Some("onetwo".to_owned()), Some(String::new()))
    );
    assert_eq!(read(Left::Synced), (Some("one".to_owned()), None));
}
