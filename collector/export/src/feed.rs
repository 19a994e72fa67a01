//! Metrics on their way to one target: live, and caught up from the store.
//!
//! A feed begins by **catching up**: it reads the store, host by host from where the target stands, while what becomes
//! durable meanwhile waits in a bounded queue. Once the store is read to its end it **follows** that queue. When the
//! queue is lost (it was full, the store told that it left something out, the target takes nothing), what waited is
//! forgotten and the feed catches up again: every sample comes one way or the other, and the marks tell those that come
//! twice. The marks are kept every [`CHECKPOINT_EVERY`] and at the end; what was sent after the last keeping is sent
//! again after a kill.

mod catch_up;
mod queue;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_shutdown::CancellationToken;
use tokio::time::Instant;

use crate::config::Endpoint;
use crate::database::State;
use crate::deliver::{Courier, Encode, Stopped};
use crate::error::{ExportError, SourceError};
use crate::marks::HostMarks;
use crate::sample::{Gathered, Names, Offered, Samples, hash_of, series_of};
use crate::source::{FactSource, Series};
use queue::{Next, Queue};

/// How often what the target has is written down.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// How often names of hosts are asked for while a host has none.
const NAMES_EVERY: Duration = Duration::from_secs(60);
/// A sample further ahead of the collector's clock is of a clock that is wrong; once taken it would keep the true ones
/// of its series out.
const AHEAD_MICROS_MAX: i64 = 3_600_000_000;
/// A series that was silent for so long is forgotten; its next sample is new in any case.
const SILENT_MICROS_MAX: i64 = 7 * 86_400_000_000;

/// What a kind of target makes of metrics.
pub(crate) trait MetricTarget: Encode<Samples> {
    /// Whether it wants a metric, by its OpenTelemetry name.
    fn wants(&self, name: &str) -> bool;
    /// A time as the target can tell it.
    fn rounded(&self, time: TimeMicros) -> TimeMicros;
}

/// What a feed is made of.
pub(crate) struct FeedParts {
    pub(crate) endpoint: Endpoint,
    pub(crate) courier: Courier,
    pub(crate) target: Arc<dyn MetricTarget>,
    pub(crate) encoder: Arc<dyn Encode<Samples>>,
    pub(crate) source: Arc<dyn FactSource>,
    pub(crate) state: State,
}

/// Metrics to one target.
pub(crate) struct Feed {
    parts: FeedParts,
    begun_at: TimeMicros,
    marks: HashMap<HostId, HostMarks>,
    dirty: HashSet<HostId>,
    kept_at: Instant,
    hosts: BTreeMap<HostId, Option<String>>,
    names: Names,
    named_at: Option<Instant>,
    gathered: Gathered,
}

/// Why a feed stops doing what it does.
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

impl Feed {
    /// Goes on where the target stands.
    pub(crate) async fn open(parts: FeedParts) -> Result<Self, ExportError> {
        let name = parts.endpoint.name.clone();
        let begun_at = parts.state.begin(&name, TimeMicros::now()).await?;
        let (marks, damaged) = parts.state.marks(&name).await?;
        if damaged > 0 {
            parts.courier.gauge.failed("marks");
            tracing::error!(
                target_name = name,
                damaged,
                "what an export target has of some hosts is not known any more: they are read from the store from \
                 where the target began, within catch_up_max"
            );
        }
        Ok(Self {
            parts,
            begun_at,
            marks,
            dirty: HashSet::new(),
            kept_at: Instant::now(),
            hosts: BTreeMap::new(),
            names: Names::default(),
            named_at: None,
            gathered: Gathered::default(),
        })
    }

    /// Feeds until `token` is cancelled, then keeps where the target stands.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut reason = "start";
        let mut backoff =
            fleetmend_shutdown::Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        while !token.is_cancelled() {
            self.parts.courier.gauge.caught_up_for(reason);
            let ended = match self.catch_up(&token).await {
                Ok(queue) => {
                    backoff.reset();
                    self.follow(queue, &token).await
                }
                Err(end) => Err(end),
            };
            match ended {
                Ok(lost) => reason = lost,
                Err(End::Stopped) => break,
                Err(End::Failed(error)) => {
                    reason = "failure";
                    self.failed(&error);
                    let wait = backoff.next_wait().max(Duration::from_millis(50));
                    token.run_until_cancelled(tokio::time::sleep(wait)).await;
                }
            }
            // What was gathered is read again.
            self.gathered = Gathered::default();
        }
        if let Err(error) = self.keep().await {
            self.failed(&error);
        }
    }

    fn failed(&self, error: &ExportError) {
        self.parts.courier.gauge.failed("round");
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(target_name = self.parts.endpoint.name, %error, cause, "a round of export failed; it is done again");
    }

    /// Sends what comes until the queue is lost; says why it was.
    async fn follow(&mut self, mut queue: Queue, token: &CancellationToken) -> Result<&'static str, End> {
        self.parts.courier.gauge.mode("live");
        // What waited while the store was read is in the store too.
        let mut overlap = queue.len();
        loop {
            self.name_hosts(false).await?;
            let flush_at = Instant::now() + self.parts.endpoint.flush_every.get();
            loop {
                match queue.next(flush_at, token).await {
                    Next::Rows(rows) => {
                        let (host, batch) = (rows.host, rows.batch.clone());
                        let series = tokio::task::spawn_blocking(move || series_of(host, &batch)).await;
                        let Ok(series) = series else { continue };
                        if !self.hosts.contains_key(&host) {
                            self.name_hosts(true).await?;
                        }
                        let again = overlap > 0;
                        overlap = overlap.saturating_sub(1);
                        self.take_in(series?, Some(&mut queue), again, token).await?;
                    }
                    Next::Due => break,
                    Next::Stopped => return Err(End::Stopped),
                    Next::Lost(reason) => {
                        self.flush(None, token).await?;
                        return Ok(reason);
                    }
                }
            }
            self.flush(Some(&mut queue), token).await?;
            self.parts.courier.gauge.mode("live");
            self.parts.courier.gauge.behind(None);
            self.keep_when_due().await?;
        }
    }

    /// Gathers samples, and sends each request that is full.
    async fn take_in(
        &mut self,
        all: Vec<Series>,
        mut queue: Option<&mut Queue>,
        again: bool,
        token: &CancellationToken,
    ) -> Result<(), End> {
        let full = usize::try_from(self.parts.endpoint.per_request_max).unwrap_or(usize::MAX);
        let ahead = TimeMicros::now().plus_micros(AHEAD_MICROS_MAX);
        let begin = self
            .begun_at
            .plus_micros(-micros(self.parts.endpoint.backfill.get()));
        let target = self.parts.target.clone();
        let (mut received, mut early, mut old, mut future) = (0_u64, 0_u64, 0_u64, 0_u64);
        for series in all.iter().filter(|series| target.wants(&series.name)) {
            let hash = hash_of(series);
            for (time, value) in &series.samples {
                received = received.saturating_add(1);
                let time = target.rounded(*time);
                let counted = if time > ahead {
                    &mut future
                } else if time < begin {
                    &mut early
                } else {
                    let marks = self.marks.get(&series.host);
                    if self.gathered.offer(series, hash, (time, *value), marks) == Offered::Taken {
                        if self.gathered.count() >= full {
                            self.flush(queue.as_deref_mut(), token).await?;
                        }
                        continue;
                    }
                    &mut old
                };
                *counted = counted.saturating_add(1);
            }
        }
        let gauge = &self.parts.courier.gauge;
        gauge.received(received);
        if !again {
            gauge.dropped("clock_ahead", future);
            gauge.dropped("before_begin", early);
            gauge.dropped("not_newer", old);
        }
        Ok(())
    }

    /// Sends what is gathered. What becomes durable meanwhile goes into the queue.
    async fn flush(&mut self, queue: Option<&mut Queue>, token: &CancellationToken) -> Result<(), End> {
        if self.gathered.count() == 0 {
            return Ok(());
        }
        let samples = self.gathered.take(self.names.clone());
        let newest = samples.newest();
        let encoder = self.parts.encoder.clone();
        let delivered = self.parts.courier.deliver(samples, &encoder, token);
        match queue {
            None => delivered.await?,
            Some(queue) => tokio::select! {
                delivered = delivered => delivered?,
                () = queue.fill() => return Err(End::Stopped),
            },
        }
        for (host, series, time) in newest {
            self.marks.entry(host).or_default().raise(series, time);
            self.dirty.insert(host);
        }
        Ok(())
    }

    async fn keep_when_due(&mut self) -> Result<(), ExportError> {
        if self.kept_at.elapsed() >= CHECKPOINT_EVERY {
            self.keep().await?;
        }
        Ok(())
    }

    /// Writes down what the target has.
    async fn keep(&mut self) -> Result<(), ExportError> {
        self.kept_at = Instant::now();
        if self.dirty.is_empty() {
            return Ok(());
        }
        let silent = TimeMicros::now().plus_micros(-SILENT_MICROS_MAX);
        let mut bytes = Vec::with_capacity(self.dirty.len());
        for host in &self.dirty {
            if let Some(marks) = self.marks.get_mut(host) {
                marks.forget_before(silent);
                bytes.push((*host, marks.to_bytes()));
            }
        }
        self.parts
            .state
            .put_marks(&self.parts.endpoint.name, bytes)
            .await?;
        self.dirty.clear();
        Ok(())
    }

    /// Learns what hosts are called: when it is time to, or `now`, unless that was a moment ago.
    async fn name_hosts(&mut self, now: bool) -> Result<(), ExportError> {
        let every = if now { CHECKPOINT_EVERY } else { NAMES_EVERY };
        if self.named_at.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        self.hosts = self.parts.source.hosts().await?;
        let named = self.hosts.iter();
        let names = named.filter_map(|(host, name)| Some((*host, name.clone()?)));
        self.names = Arc::new(names.collect());
        self.named_at = Some(Instant::now());
        Ok(())
    }
}

/// Whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
