//! The files that are watched: paths of the configuration become inodes in a map of the probes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap as BpfMap, Map, MapData};
use fleetmend_ebpf::abi::file::limit::{WATCH_CRITICAL, WATCH_READS};
use fleetmend_ebpf::abi::file::watched_key;
use fleetmend_event::table::FileEvent;

use super::config::FilesConfig;
use crate::bpf::error::FamilyError;
use crate::bpf::family::map_error;

/// Places of the map.
const FILES_MAX: usize = 1024;
/// Ticks between two looks at the paths.
const REFRESH_TICKS: u32 = 30;

/// See the module.
pub(super) struct Watched {
    patterns: Vec<(String, u32)>,
    map: BpfMap<MapData, [u8; 16], u32>,
    known: HashMap<[u8; 16], u32>,
    paths: HashSet<String>,
    /// Files that found no place.
    beyond: usize,
    ticks: u32,
}

impl Watched {
    pub(super) fn new(config: &FilesConfig, map: Map) -> Result<Self, FamilyError> {
        let secrets = config
            .secrets
            .iter()
            .map(|path| (path.clone(), WATCH_READS | WATCH_CRITICAL));
        let watched = config.watched.iter().map(|path| (path.clone(), WATCH_CRITICAL));
        Ok(Self {
            patterns: secrets.chain(watched).collect(),
            map: BpfMap::try_from(map).map_err(map_error("WATCHED"))?,
            known: HashMap::new(),
            paths: HashSet::new(),
            beyond: 0,
            ticks: 0,
        })
    }

    /// A row may say that a watched path is another file now.
    pub(super) fn note(&mut self, row: &FileEvent) {
        let concerns = |path: &str| self.paths.contains(path) || self.matches(path);
        if concerns(&row.path) || row.target.as_deref().is_some_and(concerns) {
            self.ticks = REFRESH_TICKS;
        }
    }

    fn matches(&self, path: &str) -> bool {
        self.patterns.iter().any(|(pattern, _)| pattern == path)
    }

    pub(super) fn refresh_when_due(&mut self) {
        self.ticks += 1;
        if self.ticks >= REFRESH_TICKS {
            self.refresh();
        }
    }

    /// Looks which files the paths are now.
    pub(super) fn refresh(&mut self) {
        self.ticks = 0;
        let mut wanted: HashMap<[u8; 16], u32> = HashMap::new();
        self.paths.clear();
        let mut beyond = 0;
        for (pattern, watch) in &self.patterns {
            for path in expand(pattern) {
                let Ok(metadata) = fs::metadata(&path) else {
                    continue;
                };
                if !metadata.is_file() {
                    continue;
                }
                let key = watched_key(metadata.ino(), kernel_device(metadata.dev()));
                if wanted.len() >= FILES_MAX && !wanted.contains_key(&key) {
                    beyond += 1;
                    continue;
                }
                *wanted.entry(key).or_default() |= watch;
                self.paths.insert(path.to_string_lossy().into_owned());
            }
        }
        self.tell_beyond(beyond);
        if wanted == self.known {
            return;
        }
        // What the map refuses is tried again the next time.
        let mut taken = wanted.clone();
        for (key, watch) in self.known.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            if let Err(error) = self.map.remove(key) {
                tracing::warn!(%error, "cannot take a file off the watched ones");
                taken.insert(*key, *watch);
            }
        }
        for (key, watch) in wanted
            .iter()
            .filter(|(key, watch)| self.known.get(*key) != Some(watch))
        {
            if let Err(error) = self.map.insert(key, watch, 0) {
                tracing::warn!(%error, "cannot watch a file");
                taken.remove(key);
            }
        }
        self.known = taken;
    }

    /// Says so once when there are more files than places, and when there are not any more.
    fn tell_beyond(&mut self, beyond: usize) {
        match (self.beyond, beyond) {
            (0, 1..) => tracing::warn!(
                places = FILES_MAX,
                "there are more watched files than places: reads of the last ones are not told; name fewer in \
                 `bpf.files.secrets` and `bpf.files.watched`"
            ),
            (1.., 0) => tracing::info!("every watched file has a place again"),
            _ => {}
        }
        self.beyond = beyond;
    }
}

/// Files that a path with `*` names, and one more than there is room for. Public halves of keys are no secrets.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let step = |folder: &PathBuf| -> Vec<PathBuf> {
            if !part.contains('*') {
                return vec![folder.join(part)];
            }
            let names = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            names
                .filter(|name| fits(part, name))
                .take(FILES_MAX + 1)
                .map(|name| folder.join(name))
                .collect()
        };
        found = found.iter().flat_map(step).take(FILES_MAX + 1).collect();
    }
    let is_public = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "pub");
    found.retain(|path| !is_public(path) && Path::new(path).is_absolute());
    found
}

/// Whether a name fits a part with `*`.
fn fits(part: &str, name: &str) -> bool {
    let Some((first, rest)) = part.split_once('*') else {
        return part == name;
    };
    let Some(mut left) = name.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<&str> = rest.split('*').collect();
    let Some((last, middle)) = pieces.split_last() else {
        return true;
    };
    for piece in middle {
        match left.find(piece) {
            Some(at) => left = left.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    left.ends_with(last)
}

/// The kernel's own number of a device, out of stat(2)'s.
fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    u32::try_from((major << 20) | (minor & 0xf_ffff)).unwrap_or(u32::MAX)
}

/// Major in the upper 32 bits and minor in the lower, out of the kernel's own number.
pub(super) fn device_of(device: u32) -> u64 {
    (u64::from(device >> 20) << 32) | u64::from(device & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stands_for_any_part_of_one_name() {
        assert!(fits("id_*", "id_ed25519") && fits("*", "x") && fits("a*b*c", "a-b-c"));
        assert!(!fits("id_*", "known_hosts") && !fits("a*b*c", "a-c-b") && !fits("x", "xy"));
        assert!(
            fits("ssh_host_*_key", "ssh_host_rsa_key") && !fits("ssh_host_*_key", "ssh_host_rsa_key.pub")
        );
    }

    #[test]
    fn paths_with_stars_become_files_and_public_keys_do_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["id_a", "id_a.pub", "other"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = expand(&format!("{}/id_*", folder.path().display()));
        assert_eq!(found, [folder.path().join("id_a")]);
    }

    #[test]
    fn device_is_told_by_major_and_minor() {
        let device = nix::sys::stat::makedev(259, 70_000);
        assert_eq!(device_of(kernel_device(device)), (259 << 32) | 70_000);
    }
}
