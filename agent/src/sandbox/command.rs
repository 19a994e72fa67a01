//! `fleetmend-agent sandbox-test`.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::attempts::{Outcome, Victim, attaching_reaches_the_kernel, attempt_forbidden};
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
    /// Runs it; the exit code is 1 when anything forbidden was not stopped, or anything needed was.
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
        let needs = needs();
        let spared = needs.iter().all(|(_, met)| *met);
        let mut out = std::io::stdout().lock();
        if self.json {
            let needs: serde_json::Map<String, Value> = needs
                .into_iter()
                .map(|(need, met)| (need.to_owned(), Value::Bool(met)))
                .collect();
            let result =
                json!({ "sandbox": report, "attempts": attempts, "all_stopped": stopped, "needs": needs });
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
            for (need, met) in needs {
                let outcome = if met { "works" } else { "STOPPED" };
                writeln!(out, "{need:<22} {outcome}").context("print a need")?;
            }
        }
        Ok(if stopped && spared {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What the agent goes on doing, so that a filter that is too strict is found here and not in the field.
fn needs() -> Vec<(&'static str, bool)> {
    let child = || {
        Command::new("true")
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let connection = || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        TcpStream::connect(listener.local_addr()?)
    };
    vec![
        (
            "start a thread",
            std::thread::Builder::new()
                .spawn(|| {})
                .is_ok_and(|thread| thread.join().is_ok()),
        ),
        ("start a program", child()),
        ("connect", connection().is_ok()),
        ("read of pid 1", std::fs::read("/proc/1/stat").is_ok()),
        ("attach a loaded program", attaching_reaches_the_kernel()),
    ]
}
