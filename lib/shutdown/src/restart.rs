use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::tasks::fault_of;
use crate::{Backoff, BoxError, TaskKind, Tasks};

const BASE: Duration = Duration::from_millis(200);
const CEILING: Duration = Duration::from_secs(30);
/// A run this long was a success: the next failure starts the back-off from its base.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

impl Tasks {
    /// Runs what `factory` makes, and again after each error or panic, with full-jitter back-off from 200 ms to
    /// 30 s. `Ok` ends it; so does the cancelled token, during a wait at once.
    pub fn spawn_restartable<M, F, E>(&self, name: &'static str, factory: M)
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let token = self.token();
        let mut factory = factory;
        self.run(name, TaskKind::Restartable, async move {
            let mut backoff = Backoff::new(BASE, CEILING);
            while !token.is_cancelled() {
                let started = Instant::now();
                // The factory is inside, so that its own panic is caught too.
                let run = AssertUnwindSafe(async { factory().await });
                let outcome = run.catch_unwind().await;
                let Some(fault) = fault_of(outcome.map(|result| result.map_err(Into::into))) else {
                    return;
                };
                if started.elapsed() >= SETTLED_AFTER {
                    backoff.reset();
                }
                let wait = backoff.next_wait();
                let attempt = backoff.attempts();
                tracing::warn!(task = name, error = %fault, attempt, wait_ms = wait.as_millis(), "task restarts");
                if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
            }
        });
    }
}
