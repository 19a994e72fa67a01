//! What a table is made of, as each engine says it, and statements about all of its columns.

use std::collections::BTreeSet;

use crate::row::Cell;
use crate::statement::{Query, composed, query};
use crate::{ControlError, Engine, Row, Transaction, Value};

use super::{CopyError, Side, failed};

/// Tables, and columns of one, there may be.
const NAMES_MAX: usize = 1_000;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Real,
    Text,
    Bytes,
}

impl Kind {
    /// By the type's name in either engine.
    fn of(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "integer" | "bigint" => Some(Self::Integer),
            "real" | "double precision" => Some(Self::Real),
            "text" => Some(Self::Text),
            "blob" | "bytea" => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// A table of one side.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    columns: Vec<(String, Kind)>,
    /// Places of the key's columns among all.
    pub(super) key: Vec<usize>,
}

impl Table {
    /// Whether the other has the same columns, in whatever order.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        self.columns.len() == other.columns.len()
            && self.columns.iter().all(|column| other.columns.contains(column))
    }

    fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| quoted(name)).collect()
    }

    pub(super) fn select(&self, after: bool, limit: usize) -> String {
        let names = self.names();
        let key: Vec<&str> = self
            .key
            .iter()
            .filter_map(|place| names.get(*place).map(String::as_str))
            .collect();
        let key = key.join(", ");
        let from = if after {
            format!("WHERE ({key}) > ({})", marks(0, self.key.len()))
        } else {
            String::new()
        };
        format!(
            "SELECT {} FROM {} {from} ORDER BY {key} LIMIT {limit}",
            names.join(", "),
            self.name
        )
    }

    pub(super) fn insert(&self, rows: usize) -> String {
        let width = self.columns.len();
        let rows: Vec<String> = (0..rows)
            .map(|row| format!("({})", marks(row.saturating_mul(width), width)))
            .collect();
        format!(
            "INSERT INTO {} ({}) VALUES {}",
            self.name,
            self.names().join(", "),
            rows.join(", ")
        )
    }

    /// The key of a row that was selected.
    pub(super) fn key_of(&self, row: &[Cell]) -> Vec<Value> {
        let of_column = |place: &usize| {
            let (_, kind) = self.columns.get(*place)?;
            value(row.get(*place)?.clone(), *kind)
        };
        self.key.iter().filter_map(of_column).collect()
    }

    /// All values of rows that were selected, or the column that holds another kind.
    pub(super) fn values(&self, rows: Vec<Vec<Cell>>) -> Result<Vec<Value>, String> {
        let mut values = Vec::with_capacity(rows.len().saturating_mul(self.columns.len()));
        for row in rows {
            for (cell, (name, kind)) in row.into_iter().zip(&self.columns) {
                values.push(value(cell, *kind).ok_or_else(|| name.clone())?);
            }
        }
        Ok(values)
    }
}

fn value(cell: Cell, kind: Kind) -> Option<Value> {
    Some(match (cell, kind) {
        (Cell::Null, Kind::Integer) => Value::Integer(None),
        (Cell::Null, Kind::Real) => Value::Real(None),
        (Cell::Null, Kind::Text) => Value::Text(None),
        (Cell::Null, Kind::Bytes) => Value::Bytes(None),
        (Cell::Integer(value), Kind::Integer) => Value::Integer(Some(value)),
        (Cell::Real(value), Kind::Real) => Value::Real(Some(value)),
        (Cell::Text(value), Kind::Text) => Value::Text(Some(value)),
        (Cell::Bytes(value), Kind::Bytes) => Value::Bytes(Some(value)),
        _ => return None,
    })
}

/// `$1, $2, …` behind so many others.
fn marks(before: usize, count: usize) -> String {
    let marks: Vec<String> = (1..=count)
        .map(|mark| format!("${}", before.saturating_add(mark)))
        .collect();
    marks.join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether it is a name as rooms give them, which is written into statements as it is.
fn is_ours(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.chars().all(fits)
}

impl Side<'_> {
    fn engine(&self) -> Engine {
        self.control.engine()
    }

    /// Names of all tables but those that count the steps, which are each database's own.
    pub(super) async fn tables(&mut self) -> Result<BTreeSet<String>, CopyError> {
        let names = match self.engine() {
            Engine::Sqlite => {
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            }
            Engine::Postgres => "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
        };
        let names = self.column(query(names), "list the tables").await?;
        let (ours, others): (Vec<_>, Vec<_>) = names
            .into_iter()
            .filter(|name| !name.ends_with("_migrations"))
            .partition(|name| is_ours(name));
        if !others.is_empty() || ours.len() > NAMES_MAX {
            return Err(CopyError::Unknown {
                address: self.control.address().to_owned(),
                tables: others,
            });
        }
        Ok(ours.into_iter().collect())
    }

    /// Those of these tables as they were made: what another refers to comes before it.
    pub(super) async fn in_order_of_making(
        &mut self,
        tables: &BTreeSet<String>,
    ) -> Result<Vec<String>, CopyError> {
        let names = match self.engine() {
            Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid",
            Engine::Postgres => {
                "SELECT relname FROM pg_class WHERE relkind = 'r'
                 AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) ORDER BY oid"
            }
        };
        let names = self.column(query(names), "list the tables").await?;
        Ok(names.into_iter().filter(|name| tables.contains(name)).collect())
    }

    pub(super) async fn describe(&mut self, name: &str) -> Result<Table, CopyError> {
        let (columns, key) = match self.engine() {
            Engine::Sqlite => (
                "SELECT name, type FROM pragma_table_info($1) ORDER BY cid",
                "SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk",
            ),
            Engine::Postgres => (
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
                 WHERE attrelid = CAST($1 AS text)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                 AND a.attnum = ANY (i.indkey) WHERE i.indrelid = CAST($1 AS text)::regclass AND i.indisprimary
                 ORDER BY array_position(CAST(i.indkey AS int2[]), a.attnum)",
            ),
        };
        let read = query(columns).bind(name).fetch_all(&mut self.transaction).await;
        let rows = read.map_err(failed("describe a table", self.control))?;
        let pair =
            |row: &Row| -> Result<(String, String), ControlError> { Ok((row.try_get(0)?, row.try_get(1)?)) };
        let pairs: Result<Vec<_>, _> = rows.iter().map(pair).collect();
        let mut columns = Vec::new();
        for (column, kind) in pairs.map_err(failed("describe a table", self.control))? {
            let known = Kind::of(&kind).ok_or_else(|| CopyError::Table {
                table: name.to_owned(),
                reason: format!("its column {column} has the type {kind}"),
            })?;
            columns.push((column, known));
        }
        let of_key = self
            .column(query(key).bind(name), "find the key of a table")
            .await?;
        let place = |wanted: &String| columns.iter().position(|(column, _)| column == wanted);
        Ok(Table {
            name: name.to_owned(),
            key: of_key.iter().filter_map(place).collect(),
            columns,
        })
    }

    /// The last number that a table gave out by itself, where it gives numbers out.
    pub(super) async fn last_number(&mut self, table: &Table) -> Result<Option<i64>, CopyError> {
        let attempt = "read how far a table has counted";
        let text = match self.engine() {
            Engine::Sqlite => {
                let counts = query("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'");
                if self.number(counts, attempt).await? != Some(1) {
                    return Ok(None);
                }
                let last = query("SELECT seq FROM sqlite_sequence WHERE name = $1").bind(&table.name);
                return self.number(last, attempt).await;
            }
            Engine::Postgres => match self.sequence(table).await? {
                Some(sequence) => {
                    format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")
                }
                None => return Ok(None),
            },
        };
        self.number(composed(text), attempt).await
    }

    /// Lets a table go on counting behind a number.
    pub(super) async fn go_on_after(&mut self, table: &Table, last: i64) -> Result<(), CopyError> {
        if last < 1 {
            return Ok(());
        }
        let done = match self.engine() {
            Engine::Sqlite => set_on_sqlite(&mut self.transaction, &table.name, last).await,
            Engine::Postgres => {
                let Some(sequence) = self.sequence(table).await? else {
                    return Ok(());
                };
                let set = query("SELECT setval(CAST($1 AS text)::regclass, $2)");
                let set = set.bind(sequence).bind(last);
                set.fetch_one(&mut self.transaction).await.map(drop)
            }
        };
        done.map_err(failed("set how far a table has counted", self.control))
    }

    /// PostgreSQL's name of what counts a table's key.
    async fn sequence(&mut self, table: &Table) -> Result<Option<String>, CopyError> {
        let text = "SELECT pg_get_serial_sequence(CAST($1 AS text), attname::text) FROM pg_attribute
            WHERE attrelid = CAST($1 AS text)::regclass AND attnum > 0 AND attidentity <> ''";
        let names = self
            .column(query(text).bind(&table.name), "find what counts a table")
            .await?;
        Ok(names.into_iter().next())
    }

    async fn column(&mut self, query: Query, attempt: &'static str) -> Result<Vec<String>, CopyError> {
        let rows = query.fetch_all(&mut self.transaction).await;
        let rows = rows.map_err(failed(attempt, self.control))?;
        let names: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        names.map_err(failed(attempt, self.control))
    }

    async fn number(&mut self, query: Query, attempt: &'static str) -> Result<Option<i64>, CopyError> {
        let number = query.fetch_value(&mut self.transaction).await;
        number.map_err(failed(attempt, self.control))
    }
}

async fn set_on_sqlite(transaction: &mut Transaction, table: &str, last: i64) -> Result<(), ControlError> {
    let update = query("UPDATE sqlite_sequence SET seq = $1 WHERE name = $2");
    if update.bind(last).bind(table).execute(&mut *transaction).await? > 0 {
        return Ok(());
    }
    // It has no rows, and therefore no count yet.
    let insert = query("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)");
    insert.bind(table).bind(last).execute(transaction).await.map(drop)
}
