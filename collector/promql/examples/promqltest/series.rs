//! Series with their points: `name{label="value"} 1 2+3x4 _ stale`.

use anyhow::{Context, Result, bail};
use collector_promql::{Labels, METRIC_NAME, STALE_BITS};
use regex::Regex;

use crate::start::Starts;

/// A sample, or what stands for one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    Absent,
    Float(f64),
    /// A native histogram, whatever it holds.
    Native,
}

#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) points: Vec<Point>,
    /// When they began to count, relative to their times; repeated where there are fewer.
    pub(crate) starts: Starts,
}

pub(crate) fn parse(line: &str) -> Result<Series> {
    let (labels, rest) = metric(line)?;
    let mut points = Vec::new();
    for word in words(rest) {
        expand(&word, &mut points).with_context(|| format!("read the points {word:?}"))?;
    }
    Ok(Series {
        labels,
        points,
        starts: Starts::new(),
    })
}

pub(crate) fn metric(line: &str) -> Result<(Labels, &str)> {
    let end = line
        .find(|letter: char| letter == '{' || letter.is_whitespace())
        .unwrap_or(line.len());
    let (name, mut rest) = line.split_at(end);
    let mut pairs = Vec::new();
    if !name.is_empty() {
        pairs.push((METRIC_NAME.to_owned(), name.to_owned()));
    }
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (first, after) = word_or_string(rest)?;
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix('=') {
                let (value, after) = word_or_string(after.trim_start())?;
                pairs.push((first, value));
                rest = after.trim_start();
            } else {
                pairs.push((METRIC_NAME.to_owned(), first));
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
    }
    Ok((Labels::new(pairs), rest))
}

fn word_or_string(text: &str) -> Result<(String, &str)> {
    let Some(quote) = text
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\'' | '`'))
    else {
        let end = text
            .find(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '_' | ':')))
            .unwrap_or(text.len());
        anyhow::ensure!(end > 0, "expected a label in {text:?}");
        let (word, rest) = text.split_at(end);
        return Ok((word.to_owned(), rest));
    };
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if letter == quote && !escaped {
            let (quoted, rest) = text.split_at(at + quote.len_utf8());
            return Ok((unquote(quoted)?, rest));
        }
        escaped = letter == '\\' && !escaped && quote != '`';
    }
    bail!("unterminated string in {text:?}")
}

/// Takes quotes and simple escapes off.
pub(crate) fn unquote(quoted: &str) -> Result<String> {
    let quote = quoted.chars().next().context("expected a string")?;
    let inner = quoted
        .strip_prefix(quote)
        .and_then(|rest| rest.strip_suffix(quote))
        .with_context(|| format!("the string {quoted} is not closed"))?;
    if quote == '`' {
        return Ok(inner.to_owned());
    }
    let mut out = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        let kind = letters.next().context("a lone backslash")?;
        let mut code = |count: usize| -> Result<char> {
            let digits: String = letters.by_ref().take(count).collect();
            char::from_u32(u32::from_str_radix(&digits, 16)?).context("no character")
        };
        out.push(match kind {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => code(2)?,
            'u' => code(4)?,
            'U' => code(8)?,
            other => other,
        });
    }
    Ok(out)
}

/// Words, with what stands in double braces in one piece.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut depth = 0_usize;
    for letter in text.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if letter.is_whitespace() && depth == 0 {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(letter);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn expand(word: &str, points: &mut Vec<Point>) -> Result<()> {
    let (base, count) = match word.rsplit_once('x') {
        Some((base, count)) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => {
            (base, Some(count.parse::<usize>()?))
        }
        _ => (word, None),
    };
    let repeated = count.map_or(1, |count| count + 1);
    if base.starts_with("{{") {
        points.extend(std::iter::repeat_n(Point::Native, repeated));
        return Ok(());
    }
    match base {
        "_" => points.extend(std::iter::repeat_n(Point::Absent, count.unwrap_or(1))),
        "stale" => points.extend(std::iter::repeat_n(
            Point::Float(f64::from_bits(STALE_BITS)),
            repeated,
        )),
        other => {
            let (start, step) = terms(other)?;
            for number in 0..repeated {
                points.push(Point::Float(start + step * number as f64));
            }
        }
    }
    Ok(())
}

/// `1` or `1+2`.
fn terms(text: &str) -> Result<(f64, f64)> {
    let one = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|nan)";
    let pattern = Regex::new(&format!(r"^([+-]?(?:{one}))([+-](?:{one}))?$"))?;
    let found = pattern
        .captures(text)
        .with_context(|| format!("invalid number {text:?}"))?;
    let start = number(found.get(1).map_or("", |part| part.as_str()))?;
    let step = found.get(2).map_or(Ok(0.0), |part| number(part.as_str()))?;
    Ok((start, step))
}

pub(crate) fn number(text: &str) -> Result<f64> {
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return Ok(i64::from_str_radix(hexadecimal, 16)? as f64);
    }
    text.parse().with_context(|| format!("invalid number {text:?}"))
}
