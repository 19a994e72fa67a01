//! Rows of one table on their way to one target: read from the store in the order in which it took them.
//!
//! What is told live only wakes the reading. Rows may become visible a little after rows that were stored later, so
//! that each reading begins [`OVERLAP_MICROS`] before the last; rows of that span that were sent are known by their
//! hashes. Place and hashes are kept after each request: a row is sent again only when the process was killed between
//! the target's answer and that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, HostScope, TimeMicros};
use fleetmend_shutdown::CancellationToken;
use tokio::time::Instant;

use crate::config::Endpoint;
use crate::database::{RowsPlace, Skip, State};
use crate::deliver::{Courier, Encode, Stopped};
use crate::error::{ExportError, SourceError};
use crate::feed::micros;
use crate::record::{Record, Records, records_of};
use crate::sample::Names;
use crate::source::{FactSource, Live, LiveRows, RowKey, RowSpan};

const OVERLAP_MICROS: i64 = 10_000_000;
/// Rows that are told of are gathered this long at least.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The store is read at least so often, whatever was told.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Rows whose hashes are kept; beyond, rows may be sent twice.
const SEEN_MAX: usize = 100_000;
/// Rows that are read at once at most, where so many have one place in the order.
const PAGE_MAX: usize = 100_000;
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What a row feed is made of.
pub(crate) struct RowFeedParts {
    pub(crate) endpoint: Endpoint,
    pub(crate) table: String,
    pub(crate) courier: Courier,
    pub(crate) encoder: Arc<dyn Encode<Records>>,
    pub(crate) source: Arc<dyn FactSource>,
    pub(crate) state: State,
}

/// Rows of one table to one target.
pub(crate) struct RowFeed {
    parts: RowFeedParts,
    place: RowsPlace,
    names: Names,
}

enum End {
    Stopped,
    Failed(ExportError),
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        End::Stopped
    }
}

impl From<ExportError> for End {
    fn from(error: ExportError) -> Self {
        End::Failed(error)
    }
}

impl From<SourceError> for End {
    fn from(error: SourceError) -> Self {
        End::Failed(error.into())
    }
}

impl RowFeed {
    /// Goes on where the target stands.
    pub(crate) async fn open(parts: RowFeedParts) -> Result<Self, ExportError> {
        let begun_at = parts.state.begin(&parts.endpoint.name, TimeMicros::now()).await?;
        let place = parts.state.rows_place(&parts.endpoint.name, &parts.table).await?;
        let place = place.unwrap_or_else(|| RowsPlace {
            ingested_at: begun_at.plus_micros(-micros(parts.endpoint.backfill.get())),
            seen: HashMap::new(),
        });
        Ok(Self {
            parts,
            place,
            names: Names::default(),
        })
    }

    /// Feeds until `token` is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut live = self.parts.source.live();
        loop {
            match self.round(&token).await {
                Ok(()) => {
                    self.parts.courier.gauge.mode("live");
                    self.parts.courier.gauge.behind(None);
                }
                Err(End::Stopped) => return,
                Err(End::Failed(error)) => {
                    self.parts.courier.gauge.failed("round");
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let (target_name, table) = (&self.parts.endpoint.name, &self.parts.table);
                    tracing::warn!(target_name, table, %error, cause, "a round of export failed; it is done again");
                    let slept = token.run_until_cancelled(tokio::time::sleep(AFTER_FAILURE)).await;
                    if slept.is_none() {
                        return;
                    }
                    continue;
                }
            }
            if !self.woken(live.as_mut(), &token).await {
                return;
            }
        }
    }

    /// Waits for rows of the table, or a while; false when it is over.
    async fn woken(&self, live: &mut dyn LiveRows, token: &CancellationToken) -> bool {
        let end = Instant::now() + PAUSE_MAX;
        let gather = self.parts.endpoint.flush_every.get().max(PAUSE_MIN);
        let mut until = end;
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return false,
                () = tokio::time::sleep_until(until) => return true,
                told = live.next() => match told {
                    Live::Rows(rows) if rows.table != self.parts.table => {}
                    Live::Rows(_) | Live::Missed(_) => until = until.min(Instant::now() + gather),
                    Live::Closed => {
                        token.cancelled().await;
                        return false;
                    }
                },
            }
        }
    }

    /// Sends everything that is stored and was not sent.
    async fn round(&mut self, token: &CancellationToken) -> Result<(), End> {
        self.skip_what_is_too_old().await?;
        let hosts: BTreeMap<HostId, Option<String>> = self.parts.source.hosts().await?;
        let named = hosts.into_iter();
        self.names = Arc::new(named.filter_map(|(host, name)| Some((host, name?))).collect());
        let page = usize::try_from(self.parts.endpoint.per_request_max).unwrap_or(usize::MAX);
        let mut from = self.place.reading_from(OVERLAP_MICROS);
        let mut rows_max = page;
        loop {
            let span = RowSpan::Stored { from };
            let (batches, more) = self
                .parts
                .source
                .rows(&self.parts.table, span, &HostScope::All, rows_max)
                .await?;
            let table = self.parts.table.clone();
            let read = tokio::task::spawn_blocking(move || records_of(&table, &batches)).await;
            let Ok(read) = read else { return Ok(()) };
            let (records, unreadable) = read?;
            self.parts.courier.gauge.dropped("unreadable", unreadable);
            let last = records.last().map(Record::key);
            let read = records.len();
            self.send(records, token).await?;
            let Some(last) = last.filter(|_| more) else {
                return Ok(());
            };
            // So many rows of one place that a page does not reach beyond it: a larger page.
            if last == from && read >= rows_max {
                if rows_max >= PAGE_MAX {
                    self.parts.courier.gauge.dropped("one_moment", 1);
                    from = beyond(last);
                }
                rows_max = rows_max.saturating_mul(2).min(PAGE_MAX);
            } else {
                rows_max = page;
                from = last;
            }
        }
    }

    /// Sends those that were not sent, and keeps where that is.
    async fn send(&mut self, records: Vec<Record>, token: &CancellationToken) -> Result<(), End> {
        let mut last = self.place.ingested_at;
        for record in &records {
            last = last.max(record.ingested_at);
        }
        let seen = &self.place.seen;
        let mut new: Vec<Record> = records
            .into_iter()
            .filter(|record| !seen.contains_key(&record.hash))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        self.parts.courier.gauge.received(new.len() as u64);
        let sent: Vec<(u64, i64)> = new
            .iter()
            .map(|record| (record.hash, record.ingested_at.0))
            .collect();
        let page = usize::try_from(self.parts.endpoint.per_request_max).unwrap_or(usize::MAX);
        while !new.is_empty() {
            let rest = new.split_off(new.len().min(page));
            let records = Records {
                records: std::mem::replace(&mut new, rest),
                names: self.names.clone(),
            };
            self.parts
                .courier
                .deliver(records, &self.parts.encoder, token)
                .await?;
        }
        self.place.seen.extend(sent);
        self.place.ingested_at = last;
        self.forget();
        let (name, table) = (&self.parts.endpoint.name, &self.parts.table);
        self.parts.state.put_rows_place(name, table, &self.place).await?;
        Ok(())
    }

    /// Forgets rows that no reading reaches any more.
    fn forget(&mut self) {
        let before = self.place.ingested_at.plus_micros(-2 * OVERLAP_MICROS).0;
        self.place.seen.retain(|_, stored| *stored >= before);
        let beyond = self.place.seen.len().saturating_sub(SEEN_MAX);
        if beyond > 0 {
            let mut stored: Vec<i64> = self.place.seen.values().copied().collect();
            stored.sort_unstable();
            if let Some(least) = stored.get(beyond).copied() {
                self.place.seen.retain(|_, stored| *stored >= least);
            }
        }
    }

    async fn skip_what_is_too_old(&mut self) -> Result<(), End> {
        let now = TimeMicros::now();
        let floor = now.plus_micros(-micros(self.parts.endpoint.catch_up_max.get()));
        if self.place.ingested_at >= floor {
            return Ok(());
        }
        let mut from = self.place.reading_from(0);
        from.ingested_at = from.ingested_at.plus_micros(1);
        let span = RowSpan::Stored { from };
        let (batches, _) = self
            .parts
            .source
            .rows(&self.parts.table, span, &HostScope::All, 1)
            .await?;
        let (records, _) = records_of(&self.parts.table, &batches)?;
        if records.iter().any(|record| record.ingested_at < floor) {
            let skip = Skip {
                subject: self.parts.table.clone(),
                from_time: self.place.ingested_at,
                to_time: floor,
                noticed_at: now,
            };
            self.parts.courier.gauge.skipped(&skip);
            self.parts
                .state
                .put_skip(&self.parts.endpoint.name, &skip)
                .await?;
        }
        self.place.ingested_at = floor.plus_micros(OVERLAP_MICROS);
        Ok(())
    }
}

/// The next place after this one.
fn beyond(key: RowKey) -> RowKey {
    RowKey {
        time: key.time.plus_micros(1),
        ..key
    }
}
