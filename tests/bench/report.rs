//! What a benchmark answers: conditions, figures, bars.

use std::fmt::Display;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// How a figure has to stand to its bar.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// No larger than this.
    AtMost(f64),
    /// No smaller than this.
    AtLeast(f64),
    /// No bar.
    None,
}

/// One benchmark's answer.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    conditions: Map<String, Value>,
    figures: Map<String, Value>,
    bars: Map<String, Value>,
    not_measured: Vec<Value>,
}

impl Report {
    /// An empty answer with the machine's conditions.
    pub(crate) fn new(bench: &'static str, seed: u64, parameters: Value) -> Self {
        let mut conditions = machine();
        conditions.insert("parameters".to_owned(), parameters);
        conditions.insert("seed".to_owned(), json!(seed));
        Self {
            bench,
            conditions,
            figures: Map::new(),
            bars: Map::new(),
            not_measured: Vec::new(),
        }
    }

    /// Adds a figure; its unit stands last in its name.
    pub(crate) fn figure(&mut self, name: &str, value: f64, bar: Bar) {
        let value = rounded(value);
        self.figures.insert(name.to_owned(), json!(value));
        let (wanted, met) = match bar {
            Bar::AtMost(limit) => (json!(format!("<= {limit}")), value <= limit),
            Bar::AtLeast(limit) => (json!(format!(">= {limit}")), value >= limit),
            Bar::None => return,
        };
        self.bars
            .insert(name.to_owned(), json!({"wanted": wanted, "met": met}));
    }

    /// Adds what a figure was measured under.
    pub(crate) fn condition(&mut self, name: &str, value: Value) {
        self.conditions.insert(name.to_owned(), value);
    }

    /// Names a figure that is owed and was not measured, and why.
    pub(crate) fn not_measured(&mut self, name: &str, why: impl Display) {
        self.not_measured
            .push(json!({"figure": name, "why": why.to_string()}));
    }

    /// Prints it to standard output.
    pub(crate) fn print(mut self, as_json: bool) -> Result<()> {
        self.conditions
            .insert("not_measured".to_owned(), Value::Array(self.not_measured));
        let mut out = std::io::stdout().lock();
        if as_json {
            let object = json!({"bench": self.bench, "conditions": self.conditions, "figures": self.figures, "bars": self.bars});
            return writeln!(out, "{object}").context("print the answer");
        }
        writeln!(out, "{}\n", self.bench).context("print the answer")?;
        for (name, value) in &self.figures {
            let bar = self.bars.get(name);
            let wanted = bar
                .and_then(|bar| bar.get("wanted")?.as_str())
                .unwrap_or_default();
            let verdict = match bar.and_then(|bar| bar.get("met")?.as_bool()) {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            writeln!(
                out,
                "  {name:<36} {:>16} {wanted:>14}  {verdict}",
                value.to_string()
            )
            .context("print a figure")?;
        }
        writeln!(out).context("print the answer")?;
        for (name, value) in &self.conditions {
            writeln!(out, "  {name}: {value}").context("print a condition")?;
        }
        Ok(())
    }
}

/// Says on standard error what is being done.
pub(crate) fn progress(text: impl Display) {
    eprintln!("[bench] {text}");
}

/// Three decimals: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn machine() -> Map<String, Value> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let line = |path: &str, key: &str| {
        let text = read(path);
        let found = text.lines().find(|line| line.starts_with(key));
        found
            .and_then(|line| line.split_once(':'))
            .map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut conditions = Map::new();
    let machine = format!(
        "{}, {} memory",
        line("/proc/cpuinfo", "model name"),
        line("/proc/meminfo", "MemTotal")
    );
    conditions.insert("machine".to_owned(), json!(machine));
    conditions.insert(
        "kernel".to_owned(),
        json!(read("/proc/sys/kernel/osrelease").trim()),
    );
    conditions.insert("cores".to_owned(), json!(cores));
    conditions.insert("commit".to_owned(), json!(commit()));
    conditions.insert(
        "load_average_at_start".to_owned(),
        json!(read("/proc/loadavg").split(' ').next().unwrap_or_default()),
    );
    conditions
}

/// The commit that was built, with a mark when the tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = std::env::var_os("FLEETMEND_SOURCE_DIR").unwrap_or_else(|| ".".into());
        let output = Command::new("git")
            .args(arguments)
            .current_dir(folder)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => head,
        _ => format!("{head} with changes"),
    }
}
