//! A program that is measured: it has a log, a death signal and ends in order.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time a program has to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// Time between two looks at a state.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Last bytes of a log that are shown when its program ended.
const TAIL_BYTES: usize = 2_000;

/// A running program; it is ended when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command` with its output appended to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so; fails when the program ends or time is up.
    pub(crate) fn wait_until(&mut self, within: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait().context("look at a program")? {
                bail!("{} ended with {status}: {}", self.name, self.tail());
            }
            if begun.elapsed() > within {
                bail!("{} was not ready within {within:?}: {}", self.name, self.tail());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Asks it to end, and kills it when it does not.
    pub(crate) fn stop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if ended(&mut self.child) {
            return;
        }
        // It may have ended just now.
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        let begun = Instant::now();
        while !ended(&mut self.child) {
            if begun.elapsed() > STOP_TIMEOUT {
                crate::report::progress(format!(
                    "{} did not end within {STOP_TIMEOUT:?} and is killed",
                    self.name
                ));
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(TAIL_BYTES);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}
