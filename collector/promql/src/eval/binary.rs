//! Operators between two values.

use super::{ABSENT, Evaluator, Grid, Row, Value, is_present};
use crate::error::QueryError;
use crate::syntax::ast::{Binary, Op};

impl Evaluator<'_> {
    pub(crate) fn binary(&self, binary: &Binary, grid: Grid) -> Result<Value, QueryError> {
        let left = self.eval(&binary.left, grid)?;
        let _held = self.meter.hold(left.values());
        let right = self.eval(&binary.right, grid)?;
        let _held_too = self.meter.hold(right.values());
        match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => Ok(Value::Scalar(
                left.iter()
                    .zip(&right)
                    .map(|(left, right)| scalar(binary.op, *left, *right))
                    .collect(),
            )),
            (Value::Vector(rows), Value::Scalar(scalars)) => {
                self.with_scalar(binary, rows, &scalars, false).map(Value::Vector)
            }
            (Value::Scalar(scalars), Value::Vector(rows)) => {
                self.with_scalar(binary, rows, &scalars, true).map(Value::Vector)
            }
            (Value::Vector(left), Value::Vector(right)) if binary.op.is_set() => {
                self.set(binary, left, right, grid).map(Value::Vector)
            }
            (Value::Vector(left), Value::Vector(right)) => {
                self.pair(binary, &left, &right, grid).map(Value::Vector)
            }
            (Value::Text(_), _) | (_, Value::Text(_)) => Err(QueryError::execution(
                "binary expression must contain only scalar and instant vector types",
            )),
        }
    }

    fn with_scalar(
        &self,
        binary: &Binary,
        mut rows: Vec<Row>,
        scalars: &[f64],
        scalar_first: bool,
    ) -> Result<Vec<Row>, QueryError> {
        for row in &mut rows {
            self.meter.tick(row.values.len())?;
            for (value, scalar) in row.values.iter_mut().zip(scalars) {
                if !is_present(*value) {
                    continue;
                }
                let (left, right) = if scalar_first {
                    (*scalar, *value)
                } else {
                    (*value, *scalar)
                };
                *value = element(binary.op, binary.as_bool, left, right, *value);
            }
        }
        rows.retain(|row| !row.is_empty());
        if !binary.op.compares() || binary.as_bool {
            return self.without_names(rows);
        }
        Ok(rows)
    }
}

/// A result, or [`ABSENT`] where a comparison does not hold; where it holds, what is kept.
pub(crate) fn element(op: Op, as_bool: bool, left: f64, right: f64, kept: f64) -> f64 {
    if !op.compares() {
        return scalar(op, left, right);
    }
    match (holds(op, left, right), as_bool) {
        (true, false) => kept,
        (false, false) => ABSENT,
        (held, true) => f64::from(u8::from(held)),
    }
}

fn holds(op: Op, left: f64, right: f64) -> bool {
    match op {
        Op::Equal => left == right,
        Op::NotEqual => left != right,
        Op::Greater => left > right,
        Op::Less => left < right,
        Op::GreaterEqual => left >= right,
        Op::LessEqual => left <= right,
        _ => false,
    }
}

fn scalar(op: Op, left: f64, right: f64) -> f64 {
    match op {
        Op::Add => left + right,
        Op::Subtract => left - right,
        Op::Multiply => left * right,
        Op::Divide => left / right,
        Op::Modulo => left % right,
        Op::Power => left.powf(right),
        Op::Atan2 => left.atan2(right),
        _ => f64::from(u8::from(holds(op, left, right))),
    }
}
