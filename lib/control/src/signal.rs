//! Signals: something that a name stands for was changed, here or by another collector; whoever follows reads again.
//!
//! A signal carries nothing: what changed is in the tables. It is told in the transaction that makes the change
//! ([`Transaction::signal`]) and arrives after its commit. The table `control_signals` counts them, so that nobody
//! misses one over a lost connection: the counts are compared after a reconnect, and every half minute. PostgreSQL
//! wakes the followers by NOTIFY; SQLite, whose other writers are commands of the same host, is looked at each second.
//!
//! A follower may be woken without a change (when the task begins), never left asleep over one.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetmend_shutdown::{Backoff, TaskKind, Tasks};
use parking_lot::Mutex;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use crate::migrate::Migrations;
use crate::pool::Pools;
use crate::statement::query;
use crate::{Control, ControlError, Transaction};

/// PostgreSQL's channel; the name of the signal is the payload.
const CHANNEL: &str = "fleetmend_control";
/// Time between two comparisons of the counts while notifications arrive.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// The same where nothing notifies.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Wait before the connection is made again.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// Signals there may be: the rooms have a handful.
const NAMES_MAX: i64 = 1_000;

/// The tables of this crate itself.
pub(crate) const TABLES: Migrations = Migrations {
    room: "control",
    steps: &[
        "CREATE TABLE control_signals (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
        CREATE TABLE control_leases (
            name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, expires_at INTEGER NOT NULL
        ) STRICT;",
    ],
};

/// Followers of this process.
#[derive(Debug, Default)]
pub(crate) struct Local {
    names: Mutex<BTreeMap<String, watch::Sender<u64>>>,
}

impl Local {
    /// Wakes who follows.
    pub(crate) fn changed(&self, name: &str) {
        if let Some(sender) = self.names.lock().get(name) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Transaction {
    /// Tells who follows `name`, on this and on every other collector, once this transaction has committed.
    ///
    /// # Errors
    /// As any statement.
    pub async fn signal(&mut self, name: &'static str) -> Result<(), ControlError> {
        query(
            "INSERT INTO control_signals (name, count) VALUES ($1, 1)
             ON CONFLICT (name) DO UPDATE SET count = control_signals.count + 1",
        )
        .bind(name)
        .execute(&mut *self)
        .await?;
        if matches!(self.control().inner.pools, Pools::Postgres(_)) {
            query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(name)
                .execute(&mut *self)
                .await?;
        }
        self.tell_at_commit(name);
        Ok(())
    }
}

impl Control {
    /// Changes whenever `name` was signalled. What is told before this call is not told again: follow first, then
    /// read.
    pub fn follow(&self, name: &'static str) -> watch::Receiver<u64> {
        let mut names = self.inner.signals.names.lock();
        let sender = names
            .entry(name.to_owned())
            .or_insert_with(|| watch::Sender::new(0));
        sender.subscribe()
    }

    /// Listens to what other processes signal, as a task of `tasks`.
    pub fn serve_signals(&self, tasks: &Tasks) {
        let (control, token) = (self.clone(), tasks.token());
        tasks.spawn("control-signals", TaskKind::BestEffort, async move {
            let mut seen = BTreeMap::new();
            let mut backoff = Backoff::new(AGAIN_MIN, AGAIN_MAX);
            let serve = async {
                loop {
                    if let Err(error) = control.listen(&mut seen, &mut backoff).await {
                        tracing::debug!(
                            error = error.chain(),
                            "signals of other collectors cannot be heard"
                        );
                        tokio::time::sleep(backoff.next_wait()).await;
                    }
                }
            };
            Box::pin(token.run_until_cancelled(serve)).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// One turn: tells what was missed, then what arrives, until it is time to compare again.
    async fn listen(
        &self,
        seen: &mut BTreeMap<String, i64>,
        backoff: &mut Backoff,
    ) -> Result<(), ControlError> {
        let Pools::Postgres(pool) = &self.inner.pools else {
            self.compare(seen).await?;
            backoff.reset();
            tokio::time::sleep(POLL_EVERY).await;
            return Ok(());
        };
        // Anew each turn: a connection that a network swallowed says nothing, and does not say so.
        let mut listener = self.listener(pool).await?;
        self.compare(seen).await?;
        backoff.reset();
        let until = tokio::time::Instant::now() + COMPARE_EVERY;
        while let Ok(heard) = tokio::time::timeout_at(until, listener.try_recv()).await {
            match self.settle(heard)? {
                Some(notice) => self.inner.signals.changed(notice.payload()),
                // Disconnected: the comparison of the next turn tells what was missed.
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn listener(&self, pool: &PgPool) -> Result<PgListener, ControlError> {
        let mut listener = self.in_time(PgListener::connect_with(pool)).await?;
        // A lost connection is told at once, and comes back through `compare`.
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        self.in_time(listener.listen(CHANNEL)).await?;
        Ok(listener)
    }

    /// Wakes the followers of every signal whose count is another one than it was.
    async fn compare(&self, seen: &mut BTreeMap<String, i64>) -> Result<(), ControlError> {
        let rows = query("SELECT name, count FROM control_signals ORDER BY name LIMIT $1")
            .bind(NAMES_MAX)
            .fetch_all(self)
            .await?;
        for row in rows {
            let (name, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            if seen.insert(name.clone(), count) != Some(count) {
                self.inner.signals.changed(&name);
            }
        }
        Ok(())
    }
}
