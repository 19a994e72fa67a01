//! How each target stands, for people and for metrics.

use std::sync::Arc;

use fleetmend_event::TimeMicros;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use serde::Serialize;

use crate::database::Skip;
use crate::metrics as names;

/// How one signal of one target stands. Counts are since the process started.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SignalStatus {
    /// `metrics`, or a table.
    pub signal: String,
    /// `live`: rows go out as they come. `catching_up`: they are read from the store. `waiting`: the target does not
    /// take them now. `standby`: another collector feeds the target, or will in a moment. `starting`.
    pub mode: &'static str,
    /// Samples or rows that the target took.
    pub sent: u64,
    /// Samples or rows that were not sent or not taken.
    pub dropped: u64,
    /// Age of the oldest that the target does not have yet.
    pub behind_seconds: f64,
    /// When it last took something.
    pub last_sent_at: Option<TimeMicros>,
    /// What it last answered when it took nothing; cleared once it takes something.
    pub last_error: Option<String>,
    /// What it last refused for good, and when.
    pub last_refusal: Option<(TimeMicros, String)>,
}

/// How a target stands.
#[derive(Debug, Clone, Serialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// `remote_write`, `otlp` or `webhook_stream`.
    pub kind: &'static str,
    /// Each of its signals.
    pub signals: Vec<SignalStatus>,
    /// What was left out because it was too old, the newest first; at most 20.
    pub skips: Vec<Skip>,
}

/// What came of a test.
#[derive(Debug, Clone, Serialize)]
pub struct TestOutcome {
    /// Whether the target took it.
    pub accepted: bool,
    /// What it answered, otherwise.
    pub reason: String,
}

/// The shared side of one signal.
#[derive(Debug, Clone)]
pub(crate) struct Gauge {
    target: String,
    state: Arc<Mutex<SignalStatus>>,
}

impl Gauge {
    pub(crate) fn new(target: &str, signal: &str) -> Self {
        let state = SignalStatus {
            signal: signal.to_owned(),
            mode: "starting",
            ..SignalStatus::default()
        };
        let gauge = Self {
            target: target.to_owned(),
            state: Arc::new(Mutex::new(state)),
        };
        gauge.behind(None);
        gauge
    }

    pub(crate) fn status(&self) -> SignalStatus {
        self.state.lock().clone()
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        let signal = self.state.lock().signal.clone();
        [("target", self.target.clone()), ("signal", signal)]
    }

    pub(crate) fn mode(&self, mode: &'static str) {
        self.state.lock().mode = mode;
    }

    /// It is not this collector's turn: what the target has is the other's to tell.
    pub(crate) fn stands_by(&self) {
        self.mode("standby");
        self.state.lock().last_error = None;
        self.behind(None);
    }

    pub(crate) fn received(&self, count: u64) {
        counter!(names::RECEIVED, &self.labels()).increment(count);
    }

    pub(crate) fn sent(&self, count: u64) {
        counter!(names::SENT, &self.labels()).increment(count);
        let mut state = self.state.lock();
        state.sent = state.sent.saturating_add(count);
        if state.mode == "waiting" {
            state.mode = "catching_up";
        }
        state.last_sent_at = Some(TimeMicros::now());
        state.last_error = None;
    }

    pub(crate) fn dropped(&self, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        let [target, signal] = self.labels();
        let labels = [target, signal, ("reason", reason.to_owned())];
        counter!(names::DROPPED, &labels).increment(count);
        let mut state = self.state.lock();
        state.dropped = state.dropped.saturating_add(count);
    }

    pub(crate) fn refused(&self, reason: String) {
        self.state.lock().last_refusal = Some((TimeMicros::now(), reason));
    }

    pub(crate) fn failing(&self, reason: &str) {
        let mut state = self.state.lock();
        state.mode = "waiting";
        state.last_error = Some(reason.to_owned());
    }

    /// Age of the oldest that is not sent, by its own time; none when everything is.
    pub(crate) fn behind(&self, oldest: Option<TimeMicros>) {
        let micros = oldest.map_or(0, |oldest| TimeMicros::now().micros_since(oldest).max(0));
        let seconds = std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
        self.state.lock().behind_seconds = seconds;
        gauge!(names::BEHIND, &self.labels()).set(seconds);
    }

    pub(crate) fn skipped(&self, skip: &Skip) {
        let micros = skip.to_time.micros_since(skip.from_time).max(0).unsigned_abs();
        counter!(names::SKIPPED, "target" => self.target.clone()).increment(micros / 1_000_000);
        tracing::error!(
            target_name = self.target,
            subject = skip.subject,
            from = %skip.from_time,
            to = %skip.to_time,
            "an export target was away for longer than catch_up_max: this span is not sent to it"
        );
    }

    pub(crate) fn failed(&self, what: &'static str) {
        counter!(names::FAILURES, "target" => self.target.clone(), "what" => what).increment(1);
    }

    pub(crate) fn caught_up_for(&self, reason: &'static str) {
        self.mode("catching_up");
        counter!(names::CATCH_UPS, "target" => self.target.clone(), "reason" => reason).increment(1);
    }
}
