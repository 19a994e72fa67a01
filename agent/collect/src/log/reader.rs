//! The reader: journal and files in turns, on one thread that sleeps until something is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, ProbeState, ProbeStatus};
use tokio::sync::mpsc::Sender;

use super::access::{AccessRecord, Accesses};
use super::config::LogConfig;
use super::journal::{Journal, machine_id};
use super::kept::{Keep, Positions};
use super::line::{JOURNAL, Line};
use super::metric;
use super::pipeline::Pipeline;
use super::tail::Tail;
use super::wake::Wake;
use crate::{FactSink, PaceHandle};

/// Journal entries, and bytes of each file, that are read in one turn.
const ENTRIES_A_TURN: u64 = 2_000;
const BYTES_A_TURN: usize = 512 * 1024;
/// Time between two looks for new files.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// Time between two tellings of what was not stored.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Time between two rows of state.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Positions are kept this much later than they were reached: what was read meanwhile is on disk by then, so that
/// a kill repeats a few lines and loses none.
const KEEP_BEHIND: Duration = Duration::from_secs(3);
/// A loss is the reason for DEGRADED this long.
const RECENT: Duration = Duration::from_secs(60);

/// Where the reader finds things; tests have folders of their own.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) state: PathBuf,
    pub(crate) machine: Option<String>,
}

impl Places {
    pub(crate) fn of_host(state: PathBuf) -> Self {
        Self {
            state,
            machine: machine_id().ok(),
        }
    }
}

/// See the module.
pub(crate) struct Reader {
    config: LogConfig,
    keep: Keep,
    journal: Journal,
    journal_serves: bool,
    tails: Vec<(Tail, Option<String>)>,
    pipeline: Pipeline,
    accesses: Accesses,
    sink: FactSink,
    wake: Wake,
    begun: Instant,
    pending: Option<(Instant, Positions)>,
    watched_before: std::collections::BTreeSet<PathBuf>,
    next_scan: Instant,
    next_tell: Instant,
    next_status: Instant,
    last_status: Vec<(ProbeState, String)>,
    lost_before: u64,
    last_loss: Option<Instant>,
}

impl Reader {
    pub(crate) fn new(config: LogConfig, places: &Places, sink: FactSink, pace: PaceHandle) -> Self {
        let keep = Keep::new(places.state.clone());
        let positions = keep.positions();
        let now = Instant::now();
        let roots = config.journal_dirs.clone();
        let mut reader = Self {
            journal: Journal::new(roots, places.machine.clone(), positions.journal.clone()),
            journal_serves: false,
            tails: Vec::new(),
            pipeline: Pipeline::new(&config, keep.templates(), sink.clone(), pace, 0),
            accesses: Accesses::new(config.access_lines_per_s, 0),
            sink,
            wake: Wake::new(),
            begun: now,
            pending: None,
            watched_before: positions.watched.clone(),
            next_scan: now,
            next_tell: now + TELL_EVERY,
            next_status: now,
            last_status: Vec::new(),
            lost_before: 0,
            last_loss: None,
            keep,
            config,
        };
        reader.scan();
        reader.follow_files(&positions, true);
        reader
    }

    /// The reader, with where the requests of access logs go.
    pub(crate) fn telling(mut self, rules: Sender<AccessRecord>) -> Self {
        self.accesses.tell(rules);
        self
    }

    /// Reads what there is, tells what is due; returns whether there is more to read at once.
    pub(crate) fn turn(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.next_scan {
            self.rescan();
        }
        let more = self.read();
        self.pipeline.tick(self.now_us(), false);
        if now >= self.next_tell {
            self.next_tell = now + TELL_EVERY;
            self.tell();
        }
        self.status(now);
        self.keep_positions(now);
        more
    }

    /// Sleeps until something is written.
    pub(crate) fn sleep(&mut self, longest: Duration) {
        self.wake.sleep(longest);
    }

    /// Reads once more, and keeps where everything stands.
    pub(crate) fn finish(&mut self) {
        self.read();
        self.pipeline.tick(self.now_us(), true);
        self.tell();
        let positions = self.positions();
        self.write(&positions);
    }

    /// Looks for new files now.
    pub(crate) fn rescan(&mut self) {
        // What the source that may be left has until now.
        self.read();
        let served = self.journal_serves;
        self.scan();
        if served != self.journal_serves {
            let positions = self.positions();
            self.follow_files(&positions, false);
        }
    }

    fn scan(&mut self) {
        self.next_scan = Instant::now() + SCAN_EVERY;
        let now_us = u64::try_from(TimeMicros::now().0).unwrap_or(0);
        self.journal.scan(now_us);
        self.journal_serves = self.journal.standing().0 > 0 && self.journal.is_live();
        let mut folders = self.journal.folders();
        let config = &self.config;
        let files = config.files.iter().chain(&config.syslog_files);
        let files = files.chain(&config.access_logs);
        folders.extend(files.filter_map(|path| path.parent().map(PathBuf::from)));
        folders.sort();
        folders.dedup();
        self.wake.watch(folders);
    }

    /// Which files are read now: those of syslog only without a journal, which has the same lines.
    fn follow_files(&mut self, kept: &Positions, at_start: bool) {
        let syslog = self.config.syslog_files.iter().filter(|_| !self.journal_serves);
        let files = self.config.files.iter().chain(syslog);
        let wanted: Vec<PathBuf> = files.chain(&self.config.access_logs).cloned().collect();
        self.tails
            .retain(|(tail, _)| wanted.iter().any(|path| path == tail.path()));
        for path in wanted {
            if self.tails.iter().any(|(tail, _)| tail.path() == path) {
                continue;
            }
            // Where the journal served until now, what is in the file was read there.
            let position = kept.files.get(&path).filter(|_| at_start).cloned();
            let from_end = !at_start || !self.watched_before.contains(&path);
            self.tails.push((Tail::new(path, position, from_end), None));
        }
    }

    fn read(&mut self) -> bool {
        let now_us = self.now_us();
        let (pipeline, source): (_, Arc<str>) = (&mut self.pipeline, JOURNAL.into());
        let taken = self.journal.read(ENTRIES_A_TURN, |entry| {
            if let Some(line) = Line::of_entry(&entry, &source) {
                pipeline.line(line, JOURNAL, now_us);
            }
        });
        let mut more = self.journal.has_more() && taken > 0;
        let trouble = self.journal.take_trouble();
        metric::damaged(trouble.damaged);
        pipeline.tell_unread(trouble.damaged, Exactness::Exact, "corrupt");
        pipeline.tell_unread(trouble.unread, Exactness::AtLeast, "corrupt");
        for (tail, failed) in &mut self.tails {
            let source: Arc<str> = tail.path().to_string_lossy().into();
            let is_access = self.config.access_logs.iter().any(|path| path == tail.path());
            let accesses = &mut self.accesses;
            let look = tail.look(BYTES_A_TURN, |line, cut| {
                if is_access {
                    accesses.line(&source, line, now_us);
                } else {
                    pipeline.file_line(&source, line, cut, now_us);
                }
            });
            match look {
                Ok(look) => {
                    more |= look.more;
                    *failed = None;
                    if look.lost {
                        pipeline.tell_unread(1, Exactness::AtLeast, "rotated_away");
                    }
                }
                Err(error) => *failed = Some(error.to_string()),
            }
        }
        more
    }

    fn tell(&mut self) {
        self.pipeline.tell();
        if let Some(templates) = self.pipeline.take_templates()
            && let Err(error) = self.keep.write_templates(templates)
        {
            tracing::warn!(%error, "templates of logs are not kept");
        }
    }

    fn positions(&mut self) -> Positions {
        let tails = self.tails.iter();
        let files = tails.filter_map(|(tail, _)| Some((tail.path().to_owned(), tail.position()?)));
        Positions {
            files: files.collect(),
            journal: self.journal.positions(),
            watched: self
                .tails
                .iter()
                .map(|(tail, _)| tail.path().to_owned())
                .collect(),
            ..Positions::default()
        }
    }

    fn keep_positions(&mut self, now: Instant) {
        match &self.pending {
            Some((at, _)) if now.duration_since(*at) < KEEP_BEHIND => return,
            _ => {}
        }
        let fresh = self.positions();
        let reached = self.pending.replace((now, fresh.clone()));
        if let Some((_, reached)) = reached {
            self.write(&reached);
        } else if self.watched_before.is_empty() {
            // The very first turn read nothing, and took everything up at its end: from now on that is where it began.
            self.write(&fresh);
        }
    }

    fn write(&mut self, positions: &Positions) {
        if let Err(error) = self.keep.write_positions(positions) {
            tracing::warn!(%error, "positions in logs are not kept; a restart repeats lines");
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn status(&mut self, now: Instant) {
        let counts = self.pipeline.counts;
        if counts.lost > self.lost_before {
            self.lost_before = counts.lost;
            self.last_loss = Some(now);
        }
        let losing = self.last_loss.is_some_and(|at| now.duration_since(at) < RECENT);
        let mut rows = vec![self.journal_status(losing), self.files_status(losing)];
        rows.extend(self.accesses.status(&self.access_logs(), RECENT));
        let standing: Vec<(ProbeState, String)> =
            rows.iter().map(|row| (row.state, row.reason.clone())).collect();
        if now < self.next_status && standing == self.last_status {
            return;
        }
        self.next_status = now + STATUS_EVERY;
        self.last_status = standing;
        for row in rows {
            self.sink.offer(row.into());
        }
    }

    /// The access logs that are read.
    fn access_logs(&self) -> Vec<String> {
        let read = self
            .tails
            .iter()
            .filter(|(tail, failed)| failed.is_none() && tail.is_open());
        read.map(|(tail, _)| tail.path())
            .filter(|path| self.config.access_logs.iter().any(|wanted| wanted == path))
            .map(|path| path.display().to_string())
            .collect()
    }

    fn journal_status(&self, losing: bool) -> ProbeStatus {
        let (files, broken) = self.journal.standing();
        let first = broken
            .iter()
            .next()
            .map(|(path, reason)| format!("{}: {reason}", path.display()));
        let dirs: Vec<String> = self
            .config
            .journal_dirs
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let dirs = dirs.join(" and ");
        let (state, reason, hint) = match (files, first) {
            (0, None) => (
                ProbeState::Broken,
                format!("no journal of this machine in {dirs}"),
                "nothing to do on a host without systemd: log files are read instead",
            ),
            (0, Some(first)) => (
                ProbeState::Broken,
                format!("no journal file can be read; first: {first}"),
                "see whether journalctl --verify finds damage, and whether the agent may read the folder",
            ),
            (files, Some(first)) => (
                ProbeState::Degraded,
                format!(
                    "reads {files} files and passes over {}; first: {first}",
                    broken.len()
                ),
                "see: journalctl --verify",
            ),
            (files, None) if !self.journal_serves => (
                ProbeState::Degraded,
                format!(
                    "reads {files} files that nothing was written to for a day; log files are read as well"
                ),
                "if journald is switched off, remove what it left; if it is not, see why it does not write",
            ),
            (files, None) if losing => (
                ProbeState::Degraded,
                format!("reads {files} files; lines were counted and not stored in the last minute"),
                "see the rows of log_records whose source is agent for what logs so much",
            ),
            (files, None) => (ProbeState::Real, format!("reads {files} files"), ""),
        };
        self.row("logs.journal", state, reason, hint)
    }

    fn files_status(&self, losing: bool) -> ProbeStatus {
        let failed: Vec<String> = self
            .tails
            .iter()
            .filter_map(|(tail, failed)| Some(format!("{}: {}", tail.path().display(), failed.as_ref()?)))
            .collect();
        let present: Vec<String> = self
            .tails
            .iter()
            .filter(|(tail, failed)| failed.is_none() && tail.is_open())
            .map(|(tail, _)| tail.path().display().to_string())
            .collect();
        let read = if present.is_empty() {
            "none of the configured files is there".to_owned()
        } else {
            format!("reads {}", present.join(", "))
        };
        let left = if self.journal_serves {
            "; files of syslog are left to the journal, which has their lines"
        } else {
            ""
        };
        let slow = if self.wake.is_real() {
            ""
        } else {
            "; looked at once a second, without inotify"
        };
        let (state, hint) = if !failed.is_empty() {
            (
                if present.is_empty() {
                    ProbeState::Broken
                } else {
                    ProbeState::Degraded
                },
                "the agent needs CAP_DAC_READ_SEARCH, or read permission on the files",
            )
        } else if present.is_empty() && !self.journal_serves {
            (
                ProbeState::Broken,
                "set collect.logs.files or collect.logs.syslog_files to where this host logs",
            )
        } else if losing && !self.journal_serves {
            (
                ProbeState::Degraded,
                "see the rows of log_records whose source is agent for what logs so much",
            )
        } else {
            (ProbeState::Real, "")
        };
        let failed = failed
            .first()
            .map_or_else(String::new, |first| format!("; cannot read {first}"));
        self.row("logs.files", state, format!("{read}{failed}{left}{slow}"), hint)
    }

    fn row(&self, probe: &str, state: ProbeState, reason: String, hint: &str) -> ProbeStatus {
        // Journal and files share a pipeline; its counts are told by the one that serves.
        let tells = (probe == "logs.journal") == self.journal_serves;
        let counts = if tells {
            self.pipeline.counts
        } else {
            super::pipeline::Counts::default()
        };
        ProbeStatus {
            time: TimeMicros::now(),
            probe: probe.to_owned(),
            state,
            reason: if tells && counts.forged > 0 {
                format!(
                    "{reason}; {} lines claim an authentication that their sender cannot tell of",
                    counts.forged
                )
            } else {
                reason
            },
            hint: hint.to_owned(),
            seen: counts.seen,
            delivered: counts.delivered,
            lost: counts.lost,
        }
    }
}
