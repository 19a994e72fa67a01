//! The pool: connections to either engine, deadlines, and whether the database is there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_shutdown::{TaskKind, Tasks};
use rand::Rng as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, Pool, SqlitePool};
use tokio::sync::watch;

use crate::config::{ControlConfig, ControlUrl, PostgresUrl, Tls};
use crate::statement::{Answer, Query, query};
use crate::{ControlError, metrics, run};

/// How long a SQLite writer waits for another.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a transaction whose collector has gone silent, so that its locks are free again.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);
/// The engine's own deadline comes before ours: its answer says more.
const ENGINE_FIRST: Duration = Duration::from_millis(500);
/// A connection that does not answer when it is put back is closed after this.
const PUT_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Times a single statement that met another transaction is done again, and the longest wait before that.
const CONFLICTS_MAX: u32 = 4;
const CONFLICT_WAIT_MS: u64 = 50;
/// Time between two looks at whether the database is there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The longest password file.
const PASSWORD_BYTES_MAX: u64 = 4_096;
/// Bits of a file that nobody but its owner and group should have.
const OTHERS_MAY_READ: u32 = 0o007;

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file of this host; one collector.
    Sqlite,
    /// A server; several collectors.
    Postgres,
}

/// Whether the control database is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The last statement was answered.
    Ready,
    /// It cannot be reached, for this reason.
    Away(String),
}

/// The control database. Clones are the same.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) pools: Pools,
    pub(crate) address: String,
    pub(crate) statement_timeout: Duration,
    health: watch::Sender<Health>,
    pub(crate) signals: crate::signal::Local,
}

#[derive(Debug)]
pub(crate) enum Pools {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Carries out statements: the pool, each in a transaction of its own, or a [`crate::Transaction`].
pub trait Executor: Send {
    /// Carries out one statement.
    fn carry_out(self, query: Query) -> impl Future<Output = Result<Answer, ControlError>> + Send;
}

impl Control {
    /// Opens the database of `config`, by default the SQLite file `default`, and makes this crate's own tables there.
    ///
    /// # Errors
    /// When it cannot be reached or the address or its files are wrong.
    pub async fn open(config: &ControlConfig, default: &Path) -> Result<Self, ControlError> {
        metrics::describe();
        let url = config
            .address(default)
            .map_err(|error| ControlError::Refused(sqlx::Error::Configuration(error.into())))?;
        let pools = match &url {
            ControlUrl::Sqlite(path) => Pools::Sqlite(sqlite(path, config)),
            ControlUrl::Postgres(postgres) => Pools::Postgres(postgres_pool(postgres, config).await?),
        };
        let inner = Inner {
            pools,
            address: url.to_string(),
            statement_timeout: config.statement_timeout.get(),
            health: watch::Sender::new(Health::Ready),
            signals: crate::signal::Local::default(),
        };
        let control = Self {
            inner: Arc::new(inner),
        };
        control.migrate(&crate::signal::TABLES).await?;
        Ok(control)
    }

    /// Opens a SQLite file, making it when there is none.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub async fn sqlite(path: &Path) -> Result<Self, ControlError> {
        Self::open(&ControlConfig::default(), path).await
    }

    /// Which engine it is.
    pub fn engine(&self) -> Engine {
        match &self.inner.pools {
            Pools::Sqlite(_) => Engine::Sqlite,
            Pools::Postgres(_) => Engine::Postgres,
        }
    }

    /// Where it is, without a secret.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether it is there: by the last statement, and by a look now and then when [`Control::watch`] runs.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }

    /// Looks now and then, as a task of `tasks`, whether the database is there.
    pub fn watch(&self, tasks: &Tasks) {
        let (control, token) = (self.clone(), tasks.token());
        tasks.spawn("control-health", TaskKind::BestEffort, async move {
            while token
                .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
                .await
                .is_some()
            {
                // What it says is in the health.
                token.run_until_cancelled(control.ping()).await;
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Closes all connections; those in use when they are given back.
    pub async fn close(&self) {
        match &self.inner.pools {
            Pools::Sqlite(pool) => pool.close().await,
            Pools::Postgres(pool) => pool.close().await,
        }
    }

    async fn ping(&self) -> Result<(), ControlError> {
        query("SELECT 1").fetch_one(self).await.map(drop)
    }

    async fn once(&self, query: &Query) -> Result<Answer, ControlError> {
        match &self.inner.pools {
            Pools::Sqlite(pool) => {
                let mut connection = self.acquire(pool).await?;
                let outcome = self.in_time(run::on_sqlite(&mut connection, query)).await;
                close_broken(&mut connection, &outcome);
                outcome
            }
            Pools::Postgres(pool) => {
                let mut connection = self.acquire(pool).await?;
                let outcome = self.in_time(run::on_postgres(&mut connection, query)).await;
                close_broken(&mut connection, &outcome);
                outcome
            }
        }
    }

    pub(crate) async fn acquire<D: sqlx::Database>(
        &self,
        pool: &Pool<D>,
    ) -> Result<PoolConnection<D>, ControlError> {
        let acquired = pool.acquire().await;
        self.settle(acquired)
    }

    /// The outcome, within the deadline of a statement. Each takes of the task's cooperative budget: the drivers do not, and
    /// answers that are always there would keep the task from ever giving way to others.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, ControlError> {
        tokio::task::consume_budget().await;
        let waited = self.inner.statement_timeout;
        match tokio::time::timeout(waited, work).await {
            Ok(outcome) => self.settle(outcome),
            Err(_) => {
                let address = self.inner.address.clone();
                let error = ControlError::Late { address, waited };
                self.note(Err(&error));
                Err(error)
            }
        }
    }

    pub(crate) fn settle<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, ControlError> {
        let outcome = outcome.map_err(|error| ControlError::of(error, &self.inner.address));
        self.note(outcome.as_ref().map(drop));
        outcome
    }

    fn note(&self, outcome: Result<(), &ControlError>) {
        let health = match outcome {
            Err(error) => {
                let (reason, is_away) = match error {
                    ControlError::Unreachable { .. } => ("unreachable", true),
                    ControlError::Late { .. } => ("late", true),
                    ControlError::Conflict(_) => ("conflict", false),
                    ControlError::TooLong(_) => ("too_long", false),
                    _ => ("refused", false),
                };
                metrics::failed(reason);
                if !is_away {
                    return;
                }
                Health::Away(error.chain())
            }
            Ok(()) => Health::Ready,
        };
        self.inner.health.send_if_modified(|before| {
            let changed = std::mem::discriminant(before) != std::mem::discriminant(&health);
            if changed {
                metrics::away(health != Health::Ready);
                match &health {
                    Health::Ready => {
                        tracing::info!(address = self.inner.address, "the control database answers again")
                    }
                    Health::Away(reason) => tracing::warn!(reason, "the control database is away"),
                }
                *before = health;
            }
            changed
        });
    }
}

impl Executor for &Control {
    async fn carry_out(self, query: Query) -> Result<Answer, ControlError> {
        let mut conflicts = 0;
        loop {
            match self.once(&query).await {
                // A single statement that met another transaction has done nothing.
                Err(ControlError::Conflict(_)) if conflicts < CONFLICTS_MAX => conflicts += 1,
                outcome => return outcome,
            }
            let wait = rand::rng().random_range(1..=CONFLICT_WAIT_MS);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

/// A connection whose answer did not come, or came broken, may still get it later: nobody uses it again.
pub(crate) fn close_broken<D: sqlx::Database, T>(
    connection: &mut PoolConnection<D>,
    outcome: &Result<T, ControlError>,
) {
    if outcome.as_ref().err().is_some_and(ControlError::is_away) {
        connection.close_on_drop();
    }
}

/// A used token must not come back after a power cut, therefore every commit is synced.
fn sqlite(path: &Path, config: &ControlConfig) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(engines_own(config.statement_timeout.get()).min(BUSY_TIMEOUT));
    SqlitePoolOptions::new()
        .max_connections(config.connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options)
}

/// The engine's own deadline.
fn engines_own(deadline: Duration) -> Duration {
    deadline.saturating_sub(ENGINE_FIRST).max(deadline / 2)
}

async fn postgres_pool(url: &PostgresUrl, config: &ControlConfig) -> Result<PgPool, ControlError> {
    let deadline = config.statement_timeout.get();
    let on_server = engines_own(deadline);
    let settings = [
        ("statement_timeout", on_server),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
    ];
    let mut options = PgConnectOptions::new_without_pgpass()
        .username(&url.user)
        .database(&url.database)
        .port(url.port)
        .application_name("fleetmend-collector")
        .options(settings.map(|(name, time)| (name, format!("{}ms", time.as_millis()))));
    options = if url.host.starts_with('/') {
        options.socket(&url.host)
    } else {
        options.host(&url.host)
    };
    options = options.ssl_mode(match (url.tls, &config.ca_file) {
        (Some(Tls::Disable), _) | (None, None) => PgSslMode::Disable,
        (Some(Tls::VerifyAuthority), _) => PgSslMode::VerifyCa,
        (Some(Tls::VerifyFull) | None, _) => PgSslMode::VerifyFull,
    });
    if let Some(path) = &config.ca_file {
        let pem = read("the authorities of the control database", path).await?;
        options = options.ssl_root_cert_from_pem(pem);
    }
    // Never one that the environment happens to hold.
    let password = match &config.password_file {
        Some(path) => read_secret(path).await?,
        None => String::new(),
    };
    options = options.password(&password);
    Ok(PgPoolOptions::new()
        .max_connections(config.connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| {
            Box::pin(async move {
                let ping = sqlx::Connection::ping(connection);
                // A network that swallows everything must not keep the pool's places.
                Ok(tokio::time::timeout(PUT_BACK_TIMEOUT, ping)
                    .await
                    .is_ok_and(|pong| pong.is_ok()))
            })
        })
        .connect_lazy_with(options))
}

/// Reads a secret that only the collector and who administers it may see.
async fn read_secret(path: &Path) -> Result<String, ControlError> {
    let (what, path) = ("the password of the control database", path.to_owned());
    let metadata = tokio::fs::metadata(&path).await;
    let wrong = metadata.as_ref().ok().and_then(|metadata| {
        if metadata.permissions().mode() & OTHERS_MAY_READ != 0 {
            return Some("anybody may read it: chmod o-rwx it".to_owned());
        }
        let size = metadata.len();
        (size > PASSWORD_BYTES_MAX)
            .then(|| format!("it has {size} bytes; a password has at most {PASSWORD_BYTES_MAX}"))
    });
    if let Some(wrong) = wrong {
        let source = std::io::Error::other(wrong);
        return Err(ControlError::File { what, path, source });
    }
    let bytes = read(what, &path).await?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches(['\r', '\n'])
        .to_owned())
}

async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ControlError> {
    tokio::fs::read(path).await.map_err(|source| ControlError::File {
        what,
        path: path.to_owned(),
        source,
    })
}
