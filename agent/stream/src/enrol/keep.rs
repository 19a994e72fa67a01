//! Keeps the certificate valid for as long as the agent runs.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use rand::Rng as _;

use super::{EnrolError, ask_time, recover, renew};

/// How often the clock is looked at: a suspended host or a clock that was set is noticed within this.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(15);
/// Longest wait after failures.
const RETRY_MAX: Duration = Duration::from_hours(1);

/// Renews the identity when it is due, until `end` resolves. Failures are logged and tried again; the agent
/// goes on collecting and spooling meanwhile.
///
/// # Cancel safety
///
/// A renewal in progress is given up; the present certificate stays in use.
pub async fn keep(identity: LiveIdentity, time: Arc<TrustedTime>, end: impl Future<Output = ()> + Send) {
    let mut end = std::pin::pin!(end);
    let jitter: f64 = rand::rng().random();
    let mut failures = 0_u32;
    let mut wait = if is_early(&identity, &time) {
        Duration::ZERO
    } else {
        next_look(&identity, &time, jitter, failures)
    };
    loop {
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep(wait) => {}
        }
        let due = time.now().0 >= identity.current().renew_at(jitter);
        if !due && !is_early(&identity, &time) {
            wait = next_look(&identity, &time, jitter, failures);
            continue;
        }
        let attempt = tokio::select! {
            () = &mut end => return,
            attempt = refresh(&identity, &time) => attempt,
        };
        match attempt {
            Ok(()) => failures = 0,
            Err(error) => {
                failures = failures.saturating_add(1);
                let until = identity.current().peer().not_after;
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, %until, failures, "certificate could not be renewed");
            }
        }
        wait = next_look(&identity, &time, jitter, failures);
    }
}

/// Whether the clock says that our own certificate does not hold yet: then it is the clock that is wrong, and
/// every collector's certificate will look as early.
fn is_early(identity: &LiveIdentity, time: &TrustedTime) -> bool {
    time.now().0 < identity.current().peer().not_before
}

/// One attempt: renews at the first collector that answers, or recovers when the certificate has ended. With a
/// clock that cannot be right, finds out the time.
pub(super) async fn refresh(identity: &LiveIdentity, time: &Arc<TrustedTime>) -> Result<(), EnrolError> {
    if is_early(identity, time) {
        let now = ask_time(identity, time).await?;
        tracing::warn!(%now, "this host's clock is before its certificate: the collector's time counts");
        return Ok(());
    }
    let current = identity.current();
    if time.now().0 >= current.peer().not_after {
        // Perhaps it is our clock that is wrong, and the certificate is not the matter.
        if let Err(error) = ask_time(identity, time).await {
            tracing::debug!(%error, "collector's time is not known");
        }
        return recover(identity, time).await;
    }
    let mut last = EnrolError::NoCollector;
    for address in current.collectors() {
        match renew(identity, address, time).await {
            Ok(()) => return Ok(()),
            // The collector's clock is the one that counts.
            Err(error) if error.fault() == Some(TlsFault::OursExpired) => {
                return recover(identity, time).await;
            }
            Err(error) => {
                // Perhaps it is our clock: then the next attempt goes by the collector's.
                if error.fault() == Some(TlsFault::TheirsExpired)
                    && let Err(error) = ask_time(identity, time).await
                {
                    tracing::debug!(%error, "collector's time is not known");
                }
                last = error;
            }
        }
    }
    Err(last)
}

fn next_look(identity: &LiveIdentity, time: &TrustedTime, jitter: f64, failures: u32) -> Duration {
    if failures > 0 {
        let grown = RETRY_FIRST.saturating_mul(1_u32.checked_shl(failures.min(16) - 1).unwrap_or(u32::MAX));
        return grown.min(RETRY_MAX).mul_f64(0.5 + jitter / 2.0);
    }
    until(time.now().0, identity.current().renew_at(jitter)).min(LOOK_EVERY)
}

fn until(now: TimeMicros, then: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(then.micros_since(now)).unwrap_or(0))
}
