//! Quantiles and fractions of classic histograms: series with a label `le` that count what is at most that.

use std::collections::HashMap;

use super::call::argument;
use super::{ABSENT, Evaluator, Grid, Row, is_present};
use crate::annotations::Place;
use crate::error::QueryError;
use crate::function::bucket::{Bucket, fraction, histogram_quantile};
use crate::labels::Labels;
use crate::number::open_metrics;
use crate::syntax::ast::{Call, Node};

const BUCKET_LABEL: &str = "le";

/// The rows of one histogram.
struct Histogram<'r> {
    labels: Labels,
    drop_name: bool,
    rows: Vec<(f64, &'r Row)>,
}

impl Evaluator<'_> {
    pub(crate) fn histogram_quantile(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let ranks = self.scalars(argument(call, 0)?, grid)?;
        let vector = argument(call, 1)?;
        let rows = self.rows(vector, grid)?;
        self.note_ranks(&ranks, &argument(call, 0)?.place);
        let _held = self.hold(&rows);
        let histograms = self.histograms(&rows, &vector.place);
        let mut out = Vec::with_capacity(histograms.len());
        for histogram in &histograms {
            self.admit_one_more(out.len(), grid)?;
            out.push(self.quantile_row(histogram, &ranks, &vector.place, grid)?);
        }
        out.retain(|row| !row.is_empty());
        self.without_names(out)
    }

    pub(crate) fn histogram_quantiles(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let vector = argument(call, 0)?;
        let label = match &argument(call, 1)?.bare().node {
            Node::Text(literal) if literal.faulty.is_none() && !literal.value.is_empty() => &literal.value,
            _ => {
                return Err(QueryError::execution(
                    "invalid label name in histogram_quantiles()",
                ));
            }
        };
        let rows = self.rows(vector, grid)?;
        let _held = self.hold(&rows);
        let histograms = self.histograms(&rows, &vector.place);
        let mut out = Vec::new();
        for number in 2..call.arguments.len() {
            let ranks = self.scalars(argument(call, number)?, grid)?;
            self.note_ranks(&ranks, &argument(call, number)?.place);
            for histogram in &histograms {
                self.admit_one_more(out.len(), grid)?;
                let row = self.quantile_row(histogram, &ranks, &vector.place, grid)?;
                // A rank that changes from step to step makes a series for each of its values.
                let mut parts: HashMap<String, Row> = HashMap::new();
                for (step, (value, rank)) in row.values.iter().zip(&ranks).enumerate() {
                    self.meter.tick(1)?;
                    let text = open_metrics(*rank);
                    if !parts.contains_key(&text) {
                        // Beside those that are made stands the row that is taken apart.
                        self.admit_one_more(out.len() + parts.len() + 1, grid)?;
                        let part = Row {
                            labels: row.labels.with(label, &text),
                            drop_name: row.drop_name,
                            values: vec![ABSENT; grid.steps],
                        };
                        parts.insert(text.clone(), part);
                    }
                    if let Some(slot) = parts.get_mut(&text).and_then(|part| part.values.get_mut(step)) {
                        *slot = *value;
                    }
                }
                out.extend(parts.into_values().filter(|row| !row.is_empty()));
            }
        }
        self.without_names(out)
    }

    pub(crate) fn histogram_fraction(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let lower = self.scalars(argument(call, 0)?, grid)?;
        let upper = self.scalars(argument(call, 1)?, grid)?;
        let vector = argument(call, 2)?;
        let rows = self.rows(vector, grid)?;
        let _held = self.hold(&rows);
        let mut out = Vec::new();
        for histogram in self.histograms(&rows, &vector.place) {
            self.admit_one_more(out.len(), grid)?;
            out.push(self.histogram_row(&histogram, grid, |buckets, step| {
                let bound = |values: &[f64]| values.get(step).copied().unwrap_or(f64::NAN);
                fraction(bound(&lower), bound(&upper), buckets)
            })?);
        }
        out.retain(|row| !row.is_empty());
        self.without_names(out)
    }

    fn note_ranks(&self, ranks: &[f64], place: &Place) {
        for rank in ranks {
            if !(0.0..=1.0).contains(rank) {
                self.notes.borrow_mut().said.invalid_quantile(*rank, place);
            }
        }
    }

    fn quantile_row(
        &self,
        histogram: &Histogram<'_>,
        ranks: &[f64],
        place: &Place,
        grid: Grid,
    ) -> Result<Row, QueryError> {
        self.histogram_row(histogram, grid, |buckets, step| {
            let (value, forced) = histogram_quantile(ranks.get(step).copied().unwrap_or(f64::NAN), buckets);
            if let Some(forced) = forced {
                let name = if self.delayed() {
                    histogram.labels.name()
                } else {
                    ""
                };
                self.notes
                    .borrow_mut()
                    .forced_monotonicity(name, place, grid.at(step), forced);
            }
            value
        })
    }

    fn histogram_row(
        &self,
        histogram: &Histogram<'_>,
        grid: Grid,
        compute: impl Fn(&mut Vec<Bucket>, usize) -> f64,
    ) -> Result<Row, QueryError> {
        let mut values = vec![ABSENT; grid.steps];
        let mut buckets = Vec::with_capacity(histogram.rows.len());
        for (step, value) in values.iter_mut().enumerate() {
            self.meter.tick(histogram.rows.len())?;
            buckets.clear();
            buckets.extend(histogram.rows.iter().filter_map(|(upper, row)| {
                let count = *row.values.get(step)?;
                is_present(count).then_some(Bucket { upper: *upper, count })
            }));
            if !buckets.is_empty() {
                *value = compute(&mut buckets, step);
            }
        }
        Ok(Row {
            labels: histogram.labels.clone(),
            drop_name: histogram.drop_name,
            values,
        })
    }

    fn histograms<'r>(&self, rows: &'r [Row], place: &Place) -> Vec<Histogram<'r>> {
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut histograms: Vec<Histogram<'r>> = Vec::new();
        for row in rows {
            let label = row.labels.get(BUCKET_LABEL);
            let Some(upper) = crate::function::bucket::bound(label) else {
                let name = if self.delayed() { row.labels.name() } else { "" };
                self.notes.borrow_mut().said.bad_bucket_label(name, label, place);
                continue;
            };
            let labels = row.labels.with(BUCKET_LABEL, "");
            let at = *places.entry(labels).or_insert_with_key(|labels| {
                histograms.push(Histogram {
                    labels: labels.clone(),
                    drop_name: row.drop_name,
                    rows: Vec::new(),
                });
                histograms.len() - 1
            });
            if let Some(histogram) = histograms.get_mut(at) {
                histogram.rows.push((upper, row));
            }
        }
        histograms
    }
}
