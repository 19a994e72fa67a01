//! Aggregations: rows are put into groups once, then each group is gone through row by row.

use std::collections::HashMap;

use super::{ABSENT, Evaluator, Grid, Row, Value, is_present};
use crate::error::QueryError;
use crate::labels::Labels;
use crate::number::{Mean, fixed, kahan, quantile};
use crate::syntax::ast::{Aggregate, Aggregator, Grouping, Node};

/// Rows that are aggregated into one.
pub(crate) struct Group {
    pub(crate) labels: Labels,
    drop_name: bool,
    /// Places in the input.
    pub(crate) members: Vec<usize>,
}

/// What is known of one step while its samples come in.
#[derive(Clone, Copy)]
enum State {
    Sum { sum: f64, compensation: f64 },
    Mean(Mean),
    Count(f64),
    Extreme(f64),
    Variance { count: f64, mean: f64, sum: f64 },
}

impl Evaluator<'_> {
    pub(crate) fn aggregate(&self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Row>, QueryError> {
        if aggregate.op == Aggregator::CountValues {
            return self.count_values(aggregate, grid);
        }
        let parameter = match &aggregate.parameter {
            Some(expr) => self.scalars(expr, grid)?,
            None => Vec::new(),
        };
        if let Some(expr) = &aggregate.parameter {
            self.check_parameter(aggregate.op, &parameter, &expr.place)?;
        }
        let rows = self.rows(&aggregate.inner, grid)?;
        let _held = self.hold(&rows);
        match aggregate.op {
            Aggregator::Topk | Aggregator::Bottomk | Aggregator::Limitk | Aggregator::LimitRatio => {
                self.choose(aggregate, rows, &parameter, grid)
            }
            Aggregator::Quantile => self.quantiles(aggregate, &rows, &parameter, grid),
            op => {
                let mut out = Vec::new();
                for group in groups(&rows, &aggregate.grouping) {
                    self.admit_one_more(out.len(), grid)?;
                    self.meter.tick(group.members.len().saturating_mul(grid.steps))?;
                    let mut states: Vec<Option<State>> = vec![None; grid.steps];
                    for row in group.members.iter().filter_map(|member| rows.get(*member)) {
                        for (state, value) in states.iter_mut().zip(&row.values) {
                            if is_present(*value) {
                                *state = Some(advance(op, *state, *value));
                            }
                        }
                    }
                    let values = states
                        .into_iter()
                        .map(|state| state.map_or(ABSENT, |state| end(op, state)));
                    out.push(group.row(values.collect()));
                }
                Ok(out)
            }
        }
    }

    fn quantiles(
        &self,
        aggregate: &Aggregate,
        rows: &[Row],
        parameter: &[f64],
        grid: Grid,
    ) -> Result<Vec<Row>, QueryError> {
        let mut out = Vec::new();
        let mut present = Vec::new();
        for group in groups(rows, &aggregate.grouping) {
            self.admit_one_more(out.len(), grid)?;
            let mut values = vec![ABSENT; grid.steps];
            for (step, (value, rank)) in values.iter_mut().zip(parameter).enumerate() {
                self.meter.tick(group.members.len())?;
                present.clear();
                present.extend(group.samples(rows, step).map(|(_, value)| value));
                if !present.is_empty() {
                    *value = quantile(*rank, &mut present);
                }
            }
            out.push(group.row(values));
        }
        Ok(out)
    }

    fn count_values(&self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let name = match aggregate
            .parameter
            .as_ref()
            .map(super::Expr::bare)
            .map(|expr| &expr.node)
        {
            Some(Node::Text(literal)) => match &literal.faulty {
                Some(printed) => {
                    return Err(QueryError::execution(format!("invalid label name {printed}")));
                }
                None if literal.value.is_empty() => {
                    return Err(QueryError::execution("invalid label name \"\""));
                }
                None => literal.value.clone(),
            },
            _ => return Err(QueryError::execution("count_values expects a label name")),
        };
        let rows = match self.eval(&aggregate.inner, grid)? {
            Value::Vector(rows) => rows,
            Value::Scalar(_) | Value::Text(_) => {
                return Err(QueryError::execution("expected instant vector"));
            }
        };
        let mut grouping = aggregate.grouping.clone();
        if !grouping.without {
            grouping.labels.push(name.clone());
        }
        let _held = self.hold(&rows);
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut out: Vec<Row> = Vec::new();
        for row in &rows {
            for (step, value) in row
                .values
                .iter()
                .enumerate()
                .filter(|(_, value)| is_present(**value))
            {
                self.meter.tick(8)?;
                let labels = group_labels(&row.labels.with(&name, &fixed(*value)), &grouping);
                let place = match places.get(&labels) {
                    Some(place) => *place,
                    None => {
                        self.admit_one_more(out.len(), grid)?;
                        places.insert(labels.clone(), out.len());
                        out.push(Row {
                            labels,
                            drop_name: false,
                            values: vec![ABSENT; grid.steps],
                        });
                        out.len() - 1
                    }
                };
                if let Some(count) = out.get_mut(place).and_then(|row| row.values.get_mut(step)) {
                    *count = if is_present(*count) { *count + 1.0 } else { 1.0 };
                }
            }
        }
        Ok(out)
    }
}

impl Group {
    /// Samples of one step, with the places of their rows.
    pub(crate) fn samples<'r>(
        &'r self,
        rows: &'r [Row],
        step: usize,
    ) -> impl Iterator<Item = (usize, f64)> + 'r {
        self.members.iter().filter_map(move |member| {
            let value = *rows.get(*member)?.values.get(step)?;
            is_present(value).then_some((*member, value))
        })
    }

    fn row(&self, values: Vec<f64>) -> Row {
        Row {
            labels: self.labels.clone(),
            drop_name: self.drop_name,
            values,
        }
    }
}

fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    if grouping.without {
        labels.matching(false, &grouping.labels)
    } else {
        labels.keep(&grouping.labels)
    }
}

/// In the order in which their first members come.
pub(crate) fn groups(rows: &[Row], grouping: &Grouping) -> Vec<Group> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let labels = group_labels(&row.labels, grouping);
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push(Group {
                labels: labels.clone(),
                drop_name: false,
                members: Vec::new(),
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.drop_name |= row.drop_name;
            group.members.push(index);
        }
    }
    groups
}

fn advance(op: Aggregator, state: Option<State>, value: f64) -> State {
    let Some(state) = state else {
        return match op {
            Aggregator::Sum => State::Sum {
                sum: value,
                compensation: 0.0,
            },
            Aggregator::Avg => State::Mean(Mean::first(value)),
            Aggregator::Stddev | Aggregator::Stdvar => State::Variance {
                count: 1.0,
                mean: value,
                sum: if value.is_finite() { 0.0 } else { f64::NAN },
            },
            Aggregator::Min | Aggregator::Max => State::Extreme(value),
            _ => State::Count(1.0),
        };
    };
    match state {
        State::Sum { sum, compensation } => {
            let (sum, compensation) = kahan(value, sum, compensation);
            State::Sum { sum, compensation }
        }
        State::Mean(mut mean) => {
            mean.add(value);
            State::Mean(mean)
        }
        State::Count(count) => State::Count(count + 1.0),
        State::Extreme(extreme) => {
            let better = if op == Aggregator::Max {
                extreme < value
            } else {
                extreme > value
            };
            State::Extreme(if better || extreme.is_nan() {
                value
            } else {
                extreme
            })
        }
        // Welford's algorithm.
        State::Variance { count, mean, sum } => {
            let count = count + 1.0;
            let delta = value - mean;
            let mean = mean + delta / count;
            State::Variance {
                count,
                mean,
                sum: sum + delta * (value - mean),
            }
        }
    }
}

fn end(op: Aggregator, state: State) -> f64 {
    match state {
        State::Sum { sum, compensation } => sum + compensation,
        State::Mean(mean) => mean.get(),
        State::Count(count) => {
            if op == Aggregator::Group {
                1.0
            } else {
                count
            }
        }
        State::Extreme(extreme) => extreme,
        State::Variance { count, sum, .. } => {
            let variance = sum / count;
            if op == Aggregator::Stddev {
                variance.sqrt()
            } else {
                variance
            }
        }
    }
}
