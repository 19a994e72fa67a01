//! What the rest of the collector needs of a store, whichever keeps the facts.
//!
//! [`FactStore`] is met by [`Store`], which keeps everything in a folder, and by those that are chosen in its place.
//! What its methods promise is the same for all, and `tests/conformance` holds each to it; the words are those of
//! the crate's head. One difference shows: marks may have to be fetched, so that asking for them waits and can fail.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use fleetmend_control::Control;
use fleetmend_event::table::Gap;
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, TimeMicros};
use fleetmend_shutdown::Tasks;
use tokio::sync::{broadcast, watch};

use crate::clickhouse::ClickHouseStore;
use crate::clickhouse::config::StoreUrl;
use crate::clock::ClockAhead;
use crate::config::StoreConfig;
use crate::error::{CommitError, OpenError, QueryError};
use crate::inner::Health;
use crate::memory::MemoryStore;
use crate::own::OWN_HOST;
use crate::query::{Answer, QueryLimits, RunningQuery};
use crate::select::{SeriesAnswer, SeriesKey, SeriesSelect};
use crate::store::{Committed, Store, StoreStats};

/// A store of facts. Every method may be dropped at any point; what [`Store`] says of each holds here too.
#[async_trait]
pub trait FactStore: Debug + Send + Sync + 'static {
    /// Starts what the store does by itself, as children of `tasks`: whoever commits belongs into a child of it.
    ///
    /// # Errors
    /// When the system refuses a thread.
    fn run(&self, tasks: &Tasks) -> std::io::Result<()>;

    /// Makes frames of a host durable, all or none, and returns the marks of their streams; see
    /// [`Store::commit_timed`].
    ///
    /// # Errors
    /// [`CommitError`]; none of the frames was stored, except after [`CommitError::Busy`], when they may be yet.
    async fn commit_timed(
        &self,
        host: HostId,
        frames: Vec<(Frame, ClockAhead)>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, CommitError>;

    /// What is durable of a host: the answer to its hello. A store that several collectors share takes the host
    /// over for this one.
    ///
    /// # Errors
    /// [`CommitError::Unavailable`] when nobody can say now.
    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, CommitError>;

    /// When a record of a host was last made durable, as far as its marks were asked for and are known.
    fn last_durable(&self, host: HostId) -> Option<TimeMicros>;

    /// Says that a host does not have the records before `id` any more; see [`Store::declare_lost`].
    fn declare_lost(&self, host: HostId, id: RecordId);

    /// Stores facts that the collector knows of a host, under that host; see [`Store::append_for`].
    ///
    /// # Errors
    /// As [`FactStore::commit_timed`].
    async fn append_for(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError>;

    /// Stores a fact of the collector itself, under [`OWN_HOST`].
    ///
    /// # Errors
    /// As [`FactStore::commit_timed`].
    async fn append_own(&self, fact: Fact) -> Result<(), CommitError> {
        self.append_for(OWN_HOST, vec![fact]).await
    }

    /// Answers a query in the one dialect that all stores share; see [`crate::query`].
    ///
    /// # Errors
    /// [`QueryError`] says what is wrong with the query, or which limit it met.
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Answer, QueryError>;

    /// Queries that run or wait for a turn here; see [`Store::queries`].
    fn queries(&self) -> Vec<RunningQuery>;

    /// Cancels one of them; see [`Store::cancel`].
    fn cancel(&self, id: u64) -> bool;

    /// The samples of series; see [`Store::select`].
    ///
    /// # Errors
    /// As [`FactStore::sql`].
    async fn select(&self, select: SeriesSelect) -> Result<SeriesAnswer, QueryError>;

    /// The series that have samples in the time asked for, sorted; see [`Store::series_keys`].
    ///
    /// # Errors
    /// As [`FactStore::sql`].
    async fn series_keys(&self, select: SeriesSelect) -> Result<Vec<SeriesKey>, QueryError>;

    /// The life of this store: changes when it is made anew or restored.
    fn epoch(&self) -> [u8; 16];

    /// Rows that this collector makes durable from now on.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>>;

    /// Whether the store takes records, and why not.
    fn health(&self) -> watch::Receiver<Health>;

    /// What the store holds.
    ///
    /// # Errors
    /// When it cannot be asked now.
    async fn stats(&self) -> Result<StoreStats, QueryError>;

    /// Has what is still gathered written in the form it is kept in, where the store has such forms.
    ///
    /// # Errors
    /// When the writer does not answer in time.
    async fn seal(&self) -> Result<(), CommitError>;

    /// The store in a folder, where it is that one: only it can be copied file by file.
    fn embedded(&self) -> Option<&Store> {
        None
    }

    /// Whether other collectors may put facts into it, which [`FactStore::subscribe`] does not tell of.
    fn is_shared(&self) -> bool {
        false
    }
}

/// Opens the store that `config` chooses by its address. One in ClickHouse keeps its marks in `control`.
///
/// # Errors
/// [`OpenError`] says what stands in the way.
pub async fn open(config: StoreConfig, control: Control) -> Result<Arc<dyn FactStore>, OpenError> {
    let wrong = |reason| OpenError::Config {
        key: "url".to_owned(),
        reason,
    };
    Ok(match config.address().map_err(wrong)? {
        StoreUrl::Embedded => Arc::new(Store::open(config).await?),
        StoreUrl::Memory => Arc::new(MemoryStore::new(config)?),
        StoreUrl::ClickHouse(url) => Arc::new(Box::pin(ClickHouseStore::open(config, url, control)).await?),
    })
}

#[async_trait]
impl FactStore for Store {
    fn run(&self, tasks: &Tasks) -> std::io::Result<()> {
        Store::run(self, tasks)
    }

    async fn commit_timed(
        &self,
        host: HostId,
        frames: Vec<(Frame, ClockAhead)>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, CommitError> {
        Store::commit_timed(self, host, frames, gaps).await
    }

    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, CommitError> {
        Ok(Store::marks(self, host))
    }

    fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        Store::last_durable(self, host)
    }

    fn declare_lost(&self, host: HostId, id: RecordId) {
        Store::declare_lost(self, host, id);
    }

    async fn append_for(&self, host: HostId, facts: Vec<Fact>) -> Result<(), CommitError> {
        Store::append_for(self, host, facts).await
    }

    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Answer, QueryError> {
        Store::sql(self, query, limits).await
    }

    fn queries(&self) -> Vec<RunningQuery> {
        Store::queries(self)
    }

    fn cancel(&self, id: u64) -> bool {
        Store::cancel(self, id)
    }

    async fn select(&self, select: SeriesSelect) -> Result<SeriesAnswer, QueryError> {
        Store::select(self, select).await
    }

    async fn series_keys(&self, select: SeriesSelect) -> Result<Vec<SeriesKey>, QueryError> {
        Store::series_keys(self, select).await
    }

    fn epoch(&self) -> [u8; 16] {
        Store::epoch(self)
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        Store::subscribe(self)
    }

    fn health(&self) -> watch::Receiver<Health> {
        Store::health(self)
    }

    async fn stats(&self) -> Result<StoreStats, QueryError> {
        Ok(Store::stats(self))
    }

    async fn seal(&self) -> Result<(), CommitError> {
        Store::seal(self).await
    }

    fn embedded(&self) -> Option<&Store> {
        Some(self)
    }
}
