//! Metrics on their way to one target: live, and caught up from the store.
//!
//! In each of its turns a feed begins by **catching up**: it reads the store, host by host from where the target stands,
//! while what becomes durable meanwhile waits in a bounded queue. Once the store is read to its end it **follows** that
//! queue. When the queue is lost (it was full, the store told that it left something out, the target takes nothing), what
//! waited is forgotten and the feed catches up again: every sample comes one way or the other, and the marks tell those
//! that come twice. A store that tells only what this collector puts into it is read every [`SHARED_EVERY`] all the same.
//! The marks are kept every [`CHECKPOINT_EVERY`] and at the end; what was sent after the last keeping is sent again after
//! a kill.

mod catch_up;
mod late;
mod queue;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_shutdown::Backoff;
use tokio::time::Instant;

use crate::config::Endpoint;
use crate::database::State;
use crate::deliver::{Courier, Encode};
use crate::error::ExportError;
use crate::sample::{Gathered, Names, Offered, Samples, hash_of, series_of};
use crate::source::{FactSource, Series};
use crate::status::Gauge;
use crate::turn::{End, Feeding, Turn, failed};
use late::{Late, Marks};
use queue::{Next, Queue};

/// How often what the target has is written down.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// How often a store is read that tells only what this collector puts into it, and others put more.
const SHARED_EVERY: Duration = Duration::from_secs(30);
/// How often names of hosts are asked for while a host has none.
const NAMES_EVERY: Duration = Duration::from_secs(60);
/// Samples that are looked at before others have a turn on the thread.
const YIELD_EVERY: u64 = 4_096;
const AFTER_FAILURE_MIN: Duration = Duration::from_millis(50);
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
    marks: Marks,
    late: Late,
    /// Whether the marks of this turn are read.
    remembers: bool,
    dirty: HashSet<HostId>,
    kept_at: Instant,
    hosts: BTreeMap<HostId, Option<String>>,
    /// Up to where hosts were found to have nothing that is too old, or what they have was noted.
    looked_until: HashMap<HostId, TimeMicros>,
    names: Names,
    named_at: Option<Instant>,
    gathered: Gathered,
}

impl Feeding for Feed {
    fn gauge(&self) -> &Gauge {
        &self.parts.courier.gauge
    }

    /// Feeds until the turn is over, then keeps where the target stands.
    async fn feed(&mut self, turn: &Turn) {
        self.begin();
        let mut queue = Queue::new(self.parts.source.live(), self.late.clone());
        let mut reason = "start";
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        while !turn.token.is_cancelled() {
            self.parts.courier.gauge.caught_up_for(reason);
            match self.round(&mut queue, &mut backoff, turn).await {
                Ok(lost) => reason = lost,
                Err(End::Failed(error)) if !turn.token.is_cancelled() => {
                    reason = "failure";
                    self.failed(&error);
                    // It is heard all the same what is not taken in.
                    queue.lose(reason);
                    tokio::select! {
                        () = turn.token.cancelled() => {}
                        () = tokio::time::sleep(backoff.next_wait().max(AFTER_FAILURE_MIN)) => {}
                        () = queue.fill() => {}
                    }
                }
                Err(_) => break,
            }
            // What was gathered is read again.
            self.gathered = Gathered::default();
        }
        if turn.lasts()
            && let Err(error) = self.keep(turn).await
        {
            self.failed(&error);
        }
    }
}

impl Feed {
    /// Goes on where the target stands, whenever it is this collector's turn.
    pub(crate) async fn open(parts: FeedParts) -> Result<Self, ExportError> {
        let begun_at = parts.state.begin(&parts.endpoint.name, TimeMicros::now()).await?;
        let marks = Marks::default();
        let gauge = parts.courier.gauge.clone();
        Ok(Self {
            late: Late::new(parts.target.clone(), gauge, marks.clone()),
            parts,
            begun_at,
            marks,
            remembers: false,
            dirty: HashSet::new(),
            kept_at: Instant::now(),
            hosts: BTreeMap::new(),
            looked_until: HashMap::new(),
            names: Names::default(),
            named_at: None,
            gathered: Gathered::default(),
        })
    }

    /// Nothing of a former turn is believed.
    fn begin(&mut self) {
        self.marks = Marks::default();
        let gauge = self.parts.courier.gauge.clone();
        self.late = Late::new(self.parts.target.clone(), gauge, self.marks.clone());
        self.remembers = false;
        self.dirty.clear();
        self.gathered = Gathered::default();
    }

    /// Reads what the target has.
    async fn remember(&mut self) -> Result<(), ExportError> {
        let name = &self.parts.endpoint.name;
        let (marks, damaged) = self.parts.state.marks(name).await?;
        if damaged > 0 {
            self.parts.courier.gauge.failed("marks");
            tracing::error!(
                target_name = name,
                damaged,
                "what an export target has of some hosts is not known any more: they are read from the store from \
                 where the target began, within catch_up_max"
            );
        }
        *self.marks.lock() = marks;
        self.remembers = true;
        Ok(())
    }

    /// Catches up and follows until the queue is lost; says why it was.
    async fn round(
        &mut self,
        queue: &mut Queue,
        backoff: &mut Backoff,
        turn: &Turn,
    ) -> Result<&'static str, End> {
        if !self.remembers {
            self.remember().await?;
        }
        self.catch_up(queue, turn).await?;
        backoff.reset();
        self.follow(queue, turn).await
    }

    fn failed(&self, error: &ExportError) {
        failed(self.gauge(), (&self.parts.endpoint.name, "metrics"), error);
    }

    /// Sends what comes until the queue is lost, or the store has to be read all the same; says why.
    async fn follow(&mut self, queue: &mut Queue, turn: &Turn) -> Result<&'static str, End> {
        self.parts.courier.gauge.mode("live");
        let tells_all = self.parts.source.tells_all();
        let until = (!tells_all).then(|| Instant::now() + SHARED_EVERY);
        loop {
            self.name_hosts(false).await?;
            let flush_at = Instant::now() + self.parts.endpoint.flush_every.get();
            loop {
                match queue.next(flush_at, &turn.token).await {
                    Next::Rows(told) => {
                        let (host, batch) = (told.rows.host, told.rows.batch.clone());
                        let series = tokio::task::spawn_blocking(move || series_of(host, &batch)).await;
                        let Ok(series) = series else { continue };
                        if !self.hosts.contains_key(&host) {
                            self.name_hosts(true).await?;
                        }
                        self.take_in(series?, Some(&mut *queue), told.again, turn).await?;
                    }
                    Next::Due => break,
                    Next::Stopped => return Err(End::Stopped),
                    Next::Lost(reason) => {
                        self.flush(Some(&mut *queue), turn).await?;
                        return Ok(reason);
                    }
                }
            }
            self.flush(Some(&mut *queue), turn).await?;
            self.parts.courier.gauge.mode("live");
            self.parts.courier.gauge.behind(None);
            self.keep_when_due(turn).await?;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok("shared");
            }
        }
    }

    /// Gathers samples, and sends each request that is full.
    async fn take_in(
        &mut self,
        all: Vec<Series>,
        mut queue: Option<&mut Queue>,
        again: bool,
        turn: &Turn,
    ) -> Result<(), End> {
        let full = usize::try_from(self.parts.endpoint.per_request_max).unwrap_or(usize::MAX);
        let ahead = TimeMicros::now().plus_micros(AHEAD_MICROS_MAX);
        let begin = self.wanted_from();
        let target = self.parts.target.clone();
        let (mut received, mut early, mut old, mut future) = (0_u64, 0_u64, 0_u64, 0_u64);
        for series in all.iter().filter(|series| target.wants(&series.name)) {
            let hash = hash_of(series);
            for (time, value) in &series.samples {
                received = received.saturating_add(1);
                if received % YIELD_EVERY == 0 {
                    tokio::task::yield_now().await;
                }
                let time = target.rounded(*time);
                let counted = if time > ahead {
                    &mut future
                } else if time < begin {
                    &mut early
                } else {
                    if self.offer(series, hash, (time, *value)) == Offered::Taken {
                        if self.gathered.count() >= full {
                            self.flush(queue.as_deref_mut(), turn).await?;
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

    fn offer(&mut self, series: &Series, hash: u64, sample: (TimeMicros, f64)) -> Offered {
        let marks = self.marks.lock();
        self.gathered.offer(series, hash, sample, marks.get(&series.host))
    }

    /// What is older is for nobody.
    fn wanted_from(&self) -> TimeMicros {
        let backfill = self.parts.endpoint.backfill.get();
        self.begun_at.plus_micros(-micros(backfill))
    }

    /// Sends what is gathered. What becomes durable meanwhile goes into the queue.
    async fn flush(&mut self, queue: Option<&mut Queue>, turn: &Turn) -> Result<(), End> {
        if self.gathered.count() == 0 {
            return Ok(());
        }
        let samples = self.gathered.take(self.names.clone());
        let newest = samples.newest();
        let encoder = self.parts.encoder.clone();
        let delivered = self.parts.courier.deliver(samples, &encoder, &turn.token);
        match queue {
            None => delivered.await?,
            Some(queue) => tokio::select! {
                delivered = delivered => delivered?,
                () = queue.fill() => return Err(End::Stopped),
            },
        }
        let mut marks = self.marks.lock();
        for (host, series, time) in newest {
            marks.entry(host).or_default().raise(series, time);
            self.dirty.insert(host);
        }
        Ok(())
    }

    async fn keep_when_due(&mut self, turn: &Turn) -> Result<(), ExportError> {
        if self.kept_at.elapsed() >= CHECKPOINT_EVERY {
            self.keep(turn).await?;
        }
        Ok(())
    }

    /// Writes down what the target has, unless the turn has gone to another collector.
    async fn keep(&mut self, turn: &Turn) -> Result<(), ExportError> {
        self.kept_at = Instant::now();
        if self.dirty.is_empty() {
            return Ok(());
        }
        let silent = TimeMicros::now().plus_micros(-SILENT_MICROS_MAX);
        let mut bytes = Vec::with_capacity(self.dirty.len());
        for host in &self.dirty {
            if let Some(marks) = self.marks.lock().get_mut(host) {
                marks.forget_before(silent);
                bytes.push((*host, marks.to_bytes()));
            }
        }
        let name = &self.parts.endpoint.name;
        self.parts.state.put_marks(name, bytes, turn).await?;
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
