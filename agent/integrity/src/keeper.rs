//! The thread that judges: takes events, looks at files, tells what changed.
//!
//! It alone owns the baseline. It never waits for the scanner or for the disk that the baseline is written to; the
//! files that it reads itself are those that something happened to.

mod baseline;
mod check;
mod events;
mod request;
mod status;

pub(crate) use baseline::SUID_PRINT;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use fleetmend_event::table::{Exactness, Gap, GapStage, IntegrityEvent, Table as _};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::CancellationToken;

use crate::books::Books;
use crate::changed::ChangedFiles;
use crate::config::Config;
use crate::error::StoreError;
use crate::explain::Expectations;
use crate::eye::Message;
use crate::notify::Notify;
use crate::package::Packages;
use crate::queue::Queue;
use crate::scan::{Hurry, Order, Report};
use crate::watch::Watch;
use crate::who::Registry;
use crate::{Outlet, metrics, store};

/// Longest sleep.
const NAP: Duration = Duration::from_millis(250);
/// Sleep while the scanner has something to tell; doubled while it does not, up to the longer one: a scan that keeps to its
/// share of the processor tells little for hours.
pub(crate) const SHORT_NAP: Duration = Duration::from_millis(20);
const SCAN_NAP: Duration = Duration::from_millis(160);
/// Messages that are taken before files are looked at.
const MESSAGES_MAX: usize = 1_024;
/// Files that are looked at before messages are taken.
const CHECKS_MAX: usize = 64;
/// Rows that wait for room in the channel.
const WAITING_MAX: usize = 4_096;
/// Rows a minute: a flood of changes must not push other critical rows out.
const ROWS_PER_MINUTE: u32 = 3_000;
/// A change of the baseline is written at the latest after so long.
const SAVE_AFTER: Duration = Duration::from_secs(60);
/// How long to wait for the kernel's events before inotify is taken.
const GRACE: Duration = Duration::from_secs(5);
/// A scan that is due for events that were lost comes so soon.
const SCAN_SOON: Duration = Duration::from_secs(10);
/// Scans are at least so often while nobody tells who writes.
const SCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(600);

/// Bytes to be written, and where.
pub(crate) type Writing = (PathBuf, Vec<u8>);

/// How far the baseline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything is looked at for the first time in this run.
    Walking,
    /// What is new is hashed.
    Hashing,
    /// All is known.
    Watching,
}

/// The ends of the channels.
pub(crate) struct Channels {
    pub(crate) inbox: Receiver<Message>,
    pub(crate) orders: SyncSender<Order>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) writes: SyncSender<Writing>,
    pub(crate) written: Receiver<Result<(), StoreError>>,
    pub(crate) outlet: Box<dyn Outlet>,
    pub(crate) missed: Arc<AtomicU64>,
}

/// What scanning has come to.
pub(crate) struct Scanning {
    pub(crate) phase: Phase,
    /// What is found is written down without a word: there is no baseline yet.
    pub(crate) first: bool,
    /// Likewise for programs with others' rights.
    pub(crate) suid_first: bool,
    /// Number of the scan, in records.
    pub(crate) number: u8,
    /// Whether the scanner has an order.
    pub(crate) ordered: bool,
    /// Tells the scanner that a scan of everything watched waits for that order to end.
    pub(crate) hurry: Hurry,
    /// Whether that order was given before the baseline was forgotten.
    pub(crate) stale: bool,
    pub(crate) next_walk: Instant,
    pub(crate) next_sweep: Instant,
    /// Where the search for what is not hashed goes on: class and place.
    pub(crate) cursor: (u8, usize),
}

/// What is wrong, for the status.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// The baseline was damaged, or of another tree.
    pub(crate) anew: Option<String>,
    /// The state folder takes nothing.
    pub(crate) unwritten: Option<String>,
    pub(crate) left_out: u64,
    pub(crate) unreadable: u64,
    pub(crate) no_notify: Option<String>,
    /// Files beyond those that are followed one by one.
    pub(crate) beyond: u64,
}

/// What was taken and told.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) told: u64,
    pub(crate) lost: u64,
}

/// See the module.
pub(crate) struct Keeper {
    pub(crate) config: Config,
    pub(crate) folder: PathBuf,
    pub(crate) watch: Arc<Watch>,
    pub(crate) books: Books,
    pub(crate) changed: ChangedFiles,
    pub(crate) packages: Packages,
    pub(crate) registry: Registry,
    pub(crate) expectations: Expectations,
    pub(crate) queue: Queue,
    pub(crate) held: Vec<events::Held>,
    pub(crate) notify: Option<Notify>,
    pub(crate) delivered: Option<bool>,
    pub(crate) scanning: Scanning,
    pub(crate) troubles: Troubles,
    pub(crate) counts: Counts,
    pub(crate) channels: Channels,
    pub(crate) waiting: VecDeque<Fact>,
    pub(crate) window: RowWindow,
    pub(crate) begun: Instant,
    pub(crate) dirty: bool,
    pub(crate) saved_at: Instant,
    pub(crate) writing: usize,
    pub(crate) missed_taken: u64,
    pub(crate) scan_nap: Duration,
    pub(crate) next_second: Instant,
    pub(crate) told_status: Option<(String, Instant)>,
    pub(crate) token: CancellationToken,
}

/// Rows of the present minute.
pub(crate) struct RowWindow {
    began: Instant,
    rows: u32,
    dropped: u64,
    from: TimeMicros,
}

impl Default for RowWindow {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            rows: 0,
            dropped: 0,
            from: TimeMicros(0),
        }
    }
}

impl Keeper {
    /// Works until the token is cancelled, and leaves the baseline written.
    pub(crate) fn run(mut self) {
        metrics::describe();
        while !self.token.is_cancelled() {
            self.round();
        }
        self.finish();
    }

    fn round(&mut self) {
        match self.channels.inbox.recv_timeout(self.nap()) {
            Ok(message) => {
                self.take(message);
                for _ in 0..MESSAGES_MAX {
                    let Ok(message) = self.channels.inbox.try_recv() else {
                        break;
                    };
                    self.take(message);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The hub is gone; the end is near.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(NAP),
        }
        self.scan_nap = (self.scan_nap * 2).min(SCAN_NAP);
        while let Ok(report) = self.channels.reports.try_recv() {
            self.heed(report);
            self.scan_nap = SHORT_NAP;
        }
        self.read_notify();
        let now = Instant::now();
        if now >= self.next_second {
            self.next_second = now + Duration::from_secs(1);
            self.each_second(now);
        }
        for (path, pending) in self.queue.take_due(now, CHECKS_MAX) {
            self.check(&path, pending);
        }
        self.order_next(now);
        self.save_when_due();
        self.send_waiting();
    }

    fn nap(&self) -> Duration {
        if !self.waiting.is_empty() {
            return SHORT_NAP;
        }
        let longest = if self.scanning.ordered { self.scan_nap } else { NAP };
        let due = self
            .queue
            .next_due()
            .map(|due| due.saturating_duration_since(Instant::now()));
        due.map_or(longest, |due| due.min(longest).max(Duration::from_millis(1)))
    }

    fn each_second(&mut self, now: Instant) {
        self.follow_held();
        self.take_missed(now);
        self.choose_notify(now);
        self.heed_written();
        self.report_dropped_rows(now);
        self.tell_status(now);
    }

    /// Events that the hub could not hand over: what they were about is found by a scan.
    fn take_missed(&mut self, now: Instant) {
        let missed = self.channels.missed.load(Ordering::Relaxed);
        if missed != self.missed_taken {
            self.counts.lost = self.counts.lost.saturating_add(missed - self.missed_taken);
            self.missed_taken = missed;
            self.scan_soon(now);
        }
    }

    /// Has everything scanned before its time.
    pub(crate) fn scan_soon(&mut self, now: Instant) {
        self.scanning.next_walk = self.scanning.next_walk.min(now + SCAN_SOON);
    }

    /// Puts a file on the list of those to be looked at.
    pub(crate) fn suspect(&mut self, path: &Path, noticed: &'static str, touch: Option<crate::who::Touch>) {
        if !self.queue.add(path, noticed, touch) {
            metrics::event_dropped("pending_full");
            self.counts.lost = self.counts.lost.saturating_add(1);
            self.scan_soon(Instant::now());
        }
    }

    /// Sends a fact, or keeps it until there is room.
    pub(crate) fn send(&mut self, fact: Fact) {
        if let Fact::IntegrityEvent(_) = &fact
            && !self.window_admits()
        {
            return;
        }
        self.waiting.push_back(fact);
        self.send_waiting();
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            metrics::row_dropped("channel_full");
            self.drop_row();
        }
    }

    fn send_waiting(&mut self) {
        while let Some(fact) = self.waiting.pop_front() {
            if let Err(back) = self.channels.outlet.offer(fact) {
                self.waiting.push_front(back);
                return;
            }
        }
    }

    fn window_admits(&mut self) -> bool {
        self.window.rows = self.window.rows.saturating_add(1);
        if self.window.rows <= ROWS_PER_MINUTE {
            return true;
        }
        metrics::row_dropped("rate_limit");
        self.drop_row();
        false
    }

    fn drop_row(&mut self) {
        if self.window.dropped == 0 {
            self.window.from = TimeMicros::now();
        }
        self.window.dropped = self.window.dropped.saturating_add(1);
    }

    fn report_dropped_rows(&mut self, now: Instant) {
        if now.duration_since(self.window.began) < Duration::from_secs(60) {
            return;
        }
        let over = std::mem::take(&mut self.window);
        if over.dropped > 0 {
            let time = TimeMicros::now();
            let gap = Gap {
                time,
                table: IntegrityEvent::NAME.to_owned(),
                lane: IntegrityEvent::LANE,
                from_time: over.from,
                to_time: time,
                count: over.dropped,
                exactness: Exactness::Exact,
                stage: GapStage::Collect,
                reason: "rate_limit".to_owned(),
            };
            self.send(gap.into());
        }
    }

    fn save_when_due(&mut self) {
        if self.writing > 0 {
            return;
        }
        if self.changed.unsaved {
            self.changed.unsaved = false;
            let bytes = self.changed.encode();
            self.write(ChangedFiles::file(&self.folder), bytes);
        }
        let due = self.saved_at.elapsed() >= SAVE_AFTER || self.scanning.phase == Phase::Watching;
        let lately = self.saved_at.elapsed() < Duration::from_secs(2);
        if self.dirty && due && !lately && self.scanning.phase != Phase::Walking {
            self.dirty = false;
            self.saved_at = Instant::now();
            let bytes = self.encode_baseline();
            self.write(store::file(&self.folder), bytes);
        }
    }

    fn encode_baseline(&self) -> Vec<u8> {
        let mut rules = self.watch.prints();
        if !self.scanning.suid_first {
            rules.push(baseline::SUID_PRINT);
        }
        store::encode(&self.books, &self.watch.root, &rules)
    }

    fn write(&mut self, path: PathBuf, bytes: Vec<u8>) {
        if self.channels.writes.try_send((path, bytes)).is_ok() {
            self.writing += 1;
        }
    }

    fn heed_written(&mut self) {
        while let Ok(written) = self.channels.written.try_recv() {
            self.writing = self.writing.saturating_sub(1);
            match written {
                Ok(()) => self.troubles.unwritten = None,
                Err(error) => {
                    let source =
                        std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
                    let reason = format!("{error}: {source}");
                    if self.troubles.unwritten.is_none() {
                        tracing::warn!(reason, "integrity baseline is not kept over a restart");
                    }
                    self.troubles.unwritten = Some(reason);
                    // It is tried again with the next change, or after a minute.
                    self.dirty = true;
                    self.saved_at = Instant::now();
                }
            }
        }
    }

    fn finish(&mut self) {
        let begun = Instant::now();
        while self.writing > 0 && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
            self.heed_written();
        }
        if self.writing > 0 {
            return;
        }
        let mut left = Vec::new();
        if self.changed.unsaved {
            left.push((ChangedFiles::file(&self.folder), self.changed.encode()));
        }
        if self.dirty && self.scanning.phase != Phase::Walking {
            left.push((store::file(&self.folder), self.encode_baseline()));
        }
        for (path, bytes) in left {
            if let Err(error) = store::replace(&path, &bytes) {
                tracing::warn!(%error, "integrity baseline is not kept over the restart");
            }
        }
        self.send_waiting();
    }
}
