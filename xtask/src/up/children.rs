//! The programs that `up` started: each with a log, a death signal and a place in the order of stopping.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::step::{command, line};

/// Time a program has to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Last bytes of a log that are shown when its program ended.
const TAIL_BYTES: usize = 3_000;

/// A program to start, and the file for what it says.
pub(super) struct Program {
    /// The command.
    pub(super) command: Command,
    /// Its log.
    pub(super) log: PathBuf,
}

struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// In the order of starting; they are stopped in the reverse order.
#[derive(Default)]
pub(super) struct Children(Vec<Running>);

impl Children {
    /// Starts a program in a process group of its own, so that Ctrl-C reaches only us.
    pub(super) fn start(&mut self, name: &'static str, mut program: Program) -> Result<()> {
        let log = File::create(&program.log).with_context(|| format!("create {}", program.log.display()))?;
        let errors = log.try_clone().context("share the log")?;
        let child = program
            .command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", line(&program.command)))?;
        self.0.push(Running {
            name,
            child,
            log: program.log,
        });
        Ok(())
    }

    /// A sentence about the first program that has ended, if one has.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.0.iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok()??;
            let text = std::fs::read(&running.log).unwrap_or_default();
            let tail = String::from_utf8_lossy(
                text.get(text.len().saturating_sub(TAIL_BYTES)..)
                    .unwrap_or_default(),
            )
            .into_owned();
            Some(format!(
                "the {} ended with {status}; the end of {}:\n{tail}",
                running.name,
                running.log.display()
            ))
        })
    }

    /// The last warning or error in each log, for a person who waits in vain.
    pub(super) fn complaints(&self) -> String {
        let last = |running: &Running| {
            let text = std::fs::read_to_string(&running.log).ok()?;
            let serious = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
            Some(format!(
                "\n  {}: {}\n    ({})",
                running.name,
                text.lines().rev().find(serious)?,
                running.log.display()
            ))
        };
        let said: String = self.0.iter().filter_map(last).collect();
        if said.is_empty() {
            "; no log has a warning".to_owned()
        } else {
            format!("; the last warnings:{said}")
        }
    }

    /// Name → process id.
    pub(super) fn pids(&self) -> Value {
        self.0
            .iter()
            .map(|running| (running.name.to_owned(), json!(running.child.id())))
            .collect()
    }

    /// Ends every program, the last started first.
    pub(super) fn stop(&mut self) {
        for mut running in self.0.drain(..).rev() {
            signal("-TERM", running.child.id());
            // A lab may have frozen it.
            signal("-CONT", running.child.id());
            let begun = Instant::now();
            while begun.elapsed() < STOP_TIMEOUT && matches!(running.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            if matches!(running.child.try_wait(), Ok(None)) {
                eprintln!(
                    "    {} did not end within {STOP_TIMEOUT:?} and is killed",
                    running.name
                );
                signal("-KILL", running.child.id());
                running.child.wait().ok();
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal(name: &str, pid: u32) {
    command("kill", &[name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .ok();
}
