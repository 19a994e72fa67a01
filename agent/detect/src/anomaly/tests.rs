//! The model on made-up hosts, through the real graph.

use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_models::{Bundle, Feature, Scale, Source};

use super::*;
use crate::onnx::tests::test_runtime;

const METRICS: usize = 6;

fn subject() -> Subject {
    let feature = |index: usize| Feature {
        name: format!("metric-{index}"),
        unit: "1".to_owned(),
        from: Source {
            metric: format!("metric-{index}"),
            attributes: Default::default(),
            without: Default::default(),
            reduce: Default::default(),
            rate: false,
        },
        per: None,
        scale: Scale::Linear(1.0),
    };
    Subject {
        features: (0..METRICS).map(feature).collect::<Vec<_>>().into(),
        schema_sha256: "a".repeat(64),
    }
}

fn model(config: HostAnomalyConfig) -> HostAnomaly {
    let bundle = Bundle::shipped().unwrap();
    let graph = HostGraph::new(&test_runtime(), &bundle).unwrap();
    HostAnomaly::new(config, subject(), &bundle.manifest().parameters, graph)
}

fn quick() -> HostAnomalyConfig {
    HostAnomalyConfig {
        warmup_s: 1_000.0,
        refit_s: 500.0,
        regime_s: 1_000.0,
        ring_windows_max: 1_024,
        ..Default::default()
    }
}

/// A quiet host: correlated noise around steady levels; metric 5 is constant.
struct QuietHost {
    noise: u64,
    window: i64,
    common: f64,
}

impl QuietHost {
    fn new(seed: u64) -> Self {
        Self {
            noise: seed,
            window: 0,
            common: 0.0,
        }
    }

    fn uniform(&mut self) -> f64 {
        self.noise = self
            .noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }

    fn next(&mut self) -> FeatureVector {
        self.window += 1;
        self.common = 0.9 * self.common + 0.1 * self.uniform();
        let mut values: Vec<f32> = (0..METRICS - 1)
            .map(|index| fit::narrow(0.3 + 0.05 * index as f64 + self.common + 0.1 * self.uniform()))
            .collect();
        values.push(0.5);
        FeatureVector {
            time: TimeMicros(self.window * 5_000_000),
            values,
        }
    }
}

/// A model that has watched a quiet host for a while.
fn settled(config: HostAnomalyConfig, host: &mut QuietHost) -> HostAnomaly {
    let mut model = model(config);
    for _ in 0..1_200 {
        model.observe(&host.next()).unwrap();
    }
    assert!(model.is_ready());
    model
}

#[test]
fn warm_up_scores_nothing_and_then_every_window() {
    let mut model = model(quick());
    let mut host = QuietHost::new(1);
    let answers: Vec<bool> = (0..300)
        .map(|_| model.observe(&host.next()).unwrap().is_some())
        .collect();
    assert_eq!(answers.iter().filter(|answered| !**answered).count(), 200);
    assert!(answers[200..].iter().all(|answered| *answered));
}

#[test]
fn quiet_series_raises_nothing() {
    let mut host = QuietHost::new(2);
    let mut model = settled(quick(), &mut host);
    let unusual = (0..2_000)
        .filter(|_| model.observe(&host.next()).unwrap().unwrap().unusual)
        .count();
    assert_eq!(unusual, 0);
}

#[test]
fn fault_raises_the_score_and_names_the_metric() {
    let mut host = QuietHost::new(3);
    let mut model = settled(quick(), &mut host);
    let before = model.observe(&host.next()).unwrap().unwrap().surprise;
    let mut last = None;
    for _ in 0..6 {
        let mut vector = host.next();
        vector.values[2] += 0.6;
        last = model.observe(&vector).unwrap();
    }
    let scored = last.unwrap();
    assert!(scored.unusual && scored.surprise > 5.0 * before, "{scored:?}");
    assert_eq!(scored.top[0].feature, "metric-2");
    assert!(
        scored.top[0].value > scored.top[0].expected + 0.3,
        "{:?}",
        scored.top[0]
    );
    assert!(scored.score > 0.99 && scored.p < 0.01);
}

#[test]
fn broken_correlation_is_noticed_while_each_metric_stays_in_its_range() {
    let mut host = QuietHost::new(4);
    let mut model = settled(quick(), &mut host);
    let mut most = 0.0f64;
    for _ in 0..40 {
        let mut vector = host.next();
        // Metric 1 runs against the others, within the range it always had.
        vector.values[1] = 0.7 - vector.values[1];
        most = most.max(model.observe(&vector).unwrap().unwrap().surprise);
    }
    let quiet = model_quiet_level();
    assert!(most > quiet, "{most} is not above {quiet}");
}

fn model_quiet_level() -> f64 {
    let mut host = QuietHost::new(4);
    let mut model = settled(quick(), &mut host);
    (0..40)
        .map(|_| model.observe(&host.next()).unwrap().unwrap().surprise)
        .fold(0.0, f64::max)
}

#[test]
fn missing_and_hostile_values_neither_alarm_nor_poison() {
    let mut host = QuietHost::new(5);
    let mut model = settled(quick(), &mut host);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut vector = host.next();
        vector.values[0] = bad;
        let scored = model.observe(&vector).unwrap().unwrap();
        assert!(scored.surprise.is_finite() && !scored.unusual);
        assert!(scored.top.iter().all(|part| part.feature != "metric-0"));
    }
    let mut vector = host.next();
    vector.values.fill(f32::NAN);
    assert!(
        !model.observe(&vector).unwrap().unwrap().unusual,
        "a window without values is unknown, not unusual"
    );
    let mut vector = host.next();
    vector.values[0] = f32::MAX;
    assert!(model.observe(&vector).unwrap().unwrap().surprise.is_finite());
    for _ in 0..200 {
        assert!(model.observe(&host.next()).unwrap().unwrap().surprise.is_finite());
    }
}

#[test]
fn feature_missing_from_the_start_is_harmless() {
    let mut host = QuietHost::new(6);
    let mut model = model(quick());
    let mut unusual = 0;
    for _ in 0..1_500 {
        let mut vector = host.next();
        vector.values[3] = f32::NAN;
        unusual += usize::from(
            model
                .observe(&vector)
                .unwrap()
                .is_some_and(|scored| scored.unusual),
        );
    }
    assert_eq!(unusual, 0);
}

#[test]
fn vector_of_another_length_is_not_scored() {
    let mut model = model(quick());
    let vector = FeatureVector {
        time: TimeMicros(0),
        values: vec![0.0; 3],
    };
    assert_eq!(model.observe(&vector).unwrap(), None);
}

#[test]
fn lasting_change_becomes_the_new_regime_and_is_reported_once() {
    let mut host = QuietHost::new(7);
    let mut model = settled(quick(), &mut host);
    let mut accepted = 0;
    let mut unusual_at_end = 0;
    for window in 0..1_500 {
        let mut vector = host.next();
        for value in vector.values.iter_mut().take(3) {
            *value += 2.0;
        }
        let Some(scored) = model.observe(&vector).unwrap() else {
            continue;
        };
        accepted += usize::from(scored.regime_accepted);
        unusual_at_end += usize::from(window >= 1_400 && scored.unusual);
    }
    assert!(accepted <= 1, "{accepted} regimes accepted");
    assert_eq!(unusual_at_end, 0, "the new state is still unusual");
}

#[test]
fn state_survives_a_restart_and_scores_the_same() {
    let mut host = QuietHost::new(8);
    let mut before = settled(quick(), &mut host);
    let bytes = before.save().unwrap();
    let mut after = model(quick());
    assert_eq!(after.save(), None);
    after.restore(&bytes).unwrap();
    assert!(after.is_ready());
    before.restore(&bytes).unwrap();
    for _ in 0..20 {
        let vector = host.next();
        assert_eq!(before.observe(&vector).unwrap(), after.observe(&vector).unwrap());
    }
}

#[test]
fn damaged_state_is_refused_and_changes_nothing() {
    let mut host = QuietHost::new(9);
    let settled = settled(quick(), &mut host);
    let good = settled.save().unwrap();
    let mut model = model(quick());
    for position in [0, 4, 5, 40, 100, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[position] ^= 1;
        assert!(model.restore(&bytes).is_err(), "flip at {position}");
    }
    for length in [0, 3, 5, 69, 133, good.len() / 2, good.len() - 1] {
        assert!(model.restore(&good[..length]).is_err(), "cut to {length}");
    }
    assert!(!model.is_ready());
    model.subject.schema_sha256 = "b".repeat(64);
    assert!(matches!(
        model.restore(&good),
        Err(StateError::Digest | StateError::Schema { .. })
    ));
}

#[test]
fn frozen_model_learns_nothing() {
    let mut host = QuietHost::new(10);
    let run: Vec<FeatureVector> = (0..600).map(|_| host.next()).collect();
    let mut model = model(HostAnomalyConfig {
        learning: Learning::Frozen,
        ..quick()
    });
    model.learn(&run).unwrap();
    let windows = model.learnt.sums.windows;
    for _ in 0..300 {
        model.observe(&host.next()).unwrap();
    }
    assert_eq!(model.learnt.sums.windows, windows);
}

#[test]
fn short_warm_up_does_not_page_on_a_quiet_host() {
    let mut host = QuietHost::new(11);
    let mut model = model(HostAnomalyConfig {
        window_s: 5.0,
        warmup_s: 100.0,
        ..quick()
    });
    let mut unusual = 0;
    for _ in 0..600 {
        unusual += usize::from(
            model
                .observe(&host.next())
                .unwrap()
                .is_some_and(|scored| scored.unusual),
        );
    }
    assert!(
        unusual <= 12,
        "{unusual} of 580 windows unusual right after the warm-up"
    );
}

#[test]
fn worker_scores_and_keeps_its_state() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("host-anomaly.state");
    runtime.block_on(async {
        let tasks = fleetmend_shutdown::Tasks::new();
        let (sender, mut scores) = tokio::sync::mpsc::channel(1_024);
        let handle = worker::spawn(&tasks, model(quick()), Some(state.clone()), sender).unwrap();
        let mut host = QuietHost::new(12);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut answered = 0;
        while answered < 50 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "only {answered} windows answered"
            );
            handle.offer(host.next());
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            while scores.try_recv().is_ok() {
                answered += 1;
            }
        }
        tasks.begin("test");
        tasks.drain(std::time::Duration::from_secs(10)).await;
    });
    let mut again = model(quick());
    again.restore(&std::fs::read(&state).unwrap()).unwrap();
    assert!(again.is_ready());
}

#[test]
fn shipped_schema_has_names_of_its_own_and_bounded_size() {
    let bundle = Bundle::shipped().unwrap();
    let mut names: Vec<&str> = bundle
        .schema()
        .features
        .iter()
        .map(|feature| feature.name.as_str())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    let subject = Subject::of(&bundle);
    assert_eq!(Arc::strong_count(&subject.features), 1);
}
