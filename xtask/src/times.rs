//! Keeps the times of files whose contents did not change.
//!
//! Cargo builds again what is newer than its build, and in a fresh clone everything is newer. A record in the build
//! folder says what every file held and when it was changed, as of the last run; a file that holds the same gets that
//! time back. That is right only where nothing but these runs builds the clone: a file that was changed, built by hand
//! and changed back would count as built. So it is done where [`KEEP`] asks for it, as `.ci/run` does.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::layout;

/// Set to anything: keep the times.
const KEEP: &str = "FLEETMEND_KEEP_TIMES";
/// Folders that nothing of ours is compiled from.
const LEFT_OUT: [&str; 3] = [".git", "node_modules", "target"];

/// What a file held, and when it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Hash and length of a file's bytes, or of the names in a folder.
    content: (u64, u64),
    /// Time of the last change since 1970, in nanoseconds as far as the file system has them.
    changed: Duration,
}

/// By path below the root.
type Record = BTreeMap<PathBuf, Seen>;

/// Gives files of the source tree that hold what they held at the last run the time that they had then.
pub(crate) fn keep() -> Result<()> {
    if std::env::var_os(KEEP).is_none() {
        return Ok(());
    }
    let root = layout::root();
    let mut name = DefaultHasher::new();
    root.hash(&mut name);
    let record = layout::target().join(format!("times-{:016x}.json", name.finish()));
    let (kept, all) = keep_in(&root, &record)?;
    eprintln!("    {kept} of {all} files and folders are as they were at the last run");
    Ok(())
}

/// Gives how many are as they were, and how many there are.
fn keep_in(root: &Path, record: &Path) -> Result<(usize, usize)> {
    // A record that cannot be read is one of a run that had none.
    let before: Record = std::fs::read(record)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let mut now = Record::new();
    look(root, Path::new(""), &mut now)?;
    let mut kept = 0;
    for (path, seen) in &mut now {
        let Some(earlier) = before
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
    let fresh = record.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(&now)?)
        .and_then(|()| std::fs::rename(&fresh, record))
        .with_context(|| format!("write {}", record.display()))?;
    Ok((kept, now.len()))
}

fn look(root: &Path, below: &Path, record: &mut Record) -> Result<()> {
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
    add(root, below, (content.finish(), names.len() as u64), record)?;
    for (name, kind) in names {
        let path = below.join(name);
        if kind.is_dir() {
            look(root, &path, record)?;
        } else if kind.is_file() {
            let whole = root.join(&path);
            let bytes = std::fs::read(&whole).with_context(|| format!("read {}", whole.display()))?;
            let mut content = DefaultHasher::new();
            bytes.hash(&mut content);
            add(root, &path, (content.finish(), bytes.len() as u64), record)?;
        }
    }
    Ok(())
}

fn add(root: &Path, path: &Path, content: (u64, u64), record: &mut Record) -> Result<()> {
    let whole = root.join(path);
    let changed: SystemTime = whole
        .metadata()
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("find the time of {}", whole.display()))?;
    let changed = changed
        .duration_since(UNIX_EPOCH)
        .with_context(|| format!("{} is of before 1970", whole.display()))?;
    record.insert(path.to_owned(), Seen { content, changed });
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
    fn only_what_is_as_it_was_at_the_last_run_keeps_its_time() {
        let folder = std::env::temp_dir().join(format!("fleetmend-times-{}", std::process::id()));
        let (root, record) = (folder.join("root"), folder.join("record"));
        let (same, other) = (root.join("in/same"), root.join("in/other"));
        let run = |others: &str, seconds| {
            // As a clone does it.
            std::fs::remove_dir_all(&root).ok();
            std::fs::create_dir_all(root.join("in")).unwrap();
            std::fs::write(&same, "a").unwrap();
            std::fs::write(&other, others).unwrap();
            for path in [&same, &other, &root.join("in"), &root] {
                set(path, seconds);
            }
            keep_in(&root, &record).unwrap()
        };
        assert_eq!(run("b", 100), (0, 4));
        assert_eq!(run("c", 200), (3, 4));
        assert_eq!((time(&same), time(&other)), (100, 200));
        assert_eq!(time(&root.join("in")), 100);
        // What it held before the last run does not count: in between something else was built.
        assert_eq!(run("b", 300), (3, 4));
        assert_eq!((time(&same), time(&other)), (100, 300));
        std::fs::write(&record, "no record").unwrap();
        assert_eq!(run("b", 400), (0, 4));
        assert_eq!((time(&same), time(&other)), (400, 400));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
