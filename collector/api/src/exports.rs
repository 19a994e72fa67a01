//! What the API needs of export. The binary's wiring adapts it.

use async_trait::async_trait;
use axum::body::Bytes;
use fleetmend_event::{HostId, HostScope, TimeMicros};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::backend::BackendError;

/// Which records, in which words.
#[derive(Debug, Clone)]
pub struct RecordsWanted {
    /// `ecs` or `ocsf`.
    pub format: String,
    /// Of which table.
    pub table: &'static str,
    /// Only of this host.
    pub host: Option<HostId>,
    /// Whose facts the caller may see.
    pub hosts: HostScope,
    /// Stored since then, when there is no cursor.
    pub from: TimeMicros,
    /// Stored until then.
    pub to: TimeMicros,
    /// Where an answer before ended.
    pub cursor: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// Some records.
#[derive(Debug, Clone)]
pub struct RecordsAnswer {
    /// Each a JSON object.
    pub records: Vec<Value>,
    /// Where the next answer begins.
    pub next_cursor: String,
    /// Whether there are more now.
    pub more: bool,
}

/// Which rows, as Parquet.
#[derive(Debug, Clone)]
pub struct ParquetWanted {
    /// Of which table.
    pub table: &'static str,
    /// Only of this host.
    pub host: Option<HostId>,
    /// Whose facts the caller may see.
    pub hosts: HostScope,
    /// From when, by the hosts' clocks.
    pub from: TimeMicros,
    /// Until when, itself left out.
    pub to: TimeMicros,
}

/// Facts on their way to others.
#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// How each configured target stands.
    async fn targets(&self) -> Result<Vec<Value>, BackendError>;
    /// Sends a target an empty request, and says what came of it.
    async fn test(&self, name: &str) -> Result<Value, BackendError>;
    /// Records in the words of others.
    async fn records(&self, wanted: RecordsWanted) -> Result<RecordsAnswer, BackendError>;
    /// Pieces of a Parquet file; an error is the last of them. Bounded: a slow reader makes it wait.
    fn parquet(&self, wanted: ParquetWanted) -> mpsc::Receiver<Result<Bytes, BackendError>>;
}
