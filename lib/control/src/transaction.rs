//! Transactions that write.

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr as _, Sqlite};
use sqlx_core::transaction::TransactionManager as _;

use crate::pool::{Executor, Pools, close_broken};
use crate::statement::{Answer, Query, query};
use crate::{Control, ControlError, run};

type SqliteManager = <Sqlite as sqlx::Database>::TransactionManager;
type PostgresManager = <Postgres as sqlx::Database>::TransactionManager;

/// Times a transaction that could not begin is begun again.
const BEGIN_TRIES: u32 = 3;
/// First half of the key of every lock that this program takes in PostgreSQL: "flee".
const LOCK_CLASS: i64 = 0x666C_6565;

/// A transaction that excludes other writing transactions of its room, on whatever collector. Dropped without
/// [`Transaction::commit`] it is rolled back.
///
/// After a statement that failed nothing more can be done in it, on either engine.
#[derive(Debug)]
pub struct Transaction {
    control: Control,
    held: Held,
    /// Whether there is something to roll back.
    open: bool,
    failed: bool,
    /// Told when it commits, to who waits in this process.
    signals: Vec<String>,
}

#[derive(Debug)]
enum Held {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Control {
    /// Begins a transaction of a room. SQLite lets one write at a time; PostgreSQL holds a lock named by the room
    /// until the transaction ends, and its statements see all that was committed before each of them.
    ///
    /// # Cancel safety
    ///
    /// Nothing is held when the future is dropped.
    ///
    /// # Errors
    /// When the database is away, or others write for too long.
    pub async fn begin(&self, room: &str) -> Result<Transaction, ControlError> {
        let mut tries = 1;
        loop {
            match self.try_begin(room).await {
                // Nothing has been done yet: a connection that broke may be replaced.
                Err(error) if error.is_away() && tries < BEGIN_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_begin(&self, room: &str) -> Result<Transaction, ControlError> {
        let held = match &self.inner.pools {
            Pools::Sqlite(pool) => Held::Sqlite(self.acquire(pool).await?),
            Pools::Postgres(pool) => Held::Postgres(self.acquire(pool).await?),
        };
        let mut transaction = Transaction {
            control: self.clone(),
            held,
            open: true,
            failed: false,
            signals: Vec::new(),
        };
        let begun = match &mut transaction.held {
            Held::Sqlite(connection) => {
                let statement = AssertSqlSafe("BEGIN IMMEDIATE").into_sql_str();
                let begun = self
                    .in_time(SqliteManager::begin(connection, Some(statement)))
                    .await;
                close_broken(connection, &begun);
                begun
            }
            Held::Postgres(connection) => {
                let begun = self.in_time(PostgresManager::begin(connection, None)).await;
                close_broken(connection, &begun);
                begun
            }
        };
        begun?;
        if matches!(transaction.held, Held::Postgres(_)) {
            query("SELECT pg_advisory_xact_lock($1::int, hashtext($2))")
                .bind(LOCK_CLASS)
                .bind(room)
                .execute(&mut transaction)
                .await?;
        }
        Ok(transaction)
    }
}

impl Transaction {
    /// Makes it so.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`] and [`ControlError::Late`] leave open whether it happened.
    pub async fn commit(mut self) -> Result<(), ControlError> {
        if self.failed {
            return Err(ControlError::Stored(
                "that of a transaction whose statements all succeeded",
            ));
        }
        let committed = match &mut self.held {
            Held::Sqlite(connection) => {
                let committed = self.control.in_time(SqliteManager::commit(connection)).await;
                close_broken(connection, &committed);
                committed
            }
            Held::Postgres(connection) => {
                let committed = self.control.in_time(PostgresManager::commit(connection)).await;
                close_broken(connection, &committed);
                committed
            }
        };
        self.failed = committed.is_err();
        committed?;
        self.open = false;
        for name in std::mem::take(&mut self.signals) {
            self.control.inner.signals.changed(&name);
        }
        Ok(())
    }

    /// The database that it is of.
    pub fn control(&self) -> &Control {
        &self.control
    }

    pub(crate) fn tell_at_commit(&mut self, signal: &str) {
        self.signals.push(signal.to_owned());
    }

    /// Statements without values, in the engine's own words.
    pub(crate) async fn script(&mut self, text: String) -> Result<(), ControlError> {
        let done = match &mut self.held {
            Held::Sqlite(connection) => {
                let done = self
                    .control
                    .in_time(run::script_on_sqlite(connection, text))
                    .await;
                close_broken(connection, &done);
                done
            }
            Held::Postgres(connection) => {
                let done = self
                    .control
                    .in_time(run::script_on_postgres(connection, text))
                    .await;
                close_broken(connection, &done);
                done
            }
        };
        self.failed |= done.is_err();
        done
    }
}

impl Executor for &mut Transaction {
    async fn carry_out(self, query: Query) -> Result<Answer, ControlError> {
        let outcome = match &mut self.held {
            Held::Sqlite(connection) => {
                let outcome = self.control.in_time(run::on_sqlite(connection, &query)).await;
                close_broken(connection, &outcome);
                outcome
            }
            Held::Postgres(connection) => {
                let outcome = self.control.in_time(run::on_postgres(connection, &query)).await;
                close_broken(connection, &outcome);
                outcome
            }
        };
        self.failed |= outcome.is_err();
        outcome
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            match &mut self.held {
                Held::Sqlite(connection) => {
                    if self.failed {
                        // SQLite may have rolled back by itself, as where the disk is full, and the driver does not
                        // see it: it would call the transaction open for ever.
                        connection.close_on_drop();
                    }
                    SqliteManager::start_rollback(connection);
                }
                Held::Postgres(connection) => PostgresManager::start_rollback(connection),
            }
        }
    }
}
