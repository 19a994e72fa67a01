//! What is printed: per series and mean, the model frozen and refitted, beside the baselines.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Figures of one detector on one series or, as means, on a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Volume under the precision-recall surface, window by TSB-AD's rule on train and test.
    pub(crate) vus_pr: f64,
    /// The same with the window found on test alone.
    pub(crate) vus_pr_test_window: f64,
    /// Area under the precision-recall curve.
    pub(crate) auc_pr: f64,
    /// Best F1 of any threshold, without point adjustment.
    pub(crate) best_f1: f64,
    /// Share of events alerted with a threshold from history only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_recall: Option<f64>,
    /// False episodes per host-day with that threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) false_episodes_per_day: Option<f64>,
    /// Share of events whose top-named metric is in the experts' list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_metric_in_list: Option<f64>,
}

impl Figures {
    fn mean(all: &[&Figures]) -> Figures {
        let mean = |value: fn(&Figures) -> f64| {
            all.iter().map(|figures| value(figures)).sum::<f64>() / all.len().max(1) as f64
        };
        let known = |value: fn(&Figures) -> Option<f64>| {
            let known: Vec<f64> = all.iter().filter_map(|figures| value(figures)).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        Figures {
            vus_pr: mean(|figures| figures.vus_pr),
            vus_pr_test_window: mean(|figures| figures.vus_pr_test_window),
            auc_pr: mean(|figures| figures.auc_pr),
            best_f1: mean(|figures| figures.best_f1),
            event_recall: known(|figures| figures.event_recall),
            false_episodes_per_day: known(|figures| figures.false_episodes_per_day),
            top_metric_in_list: known(|figures| figures.top_metric_in_list),
        }
    }
}

/// One series.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SeriesReport {
    pub(crate) name: String,
    pub(crate) metrics: usize,
    pub(crate) test_windows: usize,
    pub(crate) events: usize,
    pub(crate) step_s: f64,
    pub(crate) daily_period: bool,
    pub(crate) vus_window: usize,
    pub(crate) frozen: Figures,
    pub(crate) refitted: Figures,
    pub(crate) regimes_accepted: usize,
    pub(crate) observe_p50_us: f64,
    pub(crate) observe_p99_us: f64,
    pub(crate) baselines: Vec<(&'static str, Figures)>,
}

/// Four figures after the point: what the data carries.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            json!(number.as_f64().map(|value| (value * 1e4).round() / 1e4))
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, rounded(value)))
            .collect(),
        other => other,
    }
}

/// A detector's figures, its headline first.
fn detector(figures: &Figures) -> Value {
    let mut out = Map::new();
    out.insert("mean_vus_pr".to_owned(), json!(figures.vus_pr));
    if let Value::Object(rest) = json!(figures) {
        out.extend(rest.into_iter().filter(|(key, _)| key != "vus_pr"));
    }
    Value::Object(out)
}

/// One dataset, as JSON, with its mean VUS-PR frozen after train.
pub(crate) fn dataset(series: &[SeriesReport]) -> (f64, Value) {
    let frozen = Figures::mean(&series.iter().map(|series| &series.frozen).collect::<Vec<_>>());
    let refitted = Figures::mean(&series.iter().map(|series| &series.refitted).collect::<Vec<_>>());
    let mut baselines = Map::new();
    for (name, _) in series
        .first()
        .map_or(&[][..], |series| series.baselines.as_slice())
    {
        let all: Vec<&Figures> = series
            .iter()
            .flat_map(|series| &series.baselines)
            .filter(|(other, _)| other == name)
            .map(|(_, figures)| figures)
            .collect();
        baselines.insert((*name).to_owned(), detector(&Figures::mean(&all)));
    }
    let each: Vec<Value> = series
        .iter()
        .map(|series| {
            let baselines: Map<String, Value> = series
                .baselines
                .iter()
                .map(|(name, figures)| ((*name).to_owned(), json!(figures)))
                .collect();
            let mut value = json!(series);
            if let Some(entries) = value.as_object_mut() {
                entries.insert("baselines".to_owned(), Value::Object(baselines));
            }
            value
        })
        .collect();
    let value = json!({
        "mean_vus_pr": frozen.vus_pr,
        "frozen": detector(&frozen),
        "refitted": detector(&refitted),
        "baselines": baselines,
        "series": each,
    });
    (frozen.vus_pr, rounded(value))
}
