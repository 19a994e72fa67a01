//! The tables of a room and the steps that made them what they are.
//!
//! Steps are numbered from 1, applied in order, each once, each in a transaction with the row of `<room>_migrations`
//! that says so: a crash leaves a step applied or not. The row holds the digest of the step's text; rows of programs
//! that wrote none get it when they are first seen. A released step is never edited: a change is a new step.

use aws_lc_rs::digest;
use fleetmend_event::TimeMicros;

use crate::statement::{composed, query};
use crate::{Control, ControlError, Engine, Transaction, dialect};

/// The steps of a room, in the words that [`crate::dialect`] knows.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// Whose tables: what their names begin with.
    pub room: &'static str,
    /// All steps there ever were.
    pub steps: &'static [&'static str],
}

impl Control {
    /// Brings the tables of a room up to date.
    ///
    /// # Cancel safety
    ///
    /// A step that was begun is applied or not.
    ///
    /// # Errors
    /// [`ControlError::Newer`] and [`ControlError::Changed`] when the tables are not of this program's past.
    pub async fn migrate(&self, migrations: &Migrations) -> Result<(), ControlError> {
        let Migrations { room, steps } = *migrations;
        let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
        let mut transaction = self.begin(room).await?;
        make_table(&mut transaction, room).await?;
        let found = last_step(&mut transaction, room).await?;
        transaction.commit().await?;
        if found > known {
            return Err(ControlError::Newer { room, found, known });
        }
        for (number, step) in (1_i64..).zip(steps) {
            let mut transaction = self.begin(room).await?;
            if !is_applied(&mut transaction, room, number, step).await? {
                let text = dialect::render(step, self.engine()).map_err(|word| ControlError::Word {
                    room,
                    step: number,
                    word,
                })?;
                transaction.script(text).await?;
                record(&mut transaction, room, number, step).await?;
                tracing::info!(
                    room,
                    step = number,
                    "tables of the control database brought up to date"
                );
            }
            transaction.commit().await?;
        }
        Ok(())
    }

    /// The last step of a room that was applied; 0 when none was.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn steps_applied(&self, room: &str) -> Result<i64, ControlError> {
        let mut transaction = self.begin(room).await?;
        let steps = match table_is_there(&mut transaction, room).await? {
            true => last_step(&mut transaction, room).await?,
            false => 0,
        };
        transaction.commit().await?;
        Ok(steps)
    }
}

async fn table_is_there(transaction: &mut Transaction, room: &str) -> Result<bool, ControlError> {
    let there = match transaction.control().engine() {
        Engine::Sqlite => "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1",
        Engine::Postgres => {
            "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1"
        }
    };
    let there = query(there).bind(format!("{room}_migrations"));
    Ok(there.fetch_value::<i64>(transaction).await? == Some(1))
}

/// Programs before the digest wrote none, and ingest's called the time by another name.
async fn make_table(transaction: &mut Transaction, room: &str) -> Result<(), ControlError> {
    let engine = transaction.control().engine();
    let name = format!("{room}_migrations");
    if !table_is_there(transaction, room).await? {
        let table = format!(
            "CREATE TABLE {name} (step INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL, digest TEXT) STRICT"
        );
        let text = dialect::render(&table, engine).map_err(|_| ControlError::Stored("a name of a room"))?;
        return transaction.script(text).await;
    }
    if engine == Engine::Sqlite {
        let columns = query("SELECT name FROM pragma_table_info($1) LIMIT 100")
            .bind(&name)
            .fetch_all(&mut *transaction)
            .await?;
        let columns = columns.iter().map(|row| row.try_get::<&str>(0));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        if columns.contains(&"at") {
            let rename = format!("ALTER TABLE {name} RENAME COLUMN at TO applied_at");
            transaction.script(rename).await?;
        }
        if !columns.contains(&"digest") {
            let add = format!("ALTER TABLE {name} ADD COLUMN digest TEXT");
            transaction.script(add).await?;
        }
    }
    Ok(())
}

async fn last_step(transaction: &mut Transaction, room: &str) -> Result<i64, ControlError> {
    let last = composed(format!("SELECT coalesce(max(step), 0) FROM {room}_migrations"));
    Ok(last.fetch_value(transaction).await?.unwrap_or(0))
}

async fn is_applied(
    transaction: &mut Transaction,
    room: &'static str,
    number: i64,
    step: &str,
) -> Result<bool, ControlError> {
    let row = composed(format!("SELECT digest FROM {room}_migrations WHERE step = $1"))
        .bind(number)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(row) = row else {
        return Ok(false);
    };
    match row.try_get::<Option<String>>(0)? {
        Some(applied) if applied == digest_of(step) => Ok(true),
        Some(_) => Err(ControlError::Changed { room, step: number }),
        None => {
            composed(format!(
                "UPDATE {room}_migrations SET digest = $1 WHERE step = $2"
            ))
            .bind(digest_of(step))
            .bind(number)
            .execute(transaction)
            .await?;
            Ok(true)
        }
    }
}

async fn record(
    transaction: &mut Transaction,
    room: &str,
    number: i64,
    step: &str,
) -> Result<(), ControlError> {
    composed(format!(
        "INSERT INTO {room}_migrations (step, applied_at, digest) VALUES ($1, $2, $3)"
    ))
    .bind(number)
    .bind(TimeMicros::now().0)
    .bind(digest_of(step))
    .execute(transaction)
    .await
    .map(drop)
}

/// Of the words, not of how they are broken into lines.
fn digest_of(step: &str) -> String {
    let words: Vec<&str> = step.split_whitespace().collect();
    hex::encode(digest::digest(&digest::SHA256, words.join(" ").as_bytes()))
}
