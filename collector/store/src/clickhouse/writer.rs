//! The writer: commits of many hosts become one insert per table.
//!
//! A group goes through the steps of the ledger: admitted by what is known here, claimed, inserted, marked, and only
//! then shown and acknowledged. What a step refuses for one host leaves the others alone; an engine that fails, fails
//! the whole group, and its senders send again. While a group is on its way the next one gathers.

mod group;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleetmend_event::{HostId, Lane, Mark, RecordId, Sequence, TimeMicros};
use fleetmend_shutdown::CancellationToken;
use futures::{StreamExt, TryStreamExt};
use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::ddl;
use super::error::EngineError;
use super::rows::{Insert, RecordRows, encode};
use crate::commit::{PreparedCommit, chain, not_finished};
use crate::error::CommitError;
use crate::inner::Health;
use crate::metrics as names;
use crate::own::OwnFrame;
use crate::writer::{answer, tell};
use group::Group;

/// Tables that are inserted into at once.
const INSERTS_AT_ONCE: usize = 4;
/// Bytes of commits that are gathered for one group; a larger commit is one of its own.
const GROUP_BYTES_MAX: usize = 16 << 20;

pub(super) type Reply = oneshot::Sender<Result<Vec<Mark>, CommitError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Make frames of a host durable.
    Commit {
        host: HostId,
        /// The token under which the host was held when the command was given.
        token: i64,
        prepared: PreparedCommit,
        bytes: usize,
        reply: Reply,
        room: OwnedSemaphorePermit,
    },
    /// Make rows of the collector durable.
    Own {
        host: HostId,
        frames: Vec<OwnFrame>,
        reply: Reply,
    },
    /// Write what is gathered now.
    Seal { reply: oneshot::Sender<()> },
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        Self { shared, commands }
    }

    /// Works until `token` is cancelled, then finishes what is queued.
    pub(super) async fn run(mut self, token: CancellationToken) {
        while let Some(Some(first)) = token.run_until_cancelled(self.commands.recv()).await {
            self.work(first, token.clone()).await;
        }
        self.commands.close();
        while let Ok(first) = self.commands.try_recv() {
            self.work(first, token.clone()).await;
        }
        self.shared
            .set_health(Health::NotReady("store is closed".to_owned()));
    }

    async fn work(&mut self, first: Command, token: CancellationToken) {
        let begun = Instant::now();
        let config = &self.shared.config.clickhouse;
        let until = begun + Duration::from_millis(config.gather_ms);
        let mut group = Group::new(TimeMicros::now());
        let mut seals = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Seal { reply } => seals.push(reply),
                command => group.stage(&self.shared, command),
            }
            let is_full = group.len() >= config.gather_commits_max || group.bytes() >= GROUP_BYTES_MAX;
            if is_full || !seals.is_empty() {
                break;
            }
            next = match self.commands.try_recv() {
                Ok(command) => Some(command),
                Err(_) => {
                    let wait = timeout_at(until, self.commands.recv());
                    token
                        .run_until_cancelled(wait)
                        .await
                        .and_then(Result::ok)
                        .flatten()
                }
            };
        }
        if group.len() > 0 {
            Box::pin(settle(&self.shared, group)).await;
            histogram!(names::GROUP_SECONDS).record(begun.elapsed().as_secs_f64());
        }
        seals.into_iter().for_each(|reply| answer(reply, ()));
    }
}

/// Takes a group through all steps and answers everybody in it.
async fn settle(shared: &Arc<Shared>, mut group: Group) {
    let written = write(shared, &mut group).await;
    match written {
        Ok(()) => {
            shared.wrote();
            group.acknowledge(shared);
        }
        Err(error) => {
            counter!(names::REFUSED, "reason" => "unavailable").increment(1);
            if let CommitError::Unavailable { reason } = &error {
                shared.failed_to_write(reason);
            }
            group.refuse(&error);
        }
    }
}

async fn write(shared: &Arc<Shared>, group: &mut Group) -> Result<(), CommitError> {
    let tokens = group.tokens();
    if !tokens.is_empty() {
        let stepped = shared.ledger.claim(&tokens, group.claims()).await;
        let stepped =
            stepped.map_err(|error| unavailable("claim records in the control database", &error))?;
        group.lose(shared, &stepped.lost);
        group.stand(&stepped.claims);
    }
    let rows = group.rows(shared)?;
    let inserts = {
        let rows = rows.clone();
        tokio::task::spawn_blocking(move || encode(&rows))
            .await
            .map_err(not_finished)??
    };
    let inserts = inserts.into_iter().map(|insert| put(shared.clone(), insert));
    futures::stream::iter(inserts)
        .buffer_unordered(INSERTS_AT_ONCE)
        .try_collect::<()>()
        .await
        .map_err(|error| CommitError::Unavailable {
            reason: error.to_string(),
        })?;
    let marks = group.marks();
    if !tokens.is_empty() {
        let lost = shared.ledger.mark(&group.tokens(), &marks, group.now()).await;
        let lost = lost.map_err(|error| unavailable("raise marks in the control database", &error))?;
        group.lose(shared, &lost);
    }
    show(shared, group, rows);
    shared.trim(&marks);
    Ok(())
}

fn unavailable(action: &str, error: &fleetmend_control::ControlError) -> CommitError {
    CommitError::Unavailable {
        reason: format!("cannot {action}: {}", chain(error)),
    }
}

async fn put(shared: Arc<Shared>, insert: Insert) -> Result<(), EngineError> {
    let statement = format!(
        "INSERT INTO {} ({}) FORMAT ArrowStream",
        ddl::target(&shared.writes, insert.table),
        insert.columns
    );
    let token = if shared.config.clickhouse.insert_tokens {
        insert.token
    } else {
        // One that nobody had before: servers of one version or another have no common word for none.
        uuid::Uuid::new_v4().to_string()
    };
    let mut settings = vec![("insert_deduplication_token", token)];
    if shared.writes.url().cluster.is_some() {
        // Acknowledged is what most replicas have.
        settings.push(("distributed_foreground_insert", "1".to_owned()));
        settings.push(("insert_quorum", "auto".to_owned()));
    }
    counter!(names::SEGMENT_BYTES).increment(insert.body.len() as u64);
    shared
        .writes
        .insert(&statement, &settings, insert.body.clone())
        .await
}

/// Shows what became durable: marks, losses, subscribers.
fn show(shared: &Shared, group: &Group, rows: Vec<RecordRows>) {
    let (pending, begun) = group.became_true();
    shared.hosts.apply(&pending, &begun, group.now());
    let mut count = 0_u64;
    for record in rows {
        count = count.saturating_add(record.rows.count);
        shared
            .gaps
            .note(record.origin.host, record.table, &record.rows.batch);
        tell(&shared.committed, &record.origin, record.table, &record.rows);
    }
    counter!(names::ROWS).increment(count);
}

/// Numbers of the collector's own records; new with every process.
#[derive(Debug, Default)]
pub(super) struct OwnNumbers {
    next: [AtomicU64; 3],
}

impl OwnNumbers {
    /// The identity of the next own record of a lane.
    pub(super) fn next(&self, template: RecordId) -> RecordId {
        let lane = usize::from(template.lane.code());
        let number = self
            .next
            .get(lane)
            .map_or(0, |next| next.fetch_add(1, Ordering::Relaxed));
        RecordId {
            sequence: Sequence(number.saturating_add(1)),
            ..template
        }
    }
}

const _: () = assert!(Lane::ALL.len() == 3, "a lane without numbers");

/// Tokens by host.
pub(super) type Tokens = HashMap<HostId, i64>;
