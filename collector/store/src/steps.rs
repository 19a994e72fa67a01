//! Steps: blocking work of maintenance. It is told when nobody waits for it any more, and closing waits for its end:
//! whoever opens the store again finds nobody at work in its folder.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::MaintenanceError;
use crate::select::Deadline;

/// Steps that run at once: maintenance and tiers have one each.
const AT_ONCE_MAX: u32 = 2;
/// One may take so long. It ends before when nobody waits for it.
const TIME_MAX: Duration = Duration::from_hours(6);
/// How long closing waits. A step looks whether it has to end at every chunk, batch or quarter of a megabyte.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// What runs.
#[derive(Debug)]
pub(crate) struct Steps {
    turns: Arc<Semaphore>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(usize::try_from(AT_ONCE_MAX).unwrap_or(1))),
        }
    }
}

impl Steps {
    /// Does `work` on a thread that may block.
    ///
    /// # Cancel safety
    /// May be dropped: the work is told to end.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Deadline) -> T + Send + 'static,
    ) -> Result<T, MaintenanceError> {
        let turn = self.turns.clone().acquire_owned().await;
        let (deadline, _guard) = Deadline::after(TIME_MAX, TIME_MAX);
        let done = tokio::task::spawn_blocking(move || {
            // Given back after everything that the work holds.
            let _turn = turn;
            work(&deadline)
        });
        Ok(done.await?)
    }

    /// Waits until nothing runs any more, for a while.
    pub(crate) async fn ended(&self) {
        let all = self.turns.acquire_many(AT_ONCE_MAX);
        if tokio::time::timeout(END_TIME_MAX, all).await.is_err() {
            tracing::warn!(
                "a step of maintenance does not end; the store's folder stays locked until it does"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn step_that_nobody_waits_for_ends_and_is_waited_for_at_the_end() {
        let steps = Arc::new(Steps::default());
        let (began, ended) = (
            Arc::new(tokio::sync::Notify::new()),
            Arc::new(AtomicBool::new(false)),
        );
        let work = {
            let (steps, began, ended) = (steps.clone(), began.clone(), ended.clone());
            async move {
                let endless = move |deadline: &Deadline| {
                    began.notify_one();
                    while deadline.check().is_ok() {
                        std::thread::yield_now();
                    }
                    ended.store(true, Ordering::Release);
                };
                steps.run(endless).await
            }
        };
        tokio::select! {
            done = work => panic!("it ended by itself: {done:?}"),
            () = began.notified() => {}
        }
        steps.ended().await;
        assert!(ended.load(Ordering::Acquire));
    }
}
