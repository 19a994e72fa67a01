//! What the hub lets through to the spool on the last step of the ladder.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_collect::pace::REASON;
use fleetmend_event::table::{Exactness, Gap, GapStage, table_by_id};
use fleetmend_event::{Fact, Lane, TimeMicros};

use super::ladder::{Step, StepHandle};
use super::metrics;

/// Time between two looks at what has to be told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Gate {
    step: StepHandle,
    shed: BTreeMap<u16, Shed>,
    next: Instant,
}

struct Shed {
    rows: u64,
    from: TimeMicros,
    to: TimeMicros,
}

impl Gate {
    /// A gate that follows the step.
    pub(crate) fn new(step: StepHandle) -> Self {
        Self {
            step,
            shed: BTreeMap::new(),
            next: Instant::now(),
        }
    }

    /// The present step.
    pub(crate) fn step(&self) -> Step {
        self.step.get()
    }

    /// Whether the fact is to be stored; one that is not is counted for a gap.
    pub(crate) fn admits(&mut self, fact: &Fact) -> bool {
        if self.step.get() < Step::Critical || is_kept(fact) {
            return true;
        }
        let rows = match fact {
            Fact::Metrics(frame) => u64::try_from(frame.values.len()).unwrap_or(u64::MAX),
            _ => 1,
        };
        metrics::shed(fact.table_name(), rows);
        let time = fact.time();
        let shed = self.shed.entry(fact.table_id()).or_insert(Shed {
            rows: 0,
            from: time,
            to: time,
        });
        shed.rows = shed.rows.saturating_add(rows);
        shed.from = shed.from.min(time);
        shed.to = shed.to.max(time);
        false
    }

    /// The gaps of what was not stored, at most once a second.
    pub(crate) fn gaps(&mut self) -> Vec<Fact> {
        if self.shed.is_empty() || Instant::now() < self.next {
            return Vec::new();
        }
        self.next = Instant::now() + TELL_EVERY;
        self.finish()
    }

    /// The gaps of what was not stored.
    pub(crate) fn finish(&mut self) -> Vec<Fact> {
        let shed = std::mem::take(&mut self.shed);
        shed.into_iter()
            .filter_map(|(table, shed)| gap(table, &shed))
            .collect()
    }
}

/// States and accounts are how the loss is seen; each is one small row a minute.
fn is_kept(fact: &Fact) -> bool {
    let is_state = matches!(
        fact,
        Fact::ProbeStatus(_) | Fact::SensorAccount(_) | Fact::ModelStatus(_) | Fact::HostInfo(_)
    );
    is_state || fact.lane() == Lane::Critical
}

fn gap(table: u16, shed: &Shed) -> Option<Fact> {
    let table = table_by_id(table)?;
    Some(Fact::from(Gap {
        time: TimeMicros::now(),
        table: table.name.to_owned(),
        lane: table.lane,
        from_time: shed.from,
        to_time: shed.to,
        count: shed.rows,
        exactness: Exactness::Exact,
        stage: GapStage::Collect,
        reason: REASON.to_owned(),
    }))
}
