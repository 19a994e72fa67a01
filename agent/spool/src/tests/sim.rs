//! A disk in memory that forgets what was not synced, and fails when it is told to.
//!
//! Every file has its content as the kernel shows it, what is durable of it, and the changes in between. A crash
//! keeps an arbitrary part of those: none, all, the first of them, the last one torn at its sectors, or any
//! sectors of any of them. Names are kept the same way, per folder. A failed sync may have dropped the changes.

mod access;
mod faults;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use self::faults::{Fault, Random};
use self::faults::{Faults, Operation, Verdict, error};
use crate::disk::{Access, Disk, DiskFile};
use rustix::io::Errno;

const SECTOR: usize = 512;
const ROOT: u64 = 0;

#[derive(Debug, Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    faults: Faults,
    files: HashMap<u64, Content>,
    folders: HashMap<u64, Folder>,
    last_node: u64,
    /// Counts crashes and kills: files opened in an earlier life are closed.
    life: u64,
    boot: u64,
}

#[derive(Debug, Default)]
struct Content {
    shown: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    locked_in: Option<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct Folder {
    shown: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    node: u64,
    life: u64,
    at_end: bool,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(content, *at, bytes),
            Change::Length(length) => content.resize(*length, 0),
        }
    }

    /// Some of its sectors, or all of it.
    fn apply_torn(&self, content: &mut Vec<u8>, random: &mut Random) {
        let Change::Write { at, bytes } = self else {
            return self.apply(content);
        };
        let only_first = random.one_in(2);
        let mut from = 0;
        while from < bytes.len() {
            let end = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
            if random.one_in(2) {
                put(content, at + from, &bytes[from..end]);
            } else if only_first {
                return;
            }
            from = end;
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.shown);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.changes);
        let whole = match random.below(4) {
            0 => 0,
            1 => changes.len(),
            _ => random.below(changes.len() + 1),
        };
        let scattered = random.one_in(4);
        for (number, change) in changes.iter().enumerate() {
            if scattered || number == whole {
                change.apply_torn(&mut self.durable, random);
            } else if number < whole {
                change.apply(&mut self.durable);
            }
        }
        self.shown.clone_from(&self.durable);
        self.locked_in = None;
    }
}

impl Folder {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.shown);
        self.changes.push(change);
    }

    fn crash(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.changes);
        let whole = match random.below(4) {
            0 => 0,
            1 => changes.len(),
            _ => random.below(changes.len() + 1),
        };
        let scattered = random.one_in(4);
        for (number, change) in changes.iter().enumerate() {
            if (scattered && random.one_in(2)) || (!scattered && number < whole) {
                change.apply(&mut self.durable);
            }
        }
        self.shown.clone_from(&self.durable);
    }
}

impl State {
    fn walk(&self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for part in path.components() {
            if let Component::Normal(name) = part {
                let folder = self.folders.get(&node).ok_or(error(Errno::NOTDIR))?;
                let name = name.to_str().expect("UTF-8");
                node = *folder.shown.get(name).ok_or(error(Errno::NOENT))?;
            }
        }
        Ok(node)
    }

    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let folder = self.walk(path.parent().expect("a parent"))?;
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        Ok((folder, name.to_owned()))
    }

    fn folder(&mut self, node: u64) -> io::Result<&mut Folder> {
        self.folders.get_mut(&node).ok_or(error(Errno::NOTDIR))
    }

    fn file(&mut self, node: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&node).ok_or(error(Errno::ISDIR))
    }

    fn begin(&mut self, operation: Operation) -> io::Result<Verdict> {
        let used = || taken(&self.files, &self.folders);
        self.faults.verdict(operation, used, &mut self.random)
    }

    fn new_node(&mut self) -> u64 {
        self.last_node += 1;
        self.last_node
    }
}

/// Bytes of files that have a name, or would have one again after a power cut.
fn taken(files: &HashMap<u64, Content>, folders: &HashMap<u64, Folder>) -> usize {
    let named: HashSet<u64> = folders
        .values()
        .flat_map(|folder| folder.shown.values().chain(folder.durable.values()))
        .copied()
        .collect();
    let named = files.iter().filter(|(node, _)| named.contains(node));
    named.map(|(_, file)| file.shown.len()).sum()
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            faults: Faults::default(),
            files: HashMap::new(),
            folders: HashMap::from([(ROOT, Folder::default())]),
            last_node: ROOT,
            life: 1,
            boot: 1,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Power fails and comes back: what was not synced is there in part, and no fault is left.
    pub(super) fn crash(&self) {
        let State {
            random,
            faults,
            files,
            folders,
            life,
            boot,
            ..
        } = &mut *self.state.lock();
        faults.clear();
        *life += 1;
        *boot += 1;
        let sorted = |keys: Vec<u64>| BTreeMap::from_iter(keys.into_iter().map(|key| (key, ())));
        for node in sorted(files.keys().copied().collect()).into_keys() {
            files.get_mut(&node).expect("a file").crash(random);
        }
        for node in sorted(folders.keys().copied().collect()).into_keys() {
            folders.get_mut(&node).expect("a folder").crash(random);
        }
        let mut named: Vec<u64> = folders
            .values()
            .flat_map(|folder| folder.shown.values().copied())
            .collect();
        named.push(ROOT);
        files.retain(|node, _| named.contains(node));
    }

    /// The process is gone, the kernel is not: nothing is forgotten.
    pub(super) fn kill(&self) {
        let mut state = self.state.lock();
        state.life += 1;
        state.faults.clear();
    }

    /// The operation of this number from now on fails, and only that one, unless it is a crash.
    pub(super) fn fail_at(&self, number: u64, fault: Fault) {
        self.state.lock().faults.fail_at(number, fault);
    }

    /// From now on one in so many operations fails at random; 0 ends it.
    pub(super) fn fail_one_in(&self, rate: usize, reads_too: bool) {
        self.state.lock().faults.fail_one_in(rate, reads_too);
    }

    /// Bytes that fit; `None` for as many as there are.
    pub(super) fn limit(&self, bytes: Option<usize>) {
        self.state.lock().faults.limit(bytes);
    }

    /// No fault is left.
    pub(super) fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Whether anything may fail.
    pub(super) fn has_faults(&self) -> bool {
        self.state.lock().faults.any()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.lock().faults.dead
    }

    pub(super) fn operations(&self) -> u64 {
        self.state.lock().faults.operations
    }

    pub(super) fn used(&self) -> usize {
        let state = self.state.lock();
        taken(&state.files, &state.folders)
    }

    /// Files below `folder`, sorted.
    pub(super) fn files(&self, folder: &Path) -> Vec<std::path::PathBuf> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(path) = open.pop() {
            let names = state.walk(&path).ok().and_then(|node| state.folders.get(&node));
            for (name, node) in names.iter().flat_map(|names| &names.shown) {
                if state.folders.contains_key(node) {
                    open.push(path.join(name));
                } else {
                    found.push(path.join(name));
                }
            }
        }
        found.sort();
        found
    }

    /// Changes the content of a file behind the spool's back, durably.
    pub(super) fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let node = state.walk(path).expect("a file");
        let file = state.file(node).expect("a file");
        change(&mut file.shown);
        file.durable.clone_from(&file.shown);
        file.changes.clear();
    }
}
