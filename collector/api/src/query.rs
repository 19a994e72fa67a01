//! Queries made here: how values reach SQL, and how rows come back as JSON.

use fleetmend_event::{HostId, TimeMicros};
use serde_json::{Map, Value};

use crate::auth::Caller;
use crate::backend::{QueryAnswer, QueryError};
use crate::json;
use crate::page::Cursor;
use crate::state::ApiState;

/// A row as a JSON object.
pub(crate) type Row = Map<String, Value>;

/// Gap rows that accompany an answer at most.
const GAPS_MAX: usize = 100;

/// A text as an SQL literal.
pub fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A moment as an SQL literal of the type of the column `time`.
pub fn time(value: TimeMicros) -> String {
    format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", value.0)
}

/// Conditions that are joined by `AND`.
#[derive(Default)]
pub(crate) struct Conditions(Vec<String>);

impl Conditions {
    pub(crate) fn and(mut self, condition: impl Into<String>) -> Self {
        self.0.push(condition.into());
        self
    }

    pub(crate) fn host(self, host: Option<HostId>) -> Self {
        self.maybe(host.map(|host| format!("host_id = {}", text(&host.to_string()))))
    }

    pub(crate) fn maybe(mut self, condition: Option<String>) -> Self {
        self.0.extend(condition);
        self
    }

    /// What comes after a cursor in the order of `time_column` and `id_column`, both descending.
    pub(crate) fn after(self, cursor: Option<&Cursor>, time_column: &str, id_column: &str) -> Self {
        self.maybe(cursor.map(|cursor| {
            let (moment, id) = (time(cursor.time), text(&cursor.id));
            format!("({time_column} < {moment} OR ({time_column} = {moment} AND {id_column} < {id}))")
        }))
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => formatter.write_str("true"),
            conditions => formatter.write_str(&conditions.join(" AND ")),
        }
    }
}

/// The last row of each group: `SELECT *` with the conditions applied before the choice.
pub(crate) fn latest(table: &str, group: &str, conditions: &Conditions) -> String {
    format!(
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {group} ORDER BY time DESC, ingested_at DESC) AS recency \
         FROM {table} WHERE {conditions}) WHERE recency = 1"
    )
}

impl ApiState {
    /// Runs a query as it is, within what the caller may see.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        query: &str,
        rows_max: usize,
    ) -> Result<QueryAnswer, QueryError> {
        self.sql.sql(query, self.query_limits(caller, rows_max)).await
    }

    /// Runs a query of ours within what the caller may see and returns its rows.
    pub(crate) async fn rows(
        &self,
        caller: &Caller,
        query: &str,
        rows_max: usize,
    ) -> Result<Vec<Row>, QueryError> {
        let answer = match self.answer(caller, query, rows_max).await {
            // Our own query, so that it is not the caller who is wrong.
            Err(QueryError::Invalid(reason)) => {
                tracing::error!(query, reason, "a query of the API did not run");
                return Err(QueryError::Unavailable(
                    "the store cannot answer this now; its log says why".to_owned(),
                ));
            }
            other => other?,
        };
        let mut rows: Vec<Row> = answer.batches.iter().flat_map(json::objects).collect();
        rows.truncate(rows_max);
        for row in &mut rows {
            row.shift_remove("recency");
        }
        Ok(rows)
    }

    /// Known losses that overlap a range, in any of these tables (all of them, when empty).
    pub(crate) async fn gaps(
        &self,
        caller: &Caller,
        tables: &[&str],
        host: Option<HostId>,
        from: TimeMicros,
        to: TimeMicros,
    ) -> Result<Vec<Value>, QueryError> {
        let named: Vec<String> = tables.iter().map(|table| text(table)).collect();
        let of_table = (!named.is_empty()).then(|| format!("\"table\" IN ('*', {})", named.join(", ")));
        let conditions = Conditions::default()
            .host(host)
            .maybe(of_table)
            .and(format!("from_time <= {}", time(to)))
            .and(format!("to_time >= {}", time(from)));
        let query = format!("SELECT * FROM gaps WHERE {conditions} ORDER BY time DESC LIMIT {GAPS_MAX}");
        Ok(self
            .rows(caller, &query, GAPS_MAX)
            .await?
            .into_iter()
            .map(Value::Object)
            .collect())
    }
}

/// The text of a column.
pub(crate) fn text_of<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

/// The time of a column, read back from its RFC 3339 text.
pub(crate) fn time_of(row: &Row, column: &str) -> Option<TimeMicros> {
    let stamp = row.get(column)?.as_str()?.parse::<jiff::Timestamp>().ok()?;
    Some(TimeMicros(stamp.as_microsecond()))
}

/// The number of a column.
pub(crate) fn number_of(row: &Row, column: &str) -> Option<f64> {
    row.get(column)?.as_f64()
}

/// The count of a column.
pub(crate) fn count_of(row: &Row, column: &str) -> u64 {
    row.get(column).and_then(Value::as_u64).unwrap_or_default()
}

/// The place of a row in a list.
pub(crate) fn cursor_of(row: &Row, time_column: &str, id_column: &str) -> Option<Cursor> {
    Some(Cursor {
        time: time_of(row, time_column)?,
        id: text_of(row, id_column).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_cannot_leave_its_literal() {
        assert_eq!(text("x' OR '1'='1"), "'x'' OR ''1''=''1'");
    }
}
