//! `fleetmend-agent sandbox-test`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::attempts::{Outcome, Victim, attempt_forbidden};
use super::{SandboxConfig, enter};

/// Enter the sandbox as the agent does, then attempt everything it forbids.
#[derive(Debug, Args)]
pub(crate) struct SandboxTest {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Make the same attempts without the sandbox, to see that they would reach the kernel.
    #[arg(long)]
    without: bool,
}

impl SandboxTest {
    /// Runs it; the exit code is 1 when anything forbidden was not stopped.
    ///
    /// # Errors
    /// When the sandbox cannot be entered, or the attempts cannot be prepared.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let victim = Victim::start().context("start a process to reach into")?;
        let report = match self.without {
            true => None,
            false => Some(enter(&SandboxConfig::default()).context("enter the sandbox")?),
        };
        let attempts = attempt_forbidden(&victim).context("prepare the attempts")?;
        let stopped = attempts.iter().all(super::attempts::Attempt::is_stopped);
        let mut out = std::io::stdout().lock();
        if self.json {
            let result = json!({ "sandbox": report, "attempts": attempts, "all_stopped": stopped });
            writeln!(out, "{result}").context("print the result")?;
        } else {
            if let Some(report) = &report {
                let capabilities = report.capabilities.join(" ");
                writeln!(out, "capabilities      {capabilities}").context("print the sandbox")?;
                writeln!(out, "no new privileges {}", report.no_new_privs).context("print the sandbox")?;
                writeln!(out, "calls denied      {}", report.calls_denied).context("print the sandbox")?;
            }
            for attempt in &attempts {
                let outcome = match attempt.outcome {
                    Outcome::Denied => "denied".to_owned(),
                    Outcome::Absent => "absent".to_owned(),
                    Outcome::Allowed => "ALLOWED".to_owned(),
                    Outcome::Reached { errno } => {
                        format!("REACHED THE KERNEL: {}", std::io::Error::from_raw_os_error(errno))
                    }
                };
                writeln!(out, "{:<22} {outcome}", attempt.call).context("print an attempt")?;
            }
        }
        Ok(if stopped {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
