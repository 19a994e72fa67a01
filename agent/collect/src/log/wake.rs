//! Sleeping until a log was written: inotify on the folders, and a second at most.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Most folders that are watched.
const FOLDERS_MAX: usize = 256;
/// Buffers that are emptied at once: what is in them does not matter, only that there was something.
const READS_MAX: u32 = 64;

/// See the module.
pub(crate) struct Wake {
    inotify: Option<OwnedFd>,
    folders: Vec<PathBuf>,
}

impl Wake {
    /// Without inotify, as where its instances are used up, it sleeps the whole time that it is given.
    pub(crate) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        Self {
            inotify: inotify
                .inspect_err(|error| tracing::warn!(%error, "logs are looked at once a second: no inotify"))
                .ok(),
            folders: Vec::new(),
        }
    }

    /// Watches these folders, and whatever is written in them. A folder that was made anew is watched again.
    pub(crate) fn watch(&mut self, folders: Vec<PathBuf>) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        self.folders.clear();
        for folder in folders.into_iter().take(FOLDERS_MAX) {
            // The same folder again is the same watch.
            if inotify::add_watch(inotify, &folder, flags).is_ok() {
                self.folders.push(folder);
            }
        }
    }

    /// Whether writing wakes.
    pub(crate) fn is_real(&self) -> bool {
        self.inotify.is_some()
    }

    /// Sleeps until something is written in a watched folder, and `longest` at most.
    pub(crate) fn sleep(&mut self, longest: Duration) {
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(longest);
            return;
        };
        let timeout = Timespec::try_from(longest).ok();
        let mut descriptors = [PollFd::new(inotify, PollFlags::IN)];
        if poll(&mut descriptors, timeout.as_ref()).is_err() {
            // Interrupted: as if woken.
            return;
        }
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4_096];
        for _ in 0..READS_MAX {
            if rustix::io::read(inotify, &mut buffer).map_or(0, |(read, _)| read.len()) == 0 {
                break;
            }
        }
    }
}
