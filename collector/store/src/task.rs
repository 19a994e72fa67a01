//! Maintenance: everything that is not urgent, one step after the other.

use std::time::Duration;

use fleetmend_shutdown::CancellationToken;
use metrics::{counter, gauge};

use crate::error::MaintenanceError;
use crate::metrics as names;
use crate::store::Store;

/// Runs until `token` is cancelled. A step that fails is tried again at the next turn; none stops the others.
///
/// # Cancel safety
/// Ends between two steps; a step that is dropped leaves temporary files, which the next start deletes.
pub(crate) async fn maintain(store: Store, token: CancellationToken) -> Result<(), MaintenanceError> {
    let interval = Duration::from_millis(store.inner.config.maintenance_interval_ms);
    loop {
        let step = async {
            tokio::select! {
                () = store.inner.wake.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            turn(&store).await;
        };
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            () = step => {}
        }
    }
}

async fn turn(store: &Store) {
    note("set_aside", store.inner.settle_set_aside().await);
    let (frames, _) = store.inner.view.hot_count();
    gauge!(names::HOT_FRAMES).set(frames as f64);
    let bytes: u64 = store.inner.view.files().iter().map(|file| file.bytes).sum();
    gauge!(names::PARQUET_BYTES).set(bytes as f64);
}

fn note(step: &'static str, outcome: Result<(), MaintenanceError>) {
    if let Err(error) = outcome {
        counter!(names::MAINTENANCE_FAILURES, "step" => step).increment(1);
        tracing::warn!(step, error = crate::commit::chain(&error), "maintenance step failed; it is tried again");
    }
}
