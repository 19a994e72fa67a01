//! Queries: SQL over everything stored, hot frames and Parquet files together.
//!
//! Every table of [`fleetmend_event::table::tables`] is there under its name, with the columns of its rows and with
//! `host_id`, `ingested_at` and `clock_ahead_us`; `metrics` has one row per sample. `SHOW TABLES` and `DESCRIBE` work. A query sees
//! each table as it was when the query first named it. The function `label(labels, 'key')` reads one attribute of a metric.
//!
//! # Limits
//! Only queries are answered: plans that define, change, copy or set anything are refused before they run. One
//! query has its length, its memory, its time and its rows; what sorts or groups beyond the memory spills to the store's
//! own folder, within a bound, and what can do neither is refused (`bounded.rs` and
//! `tamed.rs` say what the engine would not count).
//! Queries run on threads of their own, so that reading files there disturbs nobody.
//!
//! # Scope
//! [`QueryLimits::hosts`] says whose rows a query may see. Every table it names is read through a guard that lets
//! through no other row, `gaps` also the store's own losses; what an answer tells of gaps is bounded the same way.
//! A plan says more than rows do, so that `EXPLAIN` is only for those who may see every host.
//!
//! # Damage
//! A file that is missing or cut short is noticed when it is planned for. A query that fails while it reads has the
//! digests of its files checked; those that differ are set aside and the query runs again over the rest. Either way
//! the loss is a gap row, and the answer names the gaps that touch what it read. What cannot be read for another
//! reason, such as too many open files, fails the query and is no damage.

mod answer;
mod bounded;
mod functions;
mod guard;
mod hot;
mod interrupt;
mod prune;
mod running;
mod samples;
mod session;
mod stock;
mod table;
mod tamed;
mod views;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, TimestampMicrosecondArray};
use arrow::compute::max;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use fleetmend_event::{HostScope, TimeMicros};
use futures::StreamExt;
use metrics::{counter, histogram};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{QueryConfig, StoreConfig};
use crate::error::{OpenError, QueryError};
use crate::gaps::{Gaps, gaps_of};
use crate::metrics as names;
use crate::select::{Deadline, is_damaged};
pub(crate) use answer::failure;
pub use answer::{Answer, to_json_rows};
pub(crate) use hot::Shown;
pub(crate) use prune::Prune;
pub use running::RunningQuery;
pub(crate) use session::Scope;
pub(crate) use stock::{Scan, Stock, TableSource};
#[cfg(test)]
pub(crate) use views::VIEWS;

/// For whom a query is answered: each class has turns of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryClass {
    /// A person or a program that asks; at most [`QueryConfig::concurrent_max`] at once.
    #[default]
    User,
    /// The collector itself, such as its alerts: it must not wait behind what users ask.
    System,
}

/// Queries of [`QueryClass::System`] that run at once.
const SYSTEM_TURNS: usize = 2;

/// What one query may take, capped by the store's configuration, and whose facts it may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// Rows of the answer; more are cut off and the answer says so.
    pub rows_max: usize,
    /// Time, waiting for a turn included.
    pub timeout: Duration,
    /// Bytes for sorting, joining and grouping, and of the answer.
    pub memory_bytes_max: usize,
    /// Whose turns it takes.
    pub class: QueryClass,
    /// Whose rows it may see. Enforced on the rows that tables give (`query/guard.rs`), whatever the text says.
    pub hosts: HostScope,
    /// Who asks, for the list of running queries.
    pub asker: Arc<str>,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            rows_max: 10_000,
            timeout: Duration::from_secs(30),
            memory_bytes_max: 128 << 20,
            class: QueryClass::User,
            hosts: HostScope::All,
            asker: Arc::from("collector"),
        }
    }
}

impl QueryLimits {
    fn within(self, config: &QueryConfig) -> Self {
        Self {
            rows_max: self.rows_max.min(config.rows_max),
            timeout: self.timeout.min(Duration::from_millis(config.timeout_ms_max)),
            memory_bytes_max: self.memory_bytes_max.min(config.memory_bytes_max),
            ..self
        }
    }
}

/// Stack of a query thread: enough for the deepest expression that a query may hold. Only what is touched is used.
const STACK_BYTES: usize = 128 << 20;

/// The query engine.
pub(crate) struct Engine {
    /// Taken when the engine ends.
    runtime: Option<Runtime>,
    state: SessionState,
    /// What no query may exceed.
    caps: QueryConfig,
    pub(crate) user_turns: Arc<Semaphore>,
    system_turns: Arc<Semaphore>,
    pub(crate) running: Arc<running::Running>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            end(runtime);
        }
    }
}

/// Ends a runtime's threads from a thread of their own: a runtime must not wait for them inside another one. They are
/// waited for because glibc, up to 2.36 at least, may read a thread's stack once more while it lets go of a thread that
/// ends, and these stacks are unmapped by then, being too large to be kept.
fn end(runtime: Runtime) {
    let held = Arc::new(Mutex::new(Some(runtime)));
    let ending = Arc::clone(&held);
    let take = |held: &Mutex<Option<Runtime>>| held.lock().unwrap_or_else(PoisonError::into_inner).take();
    let begun = std::thread::Builder::new()
        .name("store-query-end".to_owned())
        .spawn(move || drop(take(&ending)));
    if let Err(error) = begun
        && let Some(runtime) = take(&held)
    {
        tracing::warn!(%error, "nobody waits for the threads of queries");
        runtime.shutdown_background();
    }
}

/// Stops a query whose caller has gone.
struct StopOnDrop(tokio::task::AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// An engine with its own threads.
    pub(crate) fn new(config: &StoreConfig) -> Result<Self, OpenError> {
        let failed = |error: &dyn std::error::Error| OpenError::Engine(error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.query.threads)
            .thread_name("store-query")
            .thread_stack_size(STACK_BYTES)
            // Some stores are read over the network.
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let state = session::base_state(config).map_err(|error| failed(&error))?;
        Ok(Self {
            runtime: Some(runtime),
            state,
            caps: config.query.clone(),
            user_turns: Arc::new(Semaphore::new(config.query.concurrent_max)),
            system_turns: Arc::new(Semaphore::new(SYSTEM_TURNS)),
            running: Arc::default(),
        })
    }

    /// Answers a query.
    pub(crate) async fn sql(
        &self,
        stock: &Stock,
        query: &str,
        limits: QueryLimits,
    ) -> Result<Answer, QueryError> {
        session::check_length(query)?;
        let limits = limits.within(&self.caps);
        let started = Instant::now();
        let entry = self.running.enter(&limits.asker, query);
        let outcome = tokio::select! {
            biased;
            () = entry.cancelled() => Err(QueryError::Cancelled),
            outcome = self.take_turn(stock, query, limits, &entry) => outcome,
        };
        note_outcome(outcome.is_ok(), started);
        outcome.map(|answer| Answer {
            took: started.elapsed(),
            ..answer
        })
    }

    /// Waits for a turn and answers; dropped, the query stops.
    async fn take_turn(
        &self,
        stock: &Stock,
        query: &str,
        limits: QueryLimits,
        entry: &running::Entry,
    ) -> Result<Answer, QueryError> {
        let started = Instant::now();
        let runtime = self.runtime.as_ref().ok_or(QueryError::Closed)?;
        let turn = self.turn(&limits).await?;
        entry.begins();
        let (state, stock, query) = (self.state.clone(), stock.clone(), query.to_owned());
        let allowed = limits.timeout;
        let left = allowed.saturating_sub(started.elapsed());
        let task = runtime.spawn(async move {
            let _turn = turn;
            run(&state, &stock, &query, &limits).await
        });
        let _stop = StopOnDrop(task.abort_handle());
        match tokio::time::timeout(left, task).await {
            Err(_) => Err(QueryError::Timeout { timeout: allowed }),
            Ok(Err(error)) => Err(QueryError::Failed {
                reason: error.to_string(),
            }),
            Ok(Ok(outcome)) => outcome,
        }
    }

    /// Does work that blocks, in turn with the queries of its class.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        limits: QueryLimits,
        work: impl FnOnce(&Deadline) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let limits = limits.within(&self.caps);
        let started = Instant::now();
        let turn = self.turn(&limits).await?;
        let runtime = self.runtime.as_ref().ok_or(QueryError::Closed)?;
        let left = limits.timeout.saturating_sub(started.elapsed());
        let (deadline, _guard) = Deadline::after(left, limits.timeout);
        // The turn ends with the work, not with whoever waits for it.
        let task = runtime.spawn_blocking(move || {
            let _turn = turn;
            work(&deadline)
        });
        let outcome = match tokio::time::timeout(left, task).await {
            Err(_) => Err(QueryError::Timeout {
                timeout: limits.timeout,
            }),
            Ok(Err(error)) => Err(QueryError::Failed {
                reason: error.to_string(),
            }),
            Ok(Ok(outcome)) => outcome,
        };
        note_outcome(outcome.is_ok(), started);
        outcome
    }

    /// Does work of its threads, in turn with the queries of its class.
    pub(crate) async fn in_turn<T: Send + 'static>(
        &self,
        limits: QueryLimits,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let limits = limits.within(&self.caps);
        let started = Instant::now();
        let turn = self.turn(&limits).await?;
        let left = limits.timeout.saturating_sub(started.elapsed());
        let work = self.on_threads(async move {
            let _turn = turn;
            work.await
        });
        let timeout = limits.timeout;
        let outcome = tokio::time::timeout(left, work).await;
        let outcome = outcome.unwrap_or(Err(QueryError::Timeout { timeout })).flatten();
        note_outcome(outcome.is_ok(), started);
        outcome
    }

    /// Waits for a turn.
    async fn turn(&self, limits: &QueryLimits) -> Result<OwnedSemaphorePermit, QueryError> {
        let turns = match limits.class {
            QueryClass::User => &self.user_turns,
            QueryClass::System => &self.system_turns,
        };
        let turn = tokio::time::timeout(limits.timeout, turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| QueryError::Busy)?;
        turn.map_err(|_| QueryError::Closed)
    }

    /// Keeps the newest gaps that were stored after a time at hand; gives the time of the newest.
    pub(crate) async fn load_gaps(
        &self,
        stock: &Stock,
        gaps_at_hand: &Gaps,
        after: TimeMicros,
    ) -> Result<TimeMicros, QueryError> {
        let query = format!(
            "SELECT * FROM gaps WHERE ingested_at >= to_timestamp_micros({}) ORDER BY time DESC LIMIT 10000",
            after.0
        );
        let limits = QueryLimits {
            class: QueryClass::System,
            ..QueryLimits::default()
        };
        let answer = self.sql(stock, &query, limits).await?;
        let failed = |reason: String| QueryError::Failed { reason };
        let mut newest = after;
        for batch in answer.batches.iter().rev() {
            let hosts = crate::shape::typed::<arrow::array::StringArray>(batch, crate::shape::HOST_ID);
            let hosts = hosts.map_err(|error| failed(error.to_string()))?;
            let stored = crate::shape::typed::<TimestampMicrosecondArray>(batch, crate::shape::INGESTED_AT);
            let stored = stored.map_err(|error| failed(error.to_string()))?;
            newest = newest.max(TimeMicros(max(stored).unwrap_or(newest.0)));
            let (gaps, unknown) = gaps_of(batch);
            for (row, gap) in gaps.into_iter().rev() {
                if let Ok(host) = hosts.value(row).parse() {
                    gaps_at_hand.add_new(host, gap);
                }
            }
            if unknown > 0 {
                tracing::warn!(
                    unknown,
                    "cannot read gap rows of former times; answers do not name them"
                );
            }
        }
        Ok(newest)
    }

    /// A session over exactly `scope`, for merging files; spilling and memory as for a query.
    pub(crate) fn session(
        &self,
        scope: Arc<Scope>,
        memory_bytes_max: usize,
    ) -> Result<datafusion::prelude::SessionContext, QueryError> {
        session::context(&self.state, scope, memory_bytes_max)
            .map(|(context, _)| context)
            .map_err(|error| answer::failure(&error, memory_bytes_max))
    }

    /// Runs work on the engine's threads.
    pub(crate) async fn on_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, QueryError> {
        let runtime = self.runtime.as_ref().ok_or(QueryError::Closed)?;
        let task = runtime.spawn(work);
        let _stop = StopOnDrop(task.abort_handle());
        task.await.map_err(|error| QueryError::Failed {
            reason: error.to_string(),
        })
    }
}

fn note_outcome(is_answered: bool, started: Instant) {
    let result = if is_answered { "answered" } else { "failed" };
    counter!(names::QUERIES, "outcome" => result).increment(1);
    histogram!(names::QUERY_SECONDS).record(started.elapsed().as_secs_f64());
}

async fn run(
    state: &SessionState,
    stock: &Stock,
    query: &str,
    limits: &QueryLimits,
) -> Result<Answer, QueryError> {
    let mut retried = false;
    loop {
        let scope = Scope::of_stock(stock, limits.hosts.clone());
        match attempt(state, &scope, query, limits).await {
            Ok(mut answer) => {
                answer.gaps = stock.gaps_touching(&scope.reaches(), &limits.hosts);
                return Ok(answer);
            }
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Broken(error)) => {
                let damaged = set_damaged_aside(stock, &scope, limits.timeout).await;
                if damaged == 0 || retried {
                    return Err(answer::failure(&error, limits.memory_bytes_max));
                }
                retried = true;
            }
        }
    }
}

enum Stop {
    Refused(QueryError),
    Broken(DataFusionError),
}

impl From<DataFusionError> for Stop {
    fn from(error: DataFusionError) -> Self {
        Stop::Broken(error)
    }
}

async fn attempt(
    state: &SessionState,
    scope: &Arc<Scope>,
    query: &str,
    limits: &QueryLimits,
) -> Result<Answer, Stop> {
    let context = session::context(state, scope.clone(), limits.memory_bytes_max)?;
    let plan = session::plan(&context, query, &limits.hosts)
        .await
        .map_err(Stop::Refused)?;
    if bounded::repeats_rows(&plan)? {
        let state = context.0.state_ref();
        let mut state = state.write();
        let config = state.config().clone();
        *state.config_mut() = config.with_batch_size(bounded::BATCH_ROWS);
    }
    let frame = context.0.execute_logical_plan(plan).await?;
    let mut stream = frame.execute_stream().await?;
    let schema = answer::plain_schema(&stream.schema());
    let mut answer = Answer {
        schema,
        ..Answer::default()
    };
    let (mut rows, mut bytes) = (0_usize, 0_usize);
    while let Some(batch) = stream.next().await {
        let batch: RecordBatch = answer::plain(&answer.schema, &batch?)?;
        let room = limits.rows_max.saturating_sub(rows);
        answer.truncated = batch.num_rows() > room;
        let batch = batch.slice(0, batch.num_rows().min(room));
        rows = rows.saturating_add(batch.num_rows());
        bytes = bytes.saturating_add(batch.get_array_memory_size());
        if bytes > limits.memory_bytes_max {
            return Err(Stop::Refused(QueryError::Memory {
                bytes_max: limits.memory_bytes_max,
            }));
        }
        if batch.num_rows() > 0 {
            answer.batches.push(batch);
        }
        if answer.truncated {
            break;
        }
    }
    Ok(answer)
}

/// Checks every file the query read, for as long as the query may take; returns how many were set aside.
///
/// # Cancel safety
/// May be dropped: the check ends then.
async fn set_damaged_aside(stock: &Stock, scope: &Scope, timeout: Duration) -> usize {
    let Stock::Folder(inner) = stock else { return 0 };
    let (inner, files) = (inner.clone(), scope.files());
    let (deadline, _guard) = Deadline::after(timeout, timeout);
    let check = move || {
        let damaged = files.iter().filter(|file| is_damaged(&inner, file, &deadline));
        damaged.count()
    };
    // A check that panicked has set nothing aside that its files do not say themselves.
    tokio::task::spawn_blocking(check).await.unwrap_or(0)
}
