//! What a query reads: each selector once, for all the time that any of its steps looks at.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::Options;
use crate::error::QueryError;
use crate::eval::{Grid, inner_grid};
use crate::labels::Labels;
use crate::matcher::LabelMatcher;
use crate::source::{SelectRequest, SeriesSamples, SeriesSource, SeriesWindow, SourceGap, Windows};
use crate::syntax::ast::{Edge, Expr, Node, Query, Selector};

/// Series by selector.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    series: Vec<Arc<Vec<SeriesSamples>>>,
    windows: Vec<Arc<Windows>>,
    pub(crate) gaps: Vec<SourceGap>,
    pub(crate) notes: BTreeSet<String>,
    pub(crate) samples: usize,
}

/// What a window counts of the samples of a query, beside the two that are given for it.
const WINDOW_SAMPLES: usize = 6;
/// A window that stands for samples which are too many is at most such a part of a range: what is not known at the
/// range's two ends is less than twice that.
const WINDOWS_PER_RANGE: i64 = 12;

impl Fetched {
    pub(crate) fn of(&self, selector: usize) -> &[SeriesSamples] {
        self.series.get(selector).map_or(&[], |series| series.as_slice())
    }

    /// What stands in the place of samples of a series.
    pub(crate) fn windows_of(&self, selector: usize, labels: &Labels) -> &[SeriesWindow] {
        let windows = self.windows.get(selector).and_then(|windows| windows.get(labels));
        windows.map_or(&[], Vec::as_slice)
    }
}

/// One request, and the selectors that it answers.
#[derive(Debug)]
pub(crate) struct Need {
    matchers: Vec<LabelMatcher>,
    after_ms: i64,
    until_ms: i64,
    longest_ms: i64,
    selectors: Vec<usize>,
}

/// What a query needs for its steps. Selectors of the same series and time share a request.
pub(crate) fn needs(query: &Query, grid: Grid, options: &Options) -> Vec<Need> {
    let mut plan = Plan {
        lookback_ms: i64::try_from(options.lookback.as_millis()).unwrap_or(i64::MAX),
        subquery_step_ms: i64::try_from(options.subquery_step.as_millis()).unwrap_or(i64::MAX),
        step_ms: grid.step_ms,
        needs: Vec::new(),
    };
    plan.walk(&query.root, grid.start_ms, grid.last());
    plan.needs
}

struct Plan {
    lookback_ms: i64,
    subquery_step_ms: i64,
    /// Between the steps of what is looked at.
    step_ms: i64,
    needs: Vec<Need>,
}

impl Plan {
    fn walk(&mut self, expr: &Expr, first_ms: i64, last_ms: i64) {
        match &expr.node {
            Node::Number(_) | Node::Text(_) => {}
            Node::Paren(inner) | Node::Negate(inner) => self.walk(inner, first_ms, last_ms),
            Node::Binary(binary) => {
                self.walk(&binary.left, first_ms, last_ms);
                self.walk(&binary.right, first_ms, last_ms);
            }
            Node::Aggregate(aggregate) => {
                if let Some(parameter) = &aggregate.parameter {
                    self.walk(parameter, first_ms, last_ms);
                }
                self.walk(&aggregate.inner, first_ms, last_ms);
            }
            Node::Info(info) => {
                self.walk(&info.base, first_ms, last_ms);
                self.add(
                    &info.selector,
                    (first_ms, last_ms),
                    self.lookback_ms,
                    self.step_ms,
                );
            }
            Node::Call(call) => {
                for argument in &call.arguments {
                    self.walk(argument, first_ms, last_ms);
                }
            }
            Node::Subquery(subquery) => {
                let inner = inner_grid(subquery, first_ms, last_ms, self.subquery_step_ms);
                if inner.steps > 0 {
                    let step_ms = std::mem::replace(&mut self.step_ms, inner.step_ms);
                    self.walk(&subquery.inner, inner.start_ms, inner.last());
                    self.step_ms = step_ms;
                }
            }
            Node::Selector(selector) => {
                self.add(selector, (first_ms, last_ms), self.lookback_ms, self.step_ms);
            }
            Node::Matrix(matrix) => {
                let selector = &matrix.selector;
                let before = if selector.shift.edge == Edge::Plain {
                    0
                } else {
                    self.lookback_ms
                };
                self.add(
                    selector,
                    (first_ms, last_ms),
                    matrix.range_ms.saturating_add(before),
                    matrix.range_ms / WINDOWS_PER_RANGE,
                );
            }
        }
    }

    fn add(&mut self, selector: &Selector, (first_ms, last_ms): (i64, i64), before_ms: i64, longest_ms: i64) {
        let after_ms = selector.shift.apply(first_ms).saturating_sub(before_ms);
        let after_last = if selector.shift.edge == Edge::Smoothed {
            self.lookback_ms
        } else {
            0
        };
        let until_ms = selector.shift.apply(last_ms).saturating_add(after_last);
        let same = |need: &&mut Need| {
            need.after_ms == after_ms
                && need.until_ms == until_ms
                && need
                    .matchers
                    .iter()
                    .map(LabelMatcher::key)
                    .eq(selector.matchers.iter().map(LabelMatcher::key))
        };
        match self.needs.iter_mut().find(same) {
            Some(need) => {
                need.longest_ms = need.longest_ms.min(longest_ms);
                need.selectors.push(selector.id);
            }
            None => self.needs.push(Need {
                matchers: selector.matchers.clone(),
                after_ms,
                until_ms,
                longest_ms,
                selectors: vec![selector.id],
            }),
        }
    }
}

/// Asks the source for everything.
///
/// # Cancel safety
/// Nothing is kept when it is dropped.
pub(crate) async fn fetch(
    source: &dyn SeriesSource,
    query: &Query,
    needs: Vec<Need>,
    options: &Options,
) -> Result<Fetched, QueryError> {
    let limits = &options.limits;
    let mut fetched = Fetched {
        series: vec![Arc::default(); query.selectors],
        windows: vec![Arc::default(); query.selectors],
        ..Fetched::default()
    };
    for need in needs {
        let request = SelectRequest {
            matchers: need.matchers,
            after_ms: need.after_ms,
            until_ms: need.until_ms,
            longest_ms: need.longest_ms,
            samples_max: limits.samples_max.saturating_sub(fetched.samples),
            series_max: limits.series_max,
        };
        let mut selection = source.select(&request).await?;
        fetched.samples += selection
            .series
            .iter()
            .map(|series| series.values.len())
            .sum::<usize>();
        let windows = selection.windows.values().map(Vec::len).sum::<usize>();
        fetched.samples += windows.saturating_mul(WINDOW_SAMPLES);
        if fetched.samples > limits.samples_max {
            return Err(crate::eval::too_many_samples());
        }
        if selection.series.len() > limits.series_max {
            return Err(QueryError::execution(format!(
                "the query selects {} series, {} are allowed",
                selection.series.len(),
                limits.series_max
            )));
        }
        selection
            .series
            .sort_by(|left, right| left.labels.cmp(&right.labels));
        let series = Arc::new(selection.series);
        let windows = Arc::new(selection.windows);
        for selector in need.selectors {
            if let Some(slot) = fetched.series.get_mut(selector) {
                *slot = Arc::clone(&series);
            }
            if let Some(slot) = fetched.windows.get_mut(selector) {
                *slot = Arc::clone(&windows);
            }
        }
        fetched.notes.extend(selection.notes);
        fetched.gaps.append(&mut selection.gaps);
    }
    fetched.gaps.sort();
    fetched.gaps.dedup();
    Ok(fetched)
}
