//! The model on a thread of its own: a bounded queue of vectors in, scores out.
//!
//! Nothing waits for the model: a vector that finds the queue full is dropped and counted, and so is a score that
//! nobody takes. The learnt state is written beside and renamed, after every fit interval and at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::state::STATE_BYTES_MAX;
use super::{FeatureVector, HostAnomaly, Scored, metrics};

/// Vectors waiting for the model: learning from a full ring takes a few seconds.
const QUEUE_VECTORS_MAX: usize = 64;

/// How often the thread looks whether it should end.
const POLL: Duration = Duration::from_millis(200);

/// How often the learnt state is written.
const SAVE_EVERY: Duration = Duration::from_secs(3_600);

/// Windows in a row that may fail before the model counts as not scoring.
const FAILURES_MAX: u32 = 3;

/// Hands vectors to the model's thread.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<FeatureVector>,
    failures: Arc<Mutex<Failures>>,
}

/// Windows that could not be scored since the last that could.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    error: String,
}

impl Failures {
    fn add(&mut self, error: String) {
        self.count = self.count.saturating_add(1);
        self.error = error;
    }
}

impl Handle {
    /// Why nothing is scored any more, when window after window fails.
    pub fn failing(&self) -> Option<String> {
        let failures = self.failures.lock();
        (failures.count >= FAILURES_MAX)
            .then(|| format!("{} windows in a row failed: {}", failures.count, failures.error))
    }

    /// Offers one vector. Never waits; when the queue is full the vector is dropped and counted.
    pub fn offer(&self, vector: FeatureVector) {
        if let Err(error) = self.queue.try_send(vector) {
            metrics::dropped(match error {
                TrySendError::Full(_) => "full",
                TrySendError::Disconnected(_) => "ended",
            });
        }
    }
}

/// Starts the thread. It reads the state in `state_file`, if there is one that fits, and keeps it written.
pub fn spawn(
    tasks: &Tasks,
    mut model: HostAnomaly,
    state_file: Option<PathBuf>,
    scores: mpsc::Sender<Scored>,
) -> std::io::Result<Handle> {
    let (queue, vectors) = sync_channel::<FeatureVector>(QUEUE_VECTORS_MAX);
    let failures = Arc::<Mutex<Failures>>::default();
    let handle = Handle {
        queue,
        failures: failures.clone(),
    };
    tasks.spawn_thread(
        "host-anomaly",
        TaskKind::BestEffort,
        move |token: CancellationToken| {
            if let Some(path) = &state_file {
                restore(&mut model, path);
            }
            let mut saved = Instant::now();
            while !token.is_cancelled() {
                let vector = match vectors.recv_timeout(POLL) {
                    Ok(vector) => vector,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                let outcome = model.observe(&vector);
                if outcome.is_ok() {
                    *failures.lock() = Failures::default();
                }
                match outcome {
                    Ok(None) => {}
                    Ok(Some(scored)) => {
                        if scores.try_send(scored).is_err() {
                            metrics::dropped("answer");
                        }
                    }
                    Err(error) => {
                        metrics::failed();
                        tracing::warn!(%error, "score window");
                        failures.lock().add(error.to_string());
                    }
                }
                if saved.elapsed() >= SAVE_EVERY {
                    saved = Instant::now();
                    save(&model, state_file.as_deref());
                }
            }
            save(&model, state_file.as_deref());
            Ok(())
        },
    )?;
    Ok(handle)
}

#[cfg(test)]
impl Handle {
    /// One whose thread has ended, after so many windows failed.
    pub(crate) fn ended(failed: u32) -> Self {
        let handle = Self {
            queue: sync_channel(1).0,
            failures: Arc::default(),
        };
        for _ in 0..failed {
            handle.failures.lock().add("no memory".to_owned());
        }
        handle
    }

    pub(crate) fn recover(&self) {
        *self.failures.lock() = Failures::default();
    }
}

fn restore(model: &mut HostAnomaly, path: &Path) {
    match std::fs::metadata(path) {
        Err(_) => return,
        Ok(file) if file.len() > STATE_BYTES_MAX as u64 => {
            tracing::warn!(path = %path.display(), bytes = file.len(), "model state is too large; learning anew");
            return;
        }
        Ok(_) => {}
    }
    match std::fs::read(path) {
        Err(error) => tracing::warn!(path = %path.display(), %error, "read model state; learning anew"),
        Ok(bytes) => match model.restore(&bytes) {
            Ok(()) => tracing::info!(path = %path.display(), "took over the learnt model state"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "model state refused; learning anew")
            }
        },
    }
}

fn save(model: &HostAnomaly, path: Option<&Path>) {
    let (Some(path), Some(bytes)) = (path, model.save()) else {
        return;
    };
    let beside = path.with_extension("new");
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "write model state");
    }
}
