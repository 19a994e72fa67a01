//! When metric names go, and what happens to series that are the same without them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Evaluator, Row, is_present};
use crate::error::QueryError;
use crate::labels::Labels;

impl Evaluator<'_> {
    /// The rows are no longer the metric they came from.
    pub(crate) fn without_names(&self, mut rows: Vec<Row>) -> Result<Vec<Row>, QueryError> {
        if self.delayed() {
            for row in &mut rows {
                row.drop_name = true;
            }
            return Ok(rows);
        }
        for row in &mut rows {
            row.labels = row.labels.without_name();
        }
        merge(rows)
    }
}

/// Takes off the names that were left for the end.
pub(crate) fn drop_names(mut rows: Vec<Row>) -> Result<Vec<Row>, QueryError> {
    for row in rows.iter_mut().filter(|row| row.drop_name) {
        row.labels = row.labels.without_name();
        row.drop_name = false;
    }
    merge(rows)
}

pub(crate) fn same_labels() -> QueryError {
    QueryError::execution("vector cannot contain metrics with the same labelset")
}

/// Joins rows with the same labels; two samples at one step are an error.
pub(crate) fn merge(rows: Vec<Row>) -> Result<Vec<Row>, QueryError> {
    merge_or(rows, same_labels)
}

pub(crate) fn merge_or(rows: Vec<Row>, error: impl Fn() -> QueryError) -> Result<Vec<Row>, QueryError> {
    let mut merged: Vec<Row> = Vec::with_capacity(rows.len());
    let mut places: HashMap<(Labels, bool), usize> = HashMap::with_capacity(rows.len());
    for row in rows {
        match places.entry((row.labels.clone(), row.drop_name)) {
            Entry::Vacant(vacant) => {
                vacant.insert(merged.len());
                merged.push(row);
            }
            Entry::Occupied(occupied) => {
                let Some(into) = merged.get_mut(*occupied.get()) else {
                    continue;
                };
                for (own, value) in into.values.iter_mut().zip(row.values) {
                    match (is_present(*own), is_present(value)) {
                        (true, true) => return Err(error()),
                        (false, true) => *own = value,
                        (_, false) => {}
                    }
                }
            }
        }
    }
    Ok(merged)
}
