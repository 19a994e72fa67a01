//! The thread that reads the log.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, GapStage};
use tokio::sync::mpsc::error::TrySendError;

use super::join::Joiner;
use super::position::Position;
use super::record::AuditRecord;
use super::tail::{Tail, Told};
use super::{RecordSender, Translator};
use crate::source::delivery::{Delivery, Fault};
use crate::source::metric;

/// Time between two writings of the position, and two looks at what was lost.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The place is kept this much later than it was reached: what was read before it is on disk by then, so that a kill
/// repeats some records and loses none.
const KEEP_BEHIND: Duration = Duration::from_secs(3);
/// Longest nap, so that the end of the process is prompt.
const NAP: Duration = Duration::from_millis(250);

/// Reads the log until it is told to stop.
pub(crate) struct Reader {
    tail: Tail,
    joiner: Joiner<Position>,
    translator: Translator,
    delivery: Delivery,
    records: Option<RecordSender>,
    position_file: PathBuf,
    saved: Option<Position>,
    /// The place that is kept next, and when it was reached.
    pending: Option<(Instant, Position)>,
    poll: Duration,
    told: Option<String>,
    since: TimeMicros,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    unreadable: u64,
    overlong: u64,
    lost_place: u64,
    raw_dropped: u64,
}

impl Reader {
    pub(crate) fn new(
        log: &std::path::Path,
        position_file: PathBuf,
        poll: Duration,
        translator: Translator,
        delivery: Delivery,
        records: Option<RecordSender>,
    ) -> Self {
        let resume = Position::load(&position_file);
        // One that is there and cannot be believed: a power cut, or another version's.
        let unbelievable = resume.is_none() && position_file.exists();
        Self {
            tail: Tail::new(log, resume.clone()),
            joiner: Joiner::default(),
            translator,
            delivery,
            records,
            position_file,
            saved: resume,
            pending: None,
            poll,
            told: None,
            since: TimeMicros::now(),
            counts: Counts {
                lost_place: u64::from(unbelievable),
                ..Counts::default()
            },
        }
    }

    /// Body of the thread.
    pub(crate) fn run(&mut self, stopped: impl Fn() -> bool) {
        let mut next_housekeeping = Instant::now();
        while !stopped() {
            let more = self.round();
            if Instant::now() >= next_housekeeping {
                next_housekeeping = Instant::now() + HOUSEKEEPING;
                self.keep_house();
            }
            let rested = Instant::now();
            while !more && !stopped() && rested.elapsed() < self.poll {
                std::thread::sleep(NAP.min(self.poll));
            }
        }
        self.finish();
    }

    /// Reads what there is now; says whether there is more.
    pub(crate) fn round(&mut self) -> bool {
        let Self {
            tail,
            joiner,
            translator,
            delivery,
            records,
            counts,
            ..
        } = self;
        let mut whole = Vec::new();
        let outcome = tail.read(&mut |told, place| match told {
            Told::Line([]) => {}
            Told::Line(line) => match AuditRecord::parse(line) {
                Ok(record) => {
                    counts.read += 1;
                    if let Some(records) = records {
                        match records.try_send(record.clone().masked()) {
                            Ok(()) | Err(TrySendError::Closed(_)) => {}
                            Err(TrySendError::Full(_)) => counts.raw_dropped += 1,
                        }
                    }
                    whole.extend(joiner.push(record, place.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "line of the audit log cannot be read");
                    counts.unreadable += 1;
                }
            },
            Told::Overlong => counts.overlong += 1,
            Told::Lost => counts.lost_place += 1,
        });
        whole.extend(joiner.settle(Instant::now()));
        for event in &whole {
            for fact in translator.rows(event) {
                delivery.send(fact);
            }
        }
        let more = *outcome.as_ref().unwrap_or(&false);
        self.note_outcome(outcome.err());
        more
    }

    /// What is due once a second.
    pub(crate) fn keep_house(&mut self) {
        self.translator.renew_clock();
        let counts = std::mem::take(&mut self.counts);
        self.delivery.note_read(counts.read);
        metrics::counter!(metric::RAW_DROPPED).increment(counts.raw_dropped);
        let since = std::mem::replace(&mut self.since, TimeMicros::now());
        for (count, exactness, reason) in [
            (counts.unreadable, Exactness::Exact, "unreadable"),
            (counts.overlong, Exactness::Exact, "line_too_long"),
            (counts.lost_place, Exactness::AtLeast, "log_replaced"),
            (self.joiner.take_cut(), Exactness::Exact, "event_too_large"),
        ] {
            if count > 0 {
                self.delivery
                    .lose(since, count, exactness, GapStage::Collect, reason);
            }
        }
        self.delivery.flush();
        self.save_behind();
    }

    /// Tells what is open, as it is, and keeps the place behind it.
    pub(crate) fn finish(&mut self) {
        for event in self.joiner.finish() {
            for fact in self.translator.rows(&event) {
                self.delivery.send(fact);
            }
        }
        self.keep_house();
        if let Some(reached) = self.reached() {
            self.save(reached);
        }
    }

    /// Where the log has to be read from again for no event to be missed.
    fn reached(&self) -> Option<Position> {
        let open = self.joiner.first_open().cloned();
        open.or_else(|| self.tail.position())
    }

    fn save_behind(&mut self) {
        let Some(reached) = self.reached() else {
            return;
        };
        match self.pending.take() {
            Some((at, place)) if at.elapsed() < KEEP_BEHIND => self.pending = Some((at, place)),
            Some((_, place)) => {
                self.save(place);
                self.pending = Some((Instant::now(), reached));
            }
            None => {
                if self.saved.is_none() {
                    // From here on nothing is to be missed.
                    self.save(reached.clone());
                }
                self.pending = Some((Instant::now(), reached));
            }
        }
    }

    fn save(&mut self, position: Position) {
        if self.saved.as_ref() == Some(&position) {
            return;
        }
        match position.save(&self.position_file) {
            Ok(()) => self.saved = Some(position),
            Err(error) => tracing::warn!(
                file = %self.position_file.display(),
                %error,
                "cannot keep how far the audit log was read"
            ),
        }
    }

    fn note_outcome(&mut self, error: Option<std::io::Error>) {
        let reason = error.map(|error| format!("the log cannot be read: {error}"));
        if self.told == reason {
            return;
        }
        if let Some(reason) = &reason {
            tracing::warn!(reason, "audit log is not followed");
        }
        let fault = reason.as_ref().map(|reason| Fault {
            reason: reason.clone(),
            hint: "check that auditd runs and that sources.audit_log names its log".to_owned(),
        });
        self.delivery.set_fault(fault.as_ref());
        self.told = reason;
    }
}
