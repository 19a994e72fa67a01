//! From lines to facts: authentication is read, repeats and storms are bounded, secrets masked, templates found.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use fleetmend_event::table::{Exactness, Gap, GapStage, LogRecord, Table as _};
use fleetmend_event::{Fact, TimeMicros};
use jiff::tz::TimeZone;

use super::auth::{self, Verdict};
use super::config::LogConfig;
use super::flow::{AuthFlow, Decision, Flow};
use super::line::{Line, Origin};
use super::metric;
use super::stamp;
use super::template::{Template, Templates};
use crate::masking::mask_text;
use crate::pace::REASON as BUDGET;
use crate::{FactSink, Pace, PaceHandle};

/// Longest unit or identifier that is stored.
const NAME_BYTES_MAX: usize = 128;
/// Lines less urgent than warnings are left out while the agent is over its budget.
const THIN_PRIORITY_MAX: u32 = 4;
/// Of a message so many bytes more than are stored are masked first, so that a secret at the cut is masked whole.
const MASK_MARGIN_BYTES: usize = 1_024;

/// What went through, for the probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) forged: u64,
}

/// See the module.
pub(crate) struct Pipeline {
    sink: FactSink,
    pace: PaceHandle,
    priority_max: u32,
    message_bytes_max: usize,
    zone: TimeZone,
    flow: Flow,
    auth: AuthFlow,
    templates: Templates,
    evicted_told: u64,
    /// The last line of each file, for daemons that only say that it was repeated.
    last: HashMap<Arc<str>, Line>,
    left_out: Option<(u64, TimeMicros, TimeMicros)>,
    pub(crate) counts: Counts,
}

impl Pipeline {
    pub(crate) fn new(
        config: &LogConfig,
        templates: Vec<Template>,
        sink: FactSink,
        pace: PaceHandle,
        now_us: u64,
    ) -> Self {
        metric::describe();
        Self {
            sink,
            pace,
            priority_max: config.priority_max,
            message_bytes_max: config.message_bytes_max,
            zone: TimeZone::system(),
            flow: Flow::new(config.lines_per_s, config.identifier_lines_per_s, now_us),
            auth: AuthFlow::new(now_us),
            templates: Templates::restore(templates),
            evicted_told: 0,
            last: HashMap::new(),
            left_out: None,
            counts: Counts::default(),
        }
    }

    /// Takes a line of a file, as it was read.
    pub(crate) fn file_line(&mut self, source: &Arc<str>, bytes: &[u8], truncated: bool, now_us: u64) {
        let now = TimeMicros::now();
        if self.flow.is_exhausted(now_us) && !auth::may_concern(bytes) {
            self.flow.drop_unread(now);
            self.count("file", 1);
            self.lose("rate_limit", 1);
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches(['\r', '\0']);
        if text.trim().is_empty() {
            return;
        }
        let parsed = stamp::parse(text, now, &self.zone);
        let named = || {
            Path::new(&**source)
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        let mut line = Line {
            time: parsed.time.unwrap_or(now),
            source: source.clone(),
            identifier: parsed.identifier.unwrap_or_else(named),
            unit: None,
            pid: parsed.pid,
            uid: None,
            priority: parsed.priority,
            facility: parsed.facility,
            message: parsed.message,
            truncated,
            repeats: 1,
            origin: Origin::Claimed,
        };
        if let Some(again) = self.said_again(&line) {
            line = again;
        } else {
            self.last.insert(source.clone(), line.clone());
        }
        self.line(line, "file", now_us);
    }

    /// `last message repeated 5 times`: the line before, with that count.
    fn said_again(&self, line: &Line) -> Option<Line> {
        // Either as a message of nobody, or where a tag stands.
        let rest = line.message.strip_prefix("last message repeated ")?;
        let count = rest
            .strip_suffix(" times")
            .or_else(|| rest.strip_suffix(" time"))?
            .parse::<u64>()
            .ok()?;
        let before = self.last.get(&line.source)?;
        Some(Line {
            time: line.time,
            repeats: count.clamp(1, 1_000_000),
            ..before.clone()
        })
    }

    /// Takes a line.
    pub(crate) fn line(&mut self, mut line: Line, source: &'static str, now_us: u64) {
        line.unfold();
        self.count(source, line.repeats);
        match auth::read(&line) {
            Verdict::Event(event) => {
                if let Some(event) = self.auth.take(*event, now_us) {
                    self.send_auth(event);
                }
            }
            Verdict::Forged => {
                metric::forged();
                self.counts.forged = self.counts.forged.saturating_add(1);
            }
            Verdict::Nothing => {}
        }
        let urgency = line.priority.unwrap_or(6);
        if urgency > self.priority_max {
            return;
        }
        if self.pace.get() >= Pace::Thin && urgency > THIN_PRIORITY_MAX {
            let (count, _, to) = self.left_out.get_or_insert((0, line.time, line.time));
            *count = count.saturating_add(line.repeats);
            *to = line.time;
            self.lose(BUDGET, line.repeats);
            return;
        }
        cut(&mut line.identifier, NAME_BYTES_MAX);
        let (decision, before) = self.flow.decide(&line, now_us);
        if let Some(row) = before {
            self.send(row.into());
        }
        match decision {
            Decision::Store => {
                let row = self.row(line);
                self.send(row.into());
            }
            Decision::Hold => {
                let row = self.row(line);
                self.flow.hold(row, now_us);
            }
            Decision::Held => {}
            Decision::Drop => self.lose("rate_limit", line.repeats),
        }
    }

    fn row(&mut self, mut line: Line) -> LogRecord {
        let before = line.message.len();
        cut(&mut line.message, self.message_bytes_max + MASK_MARGIN_BYTES);
        let mut message = mask_text(&line.message).into_owned();
        cut(&mut message, self.message_bytes_max);
        if let Some(unit) = &mut line.unit {
            cut(unit, NAME_BYTES_MAX);
        }
        let template = self.templates.of(&line.identifier, &message);
        LogRecord {
            time: line.time,
            source: line.source.to_string(),
            identifier: line.identifier,
            unit: line.unit,
            pid: line.pid,
            uid: line.uid,
            priority: line.priority,
            facility: line.facility,
            truncated: line.truncated || before > self.message_bytes_max,
            message,
            template,
            repeats: line.repeats,
        }
    }

    /// What became due by time alone; of everything at the end.
    pub(crate) fn tick(&mut self, now_us: u64, all: bool) {
        for row in self.flow.echoes(now_us, all) {
            self.send(row.into());
        }
        for event in self.auth.due(now_us, all) {
            self.send_auth(event);
        }
        self.sink.report_gaps();
    }

    /// Tells what was not stored. Call it every ten seconds or so, and at the end.
    pub(crate) fn tell(&mut self) {
        if let Some((gap, storms)) = self.flow.tell() {
            self.sink.offer(gap.into());
            for row in storms {
                tracing::warn!(identifier = row.identifier, lines = row.repeats, "log storm");
                self.sink.offer(row.into());
            }
        }
        if let Some(gap) = self.auth.tell() {
            metric::dropped("auth_rate_limit", gap.count);
            self.counts.lost = self.counts.lost.saturating_add(gap.count);
            self.sink.offer(gap.into());
        }
        if let Some((count, from, to)) = self.left_out.take() {
            self.sink
                .offer(gap(count, from, to, Exactness::Exact, BUDGET).into());
        }
        let evicted = self.templates.evicted();
        metric::templates_evicted(evicted - self.evicted_told);
        self.evicted_told = evicted;
    }

    /// Tells lines that were in a log and could not be read.
    pub(crate) fn tell_unread(&mut self, count: u64, exactness: Exactness, reason: &'static str) {
        if count > 0 {
            self.lose(reason, count);
            let now = TimeMicros::now();
            self.sink.offer(gap(count, now, now, exactness, reason).into());
        }
    }

    /// The templates, when they changed.
    pub(crate) fn take_templates(&mut self) -> Option<Vec<Template>> {
        self.templates.take_changed()
    }

    fn count(&mut self, source: &'static str, lines: u64) {
        metric::read(source);
        self.counts.seen = self.counts.seen.saturating_add(lines);
    }

    fn lose(&mut self, reason: &'static str, count: u64) {
        metric::dropped(reason, count);
        self.counts.lost = self.counts.lost.saturating_add(count);
    }

    fn send_auth(&mut self, event: fleetmend_event::table::AuthEvent) {
        metric::auth_event(event.outcome.as_str());
        self.send(event.into());
    }

    fn send(&mut self, fact: Fact) {
        if self.sink.offer(fact) {
            self.counts.delivered = self.counts.delivered.saturating_add(1);
        } else {
            // The sink counts it for its own gap.
            self.counts.lost = self.counts.lost.saturating_add(1);
        }
    }
}

fn gap(count: u64, from_time: TimeMicros, to_time: TimeMicros, exactness: Exactness, reason: &str) -> Gap {
    Gap {
        time: TimeMicros::now(),
        table: LogRecord::NAME.to_owned(),
        lane: LogRecord::LANE,
        from_time,
        to_time: to_time.max(from_time),
        count,
        exactness,
        stage: GapStage::Collect,
        reason: reason.to_owned(),
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
