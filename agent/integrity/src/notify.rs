//! inotify, where the kernel's events of files are not delivered: that something changed, and not who did it.
//!
//! Folders are watched, not files: what is renamed over a file is seen too. A write by another name of the same file,
//! outside of the watched folders, is not; the next scan finds it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

/// Most folders that are watched: about a kilobyte of the kernel's memory each.
const FOLDERS_MAX: usize = 16_384;
/// Events that are read at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// What came.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    /// Paths at which something happened.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether some were lost: everything has to be looked at.
    pub(crate) overflow: bool,
}

/// See the module.
pub(crate) struct Notify {
    queue: OwnedFd,
    folders: HashMap<i32, PathBuf>,
    /// Folders that could not be watched.
    pub(crate) unwatched: usize,
}

impl Notify {
    /// Opens the queue.
    ///
    /// # Errors
    /// When the system has no more of them for this user.
    pub(crate) fn open() -> std::io::Result<Self> {
        Ok(Self {
            queue: init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            folders: HashMap::new(),
            unwatched: 0,
        })
    }

    /// Watches a folder, anew or again.
    pub(crate) fn add(&mut self, folder: &Path) {
        let wanted = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        if self.folders.len() >= FOLDERS_MAX {
            self.unwatched += 1;
            return;
        }
        match add_watch(&self.queue, folder, wanted) {
            Ok(watch) => {
                self.folders.insert(watch, folder.to_owned());
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(_) => self.unwatched += 1,
        }
    }

    /// Folders that are watched.
    pub(crate) fn len(&self) -> usize {
        self.folders.len()
    }

    /// Everything that came since it was asked last; never waits.
    pub(crate) fn read(&mut self) -> Noticed {
        let mut noticed = Noticed::default();
        let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        let mut gone = Vec::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                noticed.overflow = true;
                continue;
            }
            let Some(folder) = self.folders.get(&event.wd()) else {
                continue;
            };
            let path = match event.file_name() {
                Some(name) => folder.join(OsStr::from_bytes(name.to_bytes())),
                None => folder.clone(),
            };
            if event.events().contains(ReadFlags::IGNORED) {
                gone.push(event.wd());
            }
            if noticed.paths.last() != Some(&path) {
                noticed.paths.push(path);
            }
        }
        for watch in gone {
            self.folders.remove(&watch);
        }
        noticed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_a_folder_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut notify = match Notify::open() {
            Ok(notify) => notify,
            Err(error) => {
                println!("COULD NOT RUN: no inotify: {error}");
                return;
            }
        };
        notify.add(folder.path());
        notify.add(&folder.path().join("none"));
        assert_eq!((notify.len(), notify.unwatched), (1, 0));
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        assert!(notify.read().paths.contains(&path));
        assert!(notify.read().paths.is_empty());
        let other = folder.path().join("other");
        std::fs::rename(&path, &other).unwrap();
        let noticed = notify.read();
        assert!(
            noticed.paths.contains(&path) && noticed.paths.contains(&other),
            "{noticed:?}"
        );
        std::fs::remove_file(&other).unwrap();
        folder.close().unwrap();
        notify.read();
        assert_eq!(notify.len(), 0, "the folder is gone");
    }
}
