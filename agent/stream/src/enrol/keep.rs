//! Keeps the certificate valid for as long as the agent runs.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use rand::Rng as _;

use super::{EnrolError, ask_time, metrics, recover, renew};
use crate::network::Dialer;

/// How often the clock is looked at: a suspended host or a clock that was set is noticed within this.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// First wait after a failure, and the least between two attempts.
const RETRY_FIRST: Duration = Duration::from_secs(15);
/// Longest wait after failures.
const RETRY_MAX: Duration = Duration::from_hours(1);

/// What the keeper asks of collectors.
pub trait Collectors: Send + Sync {
    /// Where renewal is asked for, instead of the collectors that enrolment named.
    fn configured(&self) -> &[String] {
        &[]
    }

    /// See [`renew`].
    fn renew(&self, address: &str) -> impl Future<Output = Result<(), EnrolError>> + Send;
    /// See [`recover`].
    fn recover(&self) -> impl Future<Output = Result<(), EnrolError>> + Send;
    /// See [`ask_time`].
    fn ask_time(&self) -> impl Future<Output = Result<TimeMicros, EnrolError>> + Send;
}

/// The collectors that are configured or that the identity names, over the network.
pub(super) struct Network {
    pub(super) configured: Vec<String>,
    pub(super) dialer: Dialer,
    pub(super) identity: LiveIdentity,
    pub(super) time: Arc<TrustedTime>,
}

impl Collectors for Network {
    fn configured(&self) -> &[String] {
        &self.configured
    }

    async fn renew(&self, address: &str) -> Result<(), EnrolError> {
        renew(&self.dialer, &self.identity, address, &self.time).await
    }

    async fn recover(&self) -> Result<(), EnrolError> {
        recover(&self.dialer, &self.identity, &self.time).await
    }

    async fn ask_time(&self) -> Result<TimeMicros, EnrolError> {
        ask_time(&self.dialer, &self.identity, &self.time).await
    }
}

/// Renews the identity when it is due, until `end` resolves. Failures are logged and tried again; the agent
/// goes on collecting and spooling meanwhile. `configured` are the collectors that count instead of those that
/// enrolment named; none when those count.
///
/// # Cancel safety
///
/// A renewal in progress is given up; the present certificate stays in use.
pub async fn keep(
    dialer: Dialer,
    configured: Vec<String>,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    end: impl Future<Output = ()> + Send,
) {
    metrics::describe();
    let collectors = Network {
        configured,
        dialer,
        identity: identity.clone(),
        time: time.clone(),
    };
    let mut keeper = Keeper::new(identity.clone(), time, rand::rng().random());
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep(keeper.wait()) => {}
            // While attempts fail they have their own pace; a doubt stays until it is over.
            () = identity.doubted(), if keeper.failures == 0 => {
                // Not at every handshake that fails.
                tokio::select! {
                    () = &mut end => return,
                    () = tokio::time::sleep(RETRY_FIRST.mul_f64(0.5 + keeper.jitter)) => {}
                }
                keeper.doubt();
            }
        }
        tokio::select! {
            () = &mut end => return,
            () = keeper.turn(&collectors) => {}
        }
    }
}

/// When to renew, and how: what [`keep`] does, apart from the network and from waiting.
#[derive(Debug)]
pub struct Keeper {
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    jitter: f64,
    failures: u32,
    doubted: bool,
}

impl Keeper {
    /// A keeper of `identity`; `jitter` is between 0 and 1.
    pub fn new(identity: LiveIdentity, time: Arc<TrustedTime>, jitter: f64) -> Self {
        metrics::cert_not_after(identity.current().peer().not_after);
        Self {
            identity,
            time,
            jitter,
            failures: 0,
            doubted: false,
        }
    }

    /// Has the next turn renew although it is not due: see [`LiveIdentity::doubt`].
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    /// How long to wait before the next [`Keeper::turn`].
    pub fn wait(&self) -> Duration {
        if self.failures > 0 {
            let exponent = self.failures.min(16) - 1;
            let grown = RETRY_FIRST.saturating_mul(1_u32.checked_shl(exponent).unwrap_or(u32::MAX));
            return grown.min(RETRY_MAX).mul_f64(0.5 + self.jitter / 2.0);
        }
        if self.is_early() {
            return Duration::ZERO;
        }
        let due = self.identity.current().renew_at(self.jitter);
        until(self.time.now().0, due).min(LOOK_EVERY)
    }

    /// Renews what is due; failures are logged and remembered.
    ///
    /// # Cancel safety
    ///
    /// An attempt in progress is given up; the present certificate stays in use.
    pub async fn turn(&mut self, collectors: &impl Collectors) {
        let due = self.time.now().0 >= self.identity.current().renew_at(self.jitter);
        if !due && !self.doubted && !self.is_early() {
            return;
        }
        let outcome = refresh(&self.identity, &self.time, collectors).await;
        metrics::renewal(if outcome.is_ok() { "done" } else { "failed" });
        let until = self.identity.current().peer().not_after;
        metrics::cert_not_after(until);
        match outcome {
            Ok(()) => {
                self.failures = 0;
                self.doubted = false;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let failures = self.failures;
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, %until, failures, "certificate could not be renewed");
            }
        }
    }

    fn is_early(&self) -> bool {
        is_early(&self.identity, &self.time)
    }
}

/// Whether the clock says that our own certificate does not hold yet: then it is the clock that is wrong, and
/// every collector's certificate will look as early; or it was the collector's when it issued the certificate.
fn is_early(identity: &LiveIdentity, time: &TrustedTime) -> bool {
    time.now().0 < identity.current().peer().not_before
}

/// One attempt: renews at the first collector that answers, or recovers when the certificate has ended or the two
/// sides no longer know each other's keys. With a clock that cannot be right, finds out the time.
async fn refresh(
    identity: &LiveIdentity,
    time: &TrustedTime,
    collectors: &impl Collectors,
) -> Result<(), EnrolError> {
    if is_early(identity, time) {
        let now = collectors.ask_time().await?;
        tracing::warn!(%now, "this host's clock is before its certificate: the collector's time counts");
        if !is_early(identity, time) {
            return Ok(());
        }
        // It was issued while the collector's clock was ahead; nobody accepts it for as long as it was ahead.
        return collectors.recover().await;
    }
    let current = identity.current();
    if time.now().0 >= current.peer().not_after {
        // Perhaps it is our clock that is wrong, and the certificate is not the matter.
        match collectors.ask_time().await {
            Ok(now) if current.peer().not_before <= now && now < current.peer().not_after => return Ok(()),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "collector's time is not known"),
        }
        return collectors.recover().await;
    }
    let mut last = EnrolError::NoCollector;
    let addresses = match collectors.configured() {
        [] => current.collectors(),
        configured => configured,
    };
    for address in addresses {
        match collectors.renew(address).await {
            Ok(()) => return Ok(()),
            Err(error) => match error.fault() {
                // The collector's clock is the one that counts. Or one side's keys were rotated while the other
                // slept: the enrolment listener proves itself under every root that it ever had, and the enrolled
                // key is our proof.
                Some(TlsFault::OursExpired | TlsFault::OursUnknown | TlsFault::TheirsUnknown) => {
                    return collectors.recover().await;
                }
                // Perhaps it is our clock: then the next attempt goes by the collector's.
                Some(TlsFault::TheirsExpired) => {
                    if let Err(error) = collectors.ask_time().await {
                        tracing::debug!(%error, "collector's time is not known");
                    }
                    last = error;
                }
                _ => last = error,
            },
        }
    }
    Err(last)
}

fn until(now: TimeMicros, then: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(then.micros_since(now)).unwrap_or(0))
}
