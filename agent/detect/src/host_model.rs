//! The host-anomaly model as the detector uses it: frames in, findings and a state out.

use std::path::Path;

use fleetmend_event::table::{
    Finding, FindingKind, ModelState, ModelStatus, ProbeState, ProbeStatus, Severity, SubjectKind,
};
use fleetmend_event::{MetricFrame, TimeMicros};
use fleetmend_models::Bundle;
use fleetmend_shutdown::Tasks;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::anomaly::{FeatureExtractor, HostAnomalyConfig, Scored, build, worker};
use crate::config::AnomalyConfig;
use crate::onnx::Runtime;
use crate::tracker::{FindingTracker, Notice, Subject};

/// Rule name of its findings, and name in `model_status`.
const HOST_ANOMALY: &str = "host-anomaly";
/// Scores that may wait for the detector; it takes them every second, at most one window's worth arrives.
const SCORES_MAX: usize = 256;
/// Everyday windows in a row after which an anomaly is over.
const CALM_WINDOWS: u32 = 6;
/// Features named in a finding.
const FACTORS_MAX: usize = 8;

struct Running {
    extractor: FeatureExtractor,
    queue: worker::Handle,
    scores: mpsc::Receiver<Scored>,
}

pub(crate) struct HostModel {
    running: Option<Running>,
    version: String,
    digest: String,
    state: ModelState,
    reason: String,
    windows: u64,
    fitted_at: Option<TimeMicros>,
    last: Option<Scored>,
    calm: u32,
    changed: bool,
    /// State and reason from before scoring began to fail.
    before: Option<(ModelState, String)>,
    /// Why scoring is paused, while it is meant to be.
    paused: Option<String>,
    /// Cancelled when everything ends, the model's thread with it.
    end: CancellationToken,
}

impl HostModel {
    /// Loads the model and starts its thread. A fault is kept as the state's reason.
    pub(crate) fn start(config: &AnomalyConfig, tasks: &Tasks) -> Self {
        let mut model = Self {
            running: None,
            version: String::new(),
            digest: String::new(),
            state: ModelState::Refused,
            reason: "switched off in the configuration (detect.anomaly.enabled)".to_owned(),
            windows: 0,
            fitted_at: None,
            last: None,
            calm: 0,
            changed: false,
            before: None,
            paused: None,
            end: tasks.token(),
        };
        if !config.enabled {
            return model;
        }
        match load(config, tasks, &mut model) {
            Ok(running) => {
                info!(version = model.version, "host-anomaly model loaded");
                model.running = Some(running);
                model.state = ModelState::Learning;
                model.reason = format!(
                    "learning what is normal here; it raises nothing for the first {} s",
                    config.warmup_s
                );
            }
            Err(reason) => {
                warn!(
                    reason,
                    "host-anomaly model refused; rules and limits go on without it"
                );
                model.reason = reason;
            }
        }
        model
    }

    /// Takes one tick of metrics.
    pub(crate) fn observe(&mut self, frame: &MetricFrame) {
        if self.paused.is_some() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        if let Some(vector) = running.extractor.push(frame) {
            self.windows = self.windows.saturating_add(1);
            running.queue.offer(vector);
        }
    }

    /// Scores and learns nothing until it is called with `None`. What is open stays open meanwhile: that nothing
    /// is looked at resolves nothing.
    pub(crate) fn pause(&mut self, why: Option<&str>) {
        if self.paused.as_deref() == why {
            return;
        }
        self.paused = why.map(str::to_owned);
        self.changed = true;
        if let Some(running) = &mut self.running {
            running.extractor.restart();
        }
    }

    /// The reason of the state, with that of a pause.
    fn reason(&self) -> String {
        match &self.paused {
            Some(why) => format!("paused, {why}; before: {}", self.reason),
            None => self.reason.clone(),
        }
    }

    /// Takes the scores that arrived; returns the rows that follow from them.
    pub(crate) fn findings(&mut self, tracker: &mut FindingTracker) -> Vec<Finding> {
        let Some(running) = &mut self.running else {
            return Vec::new();
        };
        let mut scores = Vec::new();
        let ended = loop {
            match running.scores.try_recv() {
                Ok(scored) => scores.push(scored),
                Err(outcome) => break outcome == TryRecvError::Disconnected,
            }
        };
        let failing = running.queue.failing();
        if ended && !self.end.is_cancelled() {
            self.running = None;
            self.refuse("its thread has ended; the agent's log says why, and a restart begins it again");
        } else if let Some(reason) = failing {
            self.refuse(&reason);
        } else if let Some((state, reason)) = self.before.take() {
            (self.state, self.reason, self.changed) = (state, reason, true);
        }
        scores
            .into_iter()
            .filter_map(|scored| self.judge(scored, tracker))
            .collect()
    }

    /// The model does not score: what it said last is not what it does now.
    fn refuse(&mut self, reason: &str) {
        if self.state != ModelState::Refused {
            warn!(reason, "host-anomaly model does not score");
            self.before = Some((self.state, std::mem::take(&mut self.reason)));
            self.state = ModelState::Refused;
            self.changed = true;
        }
        reason.clone_into(&mut self.reason);
    }

    fn judge(&mut self, scored: Scored, tracker: &mut FindingTracker) -> Option<Finding> {
        let subject = Subject::named(SubjectKind::Host, HOST_ANOMALY);
        if self.state == ModelState::Learning {
            self.state = ModelState::Active;
            self.reason = "scoring against what was learnt on this host".to_owned();
            self.fitted_at = Some(scored.time);
            self.changed = true;
        }
        if scored.regime_accepted {
            self.reason = "a new regime was accepted as normal after it stayed for hours".to_owned();
            self.fitted_at = Some(scored.time);
            self.changed = true;
        }
        self.calm = if scored.unusual {
            0
        } else {
            self.calm.saturating_add(1)
        };
        let row = if scored.unusual {
            tracker.notice(scored.time, notice(&scored, subject))
        } else if self.calm >= CALM_WINDOWS {
            tracker.resolve(scored.time, HOST_ANOMALY, &subject)
        } else {
            None
        };
        self.last = Some(scored);
        row
    }

    /// Whether the state changed since it was asked last.
    pub(crate) fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn status(&self) -> ModelStatus {
        ModelStatus {
            time: TimeMicros::now(),
            model: HOST_ANOMALY.to_owned(),
            version: self.version.clone(),
            digest: self.digest.clone(),
            state: self.state,
            reason: self.reason(),
            windows: self.windows,
            fitted_at: self.fitted_at,
            inference_p99_us: None,
            score: self.last.as_ref().map(|scored| scored.score),
        }
    }

    pub(crate) fn probe_status(&self) -> ProbeStatus {
        let absent: Vec<&str> = self
            .running
            .as_ref()
            .filter(|_| self.windows > 0)
            .map(|running| running.extractor.absent())
            .unwrap_or_default();
        let state = match (&self.running, absent.is_empty()) {
            (None, _) => ProbeState::Broken,
            (Some(_), _) if self.state == ModelState::Refused => ProbeState::Broken,
            (Some(_), false) => ProbeState::Degraded,
            (Some(_), true) if self.paused.is_some() => ProbeState::Degraded,
            (Some(_), true) => ProbeState::Real,
        };
        let missing = if absent.is_empty() {
            String::new()
        } else {
            format!("; not measured on this host: {}", absent.join(", "))
        };
        ProbeStatus {
            time: TimeMicros::now(),
            probe: "detect.host-anomaly".to_owned(),
            state,
            reason: format!("{}: {}{missing}", self.state, self.reason()),
            hint: String::new(),
            seen: self.windows,
            delivered: self.windows,
            lost: 0,
        }
    }
}

fn load(config: &AnomalyConfig, tasks: &Tasks, model: &mut HostModel) -> Result<Running, String> {
    let chain = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    let bundle = Bundle::read(&config.model_dir).map_err(|error| chain(&error))?;
    model.version = bundle.manifest().version.to_string();
    model.digest = fleetmend_models::sha256_hex(bundle.graph());
    let runtime = Runtime::load(Some(Path::new(&config.onnxruntime))).map_err(|error| chain(&error))?;
    let settings = HostAnomalyConfig {
        window_s: config.window_s,
        warmup_s: config.warmup_s,
        alerts_per_day: config.alerts_per_day,
        ..HostAnomalyConfig::default()
    };
    let extractor = FeatureExtractor::new(bundle.schema(), config.window_s);
    let anomaly = build(settings, &bundle, &runtime).map_err(|error| chain(&error))?;
    let (sender, scores) = mpsc::channel(SCORES_MAX);
    let queue = worker::spawn(tasks, anomaly, Some(config.state_file.clone()), sender)
        .map_err(|error| chain(&error))?;
    Ok(Running {
        extractor,
        queue,
        scores,
    })
}

/// What is said of an unusual window.
///
/// Its severity is low whatever the score: `alerts_per_day` asks for such findings on a healthy host too, and a score says
/// how unlike itself a host is, not that anything fails for it. What does fail has a limit, a site check or a rule of its own.
fn notice(scored: &Scored, subject: Subject) -> Notice {
    let top = scored.top.iter().take(FACTORS_MAX);
    let factors = top.map(|part| {
        json!({"feature": part.feature, "unit": part.unit, "value": part.value, "expected": part.expected, "contribution": part.contribution})
    });
    let first = scored
        .top
        .first()
        .map_or("no single feature", |part| part.feature.as_str());
    let layers = scored.layers.iter().map(|layer| {
        (
            layer.layer.name().to_owned(),
            json!({"score": layer.score, "p": layer.p}),
        )
    });
    Notice {
        kind: FindingKind::Anomaly,
        rule: HOST_ANOMALY.to_owned(),
        title: format!("this host behaves unlike itself, most of all {first}"),
        severity: Severity::Low,
        score: Some(scored.score),
        subject,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: factors.collect(),
        evidence: json!({
            "p": scored.p, "surprise": scored.surprise, "episodes_per_day": scored.per_day,
            "layers": layers.collect::<serde_json::Map<_, _>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::FindingState;

    use super::*;
    use crate::anomaly::{Layer, LayerScore};

    fn active(queue: worker::Handle) -> (HostModel, mpsc::Sender<Scored>) {
        let disabled = AnomalyConfig {
            enabled: false,
            ..AnomalyConfig::default()
        };
        let mut model = HostModel::start(&disabled, &Tasks::new());
        let (sender, scores) = mpsc::channel(1);
        let bundle = Bundle::shipped().unwrap();
        model.running = Some(Running {
            extractor: FeatureExtractor::new(bundle.schema(), 5.0),
            queue,
            scores,
        });
        (model.state, model.reason) = (ModelState::Active, "scoring".to_owned());
        (model, sender)
    }

    #[test]
    fn window_never_seen_before_is_a_low_finding_that_ends_when_it_is_calm() {
        let (mut model, scores) = active(worker::Handle::ended(0));
        let mut tracker = FindingTracker::default();
        let score = |second: i64, unusual: bool| Scored {
            time: TimeMicros(second * 1_000_000),
            score: 1.0 - 1e-12,
            p: 1e-12,
            surprise: 27.0,
            per_day: 1e-8,
            unusual,
            layers: [
                Layer::Temporal,
                Layer::TemporalBroad,
                Layer::Level,
                Layer::Subspace,
            ]
            .map(|layer| LayerScore {
                layer,
                score: 90.0,
                p: 1e-12,
                per_day: 1e-8,
            }),
            top: Vec::new(),
            regime_accepted: false,
        };
        let mut told = |second, unusual| {
            scores.blocking_send(score(second, unusual)).unwrap();
            let findings = model.findings(&mut tracker);
            findings
                .into_iter()
                .map(|finding| (finding.state, finding.severity))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(0, true), [(FindingState::Open, Severity::Low)]);
        let calm: Vec<_> = (1..=i64::from(CALM_WINDOWS))
            .flat_map(|window| told(window * 5, false))
            .collect();
        assert_eq!(calm, [(FindingState::Resolved, Severity::Low)]);
    }

    #[test]
    fn model_whose_thread_ended_is_not_active() {
        let (mut model, scores) = active(worker::Handle::ended(0));
        model.findings(&mut FindingTracker::default());
        assert_eq!(model.status().state, ModelState::Active);
        drop(scores);
        model.findings(&mut FindingTracker::default());
        assert!(model.changed());
        assert_eq!(model.status().state, ModelState::Refused);
        assert!(
            model.status().reason.contains("has ended"),
            "{}",
            model.status().reason
        );
        assert_eq!(model.probe_status().state, ProbeState::Broken);
    }

    #[test]
    fn paused_model_scores_nothing_and_is_degraded_until_it_goes_on() {
        let (mut model, _scores) = active(worker::Handle::ended(0));
        let frame = |second: i64| MetricFrame {
            time: TimeMicros(second * 1_000_000),
            series: Vec::new().into(),
            values: Vec::new(),
        };
        for second in 0..10 {
            model.observe(&frame(second));
        }
        let windows = model.windows;
        assert!(windows > 0);
        model.pause(Some("the agent is over its budget"));
        assert!(model.changed());
        for second in 10..30 {
            model.observe(&frame(second));
        }
        assert_eq!(model.windows, windows);
        assert!(
            model.status().reason.starts_with("paused, the agent"),
            "{}",
            model.status().reason
        );
        // A window that began before the pause is not ended by the first frame after it.
        model.pause(None);
        model.observe(&frame(30));
        assert_eq!(model.windows, windows);
        assert_eq!(model.status().reason, "scoring");
    }

    #[test]
    fn model_that_fails_window_after_window_is_not_active_until_it_scores_again() {
        let (mut model, _scores) = active(worker::Handle::ended(3));
        model.findings(&mut FindingTracker::default());
        assert_eq!(model.status().state, ModelState::Refused);
        assert!(model.status().reason.contains("no memory"));
        assert_eq!(model.probe_status().state, ProbeState::Broken);
        if let Some(running) = &model.running {
            running.queue.recover();
        }
        model.findings(&mut FindingTracker::default());
        assert_eq!(
            (model.status().state, model.status().reason.as_str()),
            (ModelState::Active, "scoring")
        );
    }
}
