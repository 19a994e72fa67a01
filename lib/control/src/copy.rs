//! One control database into another, of either engine: every table, whole, or nothing.
//!
//! # How it goes
//! The tables of each room that the source has are made in the target by the room's own steps. Then, in one transaction
//! on each side: both are locked against writers, the target has to be empty, rows are carried over in the order of
//! their keys, what the target holds now is read back, and counts and digests of both sides have to be equal. Only
//! then the target commits. A crash, a lost connection or a cancelled command leaves the target as empty as it was, and
//! the command is given again. Given again after it succeeded it finds both sides equal and changes nothing.
//!
//! Numbers that count by themselves go on where the source's were. Leases are carried over like all else: a fencing
//! token never falls.
//!
//! # What is thin
//! Whoever writes to the source after its transaction ended is not heard: no collector may run on it meanwhile. U+0000 in
//! text, which PostgreSQL cannot hold, becomes U+FFFD, as everywhere here, and is counted.

mod digest;
mod table;

use std::collections::BTreeSet;

use crate::row::Cell;
use crate::statement::composed;
use crate::{Control, ControlError, Engine, Migrations, Transaction, Value};

use digest::Digest;
use table::Table;

/// Rows of one statement: engines bound the number of its values.
const ROWS_AT_ONCE: usize = 500;
/// The transactions' own room.
const ROOM: &str = "copy";

/// What was carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Each table.
    pub tables: Vec<CopiedTable>,
    /// Whether all of it was there already, and nothing was changed.
    pub was_there: bool,
    /// Texts in which U+0000 had to be replaced.
    pub texts_replaced: u64,
}

/// A table that is the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Digest of all its rows, whatever their order.
    pub digest: String,
}

/// A control database could not be carried over. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the databases refused, or is away.
    #[error("cannot {attempt} in {address}")]
    Database {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// Which one.
        address: String,
        /// Its word.
        source: ControlError,
    },
    /// There is nowhere to go.
    #[error("source and target are both {0}")]
    Same(String),
    /// Tables that nobody knows.
    #[error(
        "{address} has tables that this program does not know ({}): a newer version or something else made them; \
         nothing was copied",
        tables.join(", ")
    )]
    Unknown {
        /// Which database.
        address: String,
        /// Their names.
        tables: Vec<String>,
    },
    /// There is something in the target already.
    #[error(
        "{address} is not empty ({} hold rows) and differs from {from}: name an empty database, or make this one empty \
         by dropping and making it again",
        tables.join(", ")
    )]
    NotEmpty {
        /// The target.
        address: String,
        /// The source.
        from: String,
        /// Tables with rows.
        tables: Vec<String>,
    },
    /// A table is not the same on both sides.
    #[error("the table {table} cannot be copied: {reason}")]
    Table {
        /// Its name.
        table: String,
        /// Why.
        reason: String,
    },
    /// What was read back is not what was written.
    #[error(
        "the table {table} holds {wrote} rows after {read} were copied, or others: nothing was kept of it"
    )]
    Differs {
        /// Its name.
        table: String,
        /// Rows of the source.
        read: u64,
        /// Rows of the target.
        wrote: u64,
    },
}

/// A database under its transaction.
struct Side<'a> {
    control: &'a Control,
    transaction: Transaction,
}

/// Copies all control state. `rooms` are all that may have tables in it; those that the source has none of are left out.
///
/// # Cancel safety
/// The target is as it was, or holds everything.
///
/// # Errors
/// See [`CopyError`]; the target is as it was.
pub async fn copy(from: &Control, to: &Control, rooms: &[Migrations]) -> Result<Copied, CopyError> {
    if from.address() == to.address() {
        return Err(CopyError::Same(from.address().to_owned()));
    }
    make_tables(from, to, rooms).await?;
    let mut source = Side::begin(from).await?;
    let mut target = Side::begin(to).await?;
    let (tables, there) = (source.tables().await?, target.tables().await?);
    let missing: Vec<String> = tables.difference(&there).cloned().collect();
    if !missing.is_empty() {
        return Err(CopyError::Unknown {
            address: from.address().to_owned(),
            tables: missing,
        });
    }
    source.lock(&tables).await?;
    target.lock(&tables).await?;
    let plain = from.engine() == Engine::Postgres || to.engine() == Engine::Postgres;
    let mut copied = Copied {
        tables: Vec::new(),
        was_there: false,
        texts_replaced: 0,
    };
    let ordered = target.in_order_of_making(&tables).await?;
    let filled = target.filled(&ordered).await?;
    copied.was_there = !filled.is_empty();
    for name in &ordered {
        let table = pair(&mut source, &mut target, name).await?;
        let read = if copied.was_there {
            source.digest(&table, plain).await?
        } else {
            carry(&mut source, &mut target, &table, plain).await?
        };
        let wrote = target.digest(&table, plain).await?;
        if copied.was_there && !read.same(&wrote) {
            return Err(CopyError::NotEmpty {
                address: to.address().to_owned(),
                from: from.address().to_owned(),
                tables: filled,
            });
        }
        if !read.same(&wrote) || read.rows() != source.count(name).await? {
            return Err(CopyError::Differs {
                table: name.clone(),
                read: read.rows(),
                wrote: wrote.rows(),
            });
        }
        copied.texts_replaced = copied.texts_replaced.saturating_add(read.replaced());
        copied.tables.push(CopiedTable {
            name: name.clone(),
            rows: read.rows(),
            digest: read.shown(),
        });
    }
    if !copied.was_there {
        let address = to.address().to_owned();
        let commit = target.transaction.commit().await;
        commit.map_err(|source| CopyError::Database {
            attempt: "keep the copy",
            address,
            source,
        })?;
    }
    Ok(copied)
}

/// Brings the rooms that the source has up to date on both sides.
async fn make_tables(from: &Control, to: &Control, rooms: &[Migrations]) -> Result<(), CopyError> {
    for room in rooms {
        let steps = from.steps_applied(room.room).await;
        if steps.map_err(failed("read the steps", from))? == 0 {
            continue;
        }
        for control in [from, to] {
            let made = control.migrate(room).await;
            made.map_err(failed("bring the tables up to date", control))?;
        }
    }
    Ok(())
}

fn failed(attempt: &'static str, control: &Control) -> impl FnOnce(ControlError) -> CopyError {
    let address = control.address().to_owned();
    move |source| CopyError::Database {
        attempt,
        address,
        source,
    }
}

/// The table, which has to have the same columns on both sides.
async fn pair(source: &mut Side<'_>, target: &mut Side<'_>, name: &str) -> Result<Table, CopyError> {
    let (of_source, of_target) = (source.describe(name).await?, target.describe(name).await?);
    let wrong = |reason: &str| CopyError::Table {
        table: name.to_owned(),
        reason: reason.to_owned(),
    };
    if !of_source.has_columns_of(&of_target) {
        return Err(wrong("its columns differ between the two databases"));
    }
    if of_source.key.is_empty() {
        return Err(wrong("it has no primary key"));
    }
    Ok(of_source)
}

/// Carries the rows of a table over, and returns the digest of what was read.
async fn carry(
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    table: &Table,
    plain: bool,
) -> Result<Digest, CopyError> {
    let mut digest = Digest::new(plain);
    let mut after = None;
    loop {
        let rows = source.read(table, after.as_ref()).await?;
        for row in &rows {
            digest.add(row);
        }
        let is_end = rows.len() < ROWS_AT_ONCE;
        after = rows.last().map(|row| table.key_of(row));
        if !rows.is_empty() {
            target.write(table, rows).await?;
        }
        if is_end {
            break;
        }
    }
    if let Some(last) = source.last_number(table).await? {
        target.go_on_after(table, last).await?;
    }
    Ok(digest)
}

impl<'a> Side<'a> {
    async fn begin(control: &'a Control) -> Result<Self, CopyError> {
        let transaction = control.begin(ROOM).await;
        Ok(Self {
            control,
            transaction: transaction.map_err(failed("begin a transaction", control))?,
        })
    }

    /// Keeps everybody from writing until the transaction ends; SQLite's keeps them by itself.
    async fn lock(&mut self, tables: &BTreeSet<String>) -> Result<(), CopyError> {
        if self.control.engine() == Engine::Sqlite || tables.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        let text = format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", "));
        let locked = self.transaction.script(text).await;
        locked.map_err(failed(
            "lock the tables against a collector that runs (stop it)",
            self.control,
        ))
    }

    /// Those of these tables that hold rows.
    async fn filled(&mut self, tables: &[String]) -> Result<Vec<String>, CopyError> {
        let mut filled = Vec::new();
        for name in tables {
            if self.count(name).await? > 0 {
                filled.push(name.clone());
            }
        }
        Ok(filled)
    }

    async fn count(&mut self, table: &str) -> Result<u64, CopyError> {
        let count = composed(format!("SELECT count(*) FROM {table}"));
        let count = count.fetch_value(&mut self.transaction).await;
        let count: Option<u64> = count.map_err(failed("count the rows", self.control))?;
        Ok(count.unwrap_or(0))
    }

    /// The next rows of a table in the order of its key.
    async fn read(&mut self, table: &Table, after: Option<&Vec<Value>>) -> Result<Vec<Vec<Cell>>, CopyError> {
        let text = table.select(after.is_some(), ROWS_AT_ONCE);
        let rows = composed(text)
            .bind_all(after.into_iter().flatten().cloned())
            .fetch_all(&mut self.transaction)
            .await;
        let rows = rows.map_err(failed("read the rows", self.control))?;
        Ok(rows.into_iter().map(crate::Row::into_cells).collect())
    }

    async fn write(&mut self, table: &Table, rows: Vec<Vec<Cell>>) -> Result<(), CopyError> {
        let text = table.insert(rows.len());
        let values = table.values(rows).map_err(|column| CopyError::Table {
            table: table.name.clone(),
            reason: format!("its column {column} holds a value of another kind than its own"),
        })?;
        let written = composed(text)
            .bind_all(values)
            .execute(&mut self.transaction)
            .await;
        written.map_err(failed("write the rows", self.control)).map(drop)
    }

    async fn digest(&mut self, table: &Table, plain: bool) -> Result<Digest, CopyError> {
        let mut digest = Digest::new(plain);
        let mut after = None;
        loop {
            let rows = self.read(table, after.as_ref()).await?;
            rows.iter().for_each(|row| digest.add(row));
            after = rows.last().map(|row| table.key_of(row));
            if rows.len() < ROWS_AT_ONCE {
                return Ok(digest);
            }
        }
    }
}
