//! The evaluator: each expression gives its values for all steps at once.
//!
//! A result is a list of rows, one value a step; the bits of a stale marker stand for "no sample". Selectors and
//! ranges walk their samples once for all steps, so that a range query costs what its samples cost and no selection
//! is repeated.

mod aggregate;
mod binary;
mod call;
mod choose;
mod classic;
mod info;
mod label;
mod meter;
mod names;
mod pair;
mod select;
mod set;
mod window;

pub(crate) use meter::{Held, Meter};
pub(crate) use names::drop_names;
pub(crate) use window::{Window, inner_grid};

use std::cell::RefCell;

use crate::annotations::Notes;
use crate::config::{NameRemoval, Options};
use crate::error::QueryError;
use crate::fetch::Fetched;
use crate::labels::Labels;
use crate::source::STALE_BITS;
use crate::syntax::QueryTimes;
use crate::syntax::ast::{Expr, Node, Type};

/// "No sample at this step". Only ever copied: arithmetic on it would make it an ordinary NaN.
pub(crate) const ABSENT: f64 = f64::from_bits(STALE_BITS);

pub(crate) fn is_present(value: f64) -> bool {
    value.to_bits() != STALE_BITS
}

/// The steps of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start_ms: i64,
    pub(crate) step_ms: i64,
    pub(crate) steps: usize,
}

impl Grid {
    /// From the first step to the last that is not after `end_ms`.
    pub(crate) fn between(start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        let last = if step_ms > 0 && end_ms > start_ms {
            end_ms.saturating_sub(start_ms) / step_ms
        } else {
            0
        };
        let none = end_ms < start_ms;
        Self {
            start_ms,
            step_ms,
            steps: if none {
                0
            } else {
                usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1)
            },
        }
    }

    pub(crate) fn times(self) -> impl Iterator<Item = i64> {
        (0..self.steps).map(move |index| self.at(index))
    }

    pub(crate) fn at(self, index: usize) -> i64 {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        self.start_ms.saturating_add(self.step_ms.saturating_mul(index))
    }

    pub(crate) fn last(self) -> i64 {
        self.at(self.steps.saturating_sub(1))
    }
}

/// One series of a result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    /// The metric's name is still here, and goes at the end.
    pub(crate) drop_name: bool,
    /// One for each step.
    pub(crate) values: Vec<f64>,
}

impl Row {
    pub(crate) fn is_empty(&self) -> bool {
        !self.values.iter().any(|value| is_present(*value))
    }
}

/// What an expression gives.
#[derive(Debug)]
pub(crate) enum Value {
    Scalar(Vec<f64>),
    Vector(Vec<Row>),
    Text(String),
}

impl Value {
    /// How many values it holds.
    fn values(&self) -> usize {
        match self {
            Self::Scalar(values) => values.len(),
            Self::Vector(rows) => rows.iter().map(|row| row.values.len()).sum(),
            Self::Text(_) => 0,
        }
    }
}

/// One evaluation of one query.
pub(crate) struct Evaluator<'a> {
    pub(crate) data: &'a Fetched,
    pub(crate) options: &'a Options,
    pub(crate) times: QueryTimes,
    pub(crate) meter: &'a Meter,
    pub(crate) notes: RefCell<Notes>,
}

impl Evaluator<'_> {
    pub(crate) fn eval(&self, expr: &Expr, grid: Grid) -> Result<Value, QueryError> {
        self.meter.tick(1)?;
        match &expr.node {
            Node::Number(value) => Ok(Value::Scalar(vec![*value; grid.steps])),
            Node::Text(literal) => Ok(Value::Text(literal.value.clone())),
            Node::Paren(inner) => self.eval(inner, grid),
            Node::Negate(inner) => self.negate(inner, grid),
            Node::Selector(selector) => self
                .instant(selector, grid, select::Look::Value)
                .map(Value::Vector),
            Node::Binary(binary) => self.binary(binary, grid),
            Node::Aggregate(aggregate) => self.aggregate(aggregate, grid).map(Value::Vector),
            Node::Call(call) => self.call(call, grid),
            Node::Info(info) => self.info(info, grid).map(Value::Vector),
            Node::Matrix(_) | Node::Subquery(_) => Err(QueryError::bad_data(
                "invalid expression type \"range vector\" for this query, must be scalar or instant vector",
            )),
        }
    }

    /// The rows of an expression that the parser knows to be a vector.
    pub(crate) fn rows(&self, expr: &Expr, grid: Grid) -> Result<Vec<Row>, QueryError> {
        match self.eval(expr, grid)? {
            Value::Vector(rows) => Ok(rows),
            Value::Scalar(_) | Value::Text(_) => Err(unexpected_type("instant vector")),
        }
    }

    /// The values of a scalar, one for each step.
    pub(crate) fn scalars(&self, expr: &Expr, grid: Grid) -> Result<Vec<f64>, QueryError> {
        match self.eval(expr, grid)? {
            Value::Scalar(values) => Ok(values),
            Value::Vector(_) | Value::Text(_) => Err(unexpected_type("scalar")),
        }
    }

    fn negate(&self, inner: &Expr, grid: Grid) -> Result<Value, QueryError> {
        if inner.gives() == Type::Scalar {
            let values = self.scalars(inner, grid)?;
            return Ok(Value::Scalar(values.into_iter().map(|value| -value).collect()));
        }
        let mut rows = self.rows(inner, grid)?;
        map(&mut rows, |value| -value);
        self.without_names(rows).map(Value::Vector)
    }

    /// Whether names go at the end only.
    pub(crate) fn delayed(&self) -> bool {
        self.options.name_removal == NameRemoval::Delayed
    }

    /// Refuses a result that is too large before it is made.
    pub(crate) fn admit(&self, rows: usize, grid: Grid) -> Result<(), QueryError> {
        self.admit_quietly(rows, grid)?;
        self.meter.tick(rows.saturating_mul(grid.steps))
    }

    /// As [`Evaluator::admit`] for one more row, before it is made.
    pub(crate) fn admit_one_more(&self, rows: usize, grid: Grid) -> Result<(), QueryError> {
        self.admit_quietly(rows.saturating_add(1), grid)
    }

    fn admit_quietly(&self, rows: usize, grid: Grid) -> Result<(), QueryError> {
        let limits = &self.options.limits;
        if rows > limits.series_max {
            return Err(too_many_series(rows, limits.series_max));
        }
        let values = rows.saturating_mul(grid.steps);
        if values.saturating_add(self.meter.held()) > limits.samples_max {
            return Err(too_many_samples());
        }
        Ok(())
    }

    /// Counts rows that are kept while what comes next is computed.
    pub(crate) fn hold(&self, rows: &[Row]) -> Held<'_> {
        self.meter.hold(rows.iter().map(|row| row.values.len()).sum())
    }
}

fn too_many_series(rows: usize, series_max: usize) -> QueryError {
    QueryError::execution(format!(
        "query processing would make too many series in query execution: {rows}, {series_max} are allowed"
    ))
}

pub(crate) fn too_many_samples() -> QueryError {
    QueryError::execution("query processing would load too many samples into memory in query execution")
}

fn unexpected_type(wanted: &str) -> QueryError {
    QueryError::execution(format!("expected {wanted}"))
}

/// Applies a function to what is there.
pub(crate) fn map(rows: &mut [Row], function: impl Fn(f64) -> f64) {
    for value in rows.iter_mut().flat_map(|row| row.values.iter_mut()) {
        if is_present(*value) {
            *value = function(*value);
        }
    }
}
