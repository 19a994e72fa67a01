//! One live stream: what it waits for, and how a batch becomes events.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use fleetmend_event::HostId;
use fleetmend_event::table::{MetricChunk, Table as _};
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, sleep_until};

use crate::auth::Caller;
use crate::backend::{CommittedFacts, LiveFact};
use crate::json;
use crate::state::Shared;

/// How often the session is looked at again: a stream outlives an access token, never its session, and whom its user
/// may see may change.
const SESSION_CHECK: Duration = Duration::from_secs(20);

/// What the client wants.
pub(crate) struct Filter {
    pub(crate) tables: BTreeSet<&'static str>,
    pub(crate) host: Option<HostId>,
    /// Metric names; all when empty.
    pub(crate) names: BTreeSet<String>,
}

pub(crate) struct LiveStream {
    state: Shared,
    caller: Caller,
    filter: Filter,
    facts: Receiver<LiveFact>,
    waiting: VecDeque<Event>,
    check_at: Instant,
    ended: bool,
    _slot: OwnedSemaphorePermit,
}

impl LiveStream {
    pub(crate) fn new(state: Shared, caller: Caller, filter: Filter, slot: OwnedSemaphorePermit) -> Self {
        let facts = state.live.subscribe();
        let ready = event("ready", &json!({ "tables": filter.tables }));
        metrics::gauge!(crate::metrics::LIVE_STREAMS).increment(1.0);
        Self {
            state,
            caller,
            filter,
            facts,
            waiting: VecDeque::from([ready]),
            check_at: Instant::now() + SESSION_CHECK,
            ended: false,
            _slot: slot,
        }
    }

    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut stream| async move {
            let event = stream.next().await?;
            Some((Ok(event), stream))
        })
    }

    /// # Cancel safety
    /// Whatever was received stands in `waiting` before it waits again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let draining = self.state.draining.clone();
            tokio::select! {
                biased;
                () = draining.cancelled() => self.end("shutting down"),
                () = sleep_until(self.check_at) => {
                    self.check_at = Instant::now() + SESSION_CHECK;
                    match self.state.sessions.by_id(&self.caller.session_id).await {
                        Ok(Some(caller)) => self.caller = caller,
                        _ => self.end("session ended"),
                    }
                }
                received = self.facts.recv() => match received {
                    Ok(LiveFact::Committed(facts)) if self.caller.scope.sees(facts.host_id) => {
                        self.waiting.extend(self.filter.events(&facts));
                    }
                    Ok(LiveFact::Committed(_)) => {}
                    Ok(LiveFact::Skipped(missed)) | Err(RecvError::Lagged(missed)) => {
                        metrics::counter!(crate::metrics::LIVE_SKIPPED).increment(missed);
                        self.waiting.push_back(event("lagged", &json!({ "batches_missed": missed })));
                    }
                    Err(RecvError::Closed) => self.end("shutting down"),
                },
            }
        }
    }

    fn end(&mut self, reason: &str) {
        self.ended = true;
        self.waiting.push_back(event("end", &json!({ "reason": reason })));
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        metrics::gauge!(crate::metrics::LIVE_STREAMS).decrement(1.0);
    }
}

impl Filter {
    fn events(&self, facts: &CommittedFacts) -> Vec<Event> {
        if !self.tables.contains(facts.table) || self.host.is_some_and(|host| host != facts.host_id) {
            return Vec::new();
        }
        let host_id = facts.host_id.to_string();
        if facts.table == MetricChunk::NAME {
            return self.metrics(facts, &host_id).into_iter().collect();
        }
        let rows = json::objects(&facts.batch).into_iter();
        let row = |mut row: crate::query::Row| {
            row.insert("host_id".to_owned(), Value::from(host_id.as_str()));
            event(
                "row",
                &json!({ "table": facts.table, "host_id": host_id, "row": row }),
            )
        };
        rows.map(row).collect()
    }

    fn metrics(&self, facts: &CommittedFacts, host_id: &str) -> Option<Event> {
        let chunks = match MetricChunk::from_batch(&facts.batch) {
            Ok(chunks) => chunks,
            Err(error) => {
                tracing::warn!(%error, "a batch of metrics cannot be shown live");
                return None;
            }
        };
        let wanted = |chunk: &MetricChunk| self.names.is_empty() || self.names.contains(&chunk.name);
        let series: Vec<Value> = chunks
            .iter()
            .filter(|chunk| wanted(chunk))
            .map(series_of)
            .collect();
        (!series.is_empty()).then(|| event("metrics", &json!({ "host_id": host_id, "series": series })))
    }
}

fn series_of(chunk: &MetricChunk) -> Value {
    let labels: Value = serde_json::from_str(&chunk.labels).unwrap_or_default();
    let point = |(index, value): (usize, &f64)| {
        json!([chunk.sample_time(index).0 / 1_000, json::float(Some(*value))])
    };
    let points: Vec<Value> = chunk.value.iter().enumerate().map(point).collect();
    json!({ "name": chunk.name, "unit": chunk.unit, "labels": labels, "points": points })
}

fn event(name: &str, data: &Value) -> Event {
    // JSON on one line has no line break that could end the data.
    Event::default().event(name).data(data.to_string())
}
