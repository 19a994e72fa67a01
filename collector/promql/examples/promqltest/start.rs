//! Lines that say when samples began to count: `name{…}@st -1m -1m+15sx4 _ *x2`, relative to the times of the samples.

use anyhow::{Context, Result, bail, ensure};

/// One for each sample, in milliseconds; `None` where it is not known.
pub(crate) type Starts = Vec<Option<i64>>;

/// The series of such a line, which is empty where the line is about all others, and what it says.
pub(crate) fn parse(line: &str) -> Result<Option<(&str, Starts)>> {
    let Some((series, rest)) = line
        .split_once(char::is_whitespace)
        .and_then(|(first, rest)| Some((first.strip_suffix("@st")?, rest)))
    else {
        return Ok(None);
    };
    let mut starts = Starts::new();
    for word in rest.split_whitespace() {
        let before = starts.iter().rev().find_map(|start| *start).unwrap_or_default();
        starts.extend(expand(word, before).with_context(|| format!("read the start {word:?}"))?);
    }
    Ok(Some((series, starts)))
}

fn expand(word: &str, before: i64) -> Result<Starts> {
    let (base, count) = match word.split_once('x') {
        Some((base, count)) => (base, count.parse::<usize>().context("read how often")?),
        None => (word, 0),
    };
    if base == "_" {
        return Ok(vec![None; count.max(1)]);
    }
    if base == "*" {
        return Ok(vec![Some(before); count + 1]);
    }
    let (start, rest) = signed(base)?;
    let step = if rest.is_empty() {
        0
    } else {
        let (step, rest) = signed(rest)?;
        ensure!(rest.is_empty(), "{rest:?} is too much");
        step
    };
    Ok((0..=count)
        .zip((0..).map(|number: i64| start + number * step))
        .map(|(_, start)| Some(start))
        .collect())
}

/// A duration with a sign, and what comes after it.
fn signed(text: &str) -> Result<(i64, &str)> {
    let bare = text.trim_start_matches(['+', '-']);
    let digits = bare.find(|letter: char| !letter.is_ascii_digit());
    let unit = digits.and_then(|at| Some((bare.get(..at)?, bare.get(at..)?)));
    let Some((count, rest)) = unit else {
        bail!("expected a duration in {text:?}")
    };
    let letters = rest
        .find(|letter: char| !letter.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    let milliseconds = crate::script::duration(&format!("{count}{unit}"))?;
    Ok((
        if text.starts_with('-') {
            -milliseconds
        } else {
            milliseconds
        },
        rest,
    ))
}
