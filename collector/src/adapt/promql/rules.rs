//! PromQL for rules: on turns of the collector's own, with what is not known about the values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use collector_alert::{NO_HOST, PromQuery, PromValues, QueryError, Recorded};
use collector_promql::{Answer, Data, Engine, Labels, METRIC_NAME, Options, SourceGap};
use collector_store::{FactStore, OWN_HOST, QueryClass};
use fleetmend_event::metric::{MetricFrame, SeriesKey, SeriesSet};
use fleetmend_event::{Fact, HostId, TimeMicros};
use tokio_util::sync::CancellationToken;

use super::config::PromqlConfig;
use super::directory::Directory;
use super::name::RECORDED_UNIT;
use super::source::{COMPUTED_NAN_BITS, HOST_LABEL, StoreSeries};

/// Series of one frame: a frame is one row a series, and has a largest size.
const SERIES_AT_ONCE: usize = 2_000;
/// Which hosts send is looked at again after this long.
const SILENT_FOR: std::time::Duration = std::time::Duration::from_secs(10);
/// What every agent sends with each tick: a host without it sends nothing.
const SENDING: &str = "group by (host_id) (system_uptime)";

/// Evaluates rules over a store, and writes what they record into it.
pub(crate) struct PromqlRules {
    store: Arc<dyn FactStore>,
    directory: Arc<Directory>,
    engine: Engine,
    ending: CancellationToken,
    silent: tokio::sync::Mutex<Option<(Instant, Arc<BTreeSet<HostId>>)>>,
}

/// What is wrong with an expression, if anything.
pub(crate) fn check_expression(expression: &str) -> Result<(), String> {
    Engine::check_rule(expression).map_err(|error| error.to_string())
}

impl PromqlRules {
    pub(super) fn new(
        store: Arc<dyn FactStore>,
        directory: Arc<Directory>,
        config: &PromqlConfig,
        ending: CancellationToken,
    ) -> Self {
        let options: Options = config.options();
        let series = StoreSeries::new(
            Arc::clone(&store),
            Arc::clone(&directory),
            options.limits.timeout,
            QueryClass::System,
        );
        Self {
            store,
            directory,
            engine: Engine::new(Arc::new(series), options),
            ending,
            silent: tokio::sync::Mutex::default(),
        }
    }

    async fn ask(&self, query: &str, time: TimeMicros) -> Result<Answer, QueryError> {
        use collector_promql::QueryError as Fault;
        let time_ms = time.0.div_euclid(1_000);
        let answer = self.engine.instant(query, time_ms, &self.ending).await;
        answer.map_err(|error| match &error {
            // What is read again may be there: the store was busy, or time ran out.
            Fault::Timeout(_) | Fault::Canceled(_) => QueryError::Unavailable(error.to_string()),
            Fault::Execution(text) if text.starts_with("select series: ") => {
                QueryError::Unavailable(text.clone())
            }
            Fault::BadData(_) | Fault::Execution(_) => QueryError::Invalid(error.to_string()),
        })
    }

    /// Hosts that are known and have sent nothing within the lookback.
    async fn silent(&self, time: TimeMicros) -> Result<Arc<BTreeSet<HostId>>, QueryError> {
        let mut known = self.silent.lock().await;
        if let Some((at, silent)) = known.as_ref()
            && at.elapsed() < SILENT_FOR
        {
            return Ok(Arc::clone(silent));
        }
        let sending: BTreeSet<HostId> = series_of(self.ask(SENDING, time).await?.data)
            .iter()
            .filter_map(|(labels, _)| labels.get(HOST_LABEL)?.parse().ok())
            .collect();
        let hosts = self.hosts().await?;
        let silent: BTreeSet<HostId> = hosts.difference(&sending).copied().collect();
        let silent = Arc::new(silent);
        *known = Some((Instant::now(), Arc::clone(&silent)));
        Ok(silent)
    }

    async fn hosts(&self) -> Result<BTreeSet<HostId>, QueryError> {
        let hosts = self.directory.hosts().await;
        let hosts = hosts.map_err(|error| QueryError::Unavailable(error.to_string()))?;
        Ok(hosts.keys().copied().collect())
    }

    async fn unknown(&self, gaps: &[SourceGap], time: TimeMicros) -> Result<BTreeSet<HostId>, QueryError> {
        let mut unknown: BTreeSet<HostId> = self.silent(time).await?.as_ref().clone();
        for gap in gaps {
            unknown.insert(NO_HOST);
            match gap.labels.get(HOST_LABEL).parse() {
                Ok(host) => {
                    unknown.insert(host);
                }
                // A loss of the store's own may be of any host.
                Err(_) => unknown.extend(self.hosts().await?),
            }
        }
        Ok(unknown)
    }
}

#[async_trait]
impl PromQuery for PromqlRules {
    async fn instant(&self, query: &str, time: TimeMicros) -> Result<PromValues, QueryError> {
        let answer = self.ask(query, time).await?;
        let unknown = self.unknown(&answer.gaps, time).await?;
        Ok(PromValues {
            series: series_of(answer.data),
            unknown,
        })
    }

    async fn record(&self, time: TimeMicros, samples: Vec<Recorded>) -> Result<(), QueryError> {
        let facts = samples.chunks(SERIES_AT_ONCE).map(|samples| {
            let series: SeriesSet = samples.iter().map(|sample| key_of(&sample.labels)).collect();
            Fact::from(MetricFrame {
                time,
                series,
                values: samples.iter().map(|sample| stored(sample.value)).collect(),
            })
        });
        let stored = self.store.append_for(OWN_HOST, facts.collect()).await;
        stored.map_err(|error| QueryError::Unavailable(error.to_string()))
    }
}

fn key_of(labels: &BTreeMap<String, String>) -> SeriesKey {
    let mut labels = labels.clone();
    SeriesKey {
        name: labels.remove(METRIC_NAME).unwrap_or_default(),
        unit: RECORDED_UNIT.to_owned(),
        labels,
    }
}

/// A NaN that was computed is told from one that says that there is no sample.
fn stored(value: Option<f64>) -> f64 {
    match value {
        None => f64::NAN,
        Some(value) if value.is_nan() => f64::from_bits(COMPUTED_NAN_BITS),
        Some(value) => value,
    }
}

fn series_of(data: Data) -> Vec<(BTreeMap<String, String>, f64)> {
    let owned = |labels: &Labels| {
        labels
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    match data {
        Data::Scalar { value, .. } => vec![(BTreeMap::new(), value)],
        Data::Vector(samples) => samples
            .iter()
            .map(|sample| (owned(&sample.labels), sample.value))
            .collect(),
        Data::Text { .. } | Data::Matrix(_) => Vec::new(),
    }
}
