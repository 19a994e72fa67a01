//! The loop: findings in, proposals out, the healer's ledger on as facts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::Fact;
use fleetmend_event::healer::{HealerReply, HealerRequest, HealerStatus};
use fleetmend_event::table::{Finding, ProbeState, ProbeStatus};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::book::Book;
use crate::client::Link;
use crate::cursor::CursorFile;
use crate::error::{LinkError, SinkClosed};
use crate::{Clock, Config, FactSink, metrics};

/// Findings that wait; see the room's text.
const FINDINGS_MAX: usize = 256;
/// How often due proposals are looked for.
const TICK: Duration = Duration::from_millis(500);
/// Pause before the next attempt to connect, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The healer is asked how it stands, and the probe status is sent, this often.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Entries after which the cursor is kept even while more wait.
const CURSOR_ENTRIES_MAX: u64 = 32;

/// Where findings are handed in.
#[derive(Debug, Clone)]
pub struct HealHandle {
    findings: mpsc::Sender<Finding>,
}

impl HealHandle {
    /// Hands in a finding; never waits.
    pub fn offer(&self, finding: &Finding) {
        metrics::finding_received();
        if self.findings.try_send(finding.clone()).is_err() {
            metrics::finding_dropped("queue_full");
        }
    }
}

/// Starts the room.
pub fn start(config: Config, tasks: &Tasks, sink: Arc<dyn FactSink>, clock: Arc<dyn Clock>) -> HealHandle {
    metrics::describe();
    let (findings, queue) = mpsc::channel(FINDINGS_MAX);
    let cursor = CursorFile::new(&config.cursor_file);
    let room = Room {
        book: Book::default(),
        status: None,
        stance: None,
        said: None,
        next_index: 0,
        kept_index: 0,
        received: 0,
        tasks: tasks.clone(),
        config,
        sink,
        clock,
        cursor,
    };
    let token = tasks.token();
    tasks.spawn("heal", TaskKind::Critical, async move {
        tokio::select! {
            () = token.cancelled() => {}
            // The consumer of facts ends after us; that it is gone means that the agent ends.
            SinkClosed = room.run(queue) => {}
        }
        Ok::<(), Infallible>(())
    });
    HealHandle { findings }
}

struct Room {
    config: Config,
    tasks: Tasks,
    sink: Arc<dyn FactSink>,
    clock: Arc<dyn Clock>,
    cursor: CursorFile,
    book: Book,
    status: Option<HealerStatus>,
    // Mode, policy and stop switch as they last were, also while there is no connection.
    stance: Option<(String, u64, bool)>,
    said: Option<(ProbeState, String)>,
    next_index: u64,
    kept_index: u64,
    received: u64,
}

/// Why a connection was given up.
enum End {
    Link(LinkError),
    Sink(SinkClosed),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        End::Link(error)
    }
}

impl From<SinkClosed> for End {
    fn from(error: SinkClosed) -> Self {
        End::Sink(error)
    }
}

impl Room {
    async fn run(mut self, mut findings: mpsc::Receiver<Finding>) -> SinkClosed {
        let cursor = self.cursor.clone();
        match tokio::task::spawn_blocking(move || cursor.read()).await {
            Ok(Ok(index)) => (self.next_index, self.kept_index) = (index, index),
            Ok(Err(error)) => tracing::warn!(%error, "the ledger is read from its start"),
            Err(error) => tracing::warn!(%error, "cursor was not read"),
        }
        let mut pause = BACKOFF.0;
        loop {
            let connected = Instant::now();
            let end = match Link::open(&self.config.socket, &self.tasks).await {
                Ok((link, status)) => self.converse(link, status, &mut findings).await,
                Err(error) => End::Link(error),
            };
            let error = match end {
                End::Sink(closed) => return closed,
                End::Link(error) => error,
            };
            metrics::connection_failed();
            if connected.elapsed() > BACKOFF.1 {
                pause = BACKOFF.0;
            }
            self.status = None;
            if let Err(closed) = self.absent(&error, &mut findings, pause).await {
                return closed;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Without a healer: says so, and keeps the book current.
    async fn absent(
        &mut self,
        error: &LinkError,
        findings: &mut mpsc::Receiver<Finding>,
        pause: Duration,
    ) -> Result<(), SinkClosed> {
        let cause = std::error::Error::source(error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        self.say(ProbeState::Degraded, format!("{error}{cause}"), false)
            .await?;
        let until = Instant::now() + pause.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                Some(finding) = findings.recv() => self.note(&finding),
            }
        }
    }

    async fn converse(
        &mut self,
        mut link: Link,
        status: HealerStatus,
        findings: &mut mpsc::Receiver<Finding>,
    ) -> End {
        match self.talk(&mut link, status, findings).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn talk(
        &mut self,
        link: &mut Link,
        status: HealerStatus,
        findings: &mut mpsc::Receiver<Finding>,
    ) -> Result<Infallible, End> {
        if status.ledger_next < self.next_index {
            tracing::warn!(
                had = self.next_index,
                has = status.ledger_next,
                "healer began a new ledger: read from its start"
            );
            self.next_index = 0;
        }
        tracing::info!(
            mode = status.mode,
            policy = status.policy_version,
            "connected to the healer"
        );
        self.stands(status, true).await?;
        link.send(&HealerRequest::Follow {
            from_index: self.next_index,
        })
        .await?;
        let mut tick = tokio::time::interval(TICK);
        let mut ask = tokio::time::interval_at(Instant::now() + STATUS_EVERY, STATUS_EVERY);
        loop {
            tokio::select! {
                reply = link.receive() => {
                    self.heard(reply?).await?;
                    if link.is_idle() || self.next_index.abs_diff(self.kept_index) >= CURSOR_ENTRIES_MAX {
                        self.keep_cursor().await;
                    }
                    // A decision may have made the next candidate due.
                    self.propose(link).await?;
                }
                Some(finding) = findings.recv() => {
                    self.note(&finding);
                    self.propose(link).await?;
                }
                _ = tick.tick() => self.propose(link).await?,
                _ = ask.tick() => link.send(&HealerRequest::Status).await?,
            }
        }
    }

    fn note(&mut self, finding: &Finding) {
        if self.config.propose {
            self.book.note(finding, &self.config, self.clock.now());
        }
    }

    async fn propose(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let now = self.clock.now();
        let mut due = self.book.due(&self.config, now).into_iter();
        while let Some(proposal) = due.next() {
            let (action_id, remedy) = (proposal.action_id, proposal.remedy.name());
            tracing::info!(%action_id, remedy, target = proposal.remedy.target(), "proposed to the healer");
            if let Err(error) = link.send(&HealerRequest::Propose(Box::new(proposal))).await {
                self.book.unsent(action_id, now);
                due.for_each(|proposal| self.book.unsent(proposal.action_id, now));
                return Err(error);
            }
            metrics::proposal_sent(remedy);
        }
        Ok(())
    }

    async fn heard(&mut self, reply: HealerReply) -> Result<(), End> {
        match reply {
            HealerReply::Entry { entry, event } => {
                let index = entry.index;
                self.received += 1;
                if let Some(event) = &event {
                    self.book.step(event, self.clock.now());
                }
                let step = event.map(Fact::Action);
                let facts = [Some(Fact::from(entry)), step].into_iter().flatten().collect();
                self.sink.deliver(facts).await?;
                metrics::entry_sent();
                self.next_index = index.saturating_add(1);
            }
            HealerReply::Decided {
                action_id,
                accepted,
                reason,
            } => {
                tracing::info!(%action_id, accepted, reason, "healer decided");
            }
            HealerReply::Status(status) => self.stands(status, true).await?,
            HealerReply::Refused { reason } => {
                tracing::warn!(reason, "healer refused a request");
                self.say(ProbeState::Degraded, reason, true).await?;
            }
        }
        Ok(())
    }

    async fn keep_cursor(&mut self) {
        let (cursor, index) = (self.cursor.clone(), self.next_index);
        if index == self.kept_index {
            return;
        }
        match tokio::task::spawn_blocking(move || cursor.write(index)).await {
            Ok(Ok(())) => self.kept_index = index,
            // Entries are then read twice after a restart, and none is lost.
            Ok(Err(error)) => tracing::warn!(%error, "cursor was not kept"),
            Err(error) => tracing::warn!(%error, "cursor was not kept"),
        }
    }

    async fn stands(&mut self, status: HealerStatus, minute: bool) -> Result<(), SinkClosed> {
        let policy = match status.policy_version {
            0 => "no policy".to_owned(),
            version => format!("policy {version}"),
        };
        let lacking: Vec<String> = status
            .remedies
            .iter()
            .filter(|remedy| !remedy.applicable)
            .map(|remedy| format!("{}: {}", remedy.remedy, remedy.detail))
            .collect();
        let lacking = if lacking.is_empty() {
            String::new()
        } else {
            format!("; not applicable: {}", lacking.join(", "))
        };
        let (state, how) = match (status.stopped, lacking.is_empty()) {
            (true, _) => (ProbeState::Degraded, ", acting is stopped"),
            (false, true) => (ProbeState::Real, ""),
            (false, false) => (ProbeState::Degraded, ""),
        };
        let reason = format!("{} mode, {policy}{how}{lacking}", status.mode);
        let stance = Some((status.mode.clone(), status.policy_version, status.stopped));
        if self.stance.is_some() && self.stance != stance {
            self.book.reconsider(self.clock.now());
        }
        self.stance = stance;
        self.status = Some(status);
        self.say(state, reason, minute).await
    }

    async fn say(&mut self, state: ProbeState, reason: String, minute: bool) -> Result<(), SinkClosed> {
        let now = (state, reason.clone());
        if !minute && self.said.as_ref() == Some(&now) {
            return Ok(());
        }
        let hint = match (state, &self.status) {
            (ProbeState::Real, _) => String::new(),
            (_, None) => {
                "start fleetmend-healer, and see that its configuration allows the agent's user".to_owned()
            }
            (_, Some(_)) => "see fleetmend-healer status".to_owned(),
        };
        let row = ProbeStatus {
            time: self.clock.now(),
            probe: "healer".to_owned(),
            state,
            reason,
            hint,
            seen: self.received,
            delivered: self.received,
            lost: 0,
        };
        self.said = Some(now);
        self.sink.deliver(vec![Fact::from(row)]).await
    }
}

#[cfg(test)]
mod tests;
