//! What the commands print: answers to standard output, progress to standard error.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use collector_store::backup::{Progress, Watch};
use serde_json::Value;

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(5);

/// Prints an answer.
pub(super) fn say(as_json: bool, value: &Value, text: &str) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{value}")
    } else {
        writeln!(out, "{text}")
    }
    .context("print the result")?;
    Ok(ExitCode::SUCCESS)
}

/// An amount of bytes for a person.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, f64); 3] = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1_024.0)];
    let amount = bytes as f64;
    let unit = UNITS.iter().find(|(_, size)| amount >= *size);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(name, size)| format!("{:.1} {name}", amount / size),
    )
}

/// Prints a line every few seconds.
pub(super) struct Lines {
    what: &'static str,
    started: Instant,
    last: Mutex<Instant>,
}

impl Lines {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            started: Instant::now(),
            last: Mutex::new(Instant::now()),
        }
    }
}

impl Watch for Lines {
    fn progress(&self, Progress { done, total }: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < EVERY {
            return;
        }
        *last = Instant::now();
        let milliseconds = self.started.elapsed().as_millis().max(1);
        let each_s = u128::from(done).saturating_mul(1_000) / milliseconds;
        let each_s = bytes(u64::try_from(each_s).unwrap_or(u64::MAX));
        // Nobody reading it is no fault.
        writeln!(
            std::io::stderr(),
            "{} {} of {}, {each_s}/s",
            self.what,
            bytes(done),
            bytes(total)
        )
        .ok();
    }
}
