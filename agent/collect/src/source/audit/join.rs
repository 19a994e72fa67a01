//! Records of one serial become one event.
//!
//! The kernel writes the records of an event one after another and those of several events in between each other; an
//! event is whole with its EOE or PROCTITLE record, or when the log has gone on for [`SETTLE_US`] (auparse waits as
//! long), or when nothing was written for that long.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;

use super::record::AuditRecord;

/// How long the records of an event may lie apart.
const SETTLE_US: i64 = 2_000_000;
/// The same, where the log's own clock stands still.
const SETTLE: Duration = Duration::from_secs(2);
/// Events that may be open at once.
const OPEN_MAX: usize = 1_024;
/// Records of one event that are kept.
const RECORDS_MAX: usize = 256;
/// Bytes of one event that are kept.
const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all open events together; beyond it the eldest is taken as it is.
const OPEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Types that are parts of an event which becomes rows; every other record is whole by itself.
const JOINED: &[&str] = &[
    "SYSCALL",
    "EXECVE",
    "CWD",
    "PATH",
    "SOCKADDR",
    "PROCTITLE",
    "OBJ_PID",
    "KERN_MODULE",
    "OPENAT2",
    "BPRM_FCAPS",
    "CAPSET",
    "MMAP",
    "TIME_ADJNTPVAL",
    "TIME_INJOFFSET",
    "EOE",
];

/// The records of one event, in the order of the log.
#[derive(Debug, Clone, Default)]
pub struct AuditEvent {
    pub(super) records: Vec<AuditRecord>,
    /// Whether some of it was more than is kept.
    pub(super) truncated: bool,
}

impl AuditEvent {
    pub(super) fn record(&self, record_type: &str) -> Option<&AuditRecord> {
        self.records
            .iter()
            .find(|record| record.record_type == record_type)
    }

    pub(super) fn all<'a>(&'a self, record_type: &'a str) -> impl Iterator<Item = &'a AuditRecord> {
        self.records
            .iter()
            .filter(move |record| record.record_type == record_type)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Id {
    time: TimeMicros,
    serial: u64,
    node: Option<String>,
}

#[derive(Debug)]
struct Open<P> {
    event: AuditEvent,
    bytes: usize,
    /// Where in the log it begins.
    place: P,
    touched: Instant,
}

/// See the module. `P` is where in the log a record stands.
#[derive(Debug)]
pub struct Joiner<P = ()> {
    open: HashMap<Id, Open<P>>,
    /// In the order in which they began.
    order: VecDeque<Id>,
    /// Bytes of all that is open.
    bytes: usize,
    newest: TimeMicros,
    cut: u64,
}

impl<P: Clone> Default for Joiner<P> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            newest: TimeMicros(0),
            cut: 0,
        }
    }
}

impl<P: Clone> Joiner<P> {
    /// Takes a record over; returns the events that are whole now.
    pub fn push(&mut self, record: AuditRecord, place: P) -> Vec<AuditEvent> {
        let mut whole = Vec::new();
        if !JOINED.contains(&record.record_type.as_str()) {
            whole.push(AuditEvent {
                records: vec![record],
                truncated: false,
            });
            return whole;
        }
        // The last one, and not the latest: a clock that is set back must not end every event at once.
        self.newest = record.time;
        let id = Id {
            time: record.time,
            serial: record.serial,
            node: record.node.clone(),
        };
        let ends = matches!(record.record_type.as_str(), "EOE" | "PROCTITLE");
        self.add(&id, record, place);
        if ends {
            whole.extend(self.take(&id));
        }
        let newest = self.newest;
        whole.extend(self.take_while(|open, bytes, id| {
            newest.micros_since(id.time) > SETTLE_US || open > OPEN_MAX || bytes > OPEN_BYTES_MAX
        }));
        whole
    }

    /// Events that nothing was added to for a while.
    pub fn settle(&mut self, now: Instant) -> Vec<AuditEvent> {
        let mut whole = Vec::new();
        while let Some(id) = self.order.front() {
            let rests = self
                .open
                .get(id)
                .is_none_or(|open| now.saturating_duration_since(open.touched) > SETTLE);
            if !rests {
                break;
            }
            let id = id.clone();
            self.order.pop_front();
            whole.extend(self.remove(&id));
        }
        whole
    }

    /// Everything that is open, as it is.
    pub fn finish(&mut self) -> Vec<AuditEvent> {
        self.take_while(|_, _, _| true)
    }

    /// Where the log has to be read from again for no event to be missed; `None` when nothing is open.
    pub(super) fn first_open(&self) -> Option<&P> {
        self.order
            .iter()
            .find_map(|id| self.open.get(id))
            .map(|open| &open.place)
    }

    /// Records that were more than an event may have, since the last call.
    pub(super) fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }

    fn add(&mut self, id: &Id, record: AuditRecord, place: P) {
        if !self.open.contains_key(id) {
            self.order.push_back(id.clone());
        }
        let now = Instant::now();
        let open = self.open.entry(id.clone()).or_insert_with(|| Open {
            event: AuditEvent::default(),
            bytes: 0,
            place,
            touched: now,
        });
        open.touched = now;
        let bytes: usize = record
            .fields
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if open.event.records.len() >= RECORDS_MAX || open.bytes + bytes > EVENT_BYTES_MAX {
            open.event.truncated = true;
            self.cut += 1;
            return;
        }
        open.bytes += bytes;
        self.bytes += bytes;
        open.event.records.push(record);
    }

    fn take(&mut self, id: &Id) -> Option<AuditEvent> {
        let event = self.remove(id)?;
        // Its place in the order is passed over later; a long queue of such is emptied here.
        while self.order.front().is_some_and(|id| !self.open.contains_key(id)) {
            self.order.pop_front();
        }
        Some(event)
    }

    fn remove(&mut self, id: &Id) -> Option<AuditEvent> {
        let open = self.open.remove(id)?;
        self.bytes = self.bytes.saturating_sub(open.bytes);
        Some(open.event)
    }

    fn take_while(&mut self, mut wanted: impl FnMut(usize, usize, &Id) -> bool) -> Vec<AuditEvent> {
        let mut whole = Vec::new();
        while let Some(id) = self.order.front().cloned() {
            if self.open.contains_key(&id) && !wanted(self.order.len(), self.bytes, &id) {
                break;
            }
            self.order.pop_front();
            whole.extend(self.remove(&id));
        }
        whole
    }
}
