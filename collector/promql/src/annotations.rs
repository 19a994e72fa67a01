//! What an answer says beside its values: infos and warnings, in Prometheus' words.

use std::collections::{BTreeMap, BTreeSet};

use crate::function::bucket::Forced;
use crate::function::date::rfc3339;
use crate::number::{general, general_digits};

/// Annotations of one kind that are told; of more, only their number is.
const TOLD_MAX: usize = 50;
/// Different annotations of one kind that are remembered, so that they can be counted.
const KNOWN_MAX: usize = 10_000;

/// Infos and warnings of one query, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Begin with `PromQL info: `, but for those of gaps.
    pub infos: BTreeSet<String>,
    /// Begin with `PromQL warning: `.
    pub warnings: BTreeSet<String>,
}

/// Annotations while a query is evaluated: what happens at many steps is told once.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) said: Annotations,
    forced: BTreeMap<(String, String), ForcedSteps>,
}

#[derive(Debug)]
struct ForcedSteps {
    forced: Forced,
    count: usize,
    first_ms: i64,
    last_ms: i64,
}

impl Notes {
    pub(crate) fn forced_monotonicity(&mut self, metric: &str, place: &Place, time_ms: i64, forced: Forced) {
        let key = (metric.to_owned(), place.text().to_owned());
        if self.forced.len() >= KNOWN_MAX && !self.forced.contains_key(&key) {
            return;
        }
        let steps = self.forced.entry(key).or_insert(ForcedSteps {
            forced,
            count: 0,
            first_ms: time_ms,
            last_ms: time_ms,
        });
        steps.count += 1;
        steps.first_ms = steps.first_ms.min(time_ms);
        steps.last_ms = steps.last_ms.max(time_ms);
        steps.forced.lowest = steps.forced.lowest.min(forced.lowest);
        steps.forced.highest = steps.forced.highest.max(forced.highest);
        steps.forced.difference = steps.forced.difference.max(forced.difference);
    }

    pub(crate) fn finish(self) -> Annotations {
        let mut said = self.said;
        for ((metric, place), steps) in self.forced {
            let text = "input to histogram_quantile needed to be fixed for monotonicity (see \
                        https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
            said.inform(
                &format!(
                    "{}, from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
                    with_metric(text, &metric),
                    general(steps.forced.lowest),
                    general(steps.forced.highest),
                    general_digits(steps.forced.difference, 2),
                    steps.count,
                    rfc3339(steps.first_ms.div_euclid(1000)),
                    rfc3339(steps.last_ms.div_euclid(1000)),
                ),
                &Place(place),
            );
        }
        bound(&mut said.infos, "infos");
        bound(&mut said.warnings, "warnings");
        said
    }
}

/// Keeps the first ones in their order, and says how many there are beside them.
fn bound(texts: &mut BTreeSet<String>, kind: &str) {
    let more = texts.len().saturating_sub(TOLD_MAX);
    if more == 0 {
        return;
    }
    while texts.len() > TOLD_MAX {
        texts.pop_last();
    }
    texts.insert(format!("{more} more {kind}"));
}

fn add(texts: &mut BTreeSet<String>, text: String) {
    if texts.len() < KNOWN_MAX {
        texts.insert(text);
    }
}

/// Where in the query, as `line:column`, both from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(String);

impl Place {
    /// Of a byte in a query.
    pub(crate) fn of(query: &str, byte: usize) -> Self {
        let before = query.get(..byte).unwrap_or(query);
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |feed| feed + 1) + 1;
        Self(format!("{line}:{column}"))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl Annotations {
    fn warn(&mut self, text: &str, place: &Place) {
        let text = format!("PromQL warning: {text} ({})", place.text());
        add(&mut self.warnings, text);
    }

    fn inform(&mut self, text: &str, place: &Place) {
        let text = format!("PromQL info: {text} ({})", place.text());
        add(&mut self.infos, text);
    }

    pub(crate) fn invalid_quantile(&mut self, quantile: f64, place: &Place) {
        let got = general(quantile);
        self.warn(
            &format!("quantile value should be between 0 and 1, got {got}"),
            place,
        );
    }

    pub(crate) fn invalid_ratio(&mut self, ratio: f64, to: f64, place: &Place) {
        let (got, to) = (general(ratio), general(to));
        self.warn(
            &format!("ratio value should be between -1 and 1, got {got}, capping to {to}"),
            place,
        );
    }

    pub(crate) fn bad_bucket_label(&mut self, metric: &str, label: &str, place: &Place) {
        let text = format!("bucket label \"le\" is missing or has a malformed value of {label:?}");
        self.warn(&with_metric(&text, metric), place);
    }

    pub(crate) fn possible_non_counter(&mut self, metric: &str, place: &Place) {
        let text = format!(
            "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
        );
        self.inform(&text, place);
    }

    pub(crate) fn start_overlap(&mut self, metric: &str, place: &Place) {
        let text = "start timestamp of a sample lies before the sample preceding it";
        self.warn(&with_metric(text, metric), place);
    }

    pub(crate) fn gap(&mut self, text: &str) {
        add(&mut self.infos, format!("samples are missing: {text}"));
    }
}

fn with_metric(text: &str, metric: &str) -> String {
    if metric.is_empty() {
        text.to_owned()
    } else {
        format!("{text} for metric name {metric:?}")
    }
}
