//! Kept: compacted segments, until the next backup has them.
//!
//! A backup holds compacted rows as Parquet files, from which the order of their coming cannot be told. To land on any
//! moment between two backups, a restore takes the earlier one and the segments that came after it. So once a backup
//! was asked for, a segment that was compacted is moved to the folder `kept` of the store instead of being deleted,
//! and the backup that has it deletes it there.
//!
//! The file `WANTED` in the folder says so: it names the repository and the backup since which nothing is missing
//! here, 0 for none, and was last changed when a backup last began. Without it nothing is kept. When no backup came for
//! [`WANTED_FOR`], when more than [`BYTES_MAX`] are kept or the disk fills, `WANTED` goes first and the folder after it: the next
//! backup then says that something is missing, and moments before it can be restored as of the backup before only.
//!
//! Nobody but one repository is served at a time. Nothing here is synced: what a power cut undoes was compacted, and a
//! `WANTED` that is older than the newest backup counts as if something were missing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::StoreConfig;
use crate::segment;

const WANTED: &str = "WANTED";
/// What `WANTED` may have: the name of a repository and a number.
const WANTED_BYTES_MAX: u64 = 1 << 10;
/// How long segments are kept for a backup that does not come.
const WANTED_FOR: Duration = Duration::from_secs(3600);
/// Bytes that are kept: what comes in a minute of a large fleet.
const BYTES_MAX: u64 = 1 << 30;
/// Nothing is kept when less is free than so many times what the store itself must have.
const FREE_FACTOR: u64 = 4;

/// Puts a segment away whose rows are compacted: keeps it where a backup wants it, and deletes it otherwise.
///
/// # Errors
/// When it is still there.
pub(crate) fn put_away(config: &StoreConfig, path: &Path) -> io::Result<()> {
    let folder = config.kept_folder();
    if folder.exists() {
        let kept = path.file_name().map(|name| folder.join(name));
        let has_room = || has_room(config, &folder, path).unwrap_or(false);
        if let Some(kept) = kept.filter(|_| is_wanted(&folder) && has_room()) {
            match fs::rename(path, kept) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot keep a segment for the next backup");
                }
            }
        }
        give_up(&folder)?;
    }
    fs::remove_file(path)
}

/// A clock that was set back says nothing about the age.
fn is_wanted(folder: &Path) -> bool {
    let asked = fs::metadata(folder.join(WANTED)).and_then(|wanted| wanted.modified());
    asked.is_ok_and(|asked| {
        SystemTime::now()
            .duration_since(asked)
            .is_ok_and(|age| age < WANTED_FOR)
            || asked > SystemTime::now()
    })
}

fn has_room(config: &StoreConfig, folder: &Path, path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statvfs(folder)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let mut bytes = fs::metadata(path)?.len();
    for entry in fs::read_dir(folder)? {
        bytes = bytes.saturating_add(entry?.metadata()?.len());
    }
    Ok(bytes <= BYTES_MAX && free >= config.free_bytes_min.saturating_mul(FREE_FACTOR))
}

/// Deletes everything kept; that it is wanted goes first, or else nothing does: the next backup would believe it.
fn give_up(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(WANTED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_dir_all(folder) {
        Ok(()) => tracing::info!("segments are not kept for a backup any more"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot delete segments that were kept for a backup");
        }
    }
    Ok(())
}

/// One backup's view of what is kept for it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) folder: PathBuf,
    repository: String,
    /// The backup since which nothing is missing; `None` when nothing is kept for this repository.
    since: Option<u64>,
}

impl Kept {
    /// Asks for segments to be kept from now on. A store that cannot be written is left as it is.
    pub(super) fn ask(store: &Path, repository: &str) -> Self {
        let folder = super::source::layout(store).kept_folder();
        let since = asked(store, &folder, repository).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "segments cannot be kept for the next backup");
            None
        });
        Self {
            folder,
            repository: repository.to_owned(),
            since,
        }
    }

    /// The segments that are kept, by their numbers.
    pub(super) fn segments(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        if self.since.is_none() {
            return Ok(Vec::new());
        }
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            found.extend(
                name.and_then(segment::number_of)
                    .map(|number| (number, path.clone())),
            );
        }
        Ok(found)
    }

    /// Whether every segment that was compacted since backup `sequence` is kept, and was until now.
    pub(super) fn is_whole_since(&self, sequence: u64) -> bool {
        sequence > 0
            && self.since == Some(sequence)
            && read(&self.folder).is_ok_and(|(name, since)| name == self.repository && since == sequence)
    }

    /// Deletes what backup `sequence` has.
    pub(super) fn taken(&self, sequence: u64, numbers: &[u64]) {
        if self.since.is_none() {
            return;
        }
        // Never made anew: what the store has given up stays given up.
        let noted = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.folder.join(WANTED))
            .and_then(|mut wanted| wanted.write_all(text(&self.repository, sequence).as_bytes()));
        let delete = |number: &u64| match fs::remove_file(self.folder.join(segment::file_name(*number))) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if let Err(error) = noted.and_then(|()| numbers.iter().try_for_each(delete)) {
            tracing::warn!(folder = %self.folder.display(), %error, "segments stay kept that are backed up");
        }
    }
}

fn asked(store: &Path, folder: &Path, repository: &str) -> io::Result<Option<u64>> {
    if is_wanted(folder)
        && let Ok((name, since)) = read(folder)
    {
        if name != repository {
            return Ok(None);
        }
        let wanted = OpenOptions::new().write(true).open(folder.join(WANTED))?;
        wanted.set_modified(SystemTime::now())?;
        return Ok(Some(since));
    }
    give_up(folder)?;
    // Under its name only once it is complete: a folder without the file is deleted by whoever finds it.
    let fresh = store.join("kept.new");
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&fresh)?;
    fs::write(fresh.join(WANTED), text(repository, 0))?;
    fs::rename(&fresh, folder)?;
    Ok(Some(0))
}

fn text(repository: &str, sequence: u64) -> String {
    format!("{repository} {sequence}\n")
}

fn read(folder: &Path) -> io::Result<(String, u64)> {
    let mut found = String::new();
    File::open(folder.join(WANTED))?
        .take(WANTED_BYTES_MAX)
        .read_to_string(&mut found)?;
    let words = found.trim_end().rsplit_once(' ');
    let parsed = words.and_then(|(name, since)| Some((name.to_owned(), since.parse().ok()?)));
    parsed.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it names no backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store's folder with a segment in it that is to be put away.
    fn store() -> (tempfile::TempDir, StoreConfig, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            folder: folder.path().to_owned(),
            free_bytes_min: 0,
            ..StoreConfig::default()
        };
        fs::create_dir(config.segments_folder()).unwrap();
        let segment = config.segments_folder().join(segment::file_name(7));
        fs::write(&segment, "segment").unwrap();
        (folder, config, segment)
    }

    fn is_kept(config: &StoreConfig) -> bool {
        config.kept_folder().join(segment::file_name(7)).exists()
    }

    #[test]
    fn segment_is_kept_from_the_first_backup_on_until_the_next_has_it() {
        let (folder, config, segment) = store();
        put_away(&config, &segment).unwrap();
        assert!(!segment.exists() && !config.kept_folder().exists());
        let first = Kept::ask(folder.path(), "one");
        // Before it nothing was kept, so nothing can be whole.
        assert!(!first.is_whole_since(0) && !first.is_whole_since(1));
        first.taken(1, &[]);
        fs::write(&segment, "segment").unwrap();
        put_away(&config, &segment).unwrap();
        assert!(is_kept(&config) && !segment.exists());
        let next = Kept::ask(folder.path(), "one");
        assert!(next.is_whole_since(1) && !next.is_whole_since(2));
        assert_eq!(next.segments().unwrap().len(), 1);
        next.taken(2, &[7]);
        assert!(!is_kept(&config));
        assert!(Kept::ask(folder.path(), "one").is_whole_since(2));
        // Of another repository the store knows nothing, and nothing of the first one's is taken away.
        let other = Kept::ask(folder.path(), "other");
        assert!(!other.is_whole_since(2) && other.segments().unwrap().is_empty());
        other.taken(9, &[7]);
        assert!(Kept::ask(folder.path(), "one").is_whole_since(2));
    }

    #[test]
    fn backup_that_does_not_come_is_not_waited_for() {
        let (folder, config, segment) = store();
        Kept::ask(folder.path(), "one").taken(1, &[]);
        let wanted = File::options()
            .write(true)
            .open(config.kept_folder().join(WANTED));
        let long_ago = SystemTime::now() - WANTED_FOR - Duration::from_secs(1);
        wanted.unwrap().set_modified(long_ago).unwrap();
        put_away(&config, &segment).unwrap();
        assert!(!segment.exists() && !config.kept_folder().exists());
        assert!(!Kept::ask(folder.path(), "one").is_whole_since(1));
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_the_backup_is_told() {
        for is_full in [true, false] {
            let (folder, mut config, segment) = store();
            Kept::ask(folder.path(), "one").taken(1, &[]);
            let running = Kept::ask(folder.path(), "one");
            if is_full {
                config.free_bytes_min = u64::MAX;
            } else {
                let large = File::create(config.kept_folder().join(segment::file_name(6))).unwrap();
                large.set_len(BYTES_MAX).unwrap();
            }
            assert!(running.is_whole_since(1));
            put_away(&config, &segment).unwrap();
            assert!(!segment.exists() && !config.kept_folder().exists());
            assert!(!running.is_whole_since(1));
            // What was given up stays so until the next backup asks.
            running.taken(2, &[7]);
            assert!(!config.kept_folder().exists());
        }
    }
}
