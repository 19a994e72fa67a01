//! The task that keeps the stream: session after session, with waits in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{IdentityError, LiveIdentity, TrustedTime, tls};
use fleetmend_shutdown::{Backoff, CancellationToken, TaskKind, Tasks};
use tokio::sync::{mpsc, watch};
use tokio_rustls::rustls::ClientConfig;

use crate::config::{SESSION_GOOD, StreamConfig};
use crate::connector::{ConnectError, Link};
use crate::enrol::ask_time;
use crate::error::StreamError;
use crate::session::Session;
use crate::source::FrameSource;
use crate::state::{Hint, Order, OrderResult, StreamPhase, StreamState};

/// What the stream is made of.
#[derive(Debug)]
pub struct StreamParts<S> {
    /// Limits and waits.
    pub config: StreamConfig,
    /// Version of the agent, as the collector shows it.
    pub agent_version: String,
    /// The spool.
    pub source: S,
    /// Where orders go. Full: the order is refused.
    pub orders: mpsc::Sender<Order>,
    /// What became of them.
    pub results: mpsc::Receiver<OrderResult>,
    /// The collector's wishes.
    pub hints: watch::Sender<Hint>,
    /// What `status` shows.
    pub state: watch::Sender<StreamState>,
}

/// Keeps the stream until the agent ends.
pub struct StreamTask<S> {
    parts: StreamParts<S>,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    tls: Arc<ClientConfig>,
    collector: usize,
}

impl<S: FrameSource> StreamTask<S> {
    /// A stream of the host with this identity. Nothing is connected yet.
    ///
    /// # Errors
    /// When the identity gives no usable TLS configuration.
    pub fn new(
        parts: StreamParts<S>,
        identity: LiveIdentity,
        time: &Arc<TrustedTime>,
    ) -> Result<Self, IdentityError> {
        crate::metrics::describe();
        let tls = tls::client_for_host(&identity, time)?;
        Ok(Self {
            parts,
            identity,
            time: time.clone(),
            tls,
            collector: 0,
        })
    }

    /// Starts it as a critical task of `tasks`; ends when they do.
    pub fn spawn(self, tasks: &Tasks) {
        let token = tasks.token();
        tasks.spawn("stream", TaskKind::Critical, async move {
            self.run(token).await;
            Ok::<(), StreamError>(())
        });
    }

    /// Keeps the stream until `token` is cancelled.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the spool keeps what was not acknowledged.
    pub async fn run(mut self, token: CancellationToken) {
        let config = self.parts.config.clone();
        let (identity, time) = (self.identity.clone(), self.time.clone());
        let mut backoff = Backoff::new(config.retry_first.get(), config.retry_max.get());
        loop {
            self.parts.enter(StreamPhase::Connecting);
            let begun = Instant::now();
            let outcome = tokio::select! {
                () = token.cancelled() => Ok(()),
                outcome = Box::pin(self.session(&token)) => outcome,
            };
            crate::metrics::connected(false);
            let Err(error) = outcome else { break };
            if begun.elapsed() >= SESSION_GOOD {
                backoff.reset();
            }
            let wait = self.after(&error, &mut backoff);
            let pause = async {
                tokio::time::sleep(wait).await;
                doubt_clock(&error, &identity, &time).await;
            };
            tokio::select! {
                () = token.cancelled() => break,
                () = pause => {}
            }
        }
        self.parts.enter(StreamPhase::Ended);
    }

    async fn session(&mut self, token: &CancellationToken) -> Result<(), StreamError> {
        let identity = self.identity.current();
        let configured = &self.parts.config.collectors;
        let collectors = if configured.is_empty() {
            identity.collectors()
        } else {
            configured
        };
        let address = collectors
            .get(self.collector % collectors.len().max(1))
            .ok_or(StreamError::NoCollector)?
            .clone();
        // Tried in turn, whatever the reason.
        self.collector = self.collector.wrapping_add(1);
        self.parts.change(|state| state.collector = Some(address.clone()));
        let link = Link::connect(&address, self.tls.clone()).await?;
        let mut session = Session::begin(&mut self.parts, link, identity.host()).await?;
        crate::metrics::connected(true);
        let outcome = session.run(token).await;
        if outcome.is_err() {
            // It worked: the same collector is the best next guess.
            self.collector = self.collector.wrapping_sub(1);
        }
        outcome
    }

    /// Logs the end of a session and says how long to wait.
    fn after(&mut self, error: &StreamError, backoff: &mut Backoff) -> Duration {
        crate::metrics::ended(error.code());
        let text = chain(error);
        self.parts.change(|state| state.last_error = Some(text.clone()));
        if error.needs_a_person() {
            let wait = self.parts.config.refused_wait.get();
            tracing::error!(
                error = text,
                wait_s = wait.as_secs(),
                "stream is refused; the spool keeps everything meanwhile"
            );
            self.parts.enter(StreamPhase::Refused);
            return wait;
        }
        let jittered = backoff.next_wait();
        let wait = match error {
            StreamError::Goodbye { retry_after, .. } => retry_after.saturating_add(jittered),
            _ => jittered,
        };
        tracing::warn!(
            error = text,
            wait_ms = wait.as_millis(),
            "stream ended; it is tried again"
        );
        self.parts.enter(StreamPhase::Waiting);
        wait
    }
}

impl<S> StreamParts<S> {
    pub(crate) fn change(&self, change: impl FnOnce(&mut StreamState)) {
        self.state.send_modify(change);
    }

    pub(crate) fn enter(&self, phase: StreamPhase) {
        self.state.send_modify(|state| {
            if state.phase != phase || state.since.is_none() {
                state.phase = phase;
                state.since = Some(TimeMicros::now());
            }
            if phase != StreamPhase::Connected {
                state.frames_in_flight = 0;
                state.proven = false;
            }
        });
    }
}

/// A collector's certificate that does not hold now may be a clock of ours that is wrong: the time is asked,
/// which needs no clock, before the next session.
async fn doubt_clock(error: &StreamError, identity: &LiveIdentity, time: &Arc<TrustedTime>) {
    let fault = match error {
        StreamError::Connect(ConnectError::Tls { fault, .. }) | StreamError::Refused { fault } => *fault,
        _ => return,
    };
    if fault != TlsFault::TheirsExpired {
        return;
    }
    match Box::pin(ask_time(identity, time)).await {
        Ok(now) => tracing::info!(%now, "took over the collector's time"),
        Err(error) => tracing::warn!(%error, "collector's time is not known"),
    }
}

/// The error with its causes, for people.
fn chain(error: &StreamError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
