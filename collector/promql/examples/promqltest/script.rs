//! Commands of a script.

use anyhow::{Context, Result, anyhow, bail};
use regex::Regex;

use crate::series::{self, Point, Series};
use crate::start::{self, Starts};

/// A command.
pub(crate) enum Command {
    Clear,
    Load {
        step_ms: i64,
        series: Vec<Series>,
        with_native: bool,
    },
    Eval(Box<Eval>),
}

/// What is asked, and what should come.
#[derive(Default)]
pub(crate) struct Eval {
    pub(crate) query: String,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// Zero for an instant.
    pub(crate) step_ms: i64,
    pub(crate) fail: Option<Said>,
    pub(crate) ordered: bool,
    pub(crate) warn: Vec<Said>,
    pub(crate) info: Vec<Said>,
    pub(crate) no_warn: bool,
    pub(crate) no_info: bool,
    pub(crate) scalar: Option<f64>,
    pub(crate) text: Option<String>,
    /// Start, end and step of the samples that an instant query for a range gives.
    pub(crate) range: Option<(i64, i64, i64)>,
    pub(crate) series: Vec<Series>,
}

/// What a message must be.
pub(crate) enum Said {
    Anything,
    Exactly(String),
    Like(Regex),
}

impl Said {
    pub(crate) fn fits(&self, message: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(wanted) => wanted == message,
            Self::Like(pattern) => pattern.is_match(message),
        }
    }
}

/// Commands with their lines, from 1. A faulty one does not stop the others.
pub(crate) fn read(text: &str) -> Vec<(usize, Result<Command>)> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .map(|line| if line.starts_with('#') { "" } else { line })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let number = at + 1;
        at += 1;
        if line.is_empty() {
            continue;
        }
        let below: Vec<&str> = lines
            .get(at..)
            .unwrap_or_default()
            .iter()
            .copied()
            .take_while(|line| !line.is_empty())
            .collect();
        let word = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        let command = if word == "clear" {
            Ok(Command::Clear)
        } else if word.starts_with("load") {
            at += below.len();
            load(line, &below)
        } else if word.starts_with("eval") {
            eval(line, &below).map(|(eval, taken)| {
                at += taken;
                Command::Eval(Box::new(eval))
            })
        } else {
            Err(anyhow!("invalid command {line:?}"))
        };
        if command.is_err() {
            // Its block is not read as commands.
            at = lines
                .iter()
                .skip(number)
                .position(|line| line.is_empty())
                .map_or(lines.len(), |end| number + end);
        }
        commands.push((number, command));
    }
    commands
}

fn load(line: &str, below: &[&str]) -> Result<Command> {
    let (word, step) = line
        .split_once(char::is_whitespace)
        .context("load needs a step")?;
    let step_ms = duration(step.trim())?;
    let mut series: Vec<Series> = Vec::new();
    let mut all = Starts::new();
    let mut next = None;
    for line in below {
        match start::parse(line)? {
            Some(("", starts)) => {
                all = starts;
                continue;
            }
            Some((of, starts)) => {
                next = Some((series::metric(of)?.0, starts));
                continue;
            }
            None => {}
        }
        let mut one = series::parse(line)?;
        if let Some((labels, starts)) = next.take() {
            anyhow::ensure!(
                labels == one.labels && starts.len() == one.points.len(),
                "the starts before {line:?} are not of its samples"
            );
            one.starts = starts;
        }
        series.retain(|other| other.labels != one.labels);
        series.push(one);
    }
    anyhow::ensure!(next.is_none(), "starts without samples");
    // What is said of all holds wherever nothing else is said, also of the lines before.
    for one in series.iter_mut().filter(|one| one.starts.is_empty()) {
        one.starts.clone_from(&all);
    }
    Ok(Command::Load {
        step_ms,
        series,
        with_native: word == "load_with_nhcb",
    })
}

fn eval(line: &str, below: &[&str]) -> Result<(Eval, usize)> {
    let instant = Regex::new(r"^eval(?:_(fail|warn|ordered|info))?\s+instant\s+(?:at\s+(.+?))?\s+(.+)$")?;
    let range =
        Regex::new(r"^eval(?:_(fail|warn|info))?\s+range\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+?)\s+(.+)$")?;
    let mut eval = Eval::default();
    let text = |captures: &regex::Captures<'_>, group| {
        captures.get(group).map_or("", |found| found.as_str()).to_owned()
    };
    let kind;
    if let Some(found) = instant.captures(line) {
        kind = text(&found, 1);
        eval.start_ms = duration(&text(&found, 2))?;
        eval.end_ms = eval.start_ms;
        eval.query = text(&found, 3);
    } else if let Some(found) = range.captures(line) {
        kind = text(&found, 1);
        eval.start_ms = duration(&text(&found, 2))?;
        eval.end_ms = duration(&text(&found, 3))?;
        eval.step_ms = duration(&text(&found, 4))?;
        eval.query = text(&found, 5);
    } else {
        bail!("invalid evaluation {line:?}");
    }
    match kind.as_str() {
        "fail" => eval.fail = Some(Said::Anything),
        "warn" => eval.warn.push(Said::Anything),
        "info" => eval.info.push(Said::Anything),
        "ordered" => eval.ordered = true,
        _ => {}
    }
    for (taken, line) in below.iter().enumerate() {
        if expectation(&mut eval, line).with_context(|| format!("read {line:?}"))? {
            return Ok((eval, taken + 1));
        }
    }
    Ok((eval, below.len()))
}

/// Whether nothing belongs to the evaluation after this line.
fn expectation(eval: &mut Eval, line: &str) -> Result<bool> {
    if let Some(message) = line.strip_prefix("expected_fail_message") {
        eval.fail = Some(Said::Exactly(message.trim().to_owned()));
        return Ok(true);
    }
    if let Some(pattern) = line.strip_prefix("expected_fail_regexp") {
        eval.fail = Some(Said::Like(Regex::new(pattern.trim())?));
        return Ok(true);
    }
    if let Some(rest) = line.strip_prefix("expect range vector") {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let ["from", from, "to", to, "step", step] = words.as_slice() else {
            bail!("invalid range vector definition");
        };
        eval.range = Some((duration(from)?, duration(to)?, duration(step)?));
        return Ok(false);
    }
    if let Some(quoted) = line.strip_prefix("expect string") {
        eval.text = Some(series::unquote(quoted.trim())?);
        return Ok(false);
    }
    if line.split_whitespace().next() == Some("expect") {
        return expect(eval, line.trim_start_matches("expect").trim()).map(|()| false);
    }
    if let Ok(value) = series::number(line) {
        eval.scalar = Some(value);
        return Ok(true);
    }
    let one = series::parse(line)?;
    eval.series.retain(|other| other.labels != one.labels);
    eval.series.push(one);
    Ok(false)
}

fn expect(eval: &mut Eval, what: &str) -> Result<()> {
    let (kind, rest) = what.split_once(char::is_whitespace).unwrap_or((what, ""));
    let rest = rest.trim();
    let said = if let Some(message) = rest.strip_prefix("msg:") {
        Said::Exactly(message.trim().to_owned())
    } else if let Some(pattern) = rest.strip_prefix("regex:") {
        Said::Like(Regex::new(pattern.trim())?)
    } else if rest.is_empty() {
        Said::Anything
    } else {
        bail!("invalid expectation {what:?}");
    };
    match kind {
        "fail" => eval.fail = Some(said),
        "warn" => eval.warn.push(said),
        "info" => eval.info.push(said),
        "ordered" => eval.ordered = true,
        "no_warn" => eval.no_warn = true,
        "no_info" => eval.no_info = true,
        _ => bail!("invalid expectation {what:?}"),
    }
    Ok(())
}

impl Eval {
    /// Whether a native histogram is part of what should come.
    pub(crate) fn expects_native(&self) -> bool {
        self.series
            .iter()
            .any(|series| series.points.iter().any(|point| matches!(point, Point::Native)))
    }
}

/// `1h30m`, or `0`.
pub(crate) fn duration(text: &str) -> Result<i64> {
    if text == "0" {
        return Ok(0);
    }
    let pattern = Regex::new(r"([0-9]+)(ms|[ywdhms])")?;
    let mut sum = 0;
    let mut length = 0;
    for part in pattern.captures_iter(text) {
        let factor = match part.get(2).map_or("", |unit| unit.as_str()) {
            "y" => 365 * 86_400_000,
            "w" => 7 * 86_400_000,
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            _ => 1,
        };
        sum += part.get(1).map_or("", |count| count.as_str()).parse::<i64>()? * factor;
        length += part.get(0).map_or(0, |all| all.len());
    }
    anyhow::ensure!(length == text.len() && length > 0, "invalid duration {text:?}");
    Ok(sum)
}
