//! What the enroller does by itself: write down who was seen, take over rotated keys, watch its own clock.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_identity::CollectorAuthority;
use fleetmend_shutdown::{TaskKind, Tasks};

use super::{AuditKind, EnrolError, Enroller, HOSTS};

/// How soon a rotation, a sighting or a jump of the clock is noticed.
const EVERY: Duration = Duration::from_secs(10);
/// A clock that is set by more than this jumped; less is its daily business.
const JUMP_MICROS: i64 = 60 * 1_000_000;

/// Runs [`Enroller::look_after`] as a task of `tasks`, and follows what other collectors revoke.
pub(super) fn spawn(enroller: &Enroller, tasks: &Tasks) {
    follow_revocations(enroller, tasks);
    let (enroller, token) = (enroller.clone(), tasks.token());
    tasks.spawn("enrolment-upkeep", TaskKind::BestEffort, async move {
        let mut clock = Clock::of(&enroller);
        // What ends soon is not to be looked for in vain after a start.
        enroller.show_ends();
        loop {
            if token
                .run_until_cancelled(tokio::time::sleep(EVERY))
                .await
                .is_none()
            {
                // Once more: what was seen last is not lost by an orderly end.
                return enroller.look_after().await;
            }
            if let Err(error) = enroller.look_after().await {
                tracing::error!(%error, "enrolment's upkeep failed");
            }
            clock.watch(&enroller).await;
        }
    });
}

/// A host that was revoked on another collector is refused, and its streams closed, here too.
fn follow_revocations(enroller: &Enroller, tasks: &Tasks) {
    let (enroller, token) = (enroller.clone(), tasks.token());
    let mut signalled = enroller.inner.pool.follow(HOSTS);
    tasks.spawn("enrolment-revocations", TaskKind::BestEffort, async move {
        let follow = async {
            loop {
                if let Err(error) = enroller.read_revocations().await {
                    tracing::warn!(%error, "revoked hosts could not be read; they are read again");
                    tokio::time::sleep(EVERY).await;
                } else if signalled.changed().await.is_err() {
                    return;
                }
            }
        };
        token.run_until_cancelled(follow).await;
        Ok::<(), EnrolError>(())
    });
}

impl Enroller {
    async fn read_revocations(&self) -> Result<(), EnrolError> {
        let revoked = super::hosts::revoked(&self.inner.pool).await?;
        self.inner.revocations.add(&revoked);
        Ok(())
    }

    /// Writes down which hosts hold which trust bundle, takes over keys that a rotation has put into the authority's
    /// folder, and shows when certificates end. The task of [`super::serve`] does this every ten seconds.
    ///
    /// # Cancel safety
    ///
    /// What was not done is done the next time.
    pub async fn look_after(&self) -> Result<(), EnrolError> {
        self.audit().sightings().flush(&self.inner.pool).await?;
        self.take_over_rotated().await;
        self.show_ends();
        Ok(())
    }

    async fn take_over_rotated(&self) {
        let present = self.authority();
        let read = tokio::task::spawn_blocking(move || present.reopened()).await;
        let found = match read {
            Ok(Ok(Some(found))) => Arc::new(found),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::error!(%error, "the collector's keys could not be read again; those in use stay");
                return;
            }
            Err(_) => return,
        };
        let detail = told(&found);
        tracing::info!(detail, "took over the collector's keys and trust bundle");
        self.inner.authority.replace(found);
        self.audit()
            .noted(AuditKind::Authority, None, None, &detail)
            .await;
    }
}

fn told(authority: &CollectorAuthority) -> String {
    format!(
        "bundle: version {}, root {}",
        authority.bundle().version,
        authority.root_fingerprint().short()
    )
}

/// The wall clock against the boot clock.
struct Clock {
    wall: i64,
    boot: Duration,
}

impl Clock {
    fn of(enroller: &Enroller) -> Self {
        Self {
            wall: enroller.now().0,
            boot: enroller.inner.time.since_boot(),
        }
    }

    async fn watch(&mut self, enroller: &Enroller) {
        let now = Self::of(enroller);
        let passed = i64::try_from(now.boot.saturating_sub(self.boot).as_micros()).unwrap_or(i64::MAX);
        let jump = now.wall.saturating_sub(self.wall).saturating_sub(passed);
        if jump.abs() > JUMP_MICROS {
            let seconds = jump / 1_000_000;
            tracing::warn!(seconds, "this collector's clock was set");
            let detail = format!("clock_set: by {seconds} s; certificates are dated and judged by it");
            enroller
                .audit()
                .noted(AuditKind::Clock, None, None, &detail)
                .await;
        }
        *self = now;
    }
}
