//! An evaluator that says what it was asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use collector_api::*;
use fleetmend_event::HostScope;

use crate::testbed::Foreign;

/// Says what it was asked; the evaluator has its own tests. What it says of a host it says within a scope that sees it.
pub(crate) struct FakePromql(pub(crate) Foreign);

impl FakePromql {
    /// A label that names the host, where the scope sees it.
    fn of_host(&self, scope: &HostScope) -> Option<(Arc<str>, Arc<str>)> {
        let host = self.0.within(scope)?.to_string();
        Some((Arc::from("host_id"), Arc::from(host.as_str())))
    }
}

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
        let labels = |name: &str| {
            let name = (Arc::from("__name__"), Arc::from(name));
            std::iter::once(name).chain(self.of_host(&bounds.hosts)).collect()
        };
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
        bounds: PromBounds,
    ) -> Result<PromAnswer, PromError> {
        let asked = std::iter::once((Arc::from("q"), Arc::from(query)));
        let labels = asked.chain(self.of_host(&bounds.hosts)).collect();
        let points = (start_ms..=end_ms)
            .step_by(usize::try_from(step_ms).unwrap())
            .map(|time_ms| (time_ms, f64::INFINITY))
            .collect();
        Ok(PromAnswer {
            data: PromData::Matrix(vec![(labels, points)]),
            warnings: vec!["a warning".to_owned()],
            infos: Vec::new(),
        })
    }

    async fn series(&self, selection: PromSelection) -> Result<PromList<PromLabels>, PromError> {
        let labels = |selector: &String| {
            let selector = (Arc::from("selector"), Arc::from(selector.as_str()));
            std::iter::once(selector)
                .chain(self.of_host(&selection.hosts))
                .collect()
        };
        Ok(PromList {
            items: selection.selectors.iter().map(labels).collect(),
            warnings: Vec::new(),
        })
    }

    async fn label_names(&self, selection: PromSelection) -> Result<PromList<String>, PromError> {
        let of_host = self.of_host(&selection.hosts).map(|(_, host)| host.to_string());
        Ok(PromList {
            items: selection.selectors.into_iter().chain(of_host).collect(),
            warnings: vec!["results truncated due to limit".to_owned()],
        })
    }

    async fn label_values(
        &self,
        label: &str,
        selection: PromSelection,
    ) -> Result<PromList<String>, PromError> {
        let of_host = self.of_host(&selection.hosts).map(|(_, host)| host.to_string());
        Ok(PromList {
            items: std::iter::once(label.to_owned()).chain(of_host).collect(),
            warnings: Vec::new(),
        })
    }

    async fn metadata(&self, hosts: &HostScope) -> Result<Vec<PromMetric>, PromError> {
        let metric = |name: &str, unit: &str| PromMetric {
            name: name.to_owned(),
            kind: "unknown",
            help: String::new(),
            unit: unit.to_owned(),
        };
        let mut all = vec![metric("a", "By"), metric("a", "s"), metric("b", "1")];
        all.extend(self.of_host(hosts).map(|(_, host)| metric(&host, "1")));
        Ok(all)
    }

    async fn format(&self, query: &str) -> Result<String, PromError> {
        Ok(query.trim().to_owned())
    }

    async fn tree(&self, query: &str) -> Result<serde_json::Value, PromError> {
        Ok(serde_json::json!({ "type": "stringLiteral", "val": query.trim() }))
    }

    fn duration_ms(&self, text: &str) -> Result<i64, PromError> {
        let wrong = || PromError::BadData("not a duration".to_owned());
        let seconds: f64 = text.parse().map_err(|_| wrong())?;
        let duration = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        i64::try_from(duration.as_millis()).map_err(|_| wrong())
    }

    async fn rules(&self, hosts: &HostScope) -> Result<Vec<PromRuleGroup>, PromError> {
        let rule = |alerting: Option<PromAlerting>| PromRule {
            name: "HostDown".to_owned(),
            query: "up == 0".to_owned(),
            labels: vec![("severity".to_owned(), "page".to_owned())],
            // The evaluator knows of no scope: its faults quote series.
            fault: self
                .0
                .get()
                .map(|host| format!("duplicate series {{host_id={host}}}")),
            evaluated_at_ms: Some(1_000),
            took: Duration::from_millis(2),
            alerting,
        };
        let of_host = self.of_host(hosts);
        let of_host = of_host.map(|(name, host)| (name.to_string(), host.to_string()));
        let named = ("alertname".to_owned(), "HostDown".to_owned());
        let alert = PromAlert {
            labels: std::iter::once(named).chain(of_host).collect(),
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
