//! Parsing, reading and computing, in this order, within the limits.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::annotations::Notes;
use crate::answer::{Answer, Data, Sample};
use crate::config::Options;
use crate::error::QueryError;
use crate::eval::{Evaluator, Grid, Meter, Row, Value, drop_names, is_present};
use crate::fetch::{self, Fetched};
use crate::function::extended;
use crate::source::{SeriesSamples, SeriesSource};
use crate::syntax::ast::{Edge, Query, Type};
use crate::syntax::{self, QueryTimes};

/// Answers queries over a source. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    source: Arc<dyn SeriesSource>,
    options: Arc<Options>,
}

impl Engine {
    /// An engine without state of its own.
    pub fn new(source: Arc<dyn SeriesSource>, options: Options) -> Self {
        Self {
            source,
            options: Arc::new(options),
        }
    }

    /// Whether a query can be parsed; nothing is read.
    pub fn check(query: &str) -> Result<(), QueryError> {
        let times = QueryTimes {
            start_ms: 0,
            end_ms: 0,
            step_ms: 0,
        };
        syntax::parse(query, &times).map(drop)
    }

    /// Whether a query can be a rule, which makes series of numbers: neither a string nor a range of samples is any.
    pub fn check_rule(query: &str) -> Result<(), QueryError> {
        let times = QueryTimes {
            start_ms: 0,
            end_ms: 0,
            step_ms: 0,
        };
        match syntax::parse(query, &times)?.root.gives() {
            Type::Scalar | Type::Vector => Ok(()),
            Type::Matrix | Type::Text => Err(QueryError::bad_data("rule result is not a vector or scalar")),
        }
    }

    /// The value at one time.
    ///
    /// # Cancel safety
    /// Dropping the future ends the computation soon. So does `cancel`, with [`QueryError::Canceled`].
    pub async fn instant(
        &self,
        query: &str,
        time_ms: i64,
        cancel: &CancellationToken,
    ) -> Result<Answer, QueryError> {
        let times = QueryTimes {
            start_ms: time_ms,
            end_ms: time_ms,
            step_ms: 0,
        };
        self.run(query, times, Form::Instant, cancel).await
    }

    /// The values at the steps from start to end.
    ///
    /// # Cancel safety
    /// As [`Engine::instant`].
    pub async fn range(
        &self,
        query: &str,
        times: QueryTimes,
        cancel: &CancellationToken,
    ) -> Result<Answer, QueryError> {
        if times.step_ms <= 0 {
            return Err(QueryError::bad_data(
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        if times.end_ms < times.start_ms {
            return Err(QueryError::bad_data(
                "end timestamp must not be before start time",
            ));
        }
        let grid = Grid::between(times.start_ms, times.end_ms, times.step_ms);
        if grid.steps > self.options.limits.steps_max {
            return Err(QueryError::bad_data(format!(
                "exceeded maximum resolution of {} points per timeseries. Try decreasing the query resolution (?step=XX)",
                self.options.limits.steps_max
            )));
        }
        self.run(query, times, Form::Range, cancel).await
    }

    async fn run(
        &self,
        text: &str,
        times: QueryTimes,
        form: Form,
        cancel: &CancellationToken,
    ) -> Result<Answer, QueryError> {
        // Cancelled too when this future is dropped, so that no thread computes what nobody waits for.
        let cancel = cancel.child_token();
        let _dropped = cancel.clone().drop_guard();
        let deadline = Instant::now() + self.options.limits.timeout;
        let text = text.to_owned();
        let parsed = blocking(move || {
            let query = syntax::parse(&text, &times)?;
            form.check(&query)?;
            Ok(query)
        });
        let query = tokio::select! {
            () = cancel.cancelled() => return Err(QueryError::Canceled("query parsing")),
            () = tokio::time::sleep_until(deadline.into()) => return Err(QueryError::Timeout("query parsing")),
            parsed = parsed => parsed?,
        };
        let grid = form.grid(&times);
        let needs = fetch::needs(&query, grid, &self.options);
        let fetched = tokio::select! {
            () = cancel.cancelled() => return Err(QueryError::Canceled("series selection")),
            () = tokio::time::sleep_until(deadline.into()) => return Err(QueryError::Timeout("series selection")),
            fetched = fetch::fetch(self.source.as_ref(), &query, needs, &self.options) => fetched?,
        };
        let options = Arc::clone(&self.options);
        blocking(move || {
            let meter = Meter::new(deadline, cancel);
            compute(&query, times, form, &fetched, &options, &meter)
        })
        .await
    }
}

/// Runs what may take long where it holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(QueryError::execution(format!("unexpected error: {error}"))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Instant,
    Range,
}

impl Form {
    fn grid(self, times: &QueryTimes) -> Grid {
        match self {
            Self::Instant => Grid {
                start_ms: times.start_ms,
                step_ms: 0,
                steps: 1,
            },
            Self::Range => Grid::between(times.start_ms, times.end_ms, times.step_ms),
        }
    }

    fn check(self, query: &Query) -> Result<(), QueryError> {
        let name = match query.root.gives() {
            Type::Matrix => "range vector",
            Type::Text => "string",
            Type::Scalar | Type::Vector => return Ok(()),
        };
        if self == Self::Instant {
            return Ok(());
        }
        Err(QueryError::bad_data(format!(
            "invalid expression type {name:?} for range query, must be Scalar or instant Vector"
        )))
    }
}

fn compute(
    query: &Query,
    times: QueryTimes,
    form: Form,
    fetched: &Fetched,
    options: &Options,
    meter: &Meter,
) -> Result<Answer, QueryError> {
    meter.look()?;
    let evaluator = Evaluator {
        data: fetched,
        options,
        times,
        meter,
        notes: Notes::default().into(),
    };
    let grid = form.grid(&times);
    let data = if query.root.gives() == Type::Matrix {
        Data::Matrix(ranges(&evaluator, query, grid)?)
    } else {
        let value = evaluator.eval(&query.root, grid)?;
        finish(value, form, grid)?
    };
    let mut notes = evaluator.notes.into_inner();
    for gap in &fetched.gaps {
        notes.said.gap(&gap.text);
    }
    notes.said.infos.extend(fetched.notes.iter().cloned());
    Ok(Answer {
        data,
        annotations: notes.finish(),
        gaps: fetched.gaps.clone(),
        samples_read: fetched.samples,
    })
}

fn finish(value: Value, form: Form, grid: Grid) -> Result<Data, QueryError> {
    let time_ms = grid.start_ms;
    match (value, form) {
        (Value::Text(value), _) => Ok(Data::Text { time_ms, value }),
        (Value::Scalar(values), Form::Instant) => Ok(Data::Scalar {
            time_ms,
            value: values.first().copied().unwrap_or(f64::NAN),
        }),
        (Value::Scalar(values), Form::Range) => Ok(Data::Matrix(vec![SeriesSamples {
            labels: crate::labels::Labels::default(),
            times_ms: grid.times().collect(),
            values,
            ..SeriesSamples::default()
        }])),
        (Value::Vector(rows), Form::Instant) => {
            let sample = |row: Row| {
                let value = row.values.first().copied().filter(|value| is_present(*value))?;
                Some(Sample {
                    labels: row.labels,
                    time_ms,
                    value,
                })
            };
            Ok(Data::Vector(
                drop_names(rows)?.into_iter().filter_map(sample).collect(),
            ))
        }
        (Value::Vector(rows), Form::Range) => {
            let mut series: Vec<SeriesSamples> = drop_names(rows)?
                .into_iter()
                .map(|row| points(row, grid))
                .collect();
            series.retain(|one| !one.values.is_empty());
            series.sort_by(|left, right| left.labels.cmp(&right.labels));
            Ok(Data::Matrix(series))
        }
    }
}

fn points(row: Row, grid: Grid) -> SeriesSamples {
    let (times_ms, values) = grid
        .times()
        .zip(row.values)
        .filter(|(_, value)| is_present(*value))
        .unzip();
    SeriesSamples {
        labels: row.labels,
        times_ms,
        values,
        ..SeriesSamples::default()
    }
}

/// A range asked for at one time: the samples themselves.
fn ranges(evaluator: &Evaluator<'_>, query: &Query, grid: Grid) -> Result<Vec<SeriesSamples>, QueryError> {
    let ranges = evaluator.ranges(&query.root, grid)?;
    let mut out = Vec::new();
    for series in &ranges.series {
        let labels = if series.drop_name {
            series.labels.without_name()
        } else {
            series.labels.clone()
        };
        evaluator.slide(series, &ranges, grid, |_, window| {
            let points = if window.edge == Edge::Plain {
                // A range within a window holds no sample that is known.
                (!window.times.is_empty()).then(|| (window.times.to_vec(), window.values.to_vec()))
            } else {
                extended::points(&window)
            };
            out.extend(points.map(|(times_ms, values)| SeriesSamples {
                labels: labels.clone(),
                times_ms,
                values,
                ..SeriesSamples::default()
            }));
        })?;
    }
    out.sort_by(|left, right| left.labels.cmp(&right.labels));
    if out
        .windows(2)
        .any(|pair| matches!(pair, [left, right] if left.labels == right.labels))
    {
        return Err(QueryError::execution(
            "vector cannot contain metrics with the same labelset",
        ));
    }
    Ok(out)
}
