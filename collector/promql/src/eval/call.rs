//! Function calls.

use super::select::Look;
use super::{ABSENT, Evaluator, Grid, Row, Value, Window, map};
use crate::error::QueryError;
use crate::function::{ScalarSource, WindowFunction, coarse, date, math, rate, window};
use crate::labels::Labels;
use crate::number::{maximum, minimum};
use crate::syntax::ast::{Call, Edge, Expr, Node, Type};

impl Evaluator<'_> {
    pub(crate) fn call(&self, call: &Call, grid: Grid) -> Result<Value, QueryError> {
        if let Some(source) = ScalarSource::parse(call.function) {
            return self.scalar_source(source, call, grid);
        }
        if let Some(function) = window::find(call.function) {
            return self.over_time(call, function, grid).map(Value::Vector);
        }
        if let Some(function) = math::find(call.function) {
            let mut rows = self.rows(argument(call, 0)?, grid)?;
            map(&mut rows, function);
            return self.without_names(rows).map(Value::Vector);
        }
        if let Some(function) = date::find(call.function) {
            return self.dates(call, function, grid).map(Value::Vector);
        }
        let rows = match call.function {
            "absent" => self.absent(call, grid),
            "absent_over_time" => self.absent_over_time(call, grid),
            "vector" => Ok(vec![anonymous(self.scalars(argument(call, 0)?, grid)?)]),
            "timestamp" => self.timestamp(argument(call, 0)?, grid),
            "start_timestamp" => self.start_timestamp(argument(call, 0)?, grid),
            "round" => self.round(call, grid),
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(call, grid),
            "label_replace" => self.label_replace(call, grid),
            "label_join" => self.label_join(call, grid),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => self.sort(call, grid),
            "histogram_quantile" => self.histogram_quantile(call, grid),
            "histogram_quantiles" => self.histogram_quantiles(call, grid),
            "histogram_fraction" => self.histogram_fraction(call, grid),
            // They look at native histograms only, which no source here holds.
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev"
            | "histogram_stdvar" => self.rows(argument(call, 0)?, grid).map(|_| Vec::new()),
            other => Err(QueryError::bad_data(format!(
                "function {other:?} is not supported"
            ))),
        };
        rows.map(Value::Vector)
    }

    fn scalar_source(&self, source: ScalarSource, call: &Call, grid: Grid) -> Result<Value, QueryError> {
        let times = &self.times;
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let constant = |value: f64| Value::Scalar(vec![value; grid.steps]);
        Ok(match source {
            ScalarSource::Pi => constant(std::f64::consts::PI),
            ScalarSource::Time => Value::Scalar(grid.times().map(seconds).collect()),
            ScalarSource::Start => constant(seconds(times.start_ms)),
            ScalarSource::End => constant(seconds(times.end_ms)),
            ScalarSource::Step => constant(seconds(times.step_ms)),
            ScalarSource::Range => constant(seconds(times.end_ms.saturating_sub(times.start_ms))),
            ScalarSource::MinOf | ScalarSource::MaxOf => {
                let left = self.scalars(argument(call, 0)?, grid)?;
                let right = self.scalars(argument(call, 1)?, grid)?;
                let choose = |(left, right): (f64, f64)| match source {
                    ScalarSource::MinOf => minimum(left, right),
                    _ => maximum(left, right),
                };
                Value::Scalar(left.into_iter().zip(right).map(choose).collect())
            }
            ScalarSource::Scalar => {
                let rows = self.rows(argument(call, 0)?, grid)?;
                Value::Scalar((0..grid.steps).map(|step| single(&rows, step)).collect())
            }
        })
    }

    /// A function of a range: scalars may stand before or after it.
    fn over_time(&self, call: &Call, function: WindowFunction, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let mut scalars = Vec::new();
        let mut range = None;
        for argument in &call.arguments {
            if argument.gives() == Type::Matrix {
                range = Some(argument);
            } else {
                scalars.push(self.scalars(argument, grid)?);
            }
        }
        let range = range.ok_or_else(|| QueryError::execution("expected range vector"))?;
        let ranges = self.ranges(range, grid)?;
        self.admit(ranges.series.len(), grid)?;
        let scalar = |number: usize, step: usize| {
            scalars
                .get(number)
                .and_then(|values| values.get(step))
                .copied()
                .unwrap_or(f64::NAN)
        };
        let mut rows = Vec::new();
        let mut fault = None;
        for series in &ranges.series {
            let mut values = vec![ABSENT; grid.steps];
            self.slide(series, &ranges, grid, |step, mut window| {
                window.scalars = [scalar(0, step), scalar(1, step)];
                let outcome = if window.coarse.is_empty() {
                    (function.compute)(&window)
                } else {
                    coarse::compute(call.function, function, &window)
                };
                match outcome {
                    Ok(Some(value)) => {
                        if let Some(slot) = values.get_mut(step) {
                            *slot = value;
                        }
                        self.note_window(call, &window, series.labels.name(), range);
                    }
                    Ok(None) => {}
                    Err(error) => fault = Some(error),
                }
            })?;
            if let Some(error) = fault.take() {
                return Err(error);
            }
            let row = Row {
                labels: series.labels.clone(),
                drop_name: series.drop_name,
                values,
            };
            if !row.is_empty() {
                self.note_counter(call, &row, range);
                rows.push(row);
            }
        }
        if function.keeps_name {
            Ok(rows)
        } else {
            self.without_names(rows)
        }
    }

    pub(crate) fn note_quantile(&self, quantile: f64, call: &Call) {
        if !(0.0..=1.0).contains(&quantile)
            && let Some(argument) = call.arguments.first()
        {
            self.notes
                .borrow_mut()
                .said
                .invalid_quantile(quantile, &argument.place);
        }
    }

    fn note_window(&self, call: &Call, window: &Window<'_>, name: &str, range: &Expr) {
        match call.function {
            "quantile_over_time" => self.note_quantile(window.scalars[0], call),
            "rate" | "increase" if window.edge == Edge::Plain && rate::overlaps(window) => {
                self.notes.borrow_mut().said.start_overlap(name, &range.place);
            }
            _ => {}
        }
    }

    fn note_counter(&self, call: &Call, row: &Row, range: &Expr) {
        let name = row.labels.name();
        let counter = ["_total", "_sum", "_count", "_bucket"]
            .iter()
            .any(|end| name.ends_with(end));
        if ["rate", "increase"].contains(&call.function) && !name.is_empty() && !counter {
            self.notes
                .borrow_mut()
                .said
                .possible_non_counter(name, &range.place);
        }
    }

    fn timestamp(&self, argument: &Expr, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let rows = match &argument.bare().node {
            Node::Selector(selector) => self.instant(selector, grid, Look::Time)?,
            _ => {
                let mut rows = self.rows(argument, grid)?;
                for row in &mut rows {
                    for (value, time) in row.values.iter_mut().zip(grid.times()) {
                        if super::is_present(*value) {
                            *value = time as f64 / 1000.0;
                        }
                    }
                }
                rows
            }
        };
        self.without_names(rows)
    }

    /// Of samples themselves only, and where the source knows when they began to count.
    fn start_timestamp(&self, argument: &Expr, grid: Grid) -> Result<Vec<Row>, QueryError> {
        match &argument.bare().node {
            Node::Selector(selector) => {
                let rows = self.instant(selector, grid, Look::Start)?;
                self.without_names(rows)
            }
            _ => self.rows(argument, grid).map(|_| Vec::new()),
        }
    }

    fn round(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let rows = self.rows(argument(call, 0)?, grid)?;
        let nearest = match call.arguments.get(1) {
            Some(expr) => self.scalars(expr, grid)?,
            None => vec![1.0; grid.steps],
        };
        self.zipped(rows, |value, step| {
            // Multiplying by the inverse makes fewer rounding errors.
            let inverse = 1.0 / nearest.get(step).copied().unwrap_or(1.0);
            (value * inverse + 0.5).floor() / inverse
        })
    }

    fn clamp(&self, call: &Call, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let rows = self.rows(argument(call, 0)?, grid)?;
        let infinite = |value: f64| vec![value; grid.steps];
        let (low, high) = match call.function {
            "clamp" => (
                self.scalars(argument(call, 1)?, grid)?,
                self.scalars(argument(call, 2)?, grid)?,
            ),
            "clamp_min" => (self.scalars(argument(call, 1)?, grid)?, infinite(f64::INFINITY)),
            _ => (
                infinite(f64::NEG_INFINITY),
                self.scalars(argument(call, 1)?, grid)?,
            ),
        };
        let mut rows = self.zipped(rows, |value, step| {
            let low = low.get(step).copied().unwrap_or(f64::NAN);
            let high = high.get(step).copied().unwrap_or(f64::NAN);
            if high < low {
                ABSENT
            } else {
                maximum(low, minimum(high, value))
            }
        })?;
        rows.retain(|row| !row.is_empty());
        Ok(rows)
    }

    fn zipped(
        &self,
        mut rows: Vec<Row>,
        function: impl Fn(f64, usize) -> f64,
    ) -> Result<Vec<Row>, QueryError> {
        for row in &mut rows {
            self.meter.tick(row.values.len())?;
            for (step, value) in row.values.iter_mut().enumerate() {
                if super::is_present(*value) {
                    *value = function(*value, step);
                }
            }
        }
        self.without_names(rows)
    }

    fn dates(&self, call: &Call, function: date::DateFunction, grid: Grid) -> Result<Vec<Row>, QueryError> {
        match call.arguments.first() {
            None => Ok(vec![anonymous(
                grid.times().map(|time| function(time.div_euclid(1000))).collect(),
            )]),
            Some(argument) => {
                let mut rows = self.rows(argument, grid)?;
                map(&mut rows, |value| function(crate::number::to_i64(value)));
                self.without_names(rows)
            }
        }
    }
}

pub(crate) fn argument(call: &Call, number: usize) -> Result<&Expr, QueryError> {
    call.arguments
        .get(number)
        .ok_or_else(|| QueryError::bad_data(format!("missing argument in call to {:?}", call.function)))
}

pub(crate) fn anonymous(values: Vec<f64>) -> Row {
    Row {
        labels: Labels::default(),
        drop_name: false,
        values,
    }
}

/// The only sample of a step, or NaN.
fn single(rows: &[Row], step: usize) -> f64 {
    let mut present = rows
        .iter()
        .filter_map(|row| row.values.get(step))
        .filter(|value| super::is_present(**value));
    match (present.next(), present.next()) {
        (Some(value), None) => *value,
        _ => f64::NAN,
    }
}
