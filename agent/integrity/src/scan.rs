//! The thread that reads: walks what is watched, hashes what the baseline wants.
//!
//! It judges nothing and holds no lock that anyone waits for, because it runs only when nobody else wants the
//! processor. Orders come in, batches of what was found go out; the channel of reports has little room, so that the
//! scan goes on only as fast as it is followed. Bytes and files a second are bounded, and of hashing and of the search for
//! SUID programs, which may take hours, the share of the processor ([`Pace`]).

mod pace;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

pub use pace::Paused;
pub(crate) use pace::{Hurry, Pace};

use crate::class::{Class, is_suid};
use crate::pattern::{DEPTH_MAX, Pattern};
use crate::state::{Depth, FileState, Observed, look, read};
use crate::watch::{Kind, Watch};
use crate::{metrics, priority};

/// Files of one report.
const BATCH: usize = 128;
/// What a file that is looked at counts besides its bytes, where bytes are paced.
const OPEN_BYTES: u64 = 4_096;

/// What the scanner is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Look at everything that is watched.
    Walk,
    /// Look for SUID and SGID programs on every file system of the host.
    Sweep,
    /// Read these files, and say what they hold; with MD5 where it is `true`.
    Hash(Vec<(Box<Path>, bool)>),
}

/// What the scanner found.
#[derive(Debug)]
pub(crate) enum Report {
    /// These files are there.
    Found(Vec<(Box<Path>, Class, FileState)>),
    /// The walk is over; so many files and folders could not be looked at.
    Walked(u64),
    /// The sweep is over.
    Swept,
    /// What files hold; none where one is gone, an error where one could not be read.
    Hashed(Vec<(Box<Path>, std::io::Result<Option<Observed>>)>),
}

/// How fast, and how deep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) files_per_s: u64,
    pub(crate) bytes_per_s: u64,
    pub(crate) whole_max: u64,
}

/// See the module.
pub(crate) struct Scanner {
    pub(crate) watch: Arc<Watch>,
    pub(crate) limits: Limits,
    pub(crate) pace: Pace,
    pub(crate) suid_exclude: Vec<Pattern>,
    pub(crate) reports: SyncSender<Report>,
}

/// The other side is gone, or the agent ends.
struct Ended;

struct Walk {
    batch: Vec<(Box<Path>, Class, FileState)>,
    unreadable: u64,
}

impl Scanner {
    /// Does what is ordered until nobody orders any more.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        let priority = priority::lower();
        tracing::debug!(priority, "integrity scanner runs");
        while let Ok(order) = orders.recv() {
            if self.pace.is_over() || self.obey(order).is_err() {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), Ended> {
        self.pace.begin_share();
        let report = match order {
            Order::Walk => {
                let mut walk = Walk::new();
                for base in self.watch.clone().bases() {
                    self.walk(&base, &base, &mut walk)?;
                }
                self.send_found(&mut walk)?;
                Report::Walked(walk.unreadable)
            }
            Order::Sweep => {
                self.sweep()?;
                Report::Swept
            }
            Order::Hash(files) => Report::Hashed(self.hash(files)?),
        };
        self.reports.send(report).map_err(|_| Ended)
    }

    fn walk(&mut self, base: &Path, path: &Path, walk: &mut Walk) -> Result<(), Ended> {
        let Some(state) = self.look(path, walk)? else {
            return Ok(());
        };
        if let Some(class) = self.watch.class_of(path, Kind::of(&state)) {
            walk.batch.push((path.into(), class, state));
            if walk.batch.len() >= BATCH {
                self.send_found(walk)?;
            }
        }
        if !state.is_folder() || !self.watch.descends(base, path) {
            return Ok(());
        }
        for entry in entries_of(path, walk) {
            self.walk(base, &entry, walk)?;
        }
        Ok(())
    }

    fn look(&mut self, path: &Path, walk: &mut Walk) -> Result<Option<FileState>, Ended> {
        // Nothing that changes is judged before the first walk is over: it is not held to the share.
        if !self.pace.spend(1, self.limits.files_per_s) {
            return Err(Ended);
        }
        Ok(Self::state_of(path, walk))
    }

    fn state_of(path: &Path, walk: &mut Walk) -> Option<FileState> {
        metrics::scanned(1);
        look(path).unwrap_or_else(|_| {
            walk.unreadable += 1;
            None
        })
    }

    fn send_found(&self, walk: &mut Walk) -> Result<(), Ended> {
        if walk.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut walk.batch);
        self.reports.send(Report::Found(batch)).map_err(|_| Ended)
    }

    /// SUID and SGID programs of every local file system, except those that the rules find anyway.
    fn sweep(&mut self) -> Result<(), Ended> {
        let mut walk = Walk::new();
        for (root, device) in file_systems(&self.watch.root) {
            let mut folders = vec![(root, 0)];
            while let Some((folder, depth)) = folders.pop() {
                for path in entries_of(&folder, &mut walk) {
                    if !self.pace.spend_in_share(1, self.limits.files_per_s) {
                        return Err(Ended);
                    }
                    let Some(state) = Self::state_of(&path, &mut walk) else {
                        continue;
                    };
                    if state.is_folder() {
                        let excluded = self.suid_exclude.iter().any(|pattern| pattern.covers(&path));
                        if state.device == device && depth < DEPTH_MAX && !excluded {
                            folders.push((path, depth + 1));
                        }
                    } else if is_suid(state.mode)
                        && self.watch.class_of(&path, Kind::File).is_none()
                        && !self.watch.excludes(&path)
                    {
                        walk.batch.push((path.into(), Class::Suid, state));
                    }
                }
                if walk.batch.len() >= BATCH {
                    self.send_found(&mut walk)?;
                }
            }
        }
        self.send_found(&mut walk)
    }

    #[expect(clippy::type_complexity, reason = "it is what the report holds")]
    fn hash(
        &mut self,
        files: Vec<(Box<Path>, bool)>,
    ) -> Result<Vec<(Box<Path>, std::io::Result<Option<Observed>>)>, Ended> {
        let mut hashed = Vec::with_capacity(files.len());
        for (path, md5) in files {
            let depth = Depth {
                whole_max: self.limits.whole_max,
                md5,
            };
            let (pace, per_s) = (&mut self.pace, self.limits.bytes_per_s);
            if !pace.spend_in_share(OPEN_BYTES, per_s) {
                return Err(Ended);
            }
            let found = read(&path, depth, &mut |bytes| pace.spend_in_share(bytes, per_s));
            if matches!(&found, Err(error) if error.kind() == ErrorKind::Interrupted) {
                return Err(Ended);
            }
            hashed.push((path, found));
        }
        Ok(hashed)
    }
}

impl Walk {
    fn new() -> Self {
        Self {
            batch: Vec::new(),
            unreadable: 0,
        }
    }
}

/// What lies in a folder, read as it is gone through: a spool or a cache may hold millions of files.
fn entries_of(folder: &Path, walk: &mut Walk) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                walk.unreadable += 1;
            }
            None
        }
    };
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

/// File systems on which a program can have another's rights: on a disk, and not mounted `nosuid`. Below another
/// root it is that folder's own.
fn file_systems(root: &Path) -> Vec<(PathBuf, u32)> {
    let of = |path: PathBuf| Some((look(&path).ok()??.device, path)).map(|(device, path)| (path, device));
    if root != Path::new("/") {
        return of(root.to_owned()).into_iter().collect();
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut seen = HashSet::new();
    let mut found: Vec<(PathBuf, u32)> = Vec::new();
    for point in text.lines().filter_map(mount_with_programs) {
        if let Some((path, device)) = of(point)
            && seen.insert(device)
        {
            found.push((path, device));
        }
    }
    found
}

/// The mount point of a line of mountinfo (proc(5)), when programs there can have another's rights.
fn mount_with_programs(line: &str) -> Option<PathBuf> {
    const KINDS: &[&str] = &[
        "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "reiserfs",
    ];
    let (mount, file_system) = line.split_once(" - ")?;
    let fields: Vec<&str> = mount.split(' ').collect();
    let (point, options) = (*fields.get(4)?, *fields.get(5)?);
    let kind = file_system.split(' ').next()?;
    let on_disk = KINDS.contains(&kind) || (kind == "overlay" && point == "/");
    if !on_disk || options.split(',').any(|option| option == "nosuid") {
        return None;
    }
    Some(PathBuf::from(point.replace("\\040", " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_disks_that_allow_the_bits_are_searched() {
        let line = |kind: &str, point: &str, options: &str| {
            mount_with_programs(&format!(
                "36 35 98:0 / {point} {options} master:1 - {kind} /dev/root rw"
            ))
        };
        assert_eq!(
            line("ext4", "/srv/a\\040b", "rw,noatime"),
            Some(PathBuf::from("/srv/a b"))
        );
        assert_eq!(line("ext4", "/srv", "rw,nosuid"), None);
        assert_eq!(line("tmpfs", "/run", "rw"), None);
        assert_eq!(line("overlay", "/", "rw"), Some(PathBuf::from("/")));
        assert_eq!(mount_with_programs("nonsense"), None);
    }
}
