//! How much of the logs is stored: repeats are counted together, and a storm is bounded and told.
//!
//! A line that equals the one before of its program is not stored again: one row at the end says how often it
//! came. Each program has a bucket of lines, and all together have one; what finds its bucket empty is counted
//! for a gap row. A program that begins to lose lines is told by a row of its own, whose source is `agent`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{AuthEvent, Exactness, Gap, GapStage, LogRecord, Table};

use super::line::Line;

/// Source of rows that tell of a log instead of holding a line of it.
pub const AGENT: &str = "agent";
/// Reason of the gaps.
pub(crate) const RATE_LIMIT: &str = "rate_limit";
/// Seconds of the long-run rate that may come at once.
const BURST_S: u64 = 20;
/// Programs that have a bucket; further ones share the one for all.
pub(crate) const IDENTIFIERS_MAX: usize = 512;
/// A repeated line is stored with its count after so long, in microseconds.
const ECHO_US: u64 = 10_000_000;
/// Rows about storms at one telling.
const STORMS_MAX: usize = 8;

/// Lines that may be stored at present.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    micro_lines: u64,
    per_s: u64,
    filled_us: u64,
}

impl Bucket {
    pub(super) fn new(per_s: u64, now_us: u64) -> Self {
        Self {
            micro_lines: per_s * BURST_S * 1_000_000,
            per_s,
            filled_us: now_us,
        }
    }

    pub(super) fn fill(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.filled_us);
        let most = self.per_s * BURST_S * 1_000_000;
        self.micro_lines = self
            .micro_lines
            .saturating_add(passed.saturating_mul(self.per_s))
            .min(most);
        self.filled_us = self.filled_us.max(now_us);
    }

    pub(super) fn has_one(&self) -> bool {
        self.micro_lines >= 1_000_000
    }

    pub(super) fn take_one(&mut self) {
        self.micro_lines = self.micro_lines.saturating_sub(1_000_000);
    }
}

/// Lines that were not stored.
#[derive(Debug, Clone, Copy)]
struct Lost {
    count: u64,
    from: TimeMicros,
    to: TimeMicros,
}

impl Lost {
    fn note(lost: &mut Option<Self>, count: u64, time: TimeMicros) {
        let entry = lost.get_or_insert(Self {
            count: 0,
            from: time,
            to: time,
        });
        entry.count = entry.count.saturating_add(count);
        entry.from = entry.from.min(time);
        entry.to = entry.to.max(time);
    }

    fn gap<T: Table>(self) -> Gap {
        Gap {
            time: TimeMicros::now(),
            table: T::NAME.to_owned(),
            lane: T::LANE,
            from_time: self.from,
            to_time: self.to,
            count: self.count,
            exactness: Exactness::Exact,
            stage: GapStage::Collect,
            reason: RATE_LIMIT.to_owned(),
        }
    }
}

#[derive(Debug)]
struct Identifier {
    bucket: Bucket,
    last: u64,
    echo: Option<LogRecord>,
    echo_us: u64,
    lost: u64,
    used_us: u64,
}

/// What is to be done with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is stored.
    Store,
    /// It is the first repeat: its row is to be made and handed to [`Flow::hold`].
    Hold,
    /// A further repeat, counted.
    Held,
    /// Over the rate, counted.
    Drop,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Flow {
    identifiers: HashMap<String, Identifier>,
    per_identifier: u64,
    all: Bucket,
    lost: Option<Lost>,
}

impl Flow {
    pub(crate) fn new(lines_per_s: u32, identifier_lines_per_s: u32, now_us: u64) -> Self {
        Self {
            identifiers: HashMap::new(),
            per_identifier: identifier_lines_per_s.into(),
            all: Bucket::new(lines_per_s.into(), now_us),
            lost: None,
        }
    }

    /// Decides on a line; besides returns the row of what was repeated before it.
    pub(crate) fn decide(&mut self, line: &Line, now_us: u64) -> (Decision, Option<LogRecord>) {
        self.all.fill(now_us);
        let known = self.identifiers.contains_key(&line.identifier);
        let mut flushed = None;
        if !known && self.identifiers.len() >= IDENTIFIERS_MAX {
            flushed = self.forget_oldest();
        }
        let per_s = self.per_identifier;
        let identifier = self
            .identifiers
            .entry(line.identifier.clone())
            .or_insert_with(|| Identifier {
                bucket: Bucket::new(per_s, now_us),
                last: 0,
                echo: None,
                echo_us: 0,
                lost: 0,
                used_us: now_us,
            });
        identifier.used_us = now_us;
        identifier.bucket.fill(now_us);
        let hash = hash_of(line);
        if hash == identifier.last {
            return match &mut identifier.echo {
                Some(echo) => {
                    echo.repeats = echo.repeats.saturating_add(line.repeats);
                    echo.time = echo.time.max(line.time);
                    (Decision::Held, flushed)
                }
                None => (Decision::Hold, flushed),
            };
        }
        flushed = flushed.or_else(|| identifier.echo.take());
        if !(identifier.bucket.has_one() && self.all.has_one()) {
            identifier.lost = identifier.lost.saturating_add(line.repeats);
            Lost::note(&mut self.lost, line.repeats, line.time);
            return (Decision::Drop, flushed);
        }
        identifier.last = hash;
        identifier.bucket.take_one();
        self.all.take_one();
        (Decision::Store, flushed)
    }

    /// Keeps the row of a repeat, to be stored with its count later.
    pub(crate) fn hold(&mut self, row: LogRecord, now_us: u64) {
        if let Some(identifier) = self.identifiers.get_mut(&row.identifier) {
            identifier.echo = Some(row);
            identifier.echo_us = now_us;
        }
    }

    /// Whether nothing would be stored now, whoever logged it.
    pub(crate) fn is_exhausted(&mut self, now_us: u64) -> bool {
        self.all.fill(now_us);
        !self.all.has_one()
    }

    /// Counts a line that was not even taken apart.
    pub(crate) fn drop_unread(&mut self, time: TimeMicros) {
        Lost::note(&mut self.lost, 1, time);
    }

    /// Rows of repeats that have waited long enough; of all at the end.
    pub(crate) fn echoes(&mut self, now_us: u64, all: bool) -> Vec<LogRecord> {
        let waiting = self.identifiers.values_mut();
        let due = waiting.filter(|identifier| all || now_us.saturating_sub(identifier.echo_us) >= ECHO_US);
        due.filter_map(|identifier| identifier.echo.take()).collect()
    }

    /// The gap of what was not stored since the last call, and a row for each program that lost most.
    pub(crate) fn tell(&mut self) -> Option<(Gap, Vec<LogRecord>)> {
        let lost = self.lost.take()?;
        let losing = self
            .identifiers
            .iter_mut()
            .filter(|(_, identifier)| identifier.lost > 0);
        let mut storms: Vec<(String, u64)> = losing
            .map(|(name, identifier)| (name.clone(), std::mem::take(&mut identifier.lost)))
            .collect();
        storms.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        storms.truncate(STORMS_MAX);
        let rows = storms
            .into_iter()
            .map(|(name, count)| storm(name, count, lost.to))
            .collect();
        Some((lost.gap::<LogRecord>(), rows))
    }

    fn forget_oldest(&mut self) -> Option<LogRecord> {
        let oldest = self
            .identifiers
            .iter()
            .min_by_key(|(_, identifier)| identifier.used_us);
        let name = oldest.map(|(name, _)| name.clone())?;
        self.identifiers.remove(&name)?.echo
    }
}

fn hash_of(line: &Line) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&line.message, line.priority, &line.unit, &line.source).hash(&mut hasher);
    hasher.finish()
}

fn storm(identifier: String, count: u64, time: TimeMicros) -> LogRecord {
    LogRecord {
        time,
        source: AGENT.to_owned(),
        message: format!("log storm: {count} lines of {identifier} were counted and not stored"),
        identifier,
        unit: None,
        pid: None,
        uid: None,
        priority: Some(4),
        facility: None,
        truncated: false,
        template: 0,
        repeats: count,
    }
}

/// Authentication events: the first of equal ones is sent at once, those of the next second as one row.
#[derive(Debug)]
pub(crate) struct AuthFlow {
    held: HashMap<AuthKey, (u64, Option<AuthEvent>)>,
    bucket: Bucket,
    lost: Option<Lost>,
}

type AuthKey = (
    &'static str,
    &'static str,
    String,
    Option<String>,
    String,
    Option<String>,
    Option<String>,
);

/// Kinds of events within a second that are counted together.
const HELD_MAX: usize = 1_024;
/// Events a second over the long run.
const AUTH_PER_S: u64 = 50;
/// Equal events of so long are one row, in microseconds.
const HELD_US: u64 = 1_000_000;

impl AuthFlow {
    pub(crate) fn new(now_us: u64) -> Self {
        Self {
            held: HashMap::new(),
            bucket: Bucket::new(AUTH_PER_S, now_us),
            lost: None,
        }
    }

    /// Takes an event; returns it when it is to be sent now.
    pub(crate) fn take(&mut self, event: AuthEvent, now_us: u64) -> Option<AuthEvent> {
        let key = (
            event.kind.as_str(),
            event.outcome.as_str(),
            event.service.clone(),
            event.method.clone(),
            event.user.clone(),
            event.target_user.clone(),
            event.remote_address.clone().or_else(|| event.command.clone()),
        );
        match self.held.get_mut(&key) {
            Some((_, Some(held))) => {
                held.repeats = held.repeats.saturating_add(event.repeats);
                held.time = held.time.max(event.time);
                return None;
            }
            Some((_, waiting)) => {
                *waiting = Some(event);
                return None;
            }
            None => {}
        }
        self.bucket.fill(now_us);
        if !self.bucket.has_one() {
            Lost::note(&mut self.lost, event.repeats, event.time);
            return None;
        }
        self.bucket.take_one();
        if self.held.len() < HELD_MAX {
            self.held.insert(key, (now_us, None));
        }
        Some(event)
    }

    /// Events that were counted together for long enough; all of them at the end.
    pub(crate) fn due(&mut self, now_us: u64, all: bool) -> Vec<AuthEvent> {
        let over = self
            .held
            .extract_if(|_, (since, _)| all || now_us.saturating_sub(*since) >= HELD_US);
        over.filter_map(|(_, (_, event))| event).collect()
    }

    /// The gap of what was not sent since the last call.
    pub(crate) fn tell(&mut self) -> Option<Gap> {
        self.lost.take().map(Lost::gap::<AuthEvent>)
    }
}

#[cfg(test)]
mod tests;
