//! Events: which watched files they are about, and who is behind them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fleetmend_event::table::{Act as _, FileEvent, FileEventKind, KernelEvent};

use super::{GRACE, Keeper, Phase};
use crate::eye::{Message, identity_of};
use crate::metrics;
use crate::notify::Notify;
use crate::report::source_word;
use crate::state::{FileState, look};
use crate::watch::Kind;
use crate::who::{Touch, Writer, coincides, lives};

/// Open files that are followed until they are closed.
const HELD_MAX: usize = 128;
/// Rounds of following after which it is asked again whether the file is still open.
const ASK_EVERY: u32 = 15;
/// Descriptors of a process that are looked at.
const DESCRIPTORS_MAX: usize = 4_096;
/// Files and folders of a renamed tree that are looked at.
const TREE_MAX: usize = 2_000;

/// A file that was opened for writing, and whose writer may not be done: an open is told, a write is not.
pub(crate) struct Held {
    path: PathBuf,
    touch: Touch,
    last: Option<FileState>,
    rounds: u32,
}

impl Keeper {
    /// Takes one message.
    pub(crate) fn take(&mut self, message: Message) {
        match message {
            Message::Act(event) => self.act(&event),
            Message::Mount(event) => self.mount(&event),
            Message::ManagerBegan { pid, start_boot_ns } => self.registry.manager_began(pid, start_boot_ns),
            Message::Delivered(delivered) => self.delivered = Some(delivered),
            Message::Request(request) => self.answer(request),
        }
    }

    fn act(&mut self, event: &FileEvent) {
        self.counts.seen = self.counts.seen.saturating_add(1);
        metrics::event_received(source_word(event.source));
        let identity = identity_of(event);
        let writer = self.registry.writer(&event.actor());
        let mut paths: Vec<(PathBuf, bool)> = Vec::new();
        for name in [Some(&event.path), event.target.as_ref()].into_iter().flatten() {
            let path = PathBuf::from(name);
            if path.is_absolute() && !paths.iter().any(|(known, _)| *known == path) {
                paths.push((path, true));
            }
        }
        let others = identity
            .map(|identity| self.books.paths_of(identity))
            .unwrap_or_default();
        for path in others {
            if !paths.iter().any(|(known, _)| **known == *path) {
                paths.push((path.into_path_buf(), false));
            }
        }
        for (path, named) in paths {
            let touch = Touch {
                time: event.time,
                act: event.kind.as_str(),
                writer: writer.clone(),
                identity,
                named,
                proven: false,
                coincides: identity.is_none() && coincides(&path, event.time),
                source: event.source,
            };
            self.touch(&path, touch, event.kind);
        }
    }

    fn touch(&mut self, path: &Path, mut touch: Touch, kind: FileEventKind) {
        let before = self.books.get(path).map(|record| record.state);
        let now = look(path).ok().flatten();
        let identities = (
            before.map(|state| state.identity()),
            now.map(|state| state.identity()),
        );
        touch.proven = touch.identity.is_some() && touch.identity == identities.1;
        let believed = touch.is_of(identities.0, identities.1);
        if !believed {
            metrics::event_foreign();
            if !touch.named {
                return;
            }
        }
        let folder = before.or(now).is_some_and(|state| state.is_folder());
        if folder && kind == FileEventKind::Rename {
            self.suspect_tree(path, &touch, believed);
        }
        let what = now.map_or(Kind::Any, |now| Kind::of(&now));
        let watched = before.is_some() || self.watch.class_of(path, what).is_some();
        let suid = self.watch.watches_suid() && now.is_some_and(|now| crate::class::is_suid(now.mode));
        if !watched && !suid && self.changed.get(path).is_none() {
            return;
        }
        if matches!(kind, FileEventKind::OpenWrite | FileEventKind::Create) && touch.proven {
            self.hold(path, &touch, now);
        }
        self.suspect(path, "scan", Some(touch));
    }

    /// A folder got another name, or its name: everything below changed its path.
    fn suspect_tree(&mut self, folder: &Path, touch: &Touch, proven: bool) {
        let below = |path: &Path| path.starts_with(folder);
        let known = self.books.iter().filter(|record| below(&record.path));
        let mut paths: Vec<PathBuf> = known
            .take(TREE_MAX)
            .map(|record| record.path.to_path_buf())
            .collect();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            let entries = std::fs::read_dir(&next)
                .into_iter()
                .flatten()
                .filter_map(Result::ok);
            for path in entries.map(|entry| entry.path()) {
                if paths.len() >= TREE_MAX {
                    self.scan_soon(Instant::now());
                    break;
                }
                if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    folders.push(path.clone());
                }
                if self.watch.class_of(&path, Kind::Any).is_some() {
                    paths.push(path);
                }
            }
        }
        for path in paths {
            let touch = Touch {
                identity: None,
                named: proven,
                proven,
                ..touch.clone()
            };
            self.suspect(&path, "scan", Some(touch));
        }
    }

    /// What is mounted over a watched file hides it.
    fn mount(&mut self, event: &KernelEvent) {
        let Some(point) = event.path.as_deref().map(Path::new) else {
            return;
        };
        let over = |path: &Path| path.starts_with(point);
        let hidden = self
            .books
            .iter()
            .filter(|record| over(&record.path))
            .take(TREE_MAX);
        let paths: Vec<PathBuf> = hidden.map(|record| record.path.to_path_buf()).collect();
        if paths.is_empty() && self.watch.class_of(point, Kind::Any).is_none() {
            return;
        }
        self.counts.seen = self.counts.seen.saturating_add(1);
        metrics::event_received(source_word(event.source));
        let writer = self.registry.writer(&event.actor());
        for path in paths.iter().map(PathBuf::as_path).chain([point]) {
            let touch = Touch {
                time: event.time,
                act: "mount",
                writer: writer.clone(),
                identity: None,
                named: true,
                proven: false,
                coincides: false,
                source: event.source,
            };
            self.suspect(path, "scan", Some(touch));
        }
    }

    fn hold(&mut self, path: &Path, touch: &Touch, now: Option<FileState>) {
        let writer = &touch.writer;
        let same = |held: &Held| held.path == path && Arc::ptr_eq(&held.touch.writer, writer);
        if self.held.len() >= HELD_MAX || self.held.iter().any(same) {
            return;
        }
        self.held.push(Held {
            path: path.to_owned(),
            touch: touch.clone(),
            last: now,
            rounds: 0,
        });
    }

    /// Looks whether files that are held open were written meanwhile.
    pub(super) fn follow_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain_mut(|held| {
            let writer = held.touch.writer.clone();
            let lives = lives(writer.pid, writer.start_boot_ns);
            let now = look(&held.path).ok().flatten();
            if now != held.last {
                held.last = now;
                self.suspect(&held.path, "scan", Some(held.touch.clone()));
            }
            held.rounds += 1;
            let ask = held.rounds == 1 || held.rounds.is_multiple_of(ASK_EVERY);
            lives && now.is_some() && (!ask || has_open(&writer, held.touch.identity))
        });
        held.append(&mut self.held);
        self.held = held;
    }

    /// Takes inotify where nobody tells of files, and leaves it where somebody does.
    pub(super) fn choose_notify(&mut self, now: Instant) {
        let wanted = match self.delivered {
            Some(delivered) => !delivered,
            None => now.duration_since(self.begun) >= GRACE,
        };
        if !wanted {
            self.notify = None;
            self.troubles.no_notify = None;
            return;
        }
        if self.notify.is_some() || self.scanning.phase == Phase::Walking {
            return;
        }
        match Notify::open() {
            Ok(mut notify) => {
                for folder in self.watched_folders() {
                    notify.add(&folder);
                }
                tracing::info!(folders = notify.len(), "integrity watches folders by inotify");
                self.notify = Some(notify);
                self.troubles.no_notify = None;
            }
            Err(error) => self.troubles.no_notify = Some(error.to_string()),
        }
    }

    fn watched_folders(&self) -> Vec<PathBuf> {
        let folder = |record: &crate::books::Record| {
            if record.state.is_folder() {
                Some(record.path.to_path_buf())
            } else {
                record.path.parent().map(Path::to_owned)
            }
        };
        let mut folders: Vec<PathBuf> = self.books.iter().filter_map(folder).collect();
        folders.extend(
            self.watch
                .bases()
                .iter()
                .filter_map(|base| base.parent().map(Path::to_owned)),
        );
        folders.sort();
        folders.dedup();
        folders
    }

    /// Takes what inotify has to tell.
    pub(super) fn read_notify(&mut self) {
        let Some(mut notify) = self.notify.take() else {
            return;
        };
        let noticed = notify.read();
        for path in noticed.paths {
            let watched = self.watch.class_of(&path, Kind::Any).is_some() || self.books.get(&path).is_some();
            if !watched {
                continue;
            }
            self.counts.seen = self.counts.seen.saturating_add(1);
            metrics::event_received("inotify");
            // A folder that is new has to be watched, and what was put into it before that is not told.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) && self.books.get(&path).is_none() {
                notify.add(&path);
                let entries = std::fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .filter_map(Result::ok);
                let inside: Vec<PathBuf> = entries.map(|entry| entry.path()).take(TREE_MAX).collect();
                for path in inside {
                    if self.watch.class_of(&path, Kind::Any).is_some() {
                        self.suspect(&path, "inotify", None);
                    }
                }
            }
            self.suspect(&path, "inotify", None);
        }
        if noticed.overflow {
            metrics::event_dropped("inotify_overflow");
            self.counts.lost = self.counts.lost.saturating_add(1);
            self.scan_soon(Instant::now());
        }
        self.notify = Some(notify);
    }
}

/// Whether the process has the file open; a process that cannot be asked may have.
fn has_open(writer: &Writer, identity: Option<(u64, u64)>) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Some((_, inode)) = identity else {
        return false;
    };
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", writer.pid)) else {
        return true;
    };
    let open =
        |entry: std::fs::DirEntry| std::fs::metadata(entry.path()).is_ok_and(|file| file.ino() == inode);
    entries.filter_map(Result::ok).take(DESCRIPTORS_MAX).any(open)
}
