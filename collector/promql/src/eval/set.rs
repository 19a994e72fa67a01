//! `and`, `or` and `unless`.

use std::collections::HashMap;

use super::names::merge;
use super::{ABSENT, Evaluator, Grid, Row, is_present};
use crate::error::QueryError;
use crate::labels::Labels;
use crate::syntax::ast::{Binary, Matching, Op};

/// At which steps some row with the labels is there.
type Presence = HashMap<Labels, Vec<bool>>;

impl Evaluator<'_> {
    pub(crate) fn set(
        &self,
        binary: &Binary,
        mut left: Vec<Row>,
        mut right: Vec<Row>,
        grid: Grid,
    ) -> Result<Vec<Row>, QueryError> {
        let matching = &binary.matching;
        self.meter
            .tick((left.len() + right.len()).saturating_mul(grid.steps))?;
        match binary.op {
            Op::Or => {
                let presence = presence(&left, matching, grid);
                mask(&mut right, matching, &presence, false);
                left.append(&mut right);
                left.retain(|row| !row.is_empty());
                merge(left)
            }
            op => {
                let presence = presence(&right, matching, grid);
                mask(&mut left, matching, &presence, op == Op::And);
                left.retain(|row| !row.is_empty());
                Ok(left)
            }
        }
    }
}

fn presence(rows: &[Row], matching: &Matching, grid: Grid) -> Presence {
    let mut presence = Presence::with_capacity(rows.len());
    for row in rows {
        let steps = presence
            .entry(row.labels.matching(matching.on, &matching.labels))
            .or_insert_with(|| vec![false; grid.steps]);
        for (seen, value) in steps.iter_mut().zip(&row.values) {
            *seen |= is_present(*value);
        }
    }
    presence
}

/// Keeps the samples whose labels are there on the other side, or those whose are not.
fn mask(rows: &mut [Row], matching: &Matching, presence: &Presence, keep_where: bool) {
    for row in rows {
        match presence.get(&row.labels.matching(matching.on, &matching.labels)) {
            Some(steps) => {
                for (value, there) in row.values.iter_mut().zip(steps) {
                    if *there != keep_where {
                        *value = ABSENT;
                    }
                }
            }
            None if keep_where => row.values.fill(ABSENT),
            None => {}
        }
    }
}
