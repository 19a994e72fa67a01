//! The store's series as the evaluator reads them.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use collector_promql::{
    LabelMatcher, Labels, METRIC_NAME, MatchOp, STALE_BITS, SelectRequest, Selection, SeriesSamples,
    SeriesSource, SeriesWindow, SourceError, SourceGap, Windows,
};
use collector_store::{
    FactStore, HostGap, OWN_HOST, QueryClass, QueryError, Resolution, SeriesAnswer, SeriesKey, SeriesSelect,
    StoredSeries, TierSpan,
};
use fleetmend_event::prometheus_names::metric_name;
use fleetmend_event::{HostId, HostScope, TimeMicros};
use parking_lot::Mutex;

use super::directory::{Directory, Hosts};
use super::fault;
use super::name::{self, ORIGINAL};

/// A NaN that was computed: the one that Prometheus writes too. Every other NaN in the store is a sample that could not
/// be taken, after which its series is stale.
pub(crate) const COMPUTED_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// Label with the id of a host.
pub(crate) const HOST_LABEL: &str = fleetmend_event::prometheus_names::HOST_ID;

/// Is shown labels; `false` when it has enough.
pub(super) type Note = Arc<dyn Fn(Labels) -> bool + Send + Sync>;

/// Series of the store.
#[derive(Clone)]
pub(crate) struct StoreSeries {
    store: Arc<dyn FactStore>,
    directory: Arc<Directory>,
    timeout: Duration,
    class: QueryClass,
    seen: HostScope,
}

/// What is read for some matchers.
struct Plan {
    matchers: Vec<LabelMatcher>,
    names: Option<BTreeSet<String>>,
    hosts: Option<BTreeSet<HostId>>,
    host_names: Arc<Hosts>,
}

impl StoreSeries {
    /// Each reading takes at most `timeout`, in the turns of `class`.
    pub(crate) fn new(
        store: Arc<dyn FactStore>,
        directory: Arc<Directory>,
        timeout: Duration,
        class: QueryClass,
    ) -> Self {
        Self {
            store,
            directory,
            timeout,
            class,
            seen: HostScope::All,
        }
    }

    /// The same, of these hosts only. What a rule recorded is the collector's own, and of all hosts at once.
    pub(crate) fn seen_by(&self, seen: &HostScope) -> Self {
        Self {
            seen: seen.clone(),
            ..self.clone()
        }
    }

    /// The same with another limit of time.
    pub(crate) fn within(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Shows `note` the labels of every series that one of `selectors` wants (all of them, when there are none) and that
    /// has samples in the time.
    pub(super) async fn look(
        &self,
        selectors: &[Vec<LabelMatcher>],
        (start_ms, end_ms): (i64, i64),
        note: Note,
    ) -> Result<(), SourceError> {
        let every = [Vec::new()];
        let selectors = if selectors.is_empty() { &every } else { selectors };
        for matchers in selectors {
            let plan = self.plan(matchers).await?;
            let mut select = self.select_of(&plan, start_ms.saturating_sub(1), end_ms);
            let (matchers, hosts, note) = (plan.matchers, plan.host_names, Arc::clone(&note));
            let seen = Mutex::new(HashSet::new());
            select.keep = Some(Arc::new(move |key: &SeriesKey| {
                // A series is met once for each of its chunks.
                if seen.lock().insert(hash_of(key))
                    && let Some(labels) = name::selects(&matchers, key, name_of(&hosts, key.host))
                {
                    note(labels);
                }
                false
            }));
            self.store.series_keys(select).await.map_err(fault)?;
        }
        Ok(())
    }

    fn select_of(&self, plan: &Plan, after_ms: i64, until_ms: i64) -> SeriesSelect {
        // A time in microseconds counts as the millisecond that it is in.
        let last_of = |milliseconds: i64| TimeMicros(milliseconds.saturating_mul(1_000).saturating_add(999));
        SeriesSelect {
            names: plan.names.clone(),
            hosts: self.seen.narrow(plan.hosts.clone()),
            timeout: self.timeout,
            class: self.class,
            ..SeriesSelect::between(last_of(after_ms), last_of(until_ms))
        }
    }

    /// What is selected, and why there may be windows in it: of samples that are too many windows are taken, where these may
    /// be so long.
    async fn samples_or_windows(
        &self,
        select: SeriesSelect,
        longest_ms: i64,
    ) -> Result<(SeriesAnswer, &'static str), SourceError> {
        let error = match self.store.select(select.clone()).await {
            Ok(answer) => return Ok((answer, "are not kept any more")),
            Err(error) => error,
        };
        let is_crowded = matches!(error, QueryError::TooMuch { what: "samples", .. });
        // Another store has no windows, and would read the same samples again.
        let coarser = Resolution::windows(longest_ms.saturating_mul(1_000))
            .filter(|_| is_crowded && self.store.embedded().is_some());
        let Some(resolution) = coarser else {
            return Err(fault(error));
        };
        let select = SeriesSelect { resolution, ..select };
        let answer = self.store.select(select).await.map_err(fault)?;
        Ok((answer, "are gone or more than a query may read"))
    }

    async fn plan(&self, given: &[LabelMatcher]) -> Result<Plan, SourceError> {
        let matchers = name::matchers_of(given);
        let host_names = self.directory.hosts().await?;
        Ok(Plan {
            names: self.names_of(&matchers).await?,
            hosts: hosts_of(&matchers, &host_names),
            matchers,
            host_names,
        })
    }

    /// The stored names that matchers on the metric's name leave; `None` for any.
    async fn names_of(&self, matchers: &[LabelMatcher]) -> Result<Option<BTreeSet<String>>, SourceError> {
        let named: Vec<&LabelMatcher> = matchers
            .iter()
            .filter(|matcher| matcher.name == METRIC_NAME)
            .collect();
        if named.is_empty() {
            return Ok(None);
        }
        let mut missed = false;
        loop {
            let known = self.directory.names(missed).await?;
            let wanted = |original: &&String| {
                let mapped = metric_name(original);
                named
                    .iter()
                    .all(|matcher| name::name_matches(matcher, original, &mapped))
            };
            let mut names: BTreeSet<String> = known.keys().filter(wanted).cloned().collect();
            let exact = named.iter().find(|matcher| matches!(matcher.op, MatchOp::Equal));
            if let Some(exact) = exact {
                if names.is_empty() && !missed {
                    missed = true;
                    continue;
                }
                // Whatever the list lacks, the name itself may have come since.
                names.insert(exact.value.clone());
            }
            return Ok(Some(names));
        }
    }
}

/// The hosts that matchers leave, where that can be told from them alone.
fn hosts_of(matchers: &[LabelMatcher], names: &Hosts) -> Option<BTreeSet<HostId>> {
    let mut left: Option<BTreeSet<HostId>> = None;
    for matcher in matchers
        .iter()
        .filter(|matcher| matches!(matcher.op, MatchOp::Equal))
    {
        if matcher.value.is_empty() {
            continue;
        }
        let mut these: BTreeSet<HostId> = match matcher.name.as_str() {
            "host_id" => matcher.value.parse().into_iter().collect(),
            "instance" => names
                .iter()
                .filter(|(_, name)| name.as_ref() == matcher.value)
                .map(|(host, _)| *host)
                .chain(matcher.value.parse())
                .collect(),
            _ => continue,
        };
        // What a rule recorded carries the labels it was given.
        these.insert(OWN_HOST);
        left = Some(match left {
            Some(before) => before.intersection(&these).copied().collect(),
            None => these,
        });
    }
    left
}

#[async_trait]
impl SeriesSource for StoreSeries {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        let plan = self.plan(&request.matchers).await?;
        let mut select = self.select_of(&plan, request.after_ms, request.until_ms);
        select.samples_max = request.samples_max;
        select.series_max = request.series_max;
        select.resolution = Resolution::Finest;
        let (matchers, hosts) = (plan.matchers.clone(), Arc::clone(&plan.host_names));
        select.keep = Some(Arc::new(move |key: &SeriesKey| {
            name::selects(&matchers, key, name_of(&hosts, key.host)).is_some()
        }));
        let (answer, why) = self.samples_or_windows(select, request.longest_ms).await?;
        let hosts = plan.host_names;
        // Millions of samples are no work for the runtime's threads.
        tokio::task::spawn_blocking(move || selection_of(answer, &hosts, why))
            .await
            .map_err(|error| SourceError::Unavailable(format!("arrange series: {error}")))
    }
}

/// What was selected, as it is called here; `why` windows stand for samples in it.
fn selection_of(answer: SeriesAnswer, hosts: &Hosts, why: &str) -> Selection {
    let mut named: Vec<(Labels, StoredSeries)> = answer
        .series
        .into_iter()
        .map(|series| {
            (
                name::labels_of(&series.key, name_of(hosts, series.key.host)),
                series,
            )
        })
        .collect();
    named.sort_by(|left, right| (&left.0, &left.1.key).cmp(&(&right.0, &right.1.key)));
    let mut before: Option<(Labels, usize)> = None;
    let mut all = Vec::with_capacity(named.len());
    let mut windows = Windows::new();
    for (labels, series) in named {
        let place = match &before {
            Some((same, place)) if *same == labels => place + 1,
            _ => 0,
        };
        before = Some((labels.clone(), place));
        let labels = told_apart(labels, &series.key, place);
        if !series.windows.is_empty() {
            windows.insert(labels.clone(), windows_of(&series));
        }
        all.push(samples_of(labels, &series));
    }
    Selection {
        series: all,
        gaps: answer.gaps.iter().map(|gap| gap_of(gap, hosts)).collect(),
        windows,
        notes: answer.tiers.iter().map(|tier| note_of(tier, why)).collect(),
    }
}

fn windows_of(series: &StoredSeries) -> Vec<SeriesWindow> {
    let point = |(time, value): (TimeMicros, f64)| (millis(time), value);
    let of = |window: &collector_store::SeriesWindow| SeriesWindow {
        first: point(window.first),
        last: point(window.last),
        count: window.count,
        sum: window.sum,
        min: window.min,
        max: window.max,
        growth: window.growth,
        resets: window.resets,
    };
    series.windows.iter().map(of).collect()
}

fn note_of(tier: &TierSpan, why: &str) -> String {
    let minutes = tier.window_us / 60_000_000;
    format!(
        "values are from {minutes}-minute data between {} and {}, of which samples {why}",
        tier.from, tier.to
    )
}

fn millis(time: TimeMicros) -> i64 {
    time.0.div_euclid(1_000)
}

/// Several stored series that are called the same: the first of them, in the order of their stored names, units and
/// labels, is called so.
fn told_apart(labels: Labels, key: &SeriesKey, place: usize) -> Labels {
    if place == 0 {
        return labels;
    }
    labels.with(ORIGINAL, &format!("{} {} {}", key.name, key.unit, key.labels))
}

/// Samples with the first and the last one of each window in their places.
fn samples_of(labels: Labels, series: &StoredSeries) -> SeriesSamples {
    let windows = &series.windows;
    let room = series.times.len().saturating_add(windows.len().saturating_mul(2));
    let mut samples = SeriesSamples {
        labels,
        times_ms: Vec::with_capacity(room),
        values: Vec::with_capacity(room),
        ..SeriesSamples::default()
    };
    let mut push = |time: TimeMicros, value: f64| {
        let time_ms = millis(time);
        if samples.times_ms.last() == Some(&time_ms) {
            // Two within one millisecond: the later one.
            samples.times_ms.pop();
            samples.values.pop();
        }
        samples.times_ms.push(time_ms);
        samples.values.push(value);
    };
    let mut windows = windows.iter().peekable();
    for (time, value) in series.times.iter().zip(&series.values) {
        while let Some(window) = windows.next_if(|window| window.start <= *time) {
            push(window.first.0, window.first.1);
            push(window.last.0, window.last.1);
        }
        push(*time, value_of(*value));
    }
    for window in windows {
        push(window.first.0, window.first.1);
        push(window.last.0, window.last.1);
    }
    samples
}

fn value_of(stored: f64) -> f64 {
    if stored.is_nan() && stored.to_bits() != COMPUTED_NAN_BITS {
        f64::from_bits(STALE_BITS)
    } else {
        stored
    }
}

fn gap_of(HostGap { host_id, gap }: &HostGap, hosts: &Hosts) -> SourceGap {
    let host = if *host_id == OWN_HOST {
        "the store".to_owned()
    } else {
        name_of(hosts, *host_id).map_or_else(|| host_id.to_string(), str::to_owned)
    };
    SourceGap {
        from_ms: gap.from_time.0.div_euclid(1_000),
        to_ms: gap.to_time.0.div_euclid(1_000),
        labels: if *host_id == OWN_HOST {
            Labels::default()
        } else {
            Labels::new([(HOST_LABEL, host_id.to_string())])
        },
        text: format!(
            "{} {} of {host} from {} to {} ({}: {})",
            gap.count,
            if gap.table == "*" { "records" } else { "samples" },
            gap.from_time,
            gap.to_time,
            gap.stage.as_str(),
            gap.reason
        ),
    }
}

fn name_of(hosts: &Hosts, host: HostId) -> Option<&str> {
    hosts.get(&host).map(AsRef::as_ref)
}

fn hash_of(key: &SeriesKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
