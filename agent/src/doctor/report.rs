//! What was found, line by line.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it must be.
    Ok,
    /// It works, and will not for long, or not well.
    Warning,
    /// It does not work.
    Failed,
    /// It was not looked at, for the reason that is said.
    NotChecked,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// What.
    pub(crate) check: &'static str,
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) seen: String,
    /// What to do next.
    pub(crate) next: Option<String>,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
            Verdict::NotChecked => "not checked",
        }
    }
}

impl Check {
    pub(crate) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, seen, None)
    }

    pub(crate) fn warning(check: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, seen, Some(next.into()))
    }

    pub(crate) fn failed(check: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Failed, seen, Some(next.into()))
    }

    pub(crate) fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Verdict::NotChecked, why, None)
    }

    fn new(check: &'static str, verdict: Verdict, seen: impl Into<String>, next: Option<String>) -> Self {
        let seen = clean(&seen.into());
        Self {
            check,
            verdict,
            seen,
            next,
        }
    }
}

/// Much of what is shown was said by others: nothing of it may move the cursor.
fn clean(text: &str) -> String {
    let plain = |letter: char| {
        if letter.is_control() && letter != '\n' {
            '\u{fffd}'
        } else {
            letter
        }
    };
    text.trim_end().chars().map(plain).collect()
}

/// Prints each line as soon as it is known: a time-out is waited for with the rest in view.
pub(crate) struct Report<W> {
    json: bool,
    out: W,
    checks: Vec<Check>,
}

impl<W: Write> Report<W> {
    pub(crate) fn new(json: bool, out: W) -> Self {
        Self {
            json,
            out,
            checks: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, check: Check) -> Result<()> {
        if !self.json {
            let indent = format!("\n{:33}", "");
            let seen = check.seen.replace('\n', &indent);
            writeln!(
                self.out,
                "{:<12} {:<19} {seen}",
                check.verdict.as_str(),
                check.check
            )
            .context("print")?;
            if let Some(next) = &check.next {
                writeln!(self.out, "{:32} → {}", "", next.replace('\n', &indent)).context("print")?;
            }
            self.out.flush().context("print")?;
        }
        self.checks.push(check);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<ExitCode> {
        let count = |verdict| {
            self.checks
                .iter()
                .filter(|check| check.verdict == verdict)
                .count()
        };
        let (failed, warnings) = (count(Verdict::Failed), count(Verdict::Warning));
        if self.json {
            let result =
                json!({ "ok": failed == 0, "failed": failed, "warnings": warnings, "checks": self.checks });
            writeln!(self.out, "{result}").context("print")?;
        } else {
            let sum = match (failed, warnings) {
                (0, 0) => "everything that was checked is well".to_owned(),
                (0, warnings) => format!("nothing failed; warnings: {warnings}"),
                (failed, warnings) => format!("failed: {failed}; warnings: {warnings}"),
            };
            writeln!(self.out, "\n{sum}").context("print")?;
        }
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
