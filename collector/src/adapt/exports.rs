//! Export, as the API shows and asks it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use collector_api::{BackendError, Exports, ParquetWanted, RecordsAnswer, RecordsWanted};
use collector_export::page::{Cursor, RecordsRequest, records_page};
use collector_export::parquet::{ParquetRequest, export_to_stream};
use collector_export::{Export, FactSource, ParquetError, RecordFormat};
use fleetmend_shutdown::{TaskKind, Tasks};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Pieces of a Parquet file that wait for a slow reader.
const PIECES_MAX: usize = 8;
/// Parquet files that are written at once: each reads the store as fast as its reader takes it.
const PARQUET_MAX: usize = 2;

/// Export and what it reads.
pub(crate) struct ExportsAdapter {
    export: Export,
    source: Arc<dyn FactSource>,
    tasks: Tasks,
    turns: Arc<tokio::sync::Semaphore>,
}

impl ExportsAdapter {
    /// Files are written by tasks of `tasks`.
    pub(crate) fn new(export: Export, source: Arc<dyn FactSource>, tasks: Tasks) -> Self {
        Self {
            export,
            source,
            tasks,
            turns: Arc::new(tokio::sync::Semaphore::new(PARQUET_MAX)),
        }
    }
}

fn failed(error: &dyn std::error::Error) -> BackendError {
    let cause = error.source().map(|cause| format!(": {cause}"));
    BackendError::Failed(format!("{error}{}", cause.unwrap_or_default()))
}

#[async_trait]
impl Exports for ExportsAdapter {
    async fn targets(&self) -> Result<Vec<Value>, BackendError> {
        let all = self.export.status().await.map_err(|error| failed(&error))?;
        Ok(all.iter().map(|target| json!(target)).collect())
    }

    async fn test(&self, name: &str) -> Result<Value, BackendError> {
        let outcome = self.export.test(name).await;
        outcome
            .map(|outcome| json!(outcome))
            .ok_or(BackendError::NotFound("export target"))
    }

    async fn records(&self, wanted: RecordsWanted) -> Result<RecordsAnswer, BackendError> {
        let format = match wanted.format.as_str() {
            "ecs" => RecordFormat::Ecs,
            "ocsf" => RecordFormat::Ocsf,
            _ => return Err(BackendError::Invalid("format is neither ecs nor ocsf".to_owned())),
        };
        let from = match wanted.cursor.map(|cursor| cursor.parse::<Cursor>()) {
            None => Cursor::at(wanted.from),
            Some(Ok(cursor)) => cursor,
            Some(Err(reason)) => return Err(BackendError::Invalid(format!("cursor {reason}"))),
        };
        let request = RecordsRequest {
            table: wanted.table.to_owned(),
            format,
            host: wanted.host,
            scope: wanted.hosts,
            from,
            to: wanted.to,
            limit: wanted.limit,
        };
        let page = records_page(self.source.as_ref(), request).await;
        let page = page.map_err(|error| failed(&error))?;
        Ok(RecordsAnswer {
            records: page.records,
            next_cursor: page.next.to_string(),
            more: page.more,
        })
    }

    fn parquet(&self, wanted: ParquetWanted) -> mpsc::Receiver<Result<bytes::Bytes, BackendError>> {
        let (to, pieces) = mpsc::channel(PIECES_MAX);
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            let busy = "two Parquet files are being written already: try again later";
            // The channel is new and has room.
            to.try_send(Err(BackendError::Invalid(busy.to_owned()))).ok();
            return pieces;
        };
        let request = ParquetRequest {
            table: wanted.table.to_owned(),
            from: wanted.from,
            to: wanted.to,
            hosts: wanted.host.map(|host| BTreeSet::from([host])),
            scope: wanted.hosts,
        };
        let (source, token) = (self.source.clone(), self.tasks.token());
        self.tasks
            .spawn("export-parquet", TaskKind::BestEffort, async move {
                let _turn = turn;
                let written = export_to_stream(source, request, to.clone());
                if let Some(Err(error)) = token.run_until_cancelled(written).await
                    && !matches!(error, ParquetError::Gone)
                {
                    // Nobody may be reading any more.
                    to.send(Err(failed(&error))).await.ok();
                }
                Ok::<(), ParquetError>(())
            });
        pieces
    }
}
