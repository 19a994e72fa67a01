//! Aggregations that keep some of their series as they are.

use super::aggregate::groups;
use super::{ABSENT, Evaluator, Grid, Row};
use crate::annotations::Place;
use crate::error::QueryError;
use crate::number::{ascending, general, to_index};
use crate::syntax::ast::{Aggregate, Aggregator};

/// No larger number of series can be asked for: the float before 2^63.
const COUNT_BOUND: f64 = 9_223_372_036_854_774_784.0;

/// No smaller one either.
const COUNT_LEAST: f64 = -9_223_372_036_854_775_808.0;

impl Evaluator<'_> {
    pub(crate) fn check_parameter(
        &self,
        op: Aggregator,
        parameter: &[f64],
        place: &Place,
    ) -> Result<(), QueryError> {
        let nan = parameter.iter().any(|value| value.is_nan());
        let largest = parameter.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = parameter.iter().copied().fold(f64::INFINITY, f64::min);
        match op {
            Aggregator::Topk | Aggregator::Bottomk | Aggregator::Limitk => {
                if nan {
                    return Err(QueryError::execution("Parameter value is NaN"));
                }
                // Nobody wants any series, however few.
                if largest < 1.0 {
                    return Ok(());
                }
                if smallest <= COUNT_LEAST {
                    let text = format!("Scalar value {} underflows int64", general(smallest));
                    return Err(QueryError::execution(text));
                }
                if largest >= COUNT_BOUND {
                    let text = format!("Scalar value {} overflows int64", general(largest));
                    return Err(QueryError::execution(text));
                }
            }
            Aggregator::LimitRatio => {
                if nan {
                    return Err(QueryError::execution("Ratio value is NaN"));
                }
                if largest > 1.0 {
                    self.notes.borrow_mut().said.invalid_ratio(largest, 1.0, place);
                }
                if smallest < -1.0 {
                    self.notes.borrow_mut().said.invalid_ratio(smallest, -1.0, place);
                }
            }
            Aggregator::Quantile => {
                if nan {
                    self.notes.borrow_mut().said.invalid_quantile(f64::NAN, place);
                }
                if largest > 1.0 {
                    self.notes.borrow_mut().said.invalid_quantile(largest, place);
                }
                if smallest < 0.0 {
                    self.notes.borrow_mut().said.invalid_quantile(smallest, place);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn choose(
        &self,
        aggregate: &Aggregate,
        rows: Vec<Row>,
        parameter: &[f64],
        grid: Grid,
    ) -> Result<Vec<Row>, QueryError> {
        self.admit(rows.len(), grid)?;
        // Where a series lies between 0 and 1 is a matter of its labels alone.
        let offsets: Vec<f64> = match aggregate.op {
            Aggregator::LimitRatio => rows
                .iter()
                .map(|row| row.labels.xxhash() as f64 / u64::MAX as f64)
                .collect(),
            _ => Vec::new(),
        };
        let mut chosen: Vec<Row> = rows
            .iter()
            .map(|row| Row {
                labels: row.labels.clone(),
                drop_name: row.drop_name,
                values: vec![ABSENT; grid.steps],
            })
            .collect();
        let mut order = Vec::new();
        let mut samples = Vec::new();
        for group in groups(&rows, &aggregate.grouping) {
            for (step, wanted) in parameter.iter().enumerate().take(grid.steps) {
                self.meter.tick(group.members.len())?;
                samples.clear();
                samples.extend(group.samples(&rows, step));
                pick(aggregate.op, &offsets, *wanted, &mut samples);
                for (index, value) in &samples {
                    if let Some(slot) = chosen.get_mut(*index).and_then(|row| row.values.get_mut(step)) {
                        *slot = *value;
                    }
                    if grid.steps == 1 {
                        order.push(*index);
                    }
                }
            }
        }
        if grid.steps == 1 {
            // An instant result is in the order of its values.
            let mut slots: Vec<Option<Row>> = chosen.into_iter().map(Some).collect();
            return Ok(order
                .into_iter()
                .filter_map(|index| slots.get_mut(index)?.take())
                .collect());
        }
        chosen.retain(|row| !row.is_empty());
        Ok(chosen)
    }
}

fn pick(op: Aggregator, offsets: &[f64], wanted: f64, samples: &mut Vec<(usize, f64)>) {
    match op {
        Aggregator::LimitRatio => samples.retain(|(index, _)| {
            let offset = offsets.get(*index).copied().unwrap_or_default();
            in_ratio(wanted, offset)
        }),
        Aggregator::Topk => {
            samples.sort_by(|(_, left), (_, right)| ascending(right, left));
            samples.truncate(to_index(wanted));
        }
        Aggregator::Bottomk => {
            samples.sort_by(|(_, left), (_, right)| {
                left.is_nan()
                    .cmp(&right.is_nan())
                    .then_with(|| ascending(left, right))
            });
            samples.truncate(to_index(wanted));
        }
        _ => samples.truncate(to_index(wanted)),
    }
}

/// A positive ratio takes from one end of the hashes, a negative one the rest of its complement.
fn in_ratio(ratio: f64, offset: f64) -> bool {
    (ratio >= 0.0 && offset < ratio.min(1.0)) || (ratio < 0.0 && offset >= 1.0 + ratio.max(-1.0))
}
