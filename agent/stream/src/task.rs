//! The task that keeps the stream: session after session, with waits in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_config::ByteSize;
use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{IdentityError, LiveIdentity, TrustedTime, tls};
use fleetmend_shutdown::{Backoff, CancellationToken, TaskKind, Tasks};
use rand::Rng as _;
use tokio::sync::{mpsc, watch};
use tokio_rustls::rustls::ClientConfig;

use crate::config::{SESSION_GOOD, StreamConfig};
use crate::connector::{ConnectError, Link};
use crate::enrol::ask_time;
use crate::error::StreamError;
use crate::network::Dialer;
use crate::pace::Pace;
use crate::relative::Relative;
use crate::session::Session;
use crate::source::FrameSource;
use crate::state::{Hint, Order, OrderResult, StreamPhase, StreamState};

/// Places to begin at: a multiple of every length that lists have, so that none is preferred.
const COLLECTORS_MAX: usize = 5_040;

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
    dialer: Dialer,
    pace: Pace,
    relative: Relative,
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
        let pace = parts.config.pace();
        crate::metrics::egress_limit(parts.config.egress_bytes_per_s.map(ByteSize::get));
        Ok(Self {
            parts,
            identity,
            time: time.clone(),
            tls,
            dialer: Dialer::direct(),
            pace,
            relative: Relative::default(),
            // Somewhere in the list: a fleet that is told the same list spreads over it.
            collector: rand::rng().random_range(0..COLLECTORS_MAX),
        })
    }

    /// Makes its connections by `dialer`.
    #[must_use]
    pub fn through(self, dialer: Dialer) -> Self {
        Self { dialer, ..self }
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
            let mut replaced = identity.replacements();
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
            let dialer = self.dialer.clone();
            let pause = async {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // What was refused is not what is shown next.
                    Ok(()) = replaced.changed(), if tls_fault(&error).is_some() => {}
                }
                doubt_clock(&error, &dialer, &identity, &time).await;
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
        let link = Link::connect_by(&self.dialer, &address, self.tls.clone()).await?;
        let mut session = Session::begin(
            &mut self.parts,
            (&mut self.pace, &mut self.relative),
            link,
            &self.identity,
            &self.time,
        )
        .await?;
        crate::metrics::connected(true);
        let outcome = session.run(token).await;
        if matches!(&outcome, Err(error) if !matches!(error, StreamError::Goodbye { .. })) {
            // It worked: the same collector is the best next guess. One that said goodbye is not.
            self.collector = self.collector.wrapping_sub(1);
        }
        outcome
    }

    /// How many collectors are known.
    fn collectors(&self) -> usize {
        match self.parts.config.collectors.len() {
            0 => self.identity.current().collectors().len(),
            configured => configured,
        }
    }

    /// Logs the end of a session and says how long to wait.
    pub(crate) fn after(&mut self, error: &StreamError, backoff: &mut Backoff) -> Duration {
        crate::metrics::ended(error.code());
        let text = chain(error);
        if tls_fault(error) == Some(TlsFault::OursUnknown) {
            // Perhaps its keys were rotated, and those that issued our certificate are gone.
            self.identity.doubt();
        }
        self.parts.change(|state| state.last_error = Some(text.clone()));
        if let StreamError::Goodbye {
            self_contained: true, ..
        } = error
        {
            self.relative.avoid(Instant::now());
        }
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
            // It is meant of that collector; the next one is asked earlier, and not by everybody at once.
            StreamError::Goodbye { retry_after, .. } if self.collectors() > 1 => rand::rng()
                .random_range(Duration::ZERO..=*retry_after)
                .saturating_add(jittered),
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
async fn doubt_clock(error: &StreamError, dialer: &Dialer, identity: &LiveIdentity, time: &Arc<TrustedTime>) {
    if tls_fault(error) != Some(TlsFault::TheirsExpired) {
        return;
    }
    match Box::pin(ask_time(dialer, identity, time)).await {
        Ok(now) => tracing::info!(%now, "took over the collector's time"),
        Err(error) => tracing::warn!(%error, "collector's time is not known"),
    }
}

/// The fault of the handshake, if that is what it was.
fn tls_fault(error: &StreamError) -> Option<TlsFault> {
    match error {
        StreamError::Connect(ConnectError::Tls { fault, .. }) | StreamError::Refused { fault } => {
            Some(*fault)
        }
        _ => None,
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
