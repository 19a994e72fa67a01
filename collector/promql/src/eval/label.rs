//! Functions of labels: replacing, joining, sorting, and what is absent.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::call::{anonymous, argument};
use super::names::merge;
use super::{ABSENT, Evaluator, Grid, Row, is_present};
use crate::error::QueryError;
use crate::function::natural;
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::{LabelMatcher, MatchOp, anchored};
use crate::number::ascending;
use crate::syntax::ast::{Call, Expr, Literal, Node};

impl Evaluator<'_> {
    pub(crate) fn label_replace(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let destination = label_name(call, 1, "destination")?;
        let replacement = &text(call, 2)?.value;
        let source = &text(call, 3)?.value;
        let pattern = &text(call, 4)?.value;
        let pattern = anchored(pattern).map_err(|_| {
            QueryError::execution(format!(
                "invalid regular expression in label_replace(): {pattern}"
            ))
        })?;
        let mut rows = self.rows(argument(call, 0)?, grid)?;
        for row in &mut rows {
            let value = row.labels.get(source).to_owned();
            if let Some(captures) = pattern.captures(&value) {
                let mut expanded = String::new();
                captures.expand(replacement, &mut expanded);
                set_label(row, destination, &expanded);
            }
        }
        merge(rows)
    }

    pub(crate) fn label_join(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let destination = label_name(call, 1, "destination")?;
        let separator = &text(call, 2)?.value;
        let sources: Vec<&str> = (3..call.arguments.len())
            .map(|number| label_name(call, number, "source"))
            .collect::<Result<_, _>>()?;
        let mut rows = self.rows(argument(call, 0)?, grid)?;
        for row in &mut rows {
            let values: Vec<&str> = sources.iter().map(|source| row.labels.get(source)).collect();
            let joined = values.join(separator);
            set_label(row, destination, &joined);
        }
        merge(rows)
    }

    /// Only the order of an instant result can be seen.
    pub(crate) fn sort(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let mut rows = self.rows(argument(call, 0)?, grid)?;
        rows.retain(|row| !row.is_empty());
        if grid.steps != 1 {
            return Ok(rows);
        }
        let value = |row: &Row| row.values.first().copied().unwrap_or(f64::NAN);
        let labels: Vec<&str> = (1..call.arguments.len())
            .map(|number| Ok(text(call, number)?.value.as_str()))
            .collect::<Result<_, QueryError>>()?;
        let by_label = |left: &Row, right: &Row| {
            labels
                .iter()
                .map(|label| natural::compare(left.labels.get(label), right.labels.get(label)))
                .find(|order| *order != Ordering::Equal)
                .unwrap_or_else(|| left.labels.cmp(&right.labels))
        };
        match call.function {
            "sort" => rows.sort_by(|left, right| {
                let (left, right) = (value(left), value(right));
                left.is_nan()
                    .cmp(&right.is_nan())
                    .then_with(|| ascending(&left, &right))
            }),
            "sort_desc" => rows.sort_by(|left, right| ascending(&value(right), &value(left))),
            "sort_by_label" => rows.sort_by(by_label),
            _ => rows.sort_by(|left, right| by_label(right, left)),
        }
        Ok(rows)
    }

    pub(crate) fn absent(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let argument = argument(call, 0)?;
        let rows = self.rows(argument, grid)?;
        let mut values = vec![1.0; grid.steps];
        for row in &rows {
            for (absent, value) in values.iter_mut().zip(&row.values) {
                if is_present(*value) {
                    *absent = ABSENT;
                }
            }
        }
        Ok(absent_row(argument, values))
    }

    pub(crate) fn absent_over_time(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let argument = argument(call, 0)?;
        let ranges = self.ranges(argument, grid)?;
        let mut values = vec![1.0; grid.steps];
        for series in &ranges.series {
            self.slide(series, &ranges, grid, |step, _| {
                if let Some(value) = values.get_mut(step) {
                    *value = ABSENT;
                }
            })?;
        }
        Ok(absent_row(argument, values))
    }
}

fn absent_row(argument: &Expr, values: Vec<f64>) -> Vec<Row> {
    let mut row = anonymous(values);
    if row.is_empty() {
        return Vec::new();
    }
    row.labels = match &argument.bare().node {
        Node::Selector(selector) => absent_labels(&selector.matchers),
        Node::Matrix(matrix) => absent_labels(&matrix.selector.matchers),
        _ => Labels::default(),
    };
    vec![row]
}

/// What the selector says of the series: labels asked to be equal to something, unless something else is asked of them
/// afterwards.
fn absent_labels(matchers: &[LabelMatcher]) -> Labels {
    let mut seen = BTreeSet::new();
    let mut labels = BTreeMap::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
        let name = matcher.name.as_str();
        if matches!(matcher.op, MatchOp::Equal) && seen.insert(name) {
            labels.insert(name, matcher.value.as_str());
        } else {
            labels.remove(name);
        }
    }
    Labels::new(labels)
}

fn set_label(row: &mut Row, name: &str, value: &str) {
    row.labels = row.labels.with(name, value);
    if name == METRIC_NAME {
        row.drop_name = false;
    }
}

fn text(call: &Call, number: usize) -> Result<&Literal, QueryError> {
    match &argument(call, number)?.bare().node {
        Node::Text(literal) => Ok(literal),
        _ => Err(QueryError::bad_data(format!(
            "expected a string in call to {:?}",
            call.function
        ))),
    }
}

fn label_name<'c>(call: &'c Call, number: usize, what: &str) -> Result<&'c str, QueryError> {
    let literal = text(call, number)?;
    if literal.faulty.is_some() || literal.value.is_empty() {
        return Err(QueryError::execution(format!(
            "invalid {what} label name in {}(): {}",
            call.function, literal.value
        )));
    }
    Ok(&literal.value)
}
