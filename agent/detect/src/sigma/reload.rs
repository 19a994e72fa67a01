//! Reading the rules anew while the old ones are matched.
//!
//! One thread. It looks for changes by inotify, and by the files' times where there is none; waits until nothing
//! changes for [`CALM`], so that an editor's or a package manager's many steps are one reload; compiles a whole set;
//! and hands it over. The detector takes it with the next event.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use rustix::fs::inotify;
use tokio_util::sync::CancellationToken;

use super::read::{folders, rule_files};
use super::set::RuleSet;
use super::{RuleOptions, RuleState};
use crate::metrics;

/// How long nothing has to change before the rules are read.
const CALM: Duration = Duration::from_millis(1_500);
/// Longest wait for calm.
const UNREST_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at what inotify and signals say.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two looks at the files themselves, for what inotify cannot see.
const SURVEY: Duration = Duration::from_secs(60);

/// What the thread and the detector share.
#[derive(Debug)]
pub(super) struct Handover {
    set: Mutex<Arc<RuleSet>>,
    /// Raised with every set, so that the detector looks without a lock.
    version: AtomicU64,
    taken: AtomicU64,
    requests: AtomicU64,
    options: RuleOptions,
    /// The files as they were before the first set was read.
    read_from: Survey,
}

impl Handover {
    pub(super) fn new(set: Arc<RuleSet>, options: RuleOptions, read_from: Survey) -> Self {
        Self {
            read_from,
            set: Mutex::new(set),
            version: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            options,
        }
    }

    /// The set that was handed over, when it is another than `present`.
    pub(super) fn newer_than(&self, present: &Arc<RuleSet>) -> Option<Arc<RuleSet>> {
        let version = self.version.load(Ordering::Acquire);
        if version == self.taken.load(Ordering::Relaxed) {
            return None;
        }
        self.taken.store(version, Ordering::Relaxed);
        let set = Arc::clone(&self.set.lock());
        (!Arc::ptr_eq(&set, present)).then_some(set)
    }
}

/// Reads the rules anew.
#[derive(Debug, Clone)]
pub struct Reloader {
    handover: Arc<Handover>,
}

impl Reloader {
    pub(super) fn new(handover: Arc<Handover>) -> Self {
        Self { handover }
    }

    /// Asks the thread to read the rules. Never waits.
    pub fn request(&self) {
        self.handover.requests.fetch_add(1, Ordering::Release);
    }

    /// Reads the rules here and now, and hands them over. Returns how they stand, in words.
    pub fn reload(&self) -> String {
        let before = Arc::clone(&self.handover.set.lock());
        let begun = Instant::now();
        let set = RuleSet::load(&self.handover.options, Some(&before));
        let broken = set
            .listing
            .iter()
            .filter(|listed| matches!(listed.state, RuleState::Broken(_)))
            .inspect(|listed| {
                tracing::warn!(path = %listed.path.display(), reason = listed.state.reason(), "rule is broken");
            })
            .count();
        let words = format!("{} rules are matched, {broken} entries are broken", set.len());
        tracing::info!(
            rules = set.len(),
            broken,
            always_evaluated = set.unanchored(),
            index_bytes = set.index_bytes(),
            took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "rules read anew"
        );
        metrics::sigma_reload(if broken == 0 { "clean" } else { "broken" });
        *self.handover.set.lock() = Arc::new(set);
        self.handover.version.fetch_add(1, Ordering::Release);
        words
    }

    /// Starts the thread that reloads on change and on request, until `tasks` end.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(&self, tasks: &Tasks) -> std::io::Result<()> {
        let reloader = self.clone();
        tasks.spawn_thread("rules", TaskKind::BestEffort, move |token| {
            reloader.run(&token);
            Ok(())
        })
    }

    fn run(&self, token: &CancellationToken) {
        let mut watch = Watch::new(&self.handover.options.folders);
        let mut requests = 0;
        // What changed between the first reading and this watch is a change too.
        let begun = Instant::now();
        let mut unrest = (watch.files != self.handover.read_from).then_some((begun, begun));
        while !token.is_cancelled() {
            std::thread::sleep(LOOK);
            let now = Instant::now();
            let asked = self.handover.requests.load(Ordering::Acquire);
            if watch.changed() {
                unrest = Some((unrest.map_or(now, |(begun, _)| begun), now));
            }
            let calm = unrest.is_some_and(|(begun, last)| {
                now.duration_since(last) >= CALM || now.duration_since(begun) >= UNREST_MAX
            });
            if asked == requests && !calm {
                continue;
            }
            requests = asked;
            unrest = None;
            // Watched before they are read, so that no change falls between.
            watch = Watch::new(&self.handover.options.folders);
            self.reload();
        }
    }
}

/// Sizes and times of files.
pub(super) type Survey = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// What tells that rules changed.
struct Watch {
    inotify: Option<OwnedFd>,
    folders: Vec<PathBuf>,
    files: Survey,
    surveyed: Instant,
}

impl Watch {
    fn new(roots: &[PathBuf]) -> Self {
        // Told before surveyed, so that what changes in between is told.
        Self {
            inotify: watched(roots)
                .inspect_err(
                    |error| tracing::debug!(%error, "rules are looked at once a minute, without inotify"),
                )
                .ok(),
            folders: roots.to_vec(),
            files: survey(roots),
            surveyed: Instant::now(),
        }
    }

    fn changed(&mut self) -> bool {
        let told = self.inotify.as_ref().is_some_and(told);
        let due = self.surveyed.elapsed() >= SURVEY;
        if !told && !due {
            return false;
        }
        self.surveyed = Instant::now();
        let files = survey(&self.folders);
        let changed = files != self.files;
        self.files = files;
        changed || told
    }
}

/// Sizes and times of the rule files.
pub(super) fn survey(roots: &[PathBuf]) -> Survey {
    let files = roots.iter().filter_map(|root| rule_files(root).ok()).flatten();
    files
        .filter_map(|path| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path, (metadata.len(), metadata.modified().ok())))
        })
        .collect()
}

fn watched(roots: &[PathBuf]) -> std::io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::MOVED_TO;
    for root in roots {
        for folder in folders(root) {
            // One that is not there yet is found by the survey.
            if let Err(error) = inotify::add_watch(&fd, folder.as_path(), flags)
                && error != rustix::io::Errno::NOENT
            {
                return Err(error.into());
            }
        }
    }
    Ok(fd)
}

/// Whether anything was told since this was asked last.
fn told(fd: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4_096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut told = false;
    while reader.next().is_ok() {
        told = true;
    }
    told
}
