//! Maintenance: everything that is not urgent, one step after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;
use metrics::{counter, gauge};

use crate::compact::{compact, merge};
use crate::disk::Disk;
use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::metrics as names;
use crate::retain::retain;
use crate::select::Deadline;
use crate::store::Store;

/// How long a stream's mark is remembered after its last record: no spool keeps records for so long.
const MARKS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often old marks are looked for.
const MARKS_INTERVAL: Duration = Duration::from_secs(3600);
/// How long after the beginning of one check of all files the next one begins.
const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Runs until `token` is cancelled. A step that fails is tried again at the next turn; none stops the others.
///
/// # Cancel safety
/// Ends within any step, once the step's thread has ended; what a step leaves half-done is redone or deleted at the next
/// start.
pub(crate) async fn maintain(store: Store, token: CancellationToken) -> Result<(), MaintenanceError> {
    let interval = Duration::from_millis(store.inner.config.maintenance_interval_ms);
    let mut scrub = Scrub {
        after: 0,
        began: Instant::now(),
    };
    let mut marks_checked = Instant::now();
    let mut disk = Disk::default();
    let work = async {
        loop {
            tokio::select! {
                () = store.inner.wake.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            note("set_aside", store.inner.settle_set_aside().await);
            note("compact", compact(&store.inner).await);
            note("merge", merge(&store.inner, &store.engine).await);
            note(
                "retain",
                retain(&store.inner, &store.inner.config.retention).await,
            );
            note("disk", disk.watch(&store).await);
            note("scrub", scrub.next(&store.inner).await);
            if marks_checked.elapsed() >= MARKS_INTERVAL {
                marks_checked = Instant::now();
                note("marks", forget_marks(&store.inner).await);
            }
            store.inner.catalogue.copy_when_due().await;
            measure(&store.inner);
        }
    };
    tokio::select! {
        biased;
        () = token.cancelled() => {}
        () = work => {}
    }
    store.inner.steps.ended().await;
    Ok(())
}

/// Reads every file once a day, some each turn, and sets aside what has changed since it was written.
struct Scrub {
    /// Files up to this id are checked.
    after: i64,
    /// When this round began.
    began: Instant,
}

impl Scrub {
    async fn next(&mut self, inner: &Arc<Inner>) -> Result<(), MaintenanceError> {
        let files = inner.view.files();
        let share = files_per_turn(files.len(), inner.config.maintenance_interval_ms);
        let mut next: Vec<_> = files.into_iter().filter(|file| file.id > self.after).collect();
        next.sort_unstable_by_key(|file| file.id);
        next.truncate(share);
        if next.is_empty() && self.began.elapsed() >= SCRUB_INTERVAL {
            *self = Scrub {
                after: 0,
                began: Instant::now(),
            };
        }
        for file in next {
            self.after = file.id;
            let inner_of_step = inner.clone();
            // A file that cannot be read now is looked at again in the next round; it must not hold up the others.
            let check = move |deadline: &Deadline| match file.deep_fault_until(deadline) {
                Ok(None) => Ok(()),
                Ok(Some(reason)) => {
                    inner_of_step.set_aside(&file, &reason);
                    Ok(())
                }
                Err(source) => Err(MaintenanceError::Io {
                    action: "check",
                    path: file.path.clone(),
                    source,
                }),
            };
            inner.steps.run(check).await??;
        }
        Ok(())
    }
}

/// As many as it takes to see every one in half a round; turns may come late.
fn files_per_turn(files: usize, interval_ms: u64) -> usize {
    let half_a_round = SCRUB_INTERVAL.as_millis() / 2;
    let share = (files as u128)
        .saturating_mul(interval_ms.into())
        .div_ceil(half_a_round);
    usize::try_from(share).unwrap_or(usize::MAX).max(1)
}

async fn forget_marks(inner: &Inner) -> Result<(), MaintenanceError> {
    let kept = i64::try_from(MARKS_KEPT.as_micros()).unwrap_or(i64::MAX);
    let before = TimeMicros::now().plus_micros(kept.saturating_neg());
    inner.catalogue.forget_marks(before).await?;
    let forgotten = inner.marks.lock().forget_before(before);
    if forgotten > 0 {
        tracing::info!(streams = forgotten, "forgot marks of streams that ended long ago");
    }
    Ok(())
}

fn measure(inner: &Inner) {
    let (frames, _) = inner.view.hot_count();
    gauge!(names::HOT_FRAMES).set(frames as f64);
    let bytes: u64 = inner.view.files().iter().map(|file| file.bytes).sum();
    gauge!(names::PARQUET_BYTES).set(bytes as f64);
}

fn note(step: &'static str, outcome: Result<(), MaintenanceError>) {
    if let Err(error) = outcome {
        counter!(names::MAINTENANCE_FAILURES, "step" => step).increment(1);
        tracing::warn!(
            step,
            error = crate::commit::chain(&error),
            "maintenance step failed; it is tried again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_checked_within_a_day_however_many_there_are() {
        for (files, interval_ms) in [(1, 10), (17_000, 5_000), (200_000, 5_000), (3, 3_600_000)] {
            let turns = SCRUB_INTERVAL.as_millis() / u128::from(interval_ms);
            let checked = turns * files_per_turn(files, interval_ms) as u128;
            assert!(checked >= files as u128, "{files} every {interval_ms} ms");
        }
        assert_eq!(files_per_turn(100, 5_000), 1);
    }
}
