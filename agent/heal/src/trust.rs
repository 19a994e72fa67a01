//! Carries the fleet's newer trust bundles to the healer, which has no network.
//!
//! The healer says which version it judges by; when the host has a newer one, those after it are fetched and sent
//! one by one. Nothing is verified here: the healer does that itself, each by the one before it.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fleetmend_event::healer::{HealerReply, HealerRequest};
use fleetmend_shutdown::{BoxError, TaskKind, Tasks};
use tokio::time::timeout;

use crate::client::Link;
use crate::error::LinkError;
use crate::metrics;

/// How often the two versions are compared; jittered.
const EVERY: Duration = Duration::from_mins(5);
/// The healer writes and syncs each bundle.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Bundles that are handed over in one turn; a collector keeps no more.
const BUNDLES_MAX: usize = 64;

/// Where the fleet's trust bundles come from.
#[async_trait]
pub trait BundleSource: Send + Sync + 'static {
    /// Version of the one that this host has taken over.
    fn version(&self) -> u64;
    /// Those after `version`, oldest first, as they are signed.
    async fn since(&self, version: u64) -> Result<Vec<String>, BoxError>;
}

/// Bundles were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// No healer, or not one that answers.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The collector could not be asked for them.
    #[error("could not get the fleet's trust bundles after version {after}")]
    Fetch {
        /// The healer's version.
        after: u64,
        /// Why not.
        source: BoxError,
    },
    /// The healer does not believe one.
    #[error("healer refused a trust bundle: {0}")]
    Refused(String),
}

/// Compares and carries, until `tasks` end.
pub fn spawn(tasks: &Tasks, socket: &Path, source: Arc<dyn BundleSource>) {
    let (socket, owner, token) = (socket.to_owned(), tasks.clone(), tasks.token());
    tasks.spawn("healer trust", TaskKind::BestEffort, async move {
        loop {
            let pause = EVERY.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            if token
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return Ok::<(), Infallible>(());
            }
            let carried = token
                .run_until_cancelled(carry(&socket, &owner, source.as_ref()))
                .await;
            match carried {
                None => return Ok(()),
                Some(Ok(0)) => {}
                Some(Ok(bundles)) => {
                    metrics::bundles_carried(bundles);
                    tracing::info!(bundles, "healer took over the fleet's newer trust bundles");
                }
                // That there is no healer is said by the probe status `healer`.
                Some(Err(CarryError::Link(error))) => tracing::debug!(%error, "healer was not asked"),
                Some(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "healer does not follow the fleet's keys yet");
                }
            }
        }
    });
}

/// One turn: how many bundles the healer took.
///
/// # Errors
/// [`CarryError`]; those before the one that failed were taken.
///
/// # Cancel safety
/// May be dropped; the next turn goes on where this one ended.
pub async fn carry(socket: &Path, tasks: &Tasks, source: &dyn BundleSource) -> Result<usize, CarryError> {
    let (mut link, status) = Link::open(socket, tasks).await?;
    // A healer that does not say, or that was not enrolled, has nothing that could be followed from.
    let Some(after) = status.bundle_version.filter(|has| *has < source.version()) else {
        return Ok(0);
    };
    let fetched = source.since(after).await;
    let bundles = fetched.map_err(|source| CarryError::Fetch { after, source })?;
    let mut taken = 0;
    for bundle in bundles.into_iter().take(BUNDLES_MAX) {
        link.send(&HealerRequest::AdvanceTrust { bundle }).await?;
        let reply = timeout(ANSWER_DEADLINE, link.receive())
            .await
            .map_err(|_| LinkError::Slow)??;
        match reply {
            HealerReply::Refused { reason } => return Err(CarryError::Refused(reason)),
            _ => taken += 1,
        }
    }
    Ok(taken)
}
