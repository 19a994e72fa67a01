//! Keeps the times of files whose contents did not change.
//!
//! Cargo builds again what is newer than its build, and in a fresh clone everything is newer. A record in the build
//! folder says what every file held and when it was changed, as of the last run; a file that holds the same gets that
//! time back.
//!
//! # Invariants
//! - A file keeps its time only while the build folder holds what was built of it: the record knows the last compilation
//!   there ([`built`]), and counts for nothing after any other, of another clone or by hand.
//! - One record for each build folder: clones share what is built there, wherever they lie.
//!
//! Done where [`KEEP`] asks for it, as `.ci/run` does.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::layout;

/// Set to anything: keep the times.
const KEEP: &str = "FLEETMEND_KEEP_TIMES";
/// Folders that nothing of ours is compiled from; and this program, which every run builds before it can look.
const LEFT_OUT: [&str; 4] = [".git", "node_modules", "target", OWN];
const OWN: &str = "xtask";

/// What a file held, and when it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Hash and length of a file's bytes, or of the names in a folder.
    content: (u64, u64),
    /// Time of the last change since 1970, in nanoseconds as far as the file system has them.
    changed: Duration,
}

/// By path below the root.
type Files = BTreeMap<PathBuf, Seen>;

/// What was seen at the last run.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    files: Files,
    /// When something was last compiled, as far as that run knows.
    compiled: Option<Duration>,
}

/// Gives files of the source tree that hold what they held at the last run the time that they had then.
pub(crate) fn keep() -> Result<()> {
    if std::env::var_os(KEEP).is_none() {
        return Ok(());
    }
    let (kept, all) = keep_in(&layout::root(), &layout::target())?;
    eprintln!("    {kept} of {all} files and folders are as they were at the last run");
    Ok(())
}

/// Says that everything that was compiled until now was compiled of the files of this run.
pub(crate) fn built() -> Result<()> {
    if std::env::var_os(KEEP).is_none() {
        return Ok(());
    }
    built_in(&layout::target())
}

fn built_in(target: &Path) -> Result<()> {
    let mut record = read(target);
    record.compiled = last_compilation(target);
    write(target, &record)
}

/// Gives how many are as they were, and how many there are.
fn keep_in(root: &Path, target: &Path) -> Result<(usize, usize)> {
    let mut before = read(target);
    if before.compiled != last_compilation(target) {
        before.files.clear();
    }
    let mut files = Files::new();
    look(root, Path::new(""), &mut files)?;
    let mut kept = 0;
    for (path, seen) in &mut files {
        let Some(earlier) = before
            .files
            .get(path)
            .filter(|earlier| earlier.content == seen.content && earlier.changed <= seen.changed)
        else {
            continue;
        };
        let path = root.join(path);
        File::open(&path)
            .and_then(|file| file.set_modified(UNIX_EPOCH + earlier.changed))
            .with_context(|| format!("set the time of {}", path.display()))?;
        seen.changed = earlier.changed;
        kept += 1;
    }
    let all = files.len();
    let compiled = before.compiled;
    write(target, &Record { files, compiled })?;
    Ok((kept, all))
}

/// When the compiler was last started for anything of the quick profile; cargo marks it.
fn last_compilation(target: &Path) -> Option<Duration> {
    let units = std::fs::read_dir(target.join("debug/.fingerprint")).ok()?;
    let time = |unit: std::io::Result<std::fs::DirEntry>| {
        let unit = unit.ok()?;
        let is_own = unit.file_name().to_string_lossy().starts_with("xtask-");
        let mark = unit.path().join("invoked.timestamp");
        if is_own {
            return None;
        }
        let changed = mark.metadata().ok()?.modified().ok()?;
        changed.duration_since(UNIX_EPOCH).ok()
    };
    units.filter_map(time).max()
}

fn path(target: &Path) -> PathBuf {
    target.join("times.json")
}

/// A record that cannot be read is one of a run that had none.
fn read(target: &Path) -> Record {
    std::fs::read(path(target))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn write(target: &Path, record: &Record) -> Result<()> {
    let path = path(target);
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(record)?)
        .and_then(|()| std::fs::rename(&fresh, &path))
        .with_context(|| format!("write {}", path.display()))
}

fn look(root: &Path, below: &Path, files: &mut Files) -> Result<()> {
    let folder = root.join(below);
    let what = || format!("read {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(what)? {
        let entry = entry.with_context(what)?;
        if !LEFT_OUT.iter().any(|left_out| entry.file_name() == *left_out) {
            names.push((entry.file_name(), entry.file_type().with_context(what)?));
        }
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut content = DefaultHasher::new();
    for (name, _) in &names {
        name.hash(&mut content);
    }
    add(root, below, (content.finish(), names.len() as u64), files)?;
    for (name, kind) in names {
        let path = below.join(name);
        if kind.is_dir() {
            look(root, &path, files)?;
        } else if kind.is_file() {
            let whole = root.join(&path);
            let bytes = std::fs::read(&whole).with_context(|| format!("read {}", whole.display()))?;
            let mut content = DefaultHasher::new();
            bytes.hash(&mut content);
            add(root, &path, (content.finish(), bytes.len() as u64), files)?;
        }
    }
    Ok(())
}

fn add(root: &Path, path: &Path, content: (u64, u64), files: &mut Files) -> Result<()> {
    let whole = root.join(path);
    let changed: SystemTime = whole
        .metadata()
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("find the time of {}", whole.display()))?;
    let changed = changed
        .duration_since(UNIX_EPOCH)
        .with_context(|| format!("{} is of before 1970", whole.display()))?;
    files.insert(path.to_owned(), Seen { content, changed });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path, seconds: u64) {
        let file = File::open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }

    fn time(path: &Path) -> u64 {
        let changed = path.metadata().unwrap().modified().unwrap();
        changed.duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn only_what_is_as_it_was_when_it_was_built_keeps_its_time() {
        let folder = std::env::temp_dir().join(format!("fleetmend-times-{}", std::process::id()));
        let (root, target) = (folder.join("root"), folder.join("target"));
        let (same, other) = (root.join("in/same"), root.join("in/other"));
        let mark = target.join("debug/.fingerprint/unit/invoked.timestamp");
        std::fs::create_dir_all(mark.parent().unwrap()).unwrap();
        let compile = |seconds| {
            std::fs::write(&mark, "").unwrap();
            set(&mark, seconds);
        };
        let run = |others: &str, seconds| {
            // As a clone does it.
            std::fs::remove_dir_all(&root).ok();
            std::fs::create_dir_all(root.join("in")).unwrap();
            std::fs::write(&same, "a").unwrap();
            std::fs::write(&other, others).unwrap();
            for path in [&same, &other, &root.join("in"), &root] {
                set(path, seconds);
            }
            let counts = keep_in(&root, &target).unwrap();
            compile(seconds + 1);
            built_in(&target).unwrap();
            counts
        };
        assert_eq!(run("b", 100), (0, 4));
        assert_eq!(run("c", 200), (3, 4));
        assert_eq!((time(&same), time(&other)), (100, 200));
        assert_eq!(time(&root.join("in")), 100);
        // What it held before the last run does not count: in between something else was built.
        assert_eq!(run("b", 300), (3, 4));
        assert_eq!((time(&same), time(&other)), (100, 300));
        // Another clone, or somebody by hand.
        compile(350);
        assert_eq!(run("b", 400), (0, 4));
        assert_eq!((time(&same), time(&other)), (400, 400));
        assert_eq!(run("b", 500), (4, 4));
        std::fs::write(path(&target), "no record").unwrap();
        assert_eq!(run("b", 600), (0, 4));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
