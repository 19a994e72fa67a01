//! The collector's time over a session.
//!
//! It is asked with the hello, then every ten minutes, and at once when the system clock has left the boot clock:
//! that clock was set. Each question has a fresh nonce, so the signed answer is no replay and may also set the
//! trusted time back. A collector of before this has no answer; then only enrolment tells the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_event::TimeMicros;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_proto::v1;
use rand::Rng as _;

use crate::config::{CLOCK_JUMP, TIME_EVERY};
use crate::enrol::adopt_time;

/// An answer that took longer, as over a connection that stood still, is of another moment.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What the session knows of time.
#[derive(Debug)]
pub(crate) struct SessionClock {
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    /// The question that is open.
    nonce: Option<[u8; 16]>,
    /// Since boot.
    asked_at: Duration,
    /// System clock less boot clock when it was last looked at, in microseconds.
    offset: i64,
    /// Whether this collector answers at all.
    answers: bool,
}

impl SessionClock {
    pub(crate) fn new(identity: LiveIdentity, time: Arc<TrustedTime>) -> Self {
        let (asked_at, offset) = (time.since_boot(), offset(&time));
        Self {
            identity,
            time,
            nonce: None,
            asked_at,
            offset,
            answers: false,
        }
    }

    /// The system clock, for what is shown.
    pub(crate) fn wall(&self) -> TimeMicros {
        self.time.wall()
    }

    /// A question for the hello.
    pub(crate) fn ask(&mut self) -> v1::TimeRequest {
        let nonce = rand::rng().random();
        self.nonce = Some(nonce);
        self.asked_at = self.time.since_boot();
        v1::TimeRequest {
            nonce: Bytes::copy_from_slice(&nonce),
            bundle_version: self.identity.current().bundle().version,
        }
    }

    /// A question for a heartbeat, when one is due.
    pub(crate) fn due(&mut self) -> Option<v1::TimeRequest> {
        let before = std::mem::replace(&mut self.offset, offset(&self.time));
        let jumped = self.offset.saturating_sub(before);
        let has_jumped = jumped.unsigned_abs() > u64::try_from(CLOCK_JUMP.as_micros()).unwrap_or(u64::MAX);
        if has_jumped {
            tracing::warn!(
                by_ms = jumped / 1_000,
                "the system clock was set; this host goes by the collector's time"
            );
        }
        let old = self.time.since_boot().saturating_sub(self.asked_at) >= TIME_EVERY;
        (self.answers && (has_jumped || old)).then(|| self.ask())
    }

    /// The collector has a trust bundle of this version: a host that is behind renews before it has to.
    pub(crate) fn newest_bundle(&self, version: u64) {
        let ours = self.identity.current().bundle().version;
        if version > ours {
            tracing::info!(
                ours,
                version,
                "the fleet has a newer trust bundle: the certificate is renewed early"
            );
            self.identity.doubt();
        }
    }

    /// Takes over the answer to the open question. How far the collector is ahead of the system clock.
    ///
    /// # Cancel safety
    /// The time is taken over or not.
    pub(crate) async fn answered(&mut self, answer: v1::TimeResponse) -> Option<i64> {
        self.answers = true;
        let Some(nonce) = self.nonce.take() else {
            crate::metrics::time_answer("unasked");
            return None;
        };
        if self.time.since_boot().saturating_sub(self.asked_at) > ANSWER_WITHIN {
            crate::metrics::time_answer("late");
            return None;
        }
        if !answer.trust_bundles.is_empty() {
            self.identity.doubt();
        }
        let (identity, time) = (self.identity.current(), self.time.clone());
        // A signature is verified, and a file may be synced to disk.
        let adopted =
            tokio::task::spawn_blocking(move || adopt_time(&identity, &answer, &nonce, &time)).await;
        match adopted {
            Ok(Ok(now)) => {
                crate::metrics::time_answer("taken");
                Some(now.micros_since(self.time.wall()) / 1_000)
            }
            Ok(Err(error)) => {
                crate::metrics::time_answer("refused");
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "the collector's time is not taken over");
                None
            }
            Err(_) => None,
        }
    }
}

fn offset(time: &TrustedTime) -> i64 {
    let since_boot = i64::try_from(time.since_boot().as_micros()).unwrap_or(i64::MAX);
    time.wall().0.saturating_sub(since_boot)
}
