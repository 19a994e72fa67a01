//! An evaluator that says what it was asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use collector_api::*;
use fleetmend_event::HostScope;

/// Says what it was asked; the evaluator has its own tests.
pub(crate) struct FakePromql;

#[async_trait]
impl Promql for FakePromql {
    async fn instant(&self, query: &str, time_ms: i64, bounds: PromBounds) -> Result<PromAnswer, PromError> {
        match query {
            "" => {
                return Err(PromError::BadData(
                    "unknown position: parse error: no expression found in input".to_owned(),
                ));
            }
            "much" => return Err(PromError::Execution("too many samples".to_owned())),
            "slow" => {
                return Err(PromError::Timeout(
                    "query timed out in expression evaluation".to_owned(),
                ));
            }
            "gone" => {
                return Err(PromError::Canceled(
                    "query was canceled in query execution".to_owned(),
                ));
            }
            "down" => return Err(PromError::Unavailable("store is closed".to_owned())),
            _ => {}
        }
        let labels = |name: &str| vec![(Arc::from("__name__"), Arc::from(name))];
        Ok(PromAnswer {
            data: PromData::Vector(vec![
                (labels("a"), (time_ms, f64::NAN)),
                (
                    labels(query),
                    (
                        time_ms,
                        bounds.timeout.map_or(-1.0, |timeout| timeout.as_secs_f64()),
                    ),
                ),
            ]),
            warnings: Vec::new(),
            infos: vec!["samples are missing: 3".to_owned()],
        })
    }

    async fn range(
        &self,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        _: PromBounds,
    ) -> Result<PromAnswer, PromError> {
        let points = (start_ms..=end_ms)
            .step_by(usize::try_from(step_ms).unwrap())
            .map(|time_ms| (time_ms, f64::INFINITY))
            .collect();
        Ok(PromAnswer {
            data: PromData::Matrix(vec![(vec![(Arc::from("q"), Arc::from(query))], points)]),
            warnings: vec!["a warning".to_owned()],
            infos: Vec::new(),
        })
    }

    async fn series(&self, selection: PromSelection) -> Result<PromList<PromLabels>, PromError> {
        let labels = |selector: &String| vec![(Arc::from("selector"), Arc::from(selector.as_str()))];
        Ok(PromList {
            items: selection.selectors.iter().map(labels).collect(),
            warnings: Vec::new(),
        })
    }

    async fn label_names(&self, selection: PromSelection) -> Result<PromList<String>, PromError> {
        Ok(PromList {
            items: selection.selectors,
            warnings: vec!["results truncated due to limit".to_owned()],
        })
    }

    async fn label_values(&self, label: &str, _: PromSelection) -> Result<PromList<String>, PromError> {
        Ok(PromList {
            items: vec![label.to_owned()],
            warnings: Vec::new(),
        })
    }

    async fn metadata(&self, _: &HostScope) -> Result<Vec<PromMetric>, PromError> {
        let metric = |name: &str, unit: &str| PromMetric {
            name: name.to_owned(),
            kind: "unknown",
            help: String::new(),
            unit: unit.to_owned(),
        };
        Ok(vec![metric("a", "By"), metric("a", "s"), metric("b", "1")])
    }

    async fn format(&self, query: &str) -> Result<String, PromError> {
        Ok(query.trim().to_owned())
    }

    fn duration_ms(&self, text: &str) -> Result<i64, PromError> {
        let wrong = || PromError::BadData("not a duration".to_owned());
        let seconds: f64 = text.parse().map_err(|_| wrong())?;
        let duration = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        i64::try_from(duration.as_millis()).map_err(|_| wrong())
    }

    async fn rules(&self, _: &HostScope) -> Result<Vec<PromRuleGroup>, PromError> {
        let rule = |alerting: Option<PromAlerting>| PromRule {
            name: "HostDown".to_owned(),
            query: "up == 0".to_owned(),
            labels: vec![("severity".to_owned(), "page".to_owned())],
            fault: None,
            evaluated_at_ms: Some(1_000),
            took: Duration::from_millis(2),
            alerting,
        };
        let alert = PromAlert {
            labels: vec![("alertname".to_owned(), "HostDown".to_owned())],
            annotations: Vec::new(),
            state: "firing",
            active_at_ms: 0,
            value: 0.0,
        };
        let alerting = PromAlerting {
            alerts: vec![alert],
            ..PromAlerting::default()
        };
        Ok(vec![PromRuleGroup {
            name: "group".to_owned(),
            file: "rules.yml".to_owned(),
            interval: Duration::from_secs(60),
            limit: 0,
            evaluated_at_ms: Some(1_000),
            took: Duration::from_millis(4),
            rules: vec![rule(Some(alerting)), rule(None)],
        }])
    }
}
