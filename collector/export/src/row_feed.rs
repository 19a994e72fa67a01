//! Rows of one table on their way to one target: read from the store in the order in which it took them.
//!
//! What is told live only wakes the reading. Rows may become visible a little after rows that were stored later, so
//! that each reading begins [`OVERLAP_MICROS`] before the last; rows of that span that were sent are known by their
//! hashes. In a store that several collectors share, a row may show long after it was stamped, when it is brought again
//! after an engine was away: every [`LOOK_BACK_EVERY`] reading begins [`LOOK_BACK_MICROS`] before, as far as rows are
//! remembered. Place and hashes are kept after each request: a row is sent again only when the process was killed
//! between the target's answer and that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, HostScope, TimeMicros};
use tokio::time::Instant;

use crate::config::Endpoint;
use crate::database::{RowsPlace, Skip, State};
use crate::deliver::{Courier, Encode};
use crate::error::{ExportError, SourceError};
use crate::feed::micros;
use crate::record::{Record, Records, Rows, records_of};
use crate::sample::Names;
use crate::source::{FactSource, Live, LiveRows, RowKey, RowSpan};
use crate::status::Gauge;
use crate::turn::{End, Feeding, Turn, failed};

const OVERLAP_MICROS: i64 = 10_000_000;
const LOOK_BACK_MICROS: i64 = 3_600_000_000;
const LOOK_BACK_EVERY: Duration = Duration::from_secs(60);
/// Rows that are told of are gathered this long at least.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The store is read at least so often, whatever was told.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Rows whose hashes are kept, and of those from before [`OVERLAP_MICROS`]; where more come, reading begins less far
/// back.
const SEEN_MAX: usize = 100_000;
const SEEN_BEFORE_MAX: usize = 20_000;
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
    begun_at: TimeMicros,
    /// Where the target stands, once it is read in this turn.
    place: Option<RowsPlace>,
    looked_back_at: Option<Instant>,
    names: Names,
}

impl Feeding for RowFeed {
    fn gauge(&self) -> &Gauge {
        &self.parts.courier.gauge
    }

    async fn feed(&mut self, turn: &Turn) {
        // Nothing of a former turn is believed.
        (self.place, self.looked_back_at) = (None, None);
        let mut live = self.parts.source.live();
        loop {
            match self.round(turn).await {
                Ok(()) => {
                    self.gauge().mode("live");
                    self.gauge().behind(None);
                }
                Err(End::Failed(error)) if !turn.token.is_cancelled() => {
                    let signal = (self.parts.endpoint.name.as_str(), self.parts.table.as_str());
                    failed(self.gauge(), signal, &error);
                    let slept = tokio::time::sleep(AFTER_FAILURE);
                    turn.token.run_until_cancelled(slept).await;
                    continue;
                }
                Err(_) => return,
            }
            if !self.woken(live.as_mut(), turn).await {
                return;
            }
        }
    }
}

impl RowFeed {
    /// Goes on where the target stands, whenever it is this collector's turn.
    pub(crate) async fn open(parts: RowFeedParts) -> Result<Self, ExportError> {
        let begun_at = parts.state.begin(&parts.endpoint.name, TimeMicros::now()).await?;
        Ok(Self {
            parts,
            begun_at,
            place: None,
            looked_back_at: None,
            names: Names::default(),
        })
    }

    /// Where the target stands.
    async fn stands(&mut self) -> Result<&mut RowsPlace, ExportError> {
        let place = match self.place.take() {
            Some(place) => place,
            None => {
                let (name, table) = (&self.parts.endpoint.name, &self.parts.table);
                let kept = self.parts.state.rows_place(name, table).await?;
                let backfill = micros(self.parts.endpoint.backfill.get());
                let begin = self.begun_at.plus_micros(-backfill);
                kept.unwrap_or_else(|| RowsPlace {
                    ingested_at: begin,
                    seen: HashMap::new(),
                    remembers_from: begin,
                })
            }
        };
        Ok(self.place.insert(place))
    }

    /// Waits for rows of the table, or a while; false when it is over.
    async fn woken(&self, live: &mut dyn LiveRows, turn: &Turn) -> bool {
        let end = Instant::now() + PAUSE_MAX;
        let gather = self.parts.endpoint.flush_every.get().max(PAUSE_MIN);
        let mut until = end;
        loop {
            tokio::select! {
                biased;
                () = turn.token.cancelled() => return false,
                () = tokio::time::sleep_until(until) => return true,
                told = live.next() => match told {
                    Live::Rows(rows) if rows.table != self.parts.table => {}
                    Live::Rows(_) | Live::Missed(_) => until = until.min(Instant::now() + gather),
                    Live::Closed => {
                        turn.token.cancelled().await;
                        return false;
                    }
                },
            }
        }
    }

    fn page(&self) -> usize {
        usize::try_from(self.parts.endpoint.per_request_max).unwrap_or(usize::MAX)
    }

    /// Sends everything that is stored and was not sent.
    async fn round(&mut self, turn: &Turn) -> Result<(), End> {
        self.skip_what_is_too_old().await?;
        let hosts: BTreeMap<HostId, Option<String>> = self.parts.source.hosts().await?;
        let named = hosts.into_iter();
        self.names = Arc::new(named.filter_map(|(host, name)| Some((host, name?))).collect());
        let page = self.page();
        let look_back = !self.parts.source.tells_all();
        let is_due = self
            .looked_back_at
            .is_none_or(|at| at.elapsed() >= LOOK_BACK_EVERY);
        let overlap = if look_back && is_due {
            self.looked_back_at = Some(Instant::now());
            LOOK_BACK_MICROS
        } else {
            OVERLAP_MICROS
        };
        let mut from = self.stands().await?.reading_from(overlap);
        let mut rows_max = page;
        loop {
            let (rows, more) = self.read(RowSpan::Stored { from }, rows_max).await?;
            let last = rows.last;
            self.send(rows, turn).await?;
            let Some(last) = last.filter(|_| more) else {
                return Ok(());
            };
            // So many rows of one place that a page does not reach beyond it: a larger page.
            if last == from {
                if rows_max >= PAGE_MAX {
                    self.parts.courier.gauge.dropped("one_moment", 1);
                    from = beyond(last);
                }
                rows_max = rows_max.saturating_mul(4).min(PAGE_MAX);
            } else {
                rows_max = page;
                from = last;
            }
        }
    }

    async fn read(&self, span: RowSpan, rows_max: usize) -> Result<(Rows, bool), End> {
        let table = self.parts.table.clone();
        let source = &self.parts.source;
        let (batches, more) = source.rows(&table, span, &HostScope::All, rows_max).await?;
        let read = tokio::task::spawn_blocking(move || records_of(&table, &batches)).await;
        let rows = read.map_err(|error| SourceError::Unavailable(error.to_string()))??;
        Ok((rows, more))
    }

    /// Sends those that were not sent, and keeps where that is.
    async fn send(&mut self, rows: Rows, turn: &Turn) -> Result<(), End> {
        let place = self.stands().await?;
        let last = rows.last.map_or(place.ingested_at, |last| last.ingested_at);
        let last = last.max(place.ingested_at);
        let is_new = |hash: &u64| !place.seen.contains_key(hash);
        let unreadable = rows.unreadable.into_iter().filter(|(hash, _)| is_new(hash));
        let stored = |(hash, key): (u64, RowKey)| (hash, key.ingested_at.0);
        let unreadable: Vec<(u64, i64)> = unreadable.map(stored).collect();
        let new = rows.records.into_iter().filter(|record| is_new(&record.hash));
        let mut new: Vec<Record> = new.collect();
        let gauge = &self.parts.courier.gauge;
        gauge.received((new.len() as u64).saturating_add(unreadable.len() as u64));
        gauge.dropped("unreadable", unreadable.len() as u64);
        if new.is_empty() && unreadable.is_empty() {
            return Ok(());
        }
        let sent = new.iter().map(|record| (record.hash, record.ingested_at.0));
        let sent: Vec<(u64, i64)> = sent.chain(unreadable).collect();
        let page = self.page();
        while !new.is_empty() {
            let rest = new.split_off(new.len().min(page));
            let records = Records {
                records: std::mem::replace(&mut new, rest),
                names: self.names.clone(),
            };
            let courier = &mut self.parts.courier;
            courier.deliver(records, &self.parts.encoder, &turn.token).await?;
        }
        let memory = if self.parts.source.tells_all() {
            OVERLAP_MICROS
        } else {
            LOOK_BACK_MICROS
        };
        let place = self.stands().await?;
        place.seen.extend(sent);
        place.ingested_at = last;
        place.forget(memory);
        let kept = place.clone();
        let (name, table) = (&self.parts.endpoint.name, &self.parts.table);
        let state = &self.parts.state;
        state.put_rows_place(name, table, &kept, turn).await?;
        Ok(())
    }

    async fn skip_what_is_too_old(&mut self) -> Result<(), End> {
        let now = TimeMicros::now();
        let floor = now.plus_micros(-micros(self.parts.endpoint.catch_up_max.get()));
        let place = self.stands().await?;
        if place.ingested_at >= floor {
            return Ok(());
        }
        let from_time = place.ingested_at;
        let from = first_at(place.ingested_at.plus_micros(1));
        let (rows, _) = self.read(RowSpan::Stored { from }, 1).await?;
        if rows.last.is_some_and(|last| last.ingested_at < floor) {
            let skip = Skip {
                subject: self.parts.table.clone(),
                from_time,
                to_time: floor,
                noticed_at: now,
            };
            self.parts.courier.gauge.skipped(&skip);
            let name = &self.parts.endpoint.name;
            self.parts.state.put_skip(name, &skip).await?;
        }
        let place = self.stands().await?;
        place.ingested_at = floor.plus_micros(OVERLAP_MICROS);
        place.remembers_from = floor.max(place.remembers_from);
        Ok(())
    }
}

impl RowsPlace {
    /// Forgets rows that no reading reaches any more, and the oldest beyond what may be kept.
    fn forget(&mut self, memory_micros: i64) {
        let before = self.ingested_at.plus_micros(-memory_micros);
        self.forget_before(before);
        let near = self.ingested_at.plus_micros(-OVERLAP_MICROS).0;
        let within = self.seen.values().filter(|stored| **stored >= near).count();
        let most = within.clamp(SEEN_BEFORE_MAX, SEEN_MAX);
        let beyond = self.seen.len().saturating_sub(most);
        if beyond > 0 {
            let mut stored: Vec<i64> = self.seen.values().copied().collect();
            stored.sort_unstable();
            if let Some(least) = stored.get(beyond).copied() {
                self.forget_before(TimeMicros(least));
            }
        }
    }

    fn forget_before(&mut self, before: TimeMicros) {
        self.remembers_from = before.max(self.remembers_from);
        let kept = self.remembers_from.0;
        self.seen.retain(|_, stored| *stored >= kept);
    }

    /// Where the next reading begins: a little before, as rows may become visible in another order than stamped, yet
    /// not before what is remembered, as all of it would be sent again and again.
    fn reading_from(&self, overlap_micros: i64) -> RowKey {
        let before = self.ingested_at.plus_micros(-overlap_micros);
        first_at(before.max(self.remembers_from))
    }
}

/// Before everything that was stored at a time.
fn first_at(ingested_at: TimeMicros) -> RowKey {
    RowKey {
        ingested_at,
        host: HostId::from_bytes([0; 16]),
        time: TimeMicros(i64::MIN / 2),
    }
}

/// The next place after this one.
fn beyond(key: RowKey) -> RowKey {
    RowKey {
        time: key.time.plus_micros(1),
        ..key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn place(seconds: i64) -> RowsPlace {
        RowsPlace {
            ingested_at: TimeMicros(seconds * SECOND),
            seen: HashMap::new(),
            remembers_from: TimeMicros(0),
        }
    }

    #[test]
    fn reading_begins_no_earlier_than_rows_are_remembered() {
        let mut place = place(10_000);
        for row in 0..10_000 {
            place.seen.insert(row, i64::try_from(row).unwrap() * SECOND);
        }
        assert_eq!(place.reading_from(LOOK_BACK_MICROS).ingested_at.0, 6_400 * SECOND);
        place.forget(LOOK_BACK_MICROS);
        assert_eq!(place.seen.len(), 3_600);
        place.forget(OVERLAP_MICROS);
        assert_eq!(place.seen.len(), 10);
        let begin = place.reading_from(LOOK_BACK_MICROS).ingested_at;
        assert_eq!(begin.0, 9_990 * SECOND, "what is forgotten is not read again");
    }

    #[test]
    fn many_rows_shorten_what_is_remembered() {
        let mut place = place(10_000);
        // A thousand a second.
        for row in 0..200_000_u64 {
            place
                .seen
                .insert(row, (9_800 * SECOND) + i64::try_from(row).unwrap() * 1_000);
        }
        place.forget(LOOK_BACK_MICROS);
        assert_eq!(place.seen.len(), SEEN_BEFORE_MAX);
        assert_eq!(place.reading_from(LOOK_BACK_MICROS).ingested_at.0, 9_980 * SECOND);
        // So many that not even the seconds of the overlap are.
        for row in 0..200_000_u64 {
            place
                .seen
                .insert(row, (9_998 * SECOND) + i64::try_from(row).unwrap() * 10);
        }
        place.forget(LOOK_BACK_MICROS);
        assert_eq!(place.seen.len(), SEEN_MAX);
        assert_eq!(place.reading_from(OVERLAP_MICROS).ingested_at.0, 9_999 * SECOND);
    }
}
