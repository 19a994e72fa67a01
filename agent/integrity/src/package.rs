//! A second opinion: what dpkg's own database says of a file.
//!
//! `info/PACKAGE.md5sums` has the MD5 of each file that a package delivers, `status` those of configuration files as
//! they were delivered, `diversions` the files that lie elsewhere than their package says. Of all these only what is
//! watched is kept, about 32 bytes a file; it is read again when the database changed and an answer depends on it.
//!
//! MD5 is what there is. It is an opinion, no proof: who may write the file may write the database too, which is why
//! that is watched as well (class `package_database`).

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::books::ByHash;
use crate::pattern::path_of;

/// Largest file of the database that is read; `status` of a large host is 5 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What happens within so long belongs to one run of the package manager.
const WHILE_NS: i64 = 120_000_000_000;
/// Longest line: a path of the kernel's and a digest.
const LINE_BYTES_MAX: usize = 8_192;
/// Most packages that are named.
const PACKAGES_MAX: usize = 65_536;
/// Shortest time between two readings: dpkg changes its database many times in one run.
const REREAD_AFTER: Duration = Duration::from_millis(900);
/// Folders that are links into /usr on most hosts, while older packages name files by them.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What dpkg says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The package, with its architecture where dpkg names it so.
    pub(crate) package: String,
    /// MD5 of the file as delivered.
    pub(crate) md5: [u8; 16],
}

struct Entry {
    md5: [u8; 16],
    package: u32,
}

/// What tells that the database changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    info: i64,
    status: i64,
    diversions: i64,
}

/// See the module.
pub(crate) struct Packages {
    folder: PathBuf,
    root: PathBuf,
    entries: ByHash<Entry>,
    names: Vec<Box<str>>,
    hasher: RandomState,
    /// When packages were unpacked last, each, in nanoseconds since the epoch; sorted.
    unpacked_ns: Vec<i64>,
    stamp: Option<Stamp>,
    read_at: Option<Instant>,
}

/// Takes a package's name, a path and the MD5 that it should have.
type TakeSum<'a> = dyn FnMut(&str, &[u8], [u8; 16]) + 'a;

impl Packages {
    /// Nothing known yet of the database in `folder`, of the files below `root`.
    pub(crate) fn new(folder: PathBuf, root: PathBuf) -> Self {
        Self {
            folder,
            root,
            entries: ByHash::default(),
            names: Vec::new(),
            hasher: RandomState::new(),
            unpacked_ns: Vec::new(),
            stamp: None,
            read_at: None,
        }
    }

    /// Whether this host has such a database.
    pub(crate) fn exists(&self) -> bool {
        self.folder.join("status").exists()
    }

    /// What the database, as it was read last, says of a path.
    pub(crate) fn delivered(&self, path: &Path) -> Option<Delivered> {
        let entry = self
            .entries
            .get(&self.hasher.hash_one(path.as_os_str().as_bytes()))?;
        let package = self.names.get(usize::try_from(entry.package).ok()?)?;
        Some(Delivered {
            package: package.to_string(),
            md5: entry.md5,
        })
    }

    /// Reads the database when it changed since it was read, but not again and again; `wanted` are the paths to keep.
    pub(crate) fn refresh(&mut self, wanted: impl Fn(&Path) -> bool) {
        let stamp = self.present();
        let lately = self.read_at.is_some_and(|at| at.elapsed() < REREAD_AFTER);
        if self.stamp == Some(stamp) || lately {
            return;
        }
        self.stamp = Some(stamp);
        self.read(&wanted);
        self.read_at = Some(Instant::now());
    }

    /// Whether the database changed since it was read.
    pub(crate) fn is_behind(&self) -> bool {
        self.stamp != Some(self.present())
    }

    /// When the package manager last changed anything here, in nanoseconds since the epoch.
    pub(crate) fn changed_ns(&self) -> i64 {
        let places = ["", "info", "status", "updates", "triggers"];
        let times = places.iter().map(|place| time_of(&self.folder.join(place)));
        times.max().unwrap_or_default()
    }

    /// Whether a package was unpacked about then: dpkg writes its list of files anew each time.
    pub(crate) fn worked_at(&self, moment_ns: i64) -> bool {
        let from = self
            .unpacked_ns
            .partition_point(|ns| *ns < moment_ns.saturating_sub(WHILE_NS));
        self.unpacked_ns
            .get(from)
            .is_some_and(|ns| *ns <= moment_ns.saturating_add(WHILE_NS))
    }

    /// Files that are known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn present(&self) -> Stamp {
        Stamp {
            info: time_of(&self.folder.join("info")),
            status: time_of(&self.folder.join("status")),
            diversions: time_of(&self.folder.join("diversions")),
        }
    }

    fn read(&mut self, wanted: &dyn Fn(&Path) -> bool) {
        self.entries.clear();
        self.names.clear();
        self.unpacked_ns = self.read_times();
        let diversions = read_diversions(&self.folder.join("diversions"));
        let merged: Vec<&str> = MERGED
            .iter()
            .filter(|name| {
                self.root
                    .join(name)
                    .read_link()
                    .is_ok_and(|to| to.ends_with(format!("usr/{name}")))
            })
            .copied()
            .collect();
        let place = |name: &[u8], package: &str| {
            let name = name.strip_prefix(b"/").unwrap_or(name);
            let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
            let mut below = path_of(name);
            let diverted = diversions
                .get(&below)
                .filter(|(_, by)| by != package.split(':').next().unwrap_or(package));
            if let Some((elsewhere, _)) = diverted {
                below = elsewhere.clone();
            }
            if merged.iter().any(|folder| folder.as_bytes() == first) {
                below = Path::new("usr").join(below);
            }
            self.root.join(below)
        };
        let mut found = Vec::new();
        self.read_status(&mut |package, name, md5| {
            found.push((package.to_owned(), place(name, package), md5))
        });
        self.read_sums(&mut |package, name, md5| {
            let path = place(name, package);
            if wanted(&path) {
                found.push((package.to_owned(), path, md5));
            }
        });
        for (package, path, md5) in found.into_iter().filter(|(_, path, _)| wanted(path)) {
            self.keep(package, &path, md5);
        }
    }

    fn keep(&mut self, package: String, path: &Path, md5: [u8; 16]) {
        // Files of one package come together.
        if self.names.last().is_none_or(|last| **last != *package) {
            if self.names.len() >= PACKAGES_MAX {
                return;
            }
            self.names.push(package.into_boxed_str());
        }
        let Ok(package) = u32::try_from(self.names.len().saturating_sub(1)) else {
            return;
        };
        let hash = self.hasher.hash_one(path.as_os_str().as_bytes());
        self.entries.insert(hash, Entry { md5, package });
    }

    fn read_times(&self) -> Vec<i64> {
        let entries = std::fs::read_dir(self.folder.join("info"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        let lists = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "list"));
        let mut times: Vec<i64> = lists.take(PACKAGES_MAX).map(|path| time_of(&path)).collect();
        times.sort_unstable();
        times
    }

    fn read_sums(&self, take: &mut TakeSum<'_>) {
        let Ok(entries) = std::fs::read_dir(self.folder.join("info")) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".md5sums")) else {
                continue;
            };
            each_line(&entry.path(), |line| {
                let Some((sum, rest)) = line.split_at_checked(32) else {
                    return;
                };
                if let (Some(md5), Some(name)) = (md5_of(sum), rest.strip_prefix(b"  ")) {
                    take(package, name, md5);
                }
            });
        }
    }

    fn read_status(&self, take: &mut TakeSum<'_>) {
        let mut package = String::new();
        let mut in_files = false;
        each_line(&self.folder.join("status"), |line| {
            if let Some(name) = line.strip_prefix(b"Package: ") {
                package = String::from_utf8_lossy(name).into_owned();
            }
            if !line.starts_with(b" ") {
                in_files = line.starts_with(b"Conffiles:");
                return;
            }
            let mut words = line.trim_ascii().split(|byte| *byte == b' ').rev();
            // `path md5`, and sometimes `obsolete` or `remove-on-upgrade` behind; a path may contain blanks.
            let known = in_files && !line.ends_with(b" obsolete");
            if let Some(md5) = known.then(|| words.next().and_then(md5_of)).flatten() {
                let length = line.len().saturating_sub(33);
                let name = line.get(1..length).unwrap_or_default();
                take(&package, name, md5);
            }
        });
    }
}

/// Calls `take` with each line of a file, as far as it can be read; longer ones are left out.
fn each_line(path: &Path, mut take: impl FnMut(&[u8])) {
    let Ok(file) = File::open(path) else {
        return;
    };
    let mut reader = BufReader::new(file.take(FILE_BYTES_MAX));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if line.len() <= LINE_BYTES_MAX {
            take(line.strip_suffix(b"\n").unwrap_or(&line));
        }
        line.clear();
    }
}

fn md5_of(text: &[u8]) -> Option<[u8; 16]> {
    let mut md5 = [0; 16];
    hex::decode_to_slice(text, &mut md5).ok()?;
    Some(md5)
}

/// Three lines each: the path, where it lies instead, and the package whose own file keeps the path.
fn read_diversions(path: &Path) -> HashMap<PathBuf, (PathBuf, String)> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    each_line(path, |line| lines.push(line.to_owned()));
    let below = |line: &[u8]| path_of(line.strip_prefix(b"/").unwrap_or(line));
    let mut diversions = HashMap::new();
    for group in lines.chunks_exact(3) {
        if let [from, to, by] = group {
            diversions.insert(below(from), (below(to), String::from_utf8_lossy(by).into_owned()));
        }
    }
    diversions
}

fn time_of(path: &Path) -> i64 {
    std::fs::metadata(path).map_or(0, |found| {
        found
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(found.mtime_nsec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "ffffffffffffffffffffffffffffffff";

    fn database(root: &Path) -> PathBuf {
        let folder = root.join("var/lib/dpkg");
        std::fs::create_dir_all(folder.join("info")).unwrap();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        let sums = format!("{SUM}  bin/old\n{SUM}  usr/bin/tool\nnonsense\n{SUM}  usr/share/doc/unwatched\n");
        std::fs::write(folder.join("info/tool:amd64.md5sums"), sums).unwrap();
        std::fs::write(
            folder.join("info/other.md5sums"),
            format!("{OTHER}  usr/bin/sh\n"),
        )
        .unwrap();
        let status = format!(
            "Package: tool\nStatus: install ok installed\nConffiles:\n /usr/bin/with blank {SUM}\n /usr/bin/gone {OTHER} obsolete\n\
             Description: x\n /usr/bin/no {SUM}\n\n"
        );
        std::fs::write(folder.join("status"), status).unwrap();
        std::fs::write(
            folder.join("diversions"),
            "/usr/bin/sh\n/usr/bin/sh.distrib\ndash\n",
        )
        .unwrap();
        folder
    }

    #[test]
    fn database_tells_package_and_md5_of_what_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let mut packages = Packages::new(database(root.path()), root.path().to_owned());
        assert!(packages.exists());
        let bin = root.path().join("usr/bin");
        packages.refresh(|path| path.starts_with(&bin));
        let of = |name: &str| packages.delivered(&bin.join(name)).map(|found| found.package);
        assert_eq!(of("tool").as_deref(), Some("tool:amd64"));
        assert_eq!(
            of("old").as_deref(),
            Some("tool:amd64"),
            "by the folder that is a link"
        );
        assert_eq!(of("with blank").as_deref(), Some("tool"), "a configuration file");
        assert_eq!(
            of("sh.distrib").as_deref(),
            Some("other"),
            "where it was diverted to"
        );
        assert_eq!((of("sh"), of("gone"), of("no")), (None, None, None));
        let list = root.path().join("var/lib/dpkg/info/tool.list");
        std::fs::write(&list, "/.").unwrap();
        let unpacked = time_of(&list);
        let mut packages = Packages::new(packages.folder.clone(), root.path().to_owned());
        packages.refresh(|path| path.starts_with(&bin));
        assert!(
            packages.worked_at(unpacked + 5_000_000_000) && !packages.worked_at(unpacked + 500_000_000_000)
        );
        assert_eq!(packages.len(), 4);
        assert_eq!(
            hex::encode(packages.delivered(&bin.join("tool")).unwrap().md5),
            SUM
        );
    }

    #[test]
    fn host_without_dpkg_has_no_opinion() {
        let root = tempfile::tempdir().unwrap();
        let mut packages = Packages::new(root.path().join("none"), root.path().to_owned());
        packages.refresh(|_| true);
        assert!(!packages.exists() && packages.len() == 0 && packages.changed_ns() == 0);
        assert!(!packages.worked_at(0));
    }
}
