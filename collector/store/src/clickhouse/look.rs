//! What the store does now and then, and what it asks ClickHouse about itself.

use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{MetricChunk, Table as _};
use fleetmend_shutdown::CancellationToken;
use tokio::sync::mpsc;

use super::client::Client;
use super::forget::Forgetting;
use super::predicate::{all_of, one_of, quoted, time};
use super::scan::CHUNK_COLUMNS;
use super::{ClickHouseStore, Shared};
use crate::commit::chain;
use crate::error::QueryError;
use crate::inner::Health;
use crate::select::SeriesSelect;
use crate::shape::sql_tables;
use crate::store::{StoreStats, TableStats};

/// Looks after which a failed write is forgotten, when nobody wrote since and both engines answer.
const LOOKS_AFTER_FAILURE: u32 = 6;
/// How far losses are read again behind the newest: collectors' clocks and their groups differ by as much.
const GAPS_OVERLAP_MS: i64 = 60_000;

/// Looks until `token` is cancelled.
pub(super) async fn run(
    store: ClickHouseStore,
    mut unwanted: mpsc::Receiver<String>,
    token: CancellationToken,
) {
    let every = Duration::from_millis(store.shared.config.clickhouse.look_ms);
    let mut seen = Seen::default();
    let mut next = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            Some(id) = unwanted.recv() => kill(&store.shared.writes, &id).await,
            () = tokio::time::sleep_until(next) => {
                look(&store, every, &mut seen).await;
                next = tokio::time::Instant::now() + every;
            }
        }
    }
}

/// What the looks so far saw.
#[derive(Debug, Default)]
struct Seen {
    /// Losses up to this time of reception.
    gaps_to: TimeMicros,
    forgetting: Forgetting,
}

async fn look(store: &ClickHouseStore, every: Duration, seen: &mut Seen) {
    let shared = &store.shared;
    match answers(shared).await {
        Err(reason) => shared.set_health(Health::NotReady(reason)),
        Ok(()) => {
            let patience = every.saturating_mul(LOOKS_AFTER_FAILURE);
            let failed = shared
                .failed_at
                .lock()
                .is_some_and(|at: Instant| at.elapsed() < patience);
            if !failed {
                shared.set_health(Health::Ready);
            }
            let after = seen.gaps_to.plus_millis(-GAPS_OVERLAP_MS);
            match store.load_gaps(after).await {
                Ok(newest) => seen.gaps_to = newest.max(seen.gaps_to),
                Err(error) => tracing::warn!(%error, "cannot read the losses that other collectors stored"),
            }
            if let Err(error) = seen.forgetting.step(shared).await {
                tracing::warn!(
                    error = chain(&error),
                    "cannot forget old claims of the ledger; they are tried again"
                );
            }
        }
    }
    shared.hosts.let_go_silent();
}

async fn answers(shared: &Shared) -> Result<(), String> {
    shared
        .writes
        .execute("ask whether it is there", "SELECT 1")
        .await
        .map_err(|error| error.to_string())?;
    shared.ledger.look().await.map_err(|error| chain(&error))
}

/// Ends a statement that nobody waits for.
async fn kill(client: &Client, id: &str) {
    let statement = format!("KILL QUERY WHERE query_id = {} ASYNC", quoted(id));
    if let Err(error) = client.execute("end a query", &statement).await {
        tracing::debug!(%error, "query that nobody waits for is left to the server");
    }
}

/// The statement for the chunks of series.
pub(super) fn chunks_statement(client: &Client, select: &SeriesSelect) -> String {
    let (from, to) = select.span();
    let mut conditions = vec![
        format!("to_time >= {}", time(TimeMicros(from))),
        format!("start_time <= {}", time(TimeMicros(to))),
    ];
    if let Some(names) = &select.names {
        conditions.push(one_of("name", names.iter().map(|name| quoted(name)).collect()));
    }
    if let Some(hosts) = &select.hosts {
        conditions.push(one_of(
            "host_id",
            hosts.iter().map(|host| quoted(&host.to_string())).collect(),
        ));
    }
    format!(
        "SELECT {CHUNK_COLUMNS} FROM {}.{}_chunks{} FORMAT ArrowStream",
        client.url().database,
        MetricChunk::NAME,
        all_of(conditions)
    )
}

/// What the tables hold, by what the server says of its parts.
pub(super) async fn stats(client: &Client) -> Result<StoreStats, QueryError> {
    let statement = format!(
        "SELECT table, count(), sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = {} \
         GROUP BY table FORMAT TSV",
        quoted(&client.url().database)
    );
    let text = client.execute("ask for the sizes of tables", &statement).await;
    let text = text.map_err(|error| QueryError::Failed {
        reason: error.to_string(),
    })?;
    let of_table = |name: &'static str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}_rows\t")));
        let mut numbers = line
            .unwrap_or_default()
            .split('\t')
            .map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let (files, rows, bytes) = (next(), next(), next());
        TableStats {
            table: name,
            files,
            rows,
            // A row of metrics is a chunk here.
            chunks: if name == MetricChunk::NAME { rows } else { 0 },
            bytes,
        }
    };
    Ok(StoreStats {
        hot_frames: 0,
        hot_rows: 0,
        segments: 0,
        sealed_segment_bytes: 0,
        tables: sql_tables()
            .iter()
            .map(|table| of_table(table.info.name))
            .collect(),
    })
}
