//! Operators between two vectors, whose series find each other by their labels.

use std::collections::{BTreeMap, HashMap};

use super::binary::element;
use super::names::merge_or;
use super::{ABSENT, Evaluator, Grid, Row, is_present};
use crate::error::QueryError;
use crate::labels::Labels;
use crate::syntax::ast::{Binary, Card};

/// Rows with the same matching labels. Numbers are places in the two sides.
#[derive(Default)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

/// The two sides, turned so that the first may have many.
struct Sides<'r> {
    binary: &'r Binary,
    many: &'r [Row],
    one: &'r [Row],
    fill_many: Option<f64>,
    fill_one: Option<f64>,
    /// Steps at which nothing can match, so that nothing can be wrong either.
    idle: Vec<bool>,
}

/// Stands for a sample that a comparison has left out until it is known that no other one has the same labels. Only ever
/// copied, as [`ABSENT`].
const LEFT_OUT: f64 = f64::from_bits(crate::source::STALE_BITS + 1);

/// Rows of the result by the rows they came from; `None` was filled in.
type Results = BTreeMap<(Option<usize>, Option<usize>), Row>;

impl Evaluator<'_> {
    pub(crate) fn pair(
        &self,
        binary: &Binary,
        left: &[Row],
        right: &[Row],
        grid: Grid,
    ) -> Result<Vec<Row>, QueryError> {
        let sides = Sides::new(binary, left, right, grid);
        let matching = &binary.matching;
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut groups: Vec<(Labels, Group)> = Vec::new();
        for (index, row, is_many) in (sides
            .many
            .iter()
            .enumerate()
            .map(|(index, row)| (index, row, true)))
        .chain(
            sides
                .one
                .iter()
                .enumerate()
                .map(|(index, row)| (index, row, false)),
        ) {
            let labels = row.labels.matching(matching.on, &matching.labels);
            let place = *places.entry(labels.clone()).or_insert_with(|| {
                groups.push((labels, Group::default()));
                groups.len() - 1
            });
            if let Some((_, group)) = groups.get_mut(place) {
                if is_many {
                    group.many.push(index)
                } else {
                    group.one.push(index)
                }
            }
        }
        let mut rows = Vec::new();
        for (labels, group) in &groups {
            self.meter
                .tick(grid.steps.saturating_mul(group.many.len() + group.one.len()))?;
            let mut results = Results::new();
            for step in 0..grid.steps {
                self.pair_step(&sides, labels, group, step, (grid, rows.len()), &mut results)?;
            }
            rows.extend(results.into_values());
        }
        rows.retain(|row| !row.is_empty());
        let mut rows = merge_or(rows, || {
            QueryError::execution("multiple matches for labels: grouping labels must ensure unique matches")
        })?;
        for value in rows.iter_mut().flat_map(|row| row.values.iter_mut()) {
            if value.to_bits() == LEFT_OUT.to_bits() {
                *value = ABSENT;
            }
        }
        rows.retain(|row| !row.is_empty());
        Ok(rows)
    }

    fn pair_step(
        &self,
        sides: &Sides<'_>,
        labels: &Labels,
        group: &Group,
        step: usize,
        (grid, made): (Grid, usize),
        results: &mut Results,
    ) -> Result<(), QueryError> {
        if sides.idle.get(step).copied().unwrap_or(true) {
            return Ok(());
        }
        let one = sides.only_one(labels, group, step)?;
        let mut matched = false;
        for (index, value) in present(sides.many, &group.many, step) {
            let Some((one_index, one_value)) = one
                .map(|(at, value)| (Some(at), value))
                .or(sides.fill_one.map(|value| (None, value)))
            else {
                continue;
            };
            if matched && sides.binary.matching.card == Card::OneToOne {
                return Err(QueryError::execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
            matched = true;
            let result = sides.element(value, one_value);
            self.put(
                sides,
                labels,
                (Some(index), one_index),
                result,
                (step, grid, made),
                results,
            )?;
        }
        if let (false, Some((index, value)), Some(filled)) = (matched, one, sides.fill_many) {
            let result = sides.element(filled, value);
            self.put(
                sides,
                labels,
                (None, Some(index)),
                result,
                (step, grid, made),
                results,
            )?;
        }
        Ok(())
    }

    fn put(
        &self,
        sides: &Sides<'_>,
        labels: &Labels,
        key: (Option<usize>, Option<usize>),
        result: f64,
        (step, grid, made): (usize, Grid, usize),
        results: &mut Results,
    ) -> Result<(), QueryError> {
        if !results.contains_key(&key) {
            self.admit_one_more(made + results.len(), grid)?;
        }
        let row = results.entry(key).or_insert_with(|| {
            let many = key.0.and_then(|index| sides.many.get(index));
            let one = key.1.and_then(|index| sides.one.get(index));
            let many_labels = many.map_or(labels, |row| &row.labels);
            let result = Self::labels_of(sides.binary, many_labels, one.map_or(labels, |row| &row.labels));
            let as_bool = sides.binary.as_bool;
            Row {
                labels: if as_bool && !self.delayed() {
                    result.without_name()
                } else {
                    result
                },
                drop_name: self.delayed() && (as_bool || many.is_some_and(|row| row.drop_name)),
                values: vec![ABSENT; grid.steps],
            }
        });
        if let Some(value) = row.values.get_mut(step) {
            *value = result;
        }
        Ok(())
    }

    fn labels_of(binary: &Binary, many: &Labels, one: &Labels) -> Labels {
        let matching = &binary.matching;
        // What is computed of two vectors has no name from here on, even where other names go at the end.
        let mut labels = if binary.op.compares() {
            many.clone()
        } else {
            many.without_name()
        };
        if matching.card == Card::OneToOne {
            labels = if matching.on {
                labels.keep(&matching.labels)
            } else {
                labels.without(&matching.labels)
            };
        }
        for name in &matching.include {
            labels = labels.with(name, one.get(name));
        }
        labels
    }
}

impl<'r> Sides<'r> {
    fn new(binary: &'r Binary, left: &'r [Row], right: &'r [Row], grid: Grid) -> Self {
        let matching = &binary.matching;
        let turned = matching.card == Card::OneToMany;
        let (many, one) = if turned { (right, left) } else { (left, right) };
        let (fill_many, fill_one) = if turned {
            (matching.fill_right, matching.fill_left)
        } else {
            (matching.fill_left, matching.fill_right)
        };
        let idle = (0..grid.steps)
            .map(|step| {
                let any = |rows: &[Row]| {
                    rows.iter()
                        .any(|row| row.values.get(step).is_some_and(|value| is_present(*value)))
                };
                (fill_many.is_none() && !any(many)) || (fill_one.is_none() && !any(one))
            })
            .collect();
        Self {
            binary,
            many,
            one,
            fill_many,
            fill_one,
            idle,
        }
    }

    fn element(&self, many: f64, one: f64) -> f64 {
        let (left, right) = if self.binary.matching.card == Card::OneToMany {
            (one, many)
        } else {
            (many, one)
        };
        let value = element(self.binary.op, self.binary.as_bool, left, right, left);
        if self.binary.matching.card != Card::OneToOne && !is_present(value) {
            LEFT_OUT
        } else {
            value
        }
    }

    /// The sample of the side that must be unique.
    fn only_one(
        &self,
        labels: &Labels,
        group: &Group,
        step: usize,
    ) -> Result<Option<(usize, f64)>, QueryError> {
        let mut found = present(self.one, &group.one, step);
        let first = found.next();
        let second = found.next();
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            let side = if self.binary.matching.card == Card::OneToMany {
                "left"
            } else {
                "right"
            };
            let text = |index: usize| {
                self.one
                    .get(index)
                    .map(|row| row.labels.clone())
                    .unwrap_or_default()
            };
            let mut both = [text(first), text(second)];
            both.sort();
            let [first, second] = both;
            return Err(QueryError::execution(format!(
                "found duplicate series for the match group {labels} on the {side} hand-side of the operation: \
                 [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side"
            )));
        }
        Ok(first)
    }
}

fn present<'r>(
    rows: &'r [Row],
    indices: &'r [usize],
    step: usize,
) -> impl Iterator<Item = (usize, f64)> + 'r {
    indices.iter().filter_map(move |index| {
        let value = *rows.get(*index)?.values.get(step)?;
        is_present(value).then_some((*index, value))
    })
}
