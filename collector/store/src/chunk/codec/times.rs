//! Times of a chunk.

use super::varint::{put, take};
use super::{CHUNK_SAMPLES_MAX, CodecError, integers};

const RUNS: u8 = 1;
const LIST: u8 = 2;

/// Samples that a run has at least on average; with shorter ones a list is as short.
const RUN_MIN: usize = 4;

/// Times at one distance from each other.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: i64,
    step: i64,
    count: usize,
}

/// Times that do not fall, as bytes. The first, the last and their count are known from elsewhere.
pub(crate) fn encode_times(times: &[i64]) -> Result<Vec<u8>, CodecError> {
    let runs = runs(times);
    let ends = (
        times.first().copied().unwrap_or(0),
        times.last().copied().unwrap_or(0),
    );
    if runs.len() <= 1 && ends.1.checked_sub(ends.0).is_some() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    if times.len() >= runs.len().saturating_mul(RUN_MIN) {
        out.push(RUNS);
        put(&mut out, runs.len() as u64);
        let mut last = runs.first().map_or(0, |run| run.first);
        let mut gaps = Vec::with_capacity(runs.len());
        for run in &runs {
            gaps.push(run.first.wrapping_sub(last));
            last = run.first;
        }
        let steps: Vec<i64> = runs.iter().map(|run| run.step).collect();
        let counts = runs
            .iter()
            .map(|run| i64::try_from(run.count).unwrap_or(i64::MAX));
        let counts: Vec<i64> = counts.collect();
        for column in [&gaps, &steps, &counts] {
            let mut bytes = Vec::new();
            integers::encode(column, &mut bytes)?;
            put(&mut out, bytes.len() as u64);
            out.extend_from_slice(&bytes);
        }
        return Ok(out);
    }
    out.push(LIST);
    integers::encode(times, &mut out)?;
    Ok(out)
}

/// Exactly `count` times from `from` to `to`, none earlier than the one before it.
pub(crate) fn decode_times(
    bytes: &[u8],
    (from, to): (i64, i64),
    count: usize,
) -> Result<Vec<i64>, CodecError> {
    if count == 0 || count > CHUNK_SAMPLES_MAX {
        return Err(CodecError::Count);
    }
    let Some((tag, mut rest)) = bytes.split_first() else {
        return regular(from, to, count);
    };
    let times = match *tag {
        RUNS => of_runs(&mut rest, from, count)?,
        LIST => integers::decode(&mut rest, count)?,
        tag => return Err(CodecError::Tag { tag }),
    };
    let ends = (times.first().copied(), times.last().copied());
    if !rest.is_empty() || ends != (Some(from), Some(to)) || !times.is_sorted() {
        return Err(CodecError::Times);
    }
    Ok(times)
}

fn regular(from: i64, to: i64, count: usize) -> Result<Vec<i64>, CodecError> {
    let steps = i64::try_from(count).unwrap_or(i64::MAX).saturating_sub(1);
    let span = to.checked_sub(from).ok_or(CodecError::Times)?;
    let step = span.checked_div(steps).unwrap_or(0);
    if step.saturating_mul(steps) != span || span < 0 {
        return Err(CodecError::Times);
    }
    let first = Run {
        first: from,
        step,
        count,
    };
    Ok(first.times().collect())
}

fn of_runs(bytes: &mut &[u8], from: i64, count: usize) -> Result<Vec<i64>, CodecError> {
    let runs = usize::try_from(take(bytes)?).map_err(|_| CodecError::Count)?;
    if runs > count {
        return Err(CodecError::Count);
    }
    let mut column = || {
        let length = usize::try_from(take(bytes)?).map_err(|_| CodecError::Short)?;
        let (mut column, rest) = bytes.split_at_checked(length).ok_or(CodecError::Short)?;
        *bytes = rest;
        let numbers = integers::decode(&mut column, runs)?;
        if column.is_empty() {
            Ok(numbers)
        } else {
            Err(CodecError::Count)
        }
    };
    let (gaps, steps, counts) = (column()?, column()?, column()?);
    let mut times = Vec::with_capacity(count);
    let mut first = from;
    for ((gap, step), of_run) in gaps.into_iter().zip(steps).zip(counts) {
        first = first.wrapping_add(gap);
        let of_run = usize::try_from(of_run).map_err(|_| CodecError::Count)?;
        if of_run > count.saturating_sub(times.len()) {
            return Err(CodecError::Count);
        }
        let run = Run {
            first,
            step,
            count: of_run,
        };
        times.extend(run.times());
    }
    if times.len() == count {
        Ok(times)
    } else {
        Err(CodecError::Count)
    }
}

impl Run {
    fn times(self) -> impl Iterator<Item = i64> {
        let Self { first, step, count } = self;
        (0_i64..)
            .take(count)
            .map(move |index| first.wrapping_add(step.wrapping_mul(index)))
    }
}

/// Times cut into runs, each as long as it can be from where the last one ended.
fn runs(times: &[i64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut last = 0_i64;
    for time in times.iter().copied() {
        let distance = time.wrapping_sub(last);
        last = time;
        match runs.last_mut() {
            Some(run) if run.count == 1 => {
                run.step = distance;
                run.count = 2;
            }
            Some(run) if run.step == distance => run.count = run.count.saturating_add(1),
            _ => runs.push(Run {
                first: time,
                step: 0,
                count: 1,
            }),
        }
    }
    runs
}
