//! PromQL over the store: its series as a source of the evaluator, and the evaluator as the API asks it.
//!
//! How stored series are called is in [`name`]. At most [`PromqlConfig::concurrent_max`] queries of users run at once;
//! the others wait for their turn within their own time. One query holds its samples at 16 bytes and results at 8 each, so
//! that all together stay within some `concurrent_max × samples_max × 40` bytes.

mod answer;
mod config;
mod directory;
mod name;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use collector_alert::Alerting;
use collector_api::{
    PromAnswer, PromBounds, PromError, PromLabels, PromList, PromMetric, PromRuleGroup, PromSelection, Promql,
};
use collector_promql::{
    Engine, LabelMatcher, Labels, METRIC_NAME, Options, QueryError as QueryFault, QueryTimes, SourceError,
    parse_selector,
};
use collector_store::{FactStore, QueryClass, QueryError};
use fleetmend_event::HostScope;
use fleetmend_event::metric::is_cumulative;
use fleetmend_event::prometheus_names::metric_name;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use answer::{fault_of, labels_of, told};
pub(crate) use config::PromqlConfig;
use directory::Directory;
use name::RECORDED_UNIT;
pub(crate) use rules::{PromqlRules, check_expression};
use source::StoreSeries;

/// Selectors of one list: each is a reading of its own.
const SELECTORS_MAX: usize = 50;

/// Answers PromQL over a store.
pub(crate) struct PromqlAdapter {
    series: StoreSeries,
    alerting: Alerting,
    options: Options,
    turns: Semaphore,
    ending: CancellationToken,
}

/// The two ways in which PromQL is asked: by users and by rules. `ending` cancels what runs.
pub(crate) fn promql_over(
    store: &Arc<dyn FactStore>,
    config: &PromqlConfig,
    alerting: &Alerting,
    ending: CancellationToken,
) -> (PromqlAdapter, PromqlRules) {
    let directory = Arc::new(Directory::new(Arc::clone(store)));
    let rules = PromqlRules::new(Arc::clone(store), Arc::clone(&directory), config, ending.clone());
    let adapter = PromqlAdapter {
        series: StoreSeries::new(
            Arc::clone(store),
            directory,
            config.timeout.get(),
            QueryClass::User,
        ),
        alerting: alerting.clone(),
        options: config.options(),
        turns: Semaphore::new(config.concurrent_max),
        ending,
    };
    (adapter, rules)
}

impl PromqlAdapter {
    /// A turn, and what is left of the time.
    async fn turn(&self, bounds: &PromBounds) -> Result<(SemaphorePermit<'_>, Options), PromError> {
        let mut options = self.options.clone();
        if let Some(timeout) = bounds.timeout {
            options.limits.timeout = options.limits.timeout.min(timeout.max(Duration::from_millis(1)));
        }
        if let Some(lookback) = bounds.lookback {
            options.lookback = lookback;
        }
        let began = Instant::now();
        let turn = tokio::time::timeout(options.limits.timeout, self.turns.acquire())
            .await
            .map_err(|_| PromError::Timeout("query timed out in query queue".to_owned()))?
            .map_err(|_| PromError::Unavailable("the collector ends".to_owned()))?;
        options.limits.timeout = options.limits.timeout.saturating_sub(began.elapsed());
        Ok((turn, options))
    }

    fn engine(&self, options: Options, hosts: &HostScope) -> Engine {
        let series = self.series.within(options.limits.timeout).seen_by(hosts);
        Engine::new(Arc::new(series), options)
    }

    /// Shows the labels of every series that is selected to `note`, until it has enough.
    async fn look(
        &self,
        selection: &PromSelection,
        note: impl Fn(Labels) -> bool + Send + Sync + 'static,
    ) -> Result<(), PromError> {
        if selection.selectors.len() > SELECTORS_MAX {
            return Err(PromError::BadData(format!(
                "invalid parameter \"match[]\": {SELECTORS_MAX} selectors are allowed, there are {}",
                selection.selectors.len()
            )));
        }
        let (turn, options) = self.turn(&PromBounds::default()).await?;
        let selectors = selection.selectors.clone();
        let looked = async {
            let matchers = aside(move || selectors.iter().map(|text| parse_selector(text)).collect());
            let selectors: Vec<Vec<LabelMatcher>> = matchers.await.map_err(|error| match error {
                PromError::BadData(text) => {
                    PromError::BadData(format!("invalid parameter \"match[]\": {text}"))
                }
                other => other,
            })?;
            self.series
                .within(options.limits.timeout)
                .seen_by(&selection.hosts)
                .look(&selectors, (selection.start_ms, selection.end_ms), Arc::new(note))
                .await
                .map_err(source_fault)
        };
        // All selectors together have the time that one query has.
        let looked = tokio::time::timeout(options.limits.timeout, looked).await;
        drop(turn);
        looked.unwrap_or_else(|_| {
            Err(PromError::Timeout(
                "query timed out in series selection".to_owned(),
            ))
        })
    }

    /// The different items of what is selected: so many as the caller wants, or as there may be.
    async fn gather<T: Ord + Send + 'static>(
        &self,
        selection: &PromSelection,
        items_of: impl Fn(&Labels, &mut dyn FnMut(T)) + Send + Sync + 'static,
    ) -> Result<PromList<T>, PromError> {
        let most = self.options.limits.series_max;
        let wanted = if selection.limit == 0 {
            most
        } else {
            selection.limit.min(most)
        };
        let found = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&found);
        let note = move |labels: Labels| {
            let mut found = noted.lock();
            items_of(&labels, &mut |item| {
                found.insert(item);
                // The smallest ones are kept, so that the same are told whatever the order of the files.
                if found.len() > wanted + 1 {
                    found.pop_last();
                }
            });
            true
        };
        self.look(selection, note).await?;
        let mut items = std::mem::take(&mut *found.lock());
        let mut warnings = Vec::new();
        if items.len() > wanted {
            items.pop_last();
            warnings.push("results truncated due to limit".to_owned());
        }
        Ok(PromList {
            items: items.into_iter().collect(),
            warnings,
        })
    }
}

#[async_trait]
impl Promql for PromqlAdapter {
    async fn instant(&self, query: &str, time_ms: i64, bounds: PromBounds) -> Result<PromAnswer, PromError> {
        let (turn, options) = self.turn(&bounds).await?;
        let answer = self
            .engine(options, &bounds.hosts)
            .instant(query, time_ms, &self.ending)
            .await;
        drop(turn);
        answer.map(told).map_err(fault_of)
    }

    async fn range(
        &self,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        bounds: PromBounds,
    ) -> Result<PromAnswer, PromError> {
        let (turn, options) = self.turn(&bounds).await?;
        let times = QueryTimes {
            start_ms,
            end_ms,
            step_ms,
        };
        let answer = self
            .engine(options, &bounds.hosts)
            .range(query, times, &self.ending)
            .await;
        drop(turn);
        answer.map(told).map_err(fault_of)
    }

    async fn series(&self, selection: PromSelection) -> Result<PromList<PromLabels>, PromError> {
        let list = self
            .gather(&selection, |labels: &Labels, note: &mut dyn FnMut(Labels)| {
                note(labels.clone())
            })
            .await?;
        Ok(PromList {
            items: list.items.iter().map(labels_of).collect(),
            warnings: list.warnings,
        })
    }

    async fn label_names(&self, selection: PromSelection) -> Result<PromList<String>, PromError> {
        let names = |labels: &Labels, note: &mut dyn FnMut(String)| {
            labels.iter().for_each(|(name, _)| note(name.to_owned()));
        };
        self.gather(&selection, names).await
    }

    async fn label_values(
        &self,
        label: &str,
        selection: PromSelection,
    ) -> Result<PromList<String>, PromError> {
        let label = if label == METRIC_NAME {
            label.to_owned()
        } else {
            name::label_of(label)
        };
        let values = move |labels: &Labels, note: &mut dyn FnMut(String)| {
            let value = labels.get(&label);
            if !value.is_empty() {
                note(value.to_owned());
            }
        };
        self.gather(&selection, values).await
    }

    async fn metadata(&self, hosts: &HostScope) -> Result<Vec<PromMetric>, PromError> {
        let directory = self.series.directory();
        let names = match hosts {
            HostScope::All => directory.names(false).await,
            HostScope::Only(_) => directory.names_of(hosts).await.map(Arc::new),
        };
        let names = names.map_err(source_fault)?;
        let metric = |original: &String, unit: &String| PromMetric {
            name: metric_name(original).into_owned(),
            kind: if is_cumulative(original) {
                "counter"
            } else if original.starts_with("system.") {
                "gauge"
            } else {
                // Agents do not say what a value means.
                "unknown"
            },
            help: String::new(),
            unit: if unit == RECORDED_UNIT {
                String::new()
            } else {
                unit.clone()
            },
        };
        let mut all: Vec<PromMetric> = names
            .iter()
            .flat_map(|(original, units)| units.iter().map(move |unit| metric(original, unit)))
            .collect();
        all.sort();
        all.dedup();
        Ok(all)
    }

    async fn format(&self, query: &str) -> Result<String, PromError> {
        let query = query.to_owned();
        aside(move || collector_promql::format_query(&query)).await
    }

    async fn tree(&self, query: &str) -> Result<serde_json::Value, PromError> {
        let query = query.to_owned();
        aside(move || collector_promql::query_tree(&query)).await
    }

    fn duration_ms(&self, text: &str) -> Result<i64, PromError> {
        collector_promql::parse_duration_ms(text).map_err(fault_of)
    }

    async fn rules(&self, hosts: &HostScope) -> Result<Vec<PromRuleGroup>, PromError> {
        let groups = self.alerting.rule_groups().await;
        let mut groups = groups.map_err(|error| PromError::Unavailable(error.to_string()))?;
        for rule in groups.iter_mut().flat_map(|group| &mut group.rules) {
            if let Some(alerting) = &mut rule.alerting {
                // What is of no host in particular says something of hosts that are not to be seen.
                let seen = |host| hosts.sees(host);
                alerting
                    .alerts
                    .retain(|alert| hosts.is_all() || alert.host_id.is_some_and(seen));
            }
        }
        Ok(groups.into_iter().map(answer::group).collect())
    }
}

/// Parses where it holds up nobody: patterns are compiled.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryFault> + Send + 'static,
) -> Result<T, PromError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(parsed) => parsed.map_err(fault_of),
        Err(error) => Err(PromError::Execution(format!("unexpected error: {error}"))),
    }
}

fn source_fault(error: SourceError) -> PromError {
    match error {
        SourceError::Unavailable(reason) => PromError::Unavailable(reason),
        other => fault_of(other.into()),
    }
}

/// Why the store could not select.
fn fault(error: QueryError) -> SourceError {
    match &error {
        QueryError::Timeout { .. } => SourceError::Timeout,
        QueryError::Busy | QueryError::Failed { .. } | QueryError::Closed => {
            SourceError::Unavailable(error.to_string())
        }
        // A limit was met.
        _ => SourceError::TooMuch(error.to_string()),
    }
}
