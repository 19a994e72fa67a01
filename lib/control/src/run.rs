//! A statement carried out on a connection of either engine.

use std::borrow::Cow;

use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Either, Postgres, Sqlite};

use crate::row::Row;
use crate::statement::{Answer, Query, Value, Wanted};

/// What PostgreSQL cannot hold in text is shown as this.
pub(crate) const REPLACEMENT: &str = "\u{FFFD}";

/// Texts of the program are few and prepared once; composed ones are many.
fn is_static(query: &Query) -> bool {
    matches!(query.text, Cow::Borrowed(_))
}

/// SQLite would take it, and PostgreSQL would not.
fn check(query: &Query) -> Result<(), sqlx::Error> {
    if query.text.contains('?') {
        let reason = "the values of a statement are $1, $2, …, not question marks";
        return Err(sqlx::Error::InvalidArgument(reason.to_owned()));
    }
    Ok(())
}

fn finite(value: Option<f64>) -> Option<f64> {
    // SQLite has no NaN; neither does this.
    value.filter(|value| !value.is_nan())
}

/// The drivers have no words in common for what a value may be bound to: the same text, once for each.
macro_rules! carry_out {
    ($on:ident, $script:ident, $database:ty, $connection:ty, $row:path, $text:expr) => {
        pub(crate) async fn $on(connection: &mut $connection, query: &Query) -> Result<Answer, sqlx::Error> {
            check(query)?;
            let mut prepared = sqlx::query::<$database>(AssertSqlSafe(query.text.clone().into_owned()))
                .persistent(is_static(query));
            for value in query.values.iter().cloned() {
                prepared = match value {
                    Value::Integer(value) => prepared.bind(value),
                    Value::Real(value) => prepared.bind(finite(value)),
                    Value::Text(value) => prepared.bind(value.map($text)),
                    Value::Bytes(value) => prepared.bind(value),
                };
            }
            let mut answer = Answer::default();
            let mut names = None;
            match query.wanted {
                Wanted::Nothing => answer.affected = prepared.execute(connection).await?.rows_affected(),
                Wanted::First | Wanted::All => {
                    // To the end also where one row is wanted: what it changed is durable only then.
                    let mut rows = prepared.fetch(connection);
                    while let Some(row) = rows.try_next().await? {
                        if query.wanted == Wanted::First && !answer.rows.is_empty() {
                            continue;
                        }
                        answer.rows.push($row(&row, &mut names)?);
                    }
                }
            }
            Ok(answer)
        }

        /// Several statements without values, such as a step of the tables.
        pub(crate) async fn $script(connection: &mut $connection, text: String) -> Result<(), sqlx::Error> {
            let mut results = sqlx::raw_sql(AssertSqlSafe(text)).fetch_many(connection);
            while let Some(Either::Left(_) | Either::Right(_)) = results.try_next().await? {}
            Ok(())
        }
    };
}

carry_out!(
    on_sqlite,
    script_on_sqlite,
    Sqlite,
    SqliteConnection,
    Row::of_sqlite,
    std::convert::identity
);
carry_out!(
    on_postgres,
    script_on_postgres,
    Postgres,
    PgConnection,
    Row::of_postgres,
    |text: String| text.replace('\0', REPLACEMENT)
);
