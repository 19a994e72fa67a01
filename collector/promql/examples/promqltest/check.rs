//! Runs commands and compares what comes with what should.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use collector_promql::{Answer, Data, Engine, Labels, NameRemoval, Options, QueryTimes, SeriesSamples};
use tokio_util::sync::CancellationToken;

use crate::memory::Memory;
use crate::script::{Command, Eval, Said};
use crate::series::{Point, Series};

/// Relative error allowed, as in Prometheus' own runner.
const TOLERANCE: f64 = 1e-6;

/// What an instant evaluation is repeated with, in its middle.
const AROUND_MS: i64 = 60_000;

pub(crate) enum Outcome {
    /// Nothing was asked.
    Done,
    Passed,
    Failed(String),
    /// Not as it should be, and a native histogram was part of it.
    Native,
}

#[derive(Default)]
pub(crate) struct Runner {
    memory: Arc<Memory>,
}

impl Runner {
    pub(crate) async fn run(&mut self, command: Command) -> Outcome {
        match command {
            Command::Clear => {
                self.memory = Arc::default();
                Outcome::Done
            }
            Command::Load {
                step_ms,
                series,
                with_native,
            } => match Arc::get_mut(&mut self.memory) {
                Some(memory) => {
                    memory.load(step_ms, &series, with_native);
                    Outcome::Done
                }
                None => Outcome::Failed("an evaluation still reads".to_owned()),
            },
            Command::Eval(eval) => {
                let result = self.eval(&eval).await;
                let native = self.memory.take_touched_native()
                    || eval.expects_native()
                    || self.memory.names_native(&eval.query);
                match result {
                    Ok(()) => Outcome::Passed,
                    Err(_) if native => Outcome::Native,
                    Err(error) => Outcome::Failed(format!("{}: {error:#}", eval.query)),
                }
            }
        }
    }

    async fn eval(&self, eval: &Eval) -> Result<()> {
        let options = Options {
            name_removal: NameRemoval::Delayed,
            ..Options::default()
        };
        let engine = Engine::new(Arc::clone(&self.memory) as _, options);
        let cancel = CancellationToken::new();
        let times = |start_ms, end_ms, step_ms| QueryTimes {
            start_ms,
            end_ms,
            step_ms,
        };
        let answer = if eval.step_ms > 0 {
            engine
                .range(
                    &eval.query,
                    times(eval.start_ms, eval.end_ms, eval.step_ms),
                    &cancel,
                )
                .await
        } else {
            engine.instant(&eval.query, eval.start_ms, &cancel).await
        };
        let answer = match (answer, &eval.fail) {
            (Err(error), Some(said)) => {
                ensure!(
                    said.fits(&error.to_string()),
                    "another error than expected: {error}"
                );
                return Ok(());
            }
            (Err(error), None) => bail!("error: {error}"),
            (Ok(_), Some(_)) => bail!("expected an error"),
            (Ok(answer), None) => answer,
        };
        check_notes(eval, &answer)?;
        compare(eval, &answer.data)?;
        let context = ["start()", "end()", "range()", "step()"]
            .iter()
            .any(|call| eval.query.contains(call));
        if eval.step_ms > 0 || eval.ordered || eval.text.is_some() || eval.range.is_some() || context {
            return Ok(());
        }
        // The same in the middle of a range.
        let around = times(eval.start_ms - AROUND_MS, eval.start_ms + AROUND_MS, AROUND_MS);
        match engine.range(&eval.query, around, &cancel).await {
            Ok(answer) => compare_middle(eval, &answer.data).map_err(|error| error.context("in range mode")),
            Err(error) => bail!("error in range mode: {error}"),
        }
    }
}

fn check_notes(eval: &Eval, answer: &Answer) -> Result<()> {
    let notes = &answer.annotations;
    for (kind, wanted, forbidden, said) in [
        ("warnings", &eval.warn, eval.no_warn, &notes.warnings),
        ("infos", &eval.info, eval.no_info, &notes.infos),
    ] {
        ensure!(!forbidden || said.is_empty(), "unexpected {kind}: {said:?}");
        if wanted.is_empty() {
            continue;
        }
        ensure!(!said.is_empty(), "expected {kind}");
        ensure!(
            wanted
                .iter()
                .all(|wanted: &Said| said.iter().any(|one| wanted.fits(one))),
            "other {kind}: {said:?}"
        );
        ensure!(
            said.iter()
                .all(|one| wanted.iter().any(|wanted| wanted.fits(one))),
            "more {kind}: {said:?}"
        );
    }
    Ok(())
}

fn compare(eval: &Eval, data: &Data) -> Result<()> {
    if let (Some(text), Data::Vector(_) | Data::Matrix(_)) = (&eval.text, data) {
        bail!("expected {text:?}, got series");
    }
    match data {
        Data::Scalar { value, .. } => {
            let Some(wanted) = eval.scalar else {
                bail!("got the scalar {value}")
            };
            ensure!(same(wanted, *value), "expected {wanted}, got {value}");
            Ok(())
        }
        Data::Text { value, .. } => {
            ensure!(
                eval.text.as_ref() == Some(value),
                "expected {:?}, got {value:?}",
                eval.text
            );
            Ok(())
        }
        Data::Vector(samples) => {
            ensure!(eval.scalar.is_none(), "expected a scalar, got a vector");
            let found: Vec<(Labels, f64)> = samples
                .iter()
                .map(|sample| (sample.labels.clone(), sample.value))
                .collect();
            compare_vector(eval, &found)
        }
        Data::Matrix(series) => compare_matrix(eval, series),
    }
}

fn compare_middle(eval: &Eval, data: &Data) -> Result<()> {
    let Data::Matrix(series) = data else {
        bail!("expected a matrix")
    };
    let mut found = Vec::new();
    for one in series {
        let at = one
            .times_ms
            .iter()
            .zip(&one.values)
            .find(|(time, _)| **time == eval.start_ms);
        found.extend(at.map(|(_, value)| (one.labels.clone(), *value)));
    }
    match (eval.scalar, found.first()) {
        (Some(wanted), Some((_, value))) => {
            ensure!(same(wanted, *value), "expected {wanted}, got {value}");
            Ok(())
        }
        _ => compare_vector(eval, &found),
    }
}

fn compare_vector(eval: &Eval, found: &[(Labels, f64)]) -> Result<()> {
    for (position, (labels, value)) in found.iter().enumerate() {
        let wanted = eval.series.iter().position(|series| series.labels == *labels);
        let Some(series) = wanted.and_then(|at| eval.series.get(at)) else {
            bail!("unexpected {labels} {value}");
        };
        ensure!(
            !eval.ordered || wanted == Some(position),
            "{labels} is at place {}",
            position + 1
        );
        match series.points.first() {
            Some(Point::Float(wanted)) if same(*wanted, *value) => {}
            other => bail!("expected {other:?} for {labels}, got {value}"),
        }
    }
    missing(eval, found.iter().map(|(labels, _)| labels))
}

fn compare_matrix(eval: &Eval, found: &[SeriesSamples]) -> Result<()> {
    ensure!(
        found.is_sorted_by(|left, right| left.labels < right.labels),
        "the matrix is not sorted"
    );
    let scalar = eval.scalar.map(|value| Series {
        labels: Labels::default(),
        points: vec![Point::Float(value)],
        starts: Vec::new(),
    });
    let (start, _, step) = eval.range.unwrap_or((eval.start_ms, eval.end_ms, eval.step_ms));
    for series in found {
        let wanted = eval
            .series
            .iter()
            .chain(&scalar)
            .find(|wanted| wanted.labels == series.labels);
        let Some(wanted) = wanted else {
            bail!("unexpected {} {:?}", series.labels, series.values);
        };
        let mut points = Vec::new();
        for (time, point) in (0..).map(|number: i64| start + number * step).zip(&wanted.points) {
            match point {
                Point::Absent => {}
                Point::Float(value) => points.push((time, *value)),
                Point::Native => bail!("expected a native histogram for {}", series.labels),
            }
        }
        let fits = points.len() == series.values.len()
            && points
                .iter()
                .zip(series.times_ms.iter().zip(&series.values))
                .all(|((time, wanted), (own, value))| time == own && same(*wanted, *value));
        ensure!(
            fits,
            "expected {points:?} for {}, got {:?} at {:?}",
            series.labels,
            series.values,
            series.times_ms
        );
    }
    missing(eval, found.iter().map(|series| &series.labels))
}

fn missing<'l>(eval: &Eval, mut found: impl Iterator<Item = &'l Labels> + Clone) -> Result<()> {
    for wanted in &eval.series {
        ensure!(
            found.clone().any(|labels| *labels == wanted.labels),
            "expected {} {:?}",
            wanted.labels,
            wanted.points
        );
    }
    ensure!(
        eval.scalar.is_none() || found.next().is_some(),
        "expected a scalar"
    );
    Ok(())
}

fn same(left: f64, right: f64) -> bool {
    if left == right || left.is_nan() && right.is_nan() {
        return true;
    }
    let sum = left.abs() + right.abs();
    let difference = (left - right).abs();
    if left == 0.0 || right == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < TOLERANCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < TOLERANCE
}
