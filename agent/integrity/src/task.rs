//! How the room begins, and how others talk to it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fleetmend_shutdown::{TaskKind, Tasks};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::books::Books;
use crate::changed::ChangedFiles;
use crate::class::Class;
use crate::config::Config;
use crate::error::{RequestError, StoreError};
use crate::explain::Expectations;
use crate::eye::{Eye, Message, Request};
use crate::keeper::{Channels, Counts, Keeper, Phase, RowWindow, SHORT_NAP, Scanning, Troubles, Writing};
use crate::package::Packages;
use crate::queue::Queue;
use crate::scan::{Hurry, Limits, Pace, Scanner};
use crate::watch::{Kind, Watch, patterns};
use crate::who::{Ancestry, Registry};
use crate::{Outlet, Paused, store};

/// Messages of the hub that wait: more than a second of a storm on watched files.
const MESSAGES_MAX: usize = 4_096;
/// Reports that wait; the scanner goes on only as fast as it is followed.
const REPORTS_MAX: usize = 4;
/// The scanner has one order at a time.
const ORDERS_MAX: usize = 1;
/// The baseline and the list of changed files.
const WRITES_MAX: usize = 2;
/// Longest wait for an answer of the room.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the room needs of others.
pub struct Parts {
    /// Where its facts go.
    pub outlet: Box<dyn Outlet>,
    /// What is known of processes.
    pub ancestry: Box<dyn Ancestry>,
    /// Whether scans have to wait.
    pub paused: Paused,
}

/// Asks the room for something.
#[derive(Clone)]
pub struct Control {
    inbox: SyncSender<Message>,
}

impl Control {
    /// What differs from the baseline.
    ///
    /// # Errors
    /// When the room does not answer.
    pub async fn list(&self) -> Result<Value, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::List(reply), answer).await
    }

    /// Makes a file that differs the baseline, or all of them; returns how many.
    ///
    /// # Errors
    /// [`RequestError`] when it does not differ, cannot be read, or the room does not answer.
    pub async fn accept(&self, path: Option<PathBuf>) -> Result<usize, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Accept(path, reply), answer).await?
    }

    /// Makes the baseline anew.
    ///
    /// # Errors
    /// When the room does not answer.
    pub async fn rebuild(&self) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Rebuild(reply), answer).await
    }

    /// # Cancel safety
    /// A request that was handed over is done, whether or not its answer is awaited.
    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, RequestError> {
        if self.inbox.try_send(Message::Request(request)).is_err() {
            return Err(RequestError::Busy("it has too much to do, or has ended"));
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(RequestError::Busy("it has ended")),
            Err(_) => Err(RequestError::Busy("it took too long")),
        }
    }
}

/// Starts the room; its baseline is kept in `folder`.
///
/// # Errors
/// When the system refuses a thread.
pub fn start(
    config: &Config,
    folder: PathBuf,
    tasks: &Tasks,
    parts: Parts,
) -> std::io::Result<(Eye, Control)> {
    let mut watch = Watch::new(config);
    let mut books = Books::new(config.files_max);
    let (known, suid_known, anew) = take_back(&folder, &mut watch, &mut books);
    let watch = Arc::new(watch);
    let changed = if known {
        ChangedFiles::load(&folder)
    } else {
        ChangedFiles::default()
    };
    let (inbox, messages) = sync_channel(MESSAGES_MAX);
    let (orders, ordered) = sync_channel(ORDERS_MAX);
    let (reports_in, reports) = sync_channel(REPORTS_MAX);
    let (writes, to_write) = sync_channel::<Writing>(WRITES_MAX);
    let (written_in, written) = sync_channel(WRITES_MAX);
    let missed = Arc::default();
    let eye = Eye {
        watch: watch.clone(),
        inodes: books.inodes(),
        inbox: inbox.clone(),
        managers: config
            .package_managers
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
        missed: Arc::clone(&missed),
        delivered: None,
        audited: false,
    };
    tasks.spawn_thread("integrity-write", TaskKind::BestEffort, move |_token| {
        write_all(&to_write, &written_in);
        Ok(())
    })?;
    let hurry = Hurry::default();
    let scanner = (watch.clone(), config.clone(), hurry.clone(), parts.paused);
    tasks.spawn_thread("integrity-scan", TaskKind::Critical, move |token| {
        let (watch, config, hurry, paused) = scanner;
        let scanner = Scanner {
            limits: Limits {
                files_per_s: u64::from(config.scan_files_per_s),
                bytes_per_s: config.read_bytes_per_s.get(),
                whole_max: config.hash_max.get(),
            },
            pace: Pace::new(config.scan_cpu_pct, hurry, paused, token),
            suid_exclude: patterns(&watch.root, config.suid_exclude.iter().map(String::as_str)),
            watch,
            reports: reports_in,
        };
        scanner.run(&ordered);
        Ok(())
    })?;
    let channels = Channels {
        inbox: messages,
        orders,
        reports,
        writes,
        written,
        outlet: parts.outlet,
        missed,
    };
    let (config, ancestry) = (config.clone(), parts.ancestry);
    let troubles = Troubles {
        anew,
        ..Troubles::default()
    };
    tasks.spawn_thread("integrity", TaskKind::Critical, move |token| {
        let now = Instant::now();
        let keeper = Keeper {
            packages: Packages::new(config.dpkg_folder(), watch.root.clone()),
            registry: Registry::new(ancestry, config.package_managers.clone()),
            expectations: Expectations::new(&config, &watch.root),
            queue: Queue::new(config.settle.get()),
            held: Vec::new(),
            notify: None,
            delivered: None,
            scanning: Scanning {
                phase: Phase::Walking,
                first: !known,
                suid_first: !suid_known,
                number: 0,
                ordered: false,
                hurry,
                stale: false,
                next_walk: now,
                next_sweep: now,
                cursor: (0, 0),
            },
            troubles,
            counts: Counts::default(),
            channels,
            waiting: VecDeque::new(),
            window: RowWindow::default(),
            begun: now,
            dirty: false,
            saved_at: now,
            writing: 0,
            missed_taken: 0,
            scan_nap: SHORT_NAP,
            next_second: now,
            told_status: None,
            token,
            config,
            folder,
            watch,
            books,
            changed,
        };
        keeper.run();
        Ok(())
    })?;
    Ok((eye, Control { inbox }))
}

/// Takes the baseline of an earlier run back: whether there was one, whether it knows the programs with others' rights,
/// and why it was not taken.
fn take_back(folder: &std::path::Path, watch: &mut Watch, books: &mut Books) -> (bool, bool, Option<String>) {
    let stored = match store::load(folder) {
        Ok(Some(stored)) if stored.root == watch.root => stored,
        Ok(Some(stored)) => {
            let reason = format!("the baseline was of {} and is made anew", stored.root.display());
            tracing::warn!(reason, "integrity baseline");
            return (false, false, Some(reason));
        }
        Ok(None) => return (false, false, None),
        Err(error) => {
            let reason = format!("the baseline of the last run cannot be used and is made anew: {error}");
            tracing::warn!(reason, "integrity baseline");
            return (false, false, Some(reason));
        }
    };
    watch.compare_with(&stored.rules);
    let suid_known = stored.rules.contains(&crate::keeper::SUID_PRINT);
    for mut record in stored.records {
        let class = watch.class_of(&record.path, Kind::of(&record.state));
        let suid = (record.class == Class::Suid && watch.watches_suid()).then_some(Class::Suid);
        if let Some(class) = class.or(suid) {
            record.class = class;
            books.put(record);
        }
    }
    tracing::info!(files = books.len(), written = %stored.written, "integrity baseline was read");
    (true, suid_known, None)
}

/// Ends when nobody has anything to write any more.
fn write_all(to_write: &Receiver<Writing>, written: &SyncSender<Result<(), StoreError>>) {
    while let Ok((path, bytes)) = to_write.recv() {
        if written.send(store::replace(&path, &bytes)).is_err() {
            return;
        }
    }
}
