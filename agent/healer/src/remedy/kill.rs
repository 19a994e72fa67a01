//! End a process: SIGTERM, and after a grace SIGKILL, through a pidfd, so that the signal reaches the process
//! that was checked and no other. Cannot be undone.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fleetmend_event::remedy::{Ending, ProcessRef};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::throttle::is_running_away;
use super::{ApplyError, Host, Reading, Treatment, Truth, Undone};
use crate::procfs::ProcessFault;

/// SIGKILL works at once, unless the process hangs in the kernel; then this is how long it is waited for.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How a process is ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillPlan {
    pub(super) process: ProcessRef,
    pub(super) cpu_core_pct_min: u32,
    pub(super) grace_s: u64,
}

/// Whether the kernel has pidfds.
pub(super) fn supported() -> Result<(), String> {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map(|_| ())
        .map_err(|error| format!("pidfd_open does not work here: {error}"))
}

impl KillPlan {
    /// A handle of the process that was meant: opened first, checked after, so that it cannot change hands.
    fn hold(&self, host: &Host) -> Result<OwnedFd, ProcessFault> {
        let pid = self.process.pid;
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(ProcessFault::Gone(pid))?;
        let handle = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| match error {
            rustix::io::Errno::SRCH => ProcessFault::Gone(pid),
            other => ProcessFault::Unreadable {
                pid,
                reason: other.to_string(),
            },
        })?;
        host.procfs.see(&self.process)?;
        Ok(handle)
    }
}

impl Treatment for KillPlan {
    fn describe(&self) -> String {
        let ProcessRef { pid, comm, .. } = &self.process;
        format!(
            "end pid {pid} ({comm}) with SIGTERM, and with SIGKILL after {} s",
            self.grace_s
        )
    }

    fn check(&self, host: &Host) -> Reading {
        is_running_away(host, &self.process, self.cpu_core_pct_min)
    }

    fn apply(&mut self, host: &Host, halted: &dyn Fn() -> Option<String>) -> Result<(), ApplyError> {
        let handle = match self.hold(host) {
            Ok(handle) => handle,
            Err(ProcessFault::Gone(_)) => return Ok(()),
            Err(fault) => return Err(ApplyError(fault.to_string())),
        };
        for (signal, wait) in [
            (Signal::TERM, Duration::from_secs(self.grace_s)),
            (Signal::KILL, KILL_WAIT),
        ] {
            if let Some(reason) = halted() {
                return Err(ApplyError(format!("{signal:?} was not sent: {reason}")));
            }
            match pidfd_send_signal(&handle, signal) {
                Ok(()) => {}
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                Err(error) => return Err(ApplyError(format!("{signal:?} could not be sent: {error}"))),
            }
            if ended_within(&handle, wait) {
                return Ok(());
            }
        }
        Err(ApplyError(
            "it did not end on SIGKILL: it hangs in the kernel".to_owned(),
        ))
    }

    fn verify(&self, host: &Host) -> Reading {
        match host.procfs.see(&self.process) {
            Ok(_) => Reading::new(Truth::No, "it still runs".to_owned(), json!({"ended": false})),
            Err(fault @ (ProcessFault::Gone(_) | ProcessFault::Another { .. })) => {
                Reading::new(Truth::Yes, fault.to_string(), json!({"ended": true}))
            }
            Err(fault) => Reading::new(Truth::Unknown, fault.to_string(), json!({})),
        }
    }

    fn undo(&self, host: &Host) -> Undone {
        if self.verify(host).truth == Truth::No {
            return Undone::Nothing("it still runs".to_owned());
        }
        Undone::Impossible("a process that was ended cannot be brought back".to_owned())
    }

    fn settle(&self, host: &Host) -> (Ending, String) {
        match self.verify(host).truth {
            Truth::No => (
                Ending::FailedSafe,
                "it still runs; whether it was signalled is not known".to_owned(),
            ),
            _ => (
                Ending::Unknown,
                "it is gone; whether it was ended by us is not known".to_owned(),
            ),
        }
    }
}

/// A pidfd is readable once its process has ended.
fn ended_within(handle: &OwnedFd, wait: Duration) -> bool {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = left.try_into() else {
            return false;
        };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return false,
            Ok(ready) if ready > 0 => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_outlives_sigterm_is_spared_when_acting_is_stopped_meanwhile() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let host = Host::here();
        let seen = host.procfs.see_pid(child.id()).unwrap();
        let mut plan = KillPlan {
            process: ProcessRef {
                pid: seen.pid,
                start_boot_ns: seen.start_ticks * 10_000_000,
                comm: seen.comm,
            },
            cpu_core_pct_min: 1,
            grace_s: 0,
        };
        let asked = Cell::new(0);
        let halted = || {
            asked.set(asked.get() + 1);
            (asked.get() > 1).then(|| "acting is stopped".to_owned())
        };
        let error = plan.apply(&host, &halted).unwrap_err();
        assert!(error.0.contains("was not sent: acting is stopped"), "{error}");
        assert!(matches!(plan.undo(&host), Undone::Nothing(_)));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
