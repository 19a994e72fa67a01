//! The one way out of a second source: only the kinds that were chosen for it, at the agent's pace, every loss
//! counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use fleetmend_event::table::table_by_id;
use fleetmend_event::table::{Exactness, Gap, GapStage, NetworkEvent, ProcessEvent, ProcessEventKind, Table};
use fleetmend_event::{Fact, TimeMicros};
use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;

use super::{Kind, metric};
use crate::bpf::Outlet;
use crate::pace::{Pace, PaceHandle, REASON};

/// How long a source that lost records is called DEGRADED for it.
const RECENT_US: i64 = 60_000_000;
/// Longest text of a fault.
const FAULT_BYTES_MAX: usize = 1024;

/// What became of a kind's records; shared with whoever writes its row.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    seen: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    last_loss: AtomicI64,
    fault: Mutex<Option<Fault>>,
}

/// What keeps a source from working now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: String,
    pub(crate) hint: String,
}

impl Tally {
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.seen), of(&self.delivered), of(&self.lost))
    }

    pub(crate) fn lost_lately(&self, now: TimeMicros) -> bool {
        let last = self.last_loss.load(Ordering::Relaxed);
        last != 0 && now.micros_since(TimeMicros(last)) < RECENT_US
    }

    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.last_loss.store(TimeMicros::now().0, Ordering::Relaxed);
    }

    /// Says what is wrong, or that nothing is.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let fault = fault.map(|mut fault| {
            let end = fault.reason.floor_char_boundary(FAULT_BYTES_MAX);
            fault.reason.truncate(end);
            fault
        });
        *self.fault.lock() = fault;
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.lock().clone()
    }
}

/// See the module.
pub(crate) struct Delivery {
    outlet: Outlet,
    source: &'static str,
    kinds: BTreeMap<Kind, Arc<Tally>>,
    pace: PaceHandle,
    /// What the pace left out, by table: since when, and how many.
    shed: BTreeMap<u16, (TimeMicros, u64)>,
}

impl Delivery {
    pub(crate) fn new(
        sender: Sender<Fact>,
        source: &'static str,
        kinds: BTreeMap<Kind, Arc<Tally>>,
        pace: PaceHandle,
    ) -> Self {
        Self {
            outlet: Outlet::new(sender, source),
            source,
            kinds,
            pace,
            shed: BTreeMap::new(),
        }
    }

    /// Whether this source tells `kind`.
    pub(crate) fn tells(&self, kind: Kind) -> bool {
        self.kinds.contains_key(&kind)
    }

    /// Sends a fact of a kind that was chosen for this source; another kind's is somebody else's to tell.
    pub(crate) fn send(&mut self, fact: Fact) {
        let Some(tally) = kind_of(&fact).and_then(|kind| self.kinds.get(&kind)) else {
            return;
        };
        tally.seen.fetch_add(1, Ordering::Relaxed);
        if self.pace.get() >= Pace::Executions && is_shed(&fact) {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            let entry = self.shed.entry(fact.table_id()).or_insert((fact.time(), 0));
            entry.0 = entry.0.min(fact.time());
            entry.1 += 1;
            return;
        }
        if self.outlet.send(fact) {
            tally.delivered.fetch_add(1, Ordering::Relaxed);
        } else {
            tally.lose(1);
        }
    }

    /// Counts records that were read of the kernel or of a log.
    pub(crate) fn note_read(&self, count: u64) {
        metrics::counter!(metric::RECORDS, "source" => self.source).increment(count);
    }

    /// A loss that came before facts: a gap for the table of each kind told.
    pub(crate) fn lose(
        &mut self,
        from: TimeMicros,
        count: u64,
        exactness: Exactness,
        stage: GapStage,
        reason: &'static str,
    ) {
        metrics::counter!(metric::LOST, "source" => self.source, "reason" => reason).increment(count);
        let now = TimeMicros::now();
        let mut told = Vec::new();
        for (kind, tally) in &self.kinds {
            tally.lose(count);
            told.push(table_of(*kind));
        }
        // Which kinds the lost records were of is not known; several kinds are one gap for any table.
        let tables: Vec<(&str, fleetmend_event::Lane)> = match told.as_slice() {
            [] => return,
            [(name, lane)] => vec![(*name, *lane)],
            _ => vec![(
                "*",
                told.iter()
                    .map(|(_, lane)| *lane)
                    .min()
                    .unwrap_or(fleetmend_event::Lane::Events),
            )],
        };
        for (table, lane) in tables {
            self.outlet.send_gap(Gap {
                time: now,
                table: table.to_owned(),
                lane,
                from_time: from.min(now),
                to_time: now,
                count,
                exactness,
                stage,
                reason: reason.to_owned(),
            });
        }
    }

    /// Turns what was dropped and shed into gaps. Call it about once a second.
    pub(crate) fn flush(&mut self) {
        let now = TimeMicros::now();
        for (table, (from_time, count)) in std::mem::take(&mut self.shed) {
            let Some(table) = table_by_id(table) else { continue };
            self.outlet.send_gap(Gap {
                time: now,
                table: table.name.to_owned(),
                lane: table.lane,
                from_time,
                to_time: now,
                count,
                exactness: Exactness::Exact,
                stage: GapStage::Collect,
                reason: REASON.to_owned(),
            });
        }
        self.outlet.flush_gaps();
    }

    /// Says what is wrong with the source, or that nothing is.
    pub(crate) fn set_fault(&self, fault: Option<&Fault>) {
        for tally in self.kinds.values() {
            tally.set_fault(fault.cloned());
        }
    }
}

/// As the sensor does: what is rare or critical is told at every pace.
fn is_shed(fact: &Fact) -> bool {
    match fact {
        Fact::ProcessEvent(row) => row.kind != ProcessEventKind::Exec,
        Fact::NetworkEvent(_) => true,
        _ => false,
    }
}

fn kind_of(fact: &Fact) -> Option<Kind> {
    Some(match fact {
        Fact::ProcessEvent(_) => Kind::Processes,
        Fact::FileEvent(_) => Kind::Files,
        Fact::NetworkEvent(_) => Kind::Network,
        Fact::CredentialEvent(_) => Kind::Credentials,
        Fact::MemoryEvent(_) => Kind::Memory,
        Fact::KernelEvent(_) => Kind::Kernel,
        Fact::SignalEvent(_) => Kind::Signals,
        _ => return None,
    })
}

fn table_of(kind: Kind) -> (&'static str, fleetmend_event::Lane) {
    use fleetmend_event::table::{CredentialEvent, FileEvent, KernelEvent, MemoryEvent, SignalEvent};
    match kind {
        Kind::Processes => (ProcessEvent::NAME, ProcessEvent::LANE),
        Kind::Files => (FileEvent::NAME, FileEvent::LANE),
        Kind::Network => (NetworkEvent::NAME, NetworkEvent::LANE),
        Kind::Credentials => (CredentialEvent::NAME, CredentialEvent::LANE),
        Kind::Memory => (MemoryEvent::NAME, MemoryEvent::LANE),
        Kind::Kernel => (KernelEvent::NAME, KernelEvent::LANE),
        Kind::Signals => (SignalEvent::NAME, SignalEvent::LANE),
    }
}
