//! Reading the store from where the target stands to its end.
//!
//! Each host has a place of its own, by its own clock: a little before the newest sample that the target has of it,
//! before what was told late of it ([`late`](super::late)), or where the target began. The hosts that are furthest back are read first, in windows of time that grow while little
//! is found and shrink when there is more than may be read at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleetmend_event::{HostId, TimeMicros};

use super::{AHEAD_MICROS_MAX, Feed, micros};
use crate::database::Skip;
use crate::deliver::ended;
use crate::error::{ExportError, SourceError};
use crate::feed::queue::Queue;
use crate::marks::HostMarks;
use crate::source::{SampleSpan, Wants};
use crate::turn::{End, Turn};

/// Samples that are read at once.
const SAMPLES_MAX: usize = 500_000;
/// Series of one host are not stored in the order of their samples; so far apart they may be.
const OVERLAP_MICROS: i64 = 120_000_000;
const WINDOW_MIN: i64 = 1_000_000;
const WINDOW_FIRST: i64 = 300_000_000;
const WINDOW_MAX: i64 = 6 * 3_600_000_000;

impl Feed {
    /// Sends everything that the store has and the target does not; what came meanwhile is in the queue.
    pub(super) async fn catch_up(&mut self, queue: &mut Queue, turn: &Turn) -> Result<(), End> {
        loop {
            queue.begin_reading();
            let read = tokio::select! {
                biased;
                read = self.read_all(turn) => read,
                () = queue.fill() => Err(End::Stopped),
                () = ended(&turn.token) => Err(End::Stopped),
            };
            queue.end_reading();
            read?;
            self.late.was_read(queue.is_lost());
            if queue.is_closed() {
                turn.token.cancelled().await;
                return Err(End::Stopped);
            }
            // A pass that took long is followed by a shorter one.
            if !queue.is_lost() {
                return Ok(());
            }
        }
    }

    async fn read_all(&mut self, turn: &Turn) -> Result<(), End> {
        self.named_at = None;
        self.name_hosts(true).await?;
        let mut places = self.places().await?;
        self.late
            .set_out(places.iter().map(|(host, place)| (*host, *place)));
        let (mut window, mut crowded) = (WINDOW_FIRST, false);
        while let Some(start) = places.values().min().copied() {
            // Reading begins before where the target stands.
            let stands = start.plus_micros(OVERLAP_MICROS);
            self.parts.courier.gauge.behind(Some(stands));
            let now = TimeMicros::now();
            let end = now.plus_micros(AHEAD_MICROS_MAX);
            let reach = start.plus_micros(window);
            // Few clocks are ahead: as a rule nothing lies beyond now.
            let reach = if reach >= now && !crowded {
                end
            } else {
                reach.min(end)
            };
            let within = places.iter().filter(|(_, place)| **place < reach);
            let hosts: BTreeSet<HostId> = within.map(|(host, _)| *host).collect();
            self.late.reads(&hosts, reach);
            let span = reach.micros_since(start);
            match self.read(&hosts, start, reach, turn).await {
                Ok(found) if found < SAMPLES_MAX / 4 => window = window.saturating_mul(2).min(WINDOW_MAX),
                Ok(_) => {}
                Err(End::Failed(ExportError::Source(SourceError::TooMany(_)))) if span > WINDOW_MIN => {
                    (window, crowded) = ((span / 2).clamp(WINDOW_MIN, WINDOW_MAX), true);
                    continue;
                }
                Err(End::Failed(ExportError::Source(SourceError::TooMany(_)))) if hosts.len() > 1 => {
                    for host in &hosts {
                        self.read(&BTreeSet::from([*host]), start, reach, turn).await?;
                    }
                }
                Err(end) => return Err(end),
            }
            for host in hosts {
                if reach >= end {
                    places.remove(&host);
                } else {
                    places.insert(host, reach);
                }
            }
        }
        Ok(())
    }

    /// Reads a span of hosts and sends what is new of it; says how much was read.
    async fn read(
        &mut self,
        hosts: &BTreeSet<HostId>,
        after: TimeMicros,
        until: TimeMicros,
        turn: &Turn,
    ) -> Result<usize, End> {
        let span = SampleSpan {
            hosts: hosts.clone(),
            wants: self.wants(),
            after,
            until,
            samples_max: SAMPLES_MAX,
        };
        let read = self.parts.source.samples(span);
        let all = turn.token.run_until_cancelled(read).await.ok_or(End::Stopped)??;
        let found = all.iter().map(|series| series.samples.len()).sum();
        self.take_in(all, None, true, turn).await?;
        self.flush(None, turn).await?;
        self.keep_when_due(turn).await?;
        Ok(found)
    }

    /// Where to read each host from. What is older than may be caught up is noted, if there is anything.
    async fn places(&mut self) -> Result<BTreeMap<HostId, TimeMicros>, End> {
        let now = TimeMicros::now();
        let most = self.parts.endpoint.catch_up_max.get();
        let floor = now.plus_micros(-micros(most));
        let begin = self.wanted_from();
        let late = self.late.ask(begin, floor);
        // Beyond that nothing is read; there has to be something before it to read.
        let last = now.plus_micros(AHEAD_MICROS_MAX - WINDOW_MIN);
        let (mut places, mut behind) = (BTreeMap::new(), BTreeMap::new());
        for (host, newest) in self.known(late.keys().copied()) {
            let stands = newest.unwrap_or(begin.plus_micros(-1));
            if stands < floor {
                behind.insert(host, stands);
            }
            let overlapped = newest.map_or(stands, |newest| newest.plus_micros(-OVERLAP_MICROS));
            let late = late.get(&host).map(|oldest| oldest.plus_micros(-1));
            let place = late.map_or(overlapped, |late| late.min(overlapped));
            places.insert(host, place.max(floor).min(last));
        }
        self.note_skips(behind, floor).await?;
        Ok(places)
    }

    /// Every host that there may be something of, with the newest that the target has of it.
    fn known(&self, more: impl Iterator<Item = HostId>) -> BTreeMap<HostId, Option<TimeMicros>> {
        let marks = self.marks.lock();
        let known = self.hosts.keys().chain(marks.keys()).copied().chain(more);
        let newest = |host| (host, marks.get(&host).and_then(HostMarks::newest));
        known.map(newest).collect()
    }

    /// Says which of these hosts have something between where the target stands and `floor`, which is not sent.
    async fn note_skips(
        &mut self,
        mut behind: BTreeMap<HostId, TimeMicros>,
        floor: TimeMicros,
    ) -> Result<(), End> {
        for (host, stands) in &mut behind {
            // Of a host that is gone this is asked again and again.
            let looked = self.looked_until.get(host).copied();
            *stands = looked.map_or(*stands, |looked| looked.max(*stands));
        }
        let Some(first) = behind.values().min().copied() else {
            return Ok(());
        };
        let any = self.holds(behind.keys().copied().collect(), first, floor).await?;
        for (host, stands) in behind {
            if any && self.holds(BTreeSet::from([host]), stands, floor).await? {
                self.note_skip(host, stands, floor).await?;
                self.marks.lock().entry(host).or_default().pass_over(floor);
                self.dirty.insert(host);
            }
            self.looked_until.insert(host, floor);
        }
        Ok(())
    }

    fn wants(&self) -> Wants {
        let target = self.parts.target.clone();
        Wants(Arc::new(move |name| target.wants(name)))
    }

    /// Whether hosts have anything between two times.
    async fn holds(
        &self,
        hosts: BTreeSet<HostId>,
        after: TimeMicros,
        until: TimeMicros,
    ) -> Result<bool, SourceError> {
        let span = SampleSpan {
            hosts,
            wants: self.wants(),
            after,
            until,
            samples_max: 1,
        };
        match self.parts.source.samples(span).await {
            Ok(series) => Ok(series.iter().any(|series| !series.samples.is_empty())),
            Err(SourceError::TooMany(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn note_skip(
        &self,
        host: HostId,
        from_time: TimeMicros,
        to_time: TimeMicros,
    ) -> Result<(), ExportError> {
        let skip = Skip {
            subject: host.to_string(),
            from_time,
            to_time,
            noticed_at: TimeMicros::now(),
        };
        self.parts.courier.gauge.skipped(&skip);
        self.parts.state.put_skip(&self.parts.endpoint.name, &skip).await
    }
}
