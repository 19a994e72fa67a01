//! Who holds a socket: found among the descriptors of all processes, and remembered while the socket is there.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::process::proc_fs::ProcFs;

/// Descriptors that are looked at in one search, over all processes.
const DESCRIPTORS_MAX: usize = 262_144;
/// Descriptors of one process that are looked at.
const OF_ONE_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Process by inode; `None` when nobody was found.
    known: HashMap<u64, Option<u32>>,
}

impl Owners {
    /// Forgets sockets that are gone.
    pub(super) fn keep(&mut self, inodes: &HashSet<u64>) {
        self.known.retain(|inode, _| inodes.contains(inode));
    }

    pub(super) fn of(&self, inode: u64) -> Option<u32> {
        self.known.get(&inode).copied().flatten()
    }

    /// Looks for the holders of sockets that are not known yet: once, whether they are found or not.
    pub(super) fn search(&mut self, proc: &ProcFs, inodes: impl Iterator<Item = u64>) {
        let mut wanted: HashSet<u64> = inodes.filter(|inode| !self.known.contains_key(inode)).collect();
        if wanted.is_empty() {
            return;
        }
        let mut pids = proc.pids().unwrap_or_default();
        // Of those that share a socket the eldest is told; who held one before probably holds the next.
        pids.sort_unstable();
        let held: HashSet<u32> = self.known.values().copied().flatten().collect();
        let (first, rest): (Vec<u32>, Vec<u32>) = pids.into_iter().partition(|pid| held.contains(pid));
        let mut left = DESCRIPTORS_MAX;
        for pid in first.into_iter().chain(rest) {
            if wanted.is_empty() || left == 0 {
                break;
            }
            left = left.saturating_sub(self.look_into(proc, pid, left, &mut wanted));
        }
        self.known.extend(wanted.into_iter().map(|inode| (inode, None)));
    }

    fn look_into(&mut self, proc: &ProcFs, pid: u32, left: usize, wanted: &mut HashSet<u64>) -> usize {
        let Ok(descriptors) = fs::read_dir(proc.path(pid, "fd")) else {
            return 0;
        };
        let mut looked = 0;
        for descriptor in descriptors.take(left.min(OF_ONE_MAX)).flatten() {
            looked += 1;
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode = target
                .to_str()
                .and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok())
                && wanted.remove(&inode)
            {
                self.known.insert(inode, Some(pid));
                if wanted.is_empty() {
                    break;
                }
            }
        }
        looked
    }
}
