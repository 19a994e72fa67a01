//! Handing something over until it is settled: taken, or refused for good.
//!
//! What a target refuses is halved, by time and then by series or rows, so that one bad part does not take the good ones
//! with it: a Prometheus refuses a whole request for one sample that it has already. After a kill many of those may stand
//! before the first new one; a target that takes nothing at all is soon not asked so often.
//! What is not taken now waits here, one request, while its feed falls behind and reads from the store later.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_shutdown::{Backoff, CancellationToken};

use crate::http::{HttpTarget, Outcome, Request};
use crate::status::Gauge;
use crate::turn::End;

/// Times that one request may be halved.
const SPLITS_MAX: u32 = 4_096;
/// Refusals of its parts before the first that is taken.
const REFUSALS_MAX: u32 = 512;
/// As many requests as were refused whole before a target counts as one that takes nothing, and the refusals then.
const HOPELESS_AFTER: u32 = 32;
const REFUSALS_OF_HOPELESS: u32 = 8;
/// How long a request that is under way at the end may take; far less than a lease is given up before it lapses.
const ANSWER_AT_END: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Full jitter may come to nothing; a target that is down is not hammered.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Something to hand over.
pub(crate) trait Parcel: Send + Sync + Sized + 'static {
    /// Samples or rows in it.
    fn count(&self) -> u64;
    /// Time of the oldest of them.
    fn oldest(&self) -> Option<TimeMicros>;
    /// Two of it, the older first; itself, when it is one.
    fn halve(self) -> Result<(Self, Self), Self>;
    /// What is not older than `floor` of it.
    fn since(self, floor: TimeMicros) -> Self;
}

/// How parcels are told to a kind of target.
pub(crate) trait Encode<P>: Send + Sync + 'static {
    /// One request. Runs on a blocking thread.
    fn encode(&self, parcel: &P) -> Result<Request, String>;

    /// How many of those sent the target says that it did not take, by the body of its 2xx.
    fn rejected(&self, _answer: &[u8]) -> Option<(u64, String)> {
        None
    }
}

/// Told to end before it was settled.
#[derive(Debug)]
pub(crate) struct Stopped;

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        End::Stopped
    }
}

/// The way to one target for one signal.
pub(crate) struct Courier {
    pub(crate) http: Arc<HttpTarget>,
    pub(crate) gauge: Gauge,
    /// What is older is not worth retrying.
    pub(crate) age_max: Duration,
    backoff: Backoff,
    refused_in_a_row: u32,
}

/// Waits until `token` is cancelled and a request that was under way had its time.
pub(crate) async fn ended(token: &CancellationToken) {
    token.cancelled().await;
    tokio::time::sleep(ANSWER_AT_END).await;
}

enum Settled<P> {
    Taken,
    Split(P, P),
    /// Some of it became too old.
    Rest(P),
    Dropped,
}

impl Courier {
    pub(crate) fn new(http: Arc<HttpTarget>, gauge: Gauge, age_max: Duration) -> Self {
        Self {
            http,
            gauge,
            age_max,
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
            refused_in_a_row: 0,
        }
    }

    /// Hands it over, in parts if need be. What is counted as dropped is settled too.
    ///
    /// # Cancel safety
    /// May be dropped; the target may have taken some of it.
    pub(crate) async fn deliver<P: Parcel>(
        &mut self,
        parcel: P,
        encoder: &Arc<dyn Encode<P>>,
        token: &CancellationToken,
    ) -> Result<(), Stopped> {
        let mut left = vec![parcel];
        let (mut splits, mut refusals, mut taken) = (0_u32, 0_u32, false);
        let patience = if self.refused_in_a_row >= HOPELESS_AFTER {
            REFUSALS_OF_HOPELESS
        } else {
            REFUSALS_MAX
        };
        while let Some(parcel) = left.pop() {
            let may_split = splits < SPLITS_MAX && (taken || refusals < patience);
            match self.settle(parcel, encoder, may_split, token).await? {
                Settled::Taken => taken = true,
                Settled::Rest(rest) => left.push(rest),
                Settled::Dropped => refusals = refusals.saturating_add(1),
                Settled::Split(older, newer) => {
                    refusals = refusals.saturating_add(1);
                    splits = splits.saturating_add(1);
                    left.push(newer);
                    left.push(older);
                }
            }
        }
        self.refused_in_a_row = if taken {
            0
        } else {
            self.refused_in_a_row.saturating_add(1)
        };
        Ok(())
    }

    async fn settle<P: Parcel>(
        &mut self,
        parcel: P,
        encoder: &Arc<dyn Encode<P>>,
        may_split: bool,
        token: &CancellationToken,
    ) -> Result<Settled<P>, Stopped> {
        let count = parcel.count();
        let parcel = Arc::new(parcel);
        let (coding, encoded) = (encoder.clone(), parcel.clone());
        let encoded = tokio::task::spawn_blocking(move || coding.encode(&encoded)).await;
        let request = match encoded.map_err(|error| error.to_string()).and_then(|coded| coded) {
            Ok(request) => request,
            Err(reason) => {
                tracing::error!(
                    target_name = self.http.name,
                    reason,
                    "cannot encode what is exported"
                );
                self.gauge.dropped("encode", count);
                return Ok(Settled::Dropped);
            }
        };
        loop {
            match self.send(&request, token).await? {
                Outcome::Accepted(answer) => {
                    self.backoff.reset();
                    self.accepted(count, encoder.rejected(&answer));
                    return Ok(Settled::Taken);
                }
                Outcome::Refused { status, reason } => {
                    self.backoff.reset();
                    return Ok(self.refused(parcel, status, reason, may_split));
                }
                Outcome::Later { reason, retry_after } => {
                    self.gauge.failing(&reason);
                    self.gauge.behind(parcel.oldest());
                    self.wait(&reason, retry_after, token).await?;
                    let allowed = i64::try_from(self.age_max.as_micros()).unwrap_or(i64::MAX);
                    let floor = TimeMicros::now().plus_micros(-allowed);
                    if parcel.oldest().is_some_and(|oldest| oldest < floor) {
                        return Ok(self.rest_of(parcel, floor));
                    }
                }
            }
        }
    }

    /// Sends it once. One that is under way at the end may still be answered, as it would have to be sent again.
    async fn send(&self, request: &Request, token: &CancellationToken) -> Result<Outcome, Stopped> {
        if token.is_cancelled() {
            return Err(Stopped);
        }
        tokio::select! {
            biased;
            outcome = self.http.send(request) => Ok(outcome),
            () = ended(token) => Err(Stopped),
        }
    }

    fn accepted(&self, count: u64, rejected: Option<(u64, String)>) {
        let (rejected, reason) = rejected.unwrap_or_default();
        if rejected > 0 {
            self.gauge.dropped("partly_rejected", rejected.min(count));
            self.gauge.refused(reason);
        }
        self.gauge.sent(count.saturating_sub(rejected));
    }

    fn refused<P: Parcel>(&self, parcel: Arc<P>, status: u16, reason: String, may_split: bool) -> Settled<P> {
        let count = parcel.count();
        // The encoder's share is gone with its thread.
        let halves = match Arc::into_inner(parcel) {
            Some(parcel) if may_split => parcel.halve().ok(),
            _ => None,
        };
        if let Some((older, newer)) = halves {
            return Settled::Split(older, newer);
        }
        let name = &self.http.name;
        fleetmend_telemetry::log_at_most!(
            60,
            warn,
            target_name = name,
            count,
            reason,
            "an export target refused what it was sent; it is dropped"
        );
        self.gauge.refused(reason);
        self.gauge.dropped(&format!("http_{status}"), count);
        Settled::Dropped
    }

    /// Drops what became too old.
    fn rest_of<P: Parcel>(&self, parcel: Arc<P>, floor: TimeMicros) -> Settled<P> {
        let count = parcel.count();
        // The encoder's share is gone with its thread.
        let rest = Arc::into_inner(parcel).map(|parcel| parcel.since(floor));
        let left = rest.as_ref().map_or(0, P::count);
        self.gauge.dropped("too_old", count.saturating_sub(left));
        match rest {
            Some(rest) if left > 0 => Settled::Rest(rest),
            _ => Settled::Dropped,
        }
    }

    async fn wait(
        &mut self,
        reason: &str,
        retry_after: Option<Duration>,
        token: &CancellationToken,
    ) -> Result<(), Stopped> {
        if self.backoff.attempts() == 0 {
            tracing::warn!(
                target_name = self.http.name,
                reason,
                "an export target takes nothing now; it is tried again"
            );
        }
        let wait = self.backoff.next_wait().max(BACKOFF_MIN);
        let wait = retry_after.map_or(wait, |asked| asked.max(wait));
        let slept = token.run_until_cancelled(tokio::time::sleep(wait)).await;
        slept.ok_or(Stopped)
    }
}
