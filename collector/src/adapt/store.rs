//! The store, as API and alert read it.

use std::convert::Infallible;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use collector_api::{
    CommittedFacts, LiveFact, LiveFacts, QueryAnswer, QueryError, QueryLimits, QueryView, SqlQuery,
};
use collector_store::{Answer, FactStore, QueryClass};
use fleetmend_event::HostScope;
use fleetmend_shutdown::{TaskKind, Tasks};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Batches that a slow live client may be behind before it skips.
const LIVE_BATCHES_MAX: usize = 256;

/// Asks the store.
#[derive(Clone)]
pub(crate) struct StoreAdapter {
    store: Arc<dyn FactStore>,
    live: broadcast::Sender<LiveFact>,
}

impl StoreAdapter {
    /// An adapter over `store`; [`pump_live_facts`] feeds its live channel.
    pub(crate) fn new(store: Arc<dyn FactStore>) -> Self {
        Self {
            store,
            live: broadcast::Sender::new(LIVE_BATCHES_MAX),
        }
    }
}

#[async_trait]
impl SqlQuery for StoreAdapter {
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<QueryAnswer, QueryError> {
        self.ask(query, limits, QueryClass::User).await
    }

    fn queries(&self) -> Vec<QueryView> {
        let view = |query: collector_store::RunningQuery| QueryView {
            id: query.id,
            asker: query.asker,
            text: query.text,
            since: query.since,
            is_waiting: !query.has_turn,
        };
        self.store.queries().into_iter().map(view).collect()
    }

    fn cancel(&self, id: u64) -> bool {
        self.store.cancel(id)
    }
}

impl StoreAdapter {
    async fn ask(
        &self,
        query: &str,
        limits: QueryLimits,
        class: QueryClass,
    ) -> Result<QueryAnswer, QueryError> {
        use collector_store::QueryError as Fault;
        let within = collector_store::QueryLimits {
            rows_max: limits.rows_max,
            timeout: limits.timeout,
            hosts: limits.hosts,
            asker: limits.asker,
            class,
            ..collector_store::QueryLimits::default()
        };
        self.store
            .sql(query, within)
            .await
            .map(answer_of)
            .map_err(|error| match error {
                Fault::Invalid { .. }
                | Fault::Refused { .. }
                | Fault::Memory { .. }
                | Fault::TooMuch { .. } => QueryError::Invalid(error.to_string()),
                Fault::Timeout { timeout } => QueryError::Timeout(timeout),
                Fault::Cancelled => QueryError::Cancelled,
                Fault::Busy | Fault::Failed { .. } | Fault::Closed => {
                    QueryError::Unavailable(error.to_string())
                }
            })
    }
}

#[async_trait]
impl collector_alert::SqlQuery for StoreAdapter {
    async fn sql(
        &self,
        query: &str,
        limits: collector_alert::QueryLimits,
    ) -> Result<Vec<RecordBatch>, collector_alert::QueryError> {
        use collector_alert::QueryError as AlertQueryError;
        let limits = QueryLimits {
            rows_max: limits.rows_max,
            timeout: limits.timeout,
            hosts: HostScope::All,
            asker: Arc::from("alerting"),
        };
        // Alerts have turns of their own: users who ask much must not keep them from being evaluated.
        self.ask(query, limits, QueryClass::System)
            .await
            .map(|answer| answer.batches)
            .map_err(|error| match error {
                QueryError::Invalid(reason) => AlertQueryError::Invalid(reason),
                QueryError::Timeout(timeout) => AlertQueryError::Timeout(timeout),
                QueryError::Unavailable(reason) => AlertQueryError::Unavailable(reason),
                QueryError::Cancelled => AlertQueryError::Unavailable(error.to_string()),
            })
    }
}

/// An answer; one without rows still names its columns.
fn answer_of(answer: Answer) -> QueryAnswer {
    QueryAnswer {
        gaps: answer.gaps.iter().map(|gap| json!(gap)).collect(),
        truncated: answer.truncated,
        batches: if answer.batches.is_empty() {
            vec![RecordBatch::new_empty(answer.schema)]
        } else {
            answer.batches
        },
    }
}

impl LiveFacts for StoreAdapter {
    fn subscribe(&self) -> broadcast::Receiver<LiveFact> {
        self.live.subscribe()
    }
}

/// Carries what the store commits to the API's live streams. Full: the slowest client skips and is told.
pub(crate) fn pump_live_facts(adapter: &StoreAdapter, tasks: &Tasks) {
    let (mut committed, live, token) = (adapter.store.subscribe(), adapter.live.clone(), tasks.token());
    tasks.spawn("live facts", TaskKind::BestEffort, async move {
        loop {
            let received = tokio::select! {
                () = token.cancelled() => return Ok::<(), Infallible>(()),
                received = committed.recv() => received,
            };
            let told = match received {
                Ok(facts) if facts.withheld => LiveFact::Skipped(1),
                Ok(facts) => LiveFact::Committed(Arc::new(CommittedFacts {
                    host_id: facts.host,
                    table: facts.table.name,
                    batch: facts.batch.clone(),
                })),
                Err(RecvError::Lagged(batches)) => LiveFact::Skipped(batches),
                Err(RecvError::Closed) => return Ok(()),
            };
            // No one listening is no fault.
            live.send(told).ok();
        }
    });
}
