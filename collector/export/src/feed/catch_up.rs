//! Reading the store from where the target stands to its end.
//!
//! Each host has a place of its own, by its own clock: a little before the newest sample that the target has of it, or
//! where the target began. The hosts that are furthest back are read first, in windows of time that grow while little
//! is found and shrink when there is more than may be read at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_shutdown::CancellationToken;

use super::{AHEAD_MICROS_MAX, End, Feed, micros};
use crate::database::Skip;
use crate::error::{ExportError, SourceError};
use crate::feed::queue::Queue;
use crate::marks::HostMarks;
use crate::source::{SampleSpan, Wants};

/// Samples that are read at once.
const SAMPLES_MAX: usize = 500_000;
/// Series of one host are not stored in the order of their samples; so far apart they may be.
const OVERLAP_MICROS: i64 = 120_000_000;
const WINDOW_MIN: i64 = 1_000_000;
const WINDOW_FIRST: i64 = 300_000_000;
const WINDOW_MAX: i64 = 6 * 3_600_000_000;

impl Feed {
    /// Sends everything that the store has and the target does not, and returns what came meanwhile.
    pub(super) async fn catch_up(&mut self, token: &CancellationToken) -> Result<Queue, End> {
        loop {
            let mut queue = Queue::new(self.parts.source.live());
            tokio::select! {
                biased;
                () = token.cancelled() => return Err(End::Stopped),
                read = self.read_all(token) => read?,
                () = queue.fill() => return Err(End::Stopped),
            }
            // A pass that took long is followed by a shorter one.
            if !queue.is_lost() {
                return Ok(queue);
            }
        }
    }

    async fn read_all(&mut self, token: &CancellationToken) -> Result<(), End> {
        self.named_at = None;
        self.name_hosts(true).await?;
        let mut places = self.places().await?;
        let mut window = WINDOW_FIRST;
        while let Some(start) = places.values().min().copied() {
            self.parts.courier.gauge.behind(Some(start));
            let now = TimeMicros::now();
            let last = start.plus_micros(window) >= now;
            let reach = if last {
                now.plus_micros(AHEAD_MICROS_MAX)
            } else {
                start.plus_micros(window)
            };
            let within = places.iter().filter(|(_, place)| **place < reach);
            let hosts: BTreeSet<HostId> = within.map(|(host, _)| *host).collect();
            match self.read(&hosts, start, reach, token).await {
                Ok(found) if found < SAMPLES_MAX / 4 => window = window.saturating_mul(2).min(WINDOW_MAX),
                Ok(_) => {}
                Err(End::Failed(ExportError::Source(SourceError::TooMany(_)))) if window > WINDOW_MIN => {
                    let span = now.micros_since(start).clamp(0, window);
                    window = (span / 2).max(WINDOW_MIN);
                    continue;
                }
                Err(End::Failed(ExportError::Source(SourceError::TooMany(_)))) if hosts.len() > 1 => {
                    for host in &hosts {
                        self.read(&BTreeSet::from([*host]), start, reach, token).await?;
                    }
                }
                Err(end) => return Err(end),
            }
            for host in hosts {
                if last {
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
        token: &CancellationToken,
    ) -> Result<usize, End> {
        let span = SampleSpan {
            hosts: hosts.clone(),
            wants: self.wants(),
            after,
            until,
            samples_max: SAMPLES_MAX,
        };
        let all = self.parts.source.samples(span).await?;
        let found = all.iter().map(|series| series.samples.len()).sum();
        self.take_in(all, None, true, token).await?;
        self.flush(None, token).await?;
        self.keep_when_due().await?;
        Ok(found)
    }

    /// Where to read each host from. What is older than may be caught up is noted, if there is anything.
    async fn places(&mut self) -> Result<BTreeMap<HostId, TimeMicros>, End> {
        let endpoint = &self.parts.endpoint;
        let (most, backfill) = (endpoint.catch_up_max.get(), endpoint.backfill.get());
        let now = TimeMicros::now();
        let floor = now.plus_micros(-micros(most));
        let begin = self.begun_at.plus_micros(-micros(backfill));
        let mut places = BTreeMap::new();
        let known = self.hosts.keys().chain(self.marks.keys());
        for host in known.copied().collect::<BTreeSet<HostId>>() {
            let newest = self.marks.get(&host).and_then(HostMarks::newest);
            let stands = newest.unwrap_or(begin.plus_micros(-1));
            if stands < floor {
                self.note_skip(host, stands, floor).await?;
                self.marks.entry(host).or_default().pass_over(floor);
                self.dirty.insert(host);
            }
            let overlapped = newest.map_or(stands, |newest| newest.plus_micros(-OVERLAP_MICROS));
            places.insert(host, overlapped.max(floor).min(now));
        }
        Ok(places)
    }

    fn wants(&self) -> Wants {
        let target = self.parts.target.clone();
        Wants(Arc::new(move |name| target.wants(name)))
    }

    /// Says that what a host has between two times is not sent, if it has anything there.
    async fn note_skip(&self, host: HostId, from: TimeMicros, to: TimeMicros) -> Result<(), End> {
        let span = SampleSpan {
            hosts: BTreeSet::from([host]),
            wants: self.wants(),
            after: from,
            until: to,
            samples_max: 1,
        };
        match self.parts.source.samples(span).await {
            Ok(series) if series.iter().all(|series| series.samples.is_empty()) => return Ok(()),
            Ok(_) | Err(SourceError::TooMany(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let skip = Skip {
            subject: host.to_string(),
            from_time: from,
            to_time: to,
            noticed_at: TimeMicros::now(),
        };
        self.parts.courier.gauge.skipped(&skip);
        self.parts
            .state
            .put_skip(&self.parts.endpoint.name, &skip)
            .await?;
        Ok(())
    }
}
