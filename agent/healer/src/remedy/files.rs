//! Files in a place, reached through openat2 without symbolic links and without leaving the filesystem, and
//! told apart by inode.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::glob;
use crate::policy::Place;

/// Entries of a place that are looked at; a place with more is worked through in several actions.
const ENTRIES_MAX: usize = 100_000;
/// st_blocks counts these, whatever the filesystem's block size (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// A file that may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Candidate {
    /// Index of its place in the plan.
    pub(super) place: usize,
    /// Folder below the place, `.` for the place itself.
    pub(super) folder: String,
    pub(super) name: String,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
    pub(super) modified_s: i64,
}

/// Space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Space {
    pub(super) used_bytes: u64,
    /// Used and available to programs: what df takes its percentage of.
    pub(super) usable_bytes: u64,
}

impl Space {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage of sizes below 2^53 bytes is exact enough"
    )]
    pub(super) fn used_pct(&self) -> f64 {
        if self.usable_bytes == 0 {
            0.0
        } else {
            self.used_bytes as f64 / self.usable_bytes as f64 * 100.0
        }
    }

    /// Bytes to free until at most `target` percent are used.
    pub(super) fn excess_bytes(&self, target_pct: u32) -> u64 {
        let allowed = u128::from(self.usable_bytes) * u128::from(target_pct) / 100;
        self.used_bytes
            .saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
    }
}

/// Opens a folder by its absolute path; a symbolic link anywhere in it is refused.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd, String> {
    if !path.is_absolute() {
        return Err(format!("{} is not an absolute path", path.display()));
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_below(CWD, path, resolve).map_err(|error| match error {
        Errno::LOOP => format!("{} goes through a symbolic link", path.display()),
        other => format!("{} cannot be opened: {other}", path.display()),
    })
}

/// Device number of the filesystem that a folder is on.
pub(super) fn device_of(path: &Path) -> Result<u64, String> {
    space(&open_folder(path)?).map(|(_, device)| device)
}

/// Opens a folder of a place; a link, a way out or another filesystem is refused.
fn open_inside(place: &OwnedFd, folder: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV;
    open_below(place, Path::new(folder), resolve)
}

fn open_below(at: impl AsFd, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // openat2 gives EAGAIN when something was renamed on the way; it is to be asked again.
    for _ in 0..8 {
        match openat2(&at, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
    Err(Errno::AGAIN)
}

/// Space of the filesystem that a folder is on, and its device number.
pub(super) fn space(folder: &OwnedFd) -> Result<(Space, u64), String> {
    let failed = |error: Errno| format!("space cannot be read: {error}");
    let found = rustix::fs::fstatvfs(folder).map_err(failed)?;
    let device = rustix::fs::fstat(folder).map_err(failed)?.st_dev;
    let used = found
        .f_blocks
        .saturating_sub(found.f_bfree)
        .saturating_mul(found.f_frsize);
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    Ok((
        Space {
            used_bytes: used,
            usable_bytes: used.saturating_add(available),
        },
        device,
    ))
}

/// Files of a place that its rules allow to delete, on the device given, oldest first.
pub(super) fn candidates(
    index: usize,
    place: &Place,
    device: u64,
    now_s: i64,
) -> Result<Vec<Candidate>, String> {
    let root = open_folder(&place.path)?;
    if space(&root)?.1 != device {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut folders = vec![(".".to_owned(), 0_u8)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(opened) = open_inside(&root, &folder) else {
            continue;
        };
        let Ok(entries) = Dir::read_from(&opened) else {
            continue;
        };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                tracing::warn!(place = %place.path.display(), max = ENTRIES_MAX, "place has more files than are looked at");
                folders.clear();
                break;
            }
            // A name that is not UTF-8 cannot be journalled as text; it is left alone.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            let Ok(stat) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory && depth < place.depth_max {
                folders.push((format!("{folder}/{name}"), depth.saturating_add(1)));
            }
            let fits = place.patterns.iter().any(|pattern| glob::matches(pattern, name));
            if fits && is_deletable(&stat, device) {
                found.push(candidate(index, &folder, name, &stat));
            }
        }
    }
    found.sort_by(|a, b| (a.modified_s, &a.folder, &a.name).cmp(&(b.modified_s, &b.folder, &b.name)));
    found.truncate(found.len().saturating_sub(place.keep_newest));
    let age_s_min = i64::try_from(place.age_s_min).unwrap_or(i64::MAX);
    found.retain(|candidate| now_s.saturating_sub(candidate.modified_s) >= age_s_min);
    Ok(found)
}

/// Deletes a candidate if it is still the file that was planned for.
pub(super) fn delete(place: &OwnedFd, candidate: &Candidate) -> Result<(), String> {
    let failed = |error: Errno| format!("{}/{}: {error}", candidate.folder, candidate.name);
    let folder = open_inside(place, &candidate.folder).map_err(failed)?;
    let stat = statat(&folder, &candidate.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if !is_same(&stat, candidate) || !is_deletable(&stat, candidate.device) {
        return Err(format!(
            "{}/{} is another file by now",
            candidate.folder, candidate.name
        ));
    }
    unlinkat(&folder, &candidate.name, AtFlags::empty()).map_err(failed)
}

/// Whether the candidate's file is no longer there. One that was written to since is.
pub(super) fn is_gone(place: &OwnedFd, candidate: &Candidate) -> bool {
    let stat = open_inside(place, &candidate.folder)
        .and_then(|folder| statat(&folder, &candidate.name, AtFlags::SYMLINK_NOFOLLOW));
    match stat {
        Ok(stat) => (stat.st_ino, stat.st_dev) != (candidate.inode, candidate.device),
        Err(error) => error == Errno::NOENT,
    }
}

/// A plain file with one name: deleting one of several names frees nothing.
fn is_deletable(stat: &Stat, device: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_dev == device
}

fn is_same(stat: &Stat, candidate: &Candidate) -> bool {
    stat.st_ino == candidate.inode && stat.st_dev == candidate.device && stat.st_mtime == candidate.modified_s
}

fn candidate(place: usize, folder: &str, name: &str, stat: &Stat) -> Candidate {
    Candidate {
        place,
        folder: folder.to_owned(),
        name: name.to_owned(),
        device: stat.st_dev,
        inode: stat.st_ino,
        bytes: u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(STAT_BLOCK_BYTES),
        modified_s: stat.st_mtime,
    }
}
