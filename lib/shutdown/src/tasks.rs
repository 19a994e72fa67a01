use std::any::Any;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::BoxError;
use crate::node::{Guard, Node, Shared};
use crate::report::{DrainReport, End};

/// What the end of a task means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Its error, its panic and its early end begin the drain of the whole process.
    Critical,
    /// Runs again after an error or a panic: see [`Tasks::spawn_restartable`], which takes a factory. Given to
    /// [`Tasks::spawn`] or [`Tasks::spawn_thread`], which cannot run their body twice, it is a best effort.
    Restartable,
    /// Its error or panic is logged, and that is all.
    BestEffort,
}

/// A node of the task tree; clones are the same node.
#[derive(Clone)]
pub struct Tasks {
    node: Arc<Node>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// The root of a new tree. Made inside a tokio runtime, it also lets plain threads spawn on that runtime.
    pub fn new() -> Self {
        let shared = Shared {
            end: watch::Sender::new(None),
            ended: watch::Sender::new(0),
            runtime: Handle::try_current().ok(),
        };
        Self {
            node: Node::root(Arc::new(shared)),
        }
    }

    /// Cancelled when it is this node's turn to end: at once where nothing runs below it, otherwise when all
    /// its children have ended.
    pub fn token(&self) -> CancellationToken {
        self.node.token.clone()
    }

    /// A node that is drained before this one.
    pub fn child(&self, name: &'static str) -> Tasks {
        Tasks {
            node: Node::child(&self.node, name),
        }
    }

    /// Starts a future. It has to end soon after [`token`](Self::token) is cancelled; the deadline of the drain
    /// aborts it otherwise.
    pub fn spawn<F, E>(&self, name: &'static str, kind: TaskKind, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let tasks = self.clone();
        self.run(name, kind, async move {
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            tasks.settle(name, kind, outcome.map(|result| result.map_err(Into::into)));
        });
    }

    /// Starts an operating system thread. Its body has to return soon after the token it gets is cancelled; a
    /// thread that does not is named and left behind.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn spawn_thread<F>(&self, name: &'static str, kind: TaskKind, body: F) -> std::io::Result<()>
    where
        F: FnOnce(CancellationToken) -> Result<(), BoxError> + Send + 'static,
    {
        let tasks = self.clone();
        let guard = self.node.enter(name);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let token = tasks.token();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| body(token)));
            tasks.settle(name, kind, outcome);
            drop(guard);
        })?;
        Ok(())
    }

    /// Begins the drain of the whole tree, whichever node it is called on. Only the first reason counts.
    pub fn begin(&self, why: &str) {
        self.begin_with(End {
            reason: why.to_owned(),
            failed: false,
        });
    }

    /// Why the drain began, if it did.
    pub fn reason(&self) -> Option<End> {
        self.node.shared.end.borrow().clone()
    }

    /// Waits until a drain begins, and says why.
    ///
    /// # Cancel safety
    /// Holds no state; may be dropped at any time.
    pub async fn wait_for_end(&self) -> End {
        let mut end = self.node.shared.end.subscribe();
        let reached = end
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| end.clone());
        // The sender lives in this very tree, so the channel cannot close before the end is known.
        reached.unwrap_or(End {
            reason: "task tree is gone".to_owned(),
            failed: true,
        })
    }

    /// Paths of everything that runs now in this node and below it.
    pub fn running(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.node.running(&mut paths);
        paths
    }

    /// Begins the drain if nothing did yet, waits for everything to end in order, and gives up on what does
    /// not within its level's share of `deadline`.
    ///
    /// # Cancel safety
    /// May be dropped and called again: what has ended stays ended.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        let started = Instant::now();
        let last = started + deadline;
        self.begin("drain was asked for");
        let root = self.node.top();
        let mut ended = root.shared.ended.subscribe();
        let mut stragglers = Vec::new();
        loop {
            root.advance();
            let levels = root.levels_left();
            if levels == 0 {
                break;
            }
            let left = last.saturating_duration_since(Instant::now());
            let level_ended = async {
                while root.levels_left() >= levels {
                    if ended.changed().await.is_err() {
                        return;
                    }
                }
            };
            if timeout_at(Instant::now() + left / levels, level_ended)
                .await
                .is_err()
            {
                root.abandon(&mut stragglers);
                // A task that keeps starting others must not hold the process beyond its deadline.
                if Instant::now() >= last && !root.advance() {
                    root.running(&mut stragglers);
                    break;
                }
            }
        }
        let end = self.wait_for_end().await;
        DrainReport {
            end,
            took: started.elapsed(),
            stragglers,
        }
    }

    pub(crate) fn run<F>(&self, name: &'static str, kind: TaskKind, body: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(runtime) = Handle::try_current()
            .ok()
            .or_else(|| self.node.shared.runtime.clone())
        else {
            let missing = BoxError::from("there is no runtime to run it on");
            return self.settle(name, kind, Ok(Err(missing)));
        };
        let guard: Guard = self.node.enter(name);
        let id = guard.id;
        let task = runtime.spawn(async move {
            body.await;
            drop(guard);
        });
        self.node.abort_with(id, task.abort_handle());
    }

    fn begin_with(&self, end: End) {
        let began = self.node.shared.end.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(end.clone());
            }
            first
        });
        if began {
            if end.failed {
                tracing::error!(reason = %end, "drain begins");
            } else {
                tracing::info!(reason = %end, "drain begins");
            }
            self.node.top().advance();
        } else {
            tracing::debug!(reason = %end, "drain had begun already");
        }
    }

    fn settle(
        &self,
        name: &'static str,
        kind: TaskKind,
        outcome: Result<Result<(), BoxError>, Box<dyn Any + Send>>,
    ) {
        let task = self.node.path(name);
        let told_to_end = self.node.token.is_cancelled();
        match (fault_of(outcome), kind) {
            (None, TaskKind::Critical) if !told_to_end => {
                self.begin_with(End {
                    reason: format!("critical task {task} ended early"),
                    failed: true,
                });
            }
            (None, _) => tracing::debug!(task, "task ended"),
            (Some(fault), TaskKind::Critical) if !told_to_end => {
                self.begin_with(End {
                    reason: format!("critical task {task} failed: {fault}"),
                    failed: true,
                });
            }
            (Some(fault), _) => tracing::error!(task, error = %fault, "task failed"),
        }
    }
}

/// The fault of an outcome with its sources, or none.
pub(crate) fn fault_of(outcome: Result<Result<(), BoxError>, Box<dyn Any + Send>>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(chain(error.as_ref())),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panicked: {}", text.unwrap_or("without a message")))
        }
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
