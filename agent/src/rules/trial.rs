//! `rules test`: events of a file against a rule, or the events beside each rule of a folder.
//!
//! Events are JSON objects, one a line, of Sigma's field names. `_expect` may be `match` or `silent`, `_log_source`
//! an object with product, category and service, `_time` a moment. Beside `NAME.yml` they stand in `NAME.ndjson`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_detect::sigma::{RuleState, Trial, Verdict};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::config::AgentConfig;

/// Largest file of events.
const EVENTS_BYTES_MAX: u64 = 64 << 20;
/// Folders within folders.
const DEPTH_MAX: usize = 16;

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Rule file, or a folder of them
    rule: PathBuf,
    /// File of events, one JSON object a line; without it, the events beside each rule
    #[arg(long = "event", value_name = "FILE")]
    events: Option<PathBuf>,
    #[command(flatten)]
    config: crate::ConfigArguments,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// One event and what came of it.
struct Outcome {
    line: usize,
    verdicts: Vec<Verdict>,
    expected: Option<bool>,
}

impl Outcome {
    fn is_expected(&self) -> bool {
        self.expected
            .is_none_or(|expected| expected != self.verdicts.is_empty())
    }
}

pub(super) fn run(arguments: &TestArguments) -> Result<ExitCode> {
    ensure!(
        arguments.rule.exists(),
        "{} does not exist",
        arguments.rule.display()
    );
    let placeholders = AgentConfig::load(&arguments.config.config)
        .map(|config| config.detect.rule_options().placeholders)
        .unwrap_or_default();
    let pairs = match &arguments.events {
        Some(events) => vec![(arguments.rule.clone(), events.clone())],
        None => beside(&arguments.rule)?,
    };
    if pairs.is_empty() {
        bail!(
            "there are no events to try: give some with --event FILE, or write NAME.ndjson beside NAME.yml"
        );
    }
    let mut out = std::io::stdout().lock();
    let (mut events, mut unexpected) = (0_usize, 0_usize);
    for (rule, file) in &pairs {
        let mut trial = Trial::new(rule.clone(), placeholders.clone());
        for listed in trial
            .listing()
            .iter()
            .filter(|listed| listed.state != RuleState::Loaded)
        {
            if arguments.events.is_some() && rule.is_file() || matches!(listed.state, RuleState::Broken(_)) {
                bail!(
                    "{} is {}: {}",
                    listed.path.display(),
                    listed.state.as_str(),
                    listed.state.reason()
                );
            }
        }
        for outcome in outcomes(&mut trial, file)? {
            events = events.saturating_add(1);
            unexpected = unexpected.saturating_add(usize::from(!outcome.is_expected()));
            print(&mut out, file, &outcome, arguments.json)?;
        }
    }
    if !arguments.json {
        writeln!(out, "{events} events, {unexpected} not as expected").context("print the sum")?;
    }
    Ok(if unexpected == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn outcomes(trial: &mut Trial, file: &Path) -> Result<Vec<Outcome>> {
    let size = std::fs::metadata(file)
        .with_context(|| format!("read {}", file.display()))?
        .len();
    ensure!(
        size <= EVENTS_BYTES_MAX,
        "{} has {size} bytes; {EVENTS_BYTES_MAX} are read at most",
        file.display()
    );
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut outcomes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line_number = number.saturating_add(1);
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{} line {line_number}", file.display());
        let event: Value = serde_json::from_str(line).with_context(place)?;
        let expected = match event.get("_expect").map(|expected| expected.as_str()) {
            None => None,
            Some(Some("match")) => Some(true),
            Some(Some("silent")) => Some(false),
            Some(_) => bail!("{}: _expect is `match` or `silent`", place()),
        };
        let verdicts = trial
            .event(&event)
            .map_err(anyhow::Error::msg)
            .with_context(place)?;
        outcomes.push(Outcome {
            line: line_number,
            verdicts,
            expected,
        });
    }
    ensure!(!outcomes.is_empty(), "{} has no events", file.display());
    Ok(outcomes)
}

fn print(out: &mut impl Write, file: &Path, outcome: &Outcome, as_json: bool) -> Result<()> {
    if as_json {
        let verdict = |verdict: &Verdict| {
            let matched = verdict.matched.iter();
            let matched: Vec<Value> = matched
                .map(|matched| json!({"field": matched.field, "value": matched.value, "wanted": matched.wanted}))
                .collect();
            json!({"rule": verdict.rule, "title": verdict.title, "matched": matched})
        };
        let verdicts: Vec<Value> = outcome.verdicts.iter().map(verdict).collect();
        let line = json!({
            "file": file, "line": outcome.line, "matches": verdicts, "as_expected": outcome.is_expected(),
            "expected": outcome.expected.map(|expected| if expected { "match" } else { "silent" }),
        });
        return writeln!(out, "{line}").context("print an event");
    }
    let word = match (outcome.is_expected(), outcome.verdicts.is_empty()) {
        (false, _) => "UNEXPECTED",
        (true, true) => "silent",
        (true, false) => "match",
    };
    writeln!(out, "{word:<11} {} line {}", file.display(), outcome.line).context("print an event")?;
    for verdict in &outcome.verdicts {
        writeln!(out, "            {} ({})", verdict.title, verdict.rule).context("print a match")?;
        for matched in &verdict.matched {
            let field = if matched.field.is_empty() {
                "a value"
            } else {
                &matched.field
            };
            writeln!(out, "              {field} {}: {}", matched.wanted, matched.value)
                .context("print a match")?;
        }
    }
    if !outcome.is_expected() && outcome.verdicts.is_empty() {
        writeln!(out, "            a match was expected").context("print a match")?;
    }
    Ok(())
}

/// Each rule file with the events beside it.
fn beside(path: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut pairs = Vec::new();
    gather(path, 0, &mut pairs).with_context(|| format!("list {}", path.display()))?;
    pairs.sort();
    Ok(pairs)
}

fn gather(path: &Path, depth: usize, pairs: &mut Vec<(PathBuf, PathBuf)>) -> std::io::Result<()> {
    if path.is_dir() {
        if depth > DEPTH_MAX {
            return Ok(());
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?.path();
            if !entry.is_symlink() {
                gather(&entry, depth.saturating_add(1), pairs)?;
            }
        }
        return Ok(());
    }
    let is_rule = path
        .extension()
        .is_some_and(|extension| extension == "yml" || extension == "yaml");
    let events = path.with_extension("ndjson");
    if is_rule && events.is_file() {
        pairs.push((path.to_owned(), events));
    }
    Ok(())
}
