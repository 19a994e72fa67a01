//! What the agent gives up before it reads any input, for the rest of its life.
//!
//! The agent may read everything on the host, so a flaw in it must not become a way to *act*: to reach into
//! other processes, to load code into the kernel, to change what is mounted, or to step into other namespaces.
//!
//! # Invariants
//! - [`enter`] runs while the process has one thread, before the runtime: capabilities belong to threads, and a
//!   thread started earlier would keep its own.
//! - What is given up cannot come back: `no_new_privs`, an empty bounding and ambient set, and a seccomp filter
//!   that all later threads and children inherit.
//! - The filter is a list of what is denied, answered with EPERM, because the agent's own needs are broad and
//!   its threats are few: see [`denied`]. Calls of another architecture kill the process. `clone3`, whose flags
//!   a filter cannot see, is answered with ENOSYS, upon which the C library takes `clone`.
//! - BPF objects are loaded before. Afterwards `bpf` serves maps, and attaches what is loaded to raw tracepoints.
//!
//! Proof: [`attempts`] really makes the calls, and `fleetmend-agent sandbox-test` shows what came of them.
//!
//! # Limits
//! A process of the same user may still be signalled; as shipped, the agent has a user of its own and no
//! CAP_KILL, so that is its own children.

pub(crate) mod attempts;
pub(crate) mod command;
mod denied;
mod filter;
mod privileges;

use caps::Capability;
use serde::Serialize;
use thiserror::Error;

/// What the agent keeps.
#[derive(Clone, Debug)]
pub(crate) struct SandboxConfig {
    /// Capabilities to keep where the process has them; all others go.
    pub(crate) keep: Vec<Capability>,
}

impl Default for SandboxConfig {
    /// Reading /proc and files of others, and reading maps (kernels before 5.19 want CAP_BPF for that too, where
    /// unprivileged use is off).
    fn default() -> Self {
        Self {
            keep: vec![
                Capability::CAP_SYS_PTRACE,
                Capability::CAP_DAC_READ_SEARCH,
                Capability::CAP_BPF,
            ],
        }
    }
}

/// What is in force now, read back from the kernel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SandboxReport {
    /// Whether programs may no longer raise our privileges.
    pub(crate) no_new_privs: bool,
    /// Names of the effective capabilities.
    pub(crate) capabilities: Vec<String>,
    /// Whether a program of root would start without capabilities; false when dropping them was not ours to do.
    pub(crate) bounding_is_empty: bool,
    /// System calls that are denied whatever their arguments, or with some.
    pub(crate) calls_denied: usize,
}

/// Why the sandbox could not be entered; the agent must not go on then.
#[derive(Debug, Error)]
pub(crate) enum SandboxError {
    /// Capabilities could not be taken from them.
    #[error("enter the sandbox with {0} threads running: it has to be entered by the first one alone")]
    Threads(usize),
    /// /proc is missing or strange.
    #[error("read /proc/self for the sandbox")]
    Proc(#[source] std::io::Error),
    /// The kernel refused a process attribute.
    #[error("set {attribute} for the sandbox")]
    Attribute {
        /// Which one.
        attribute: &'static str,
        /// Its answer.
        source: nix::Error,
    },
    /// The kernel refused to change a capability set.
    #[error("reduce the {set} capabilities")]
    Capabilities {
        /// Which set.
        set: &'static str,
        /// What the library says.
        source: caps::errors::CapsError,
    },
    /// The filter could not be compiled.
    #[error("compile the system call filter")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel has no seccomp, or refused the filter.
    #[error("install the system call filter")]
    Install(#[from] seccompiler::Error),
    /// There is a filter for x86-64 and aarch64.
    #[error("filter system calls on {0}, which has no filter")]
    Architecture(&'static str),
}

/// Gives up everything the agent does not need.
///
/// # Errors
/// Whatever could not be given up. Nothing is restored then: the caller ends.
pub(crate) fn enter(config: &SandboxConfig) -> Result<SandboxReport, SandboxError> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(SandboxError::Proc)?
        .count();
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    privileges::forbid_new()?;
    let bounding_is_empty = privileges::reduce(&config.keep)?;
    let calls_denied = filter::install()?;
    Ok(SandboxReport {
        no_new_privs: privileges::are_final()?,
        capabilities: privileges::effective()?,
        bounding_is_empty,
        calls_denied,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{SandboxConfig, SandboxError, enter};

    #[test]
    fn sandbox_is_not_entered_beside_another_thread() {
        let (release, held) = mpsc::channel::<()>();
        let beside = std::thread::spawn(move || held.recv().ok());
        let refused = enter(&SandboxConfig::default());
        assert!(matches!(refused, Err(SandboxError::Threads(2..))), "{refused:?}");
        drop(release);
        beside.join().expect("thread");
    }
}
