//! What /proc still holds of a program that was executed just now.

use crate::masking::mask_args;
use crate::process::proc_fs::{Executable, ProcFs, Stat};
use crate::process::{Placement, Program};

use super::credentials::{self, Credentials};

/// "No user": the value of an unset login session.
const UNSET: u32 = u32::MAX;

/// Everything that was caught.
#[derive(Debug, Default)]
pub(crate) struct Caught {
    pub(crate) program: Program,
    /// Whether the arguments are what it was called with.
    pub(crate) args_known: bool,
    pub(crate) stat: Option<Stat>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) placement: Option<Placement>,
    pub(crate) working_directory: Option<String>,
    pub(crate) login_uid: Option<u32>,
}

/// Reads of `pid`, what goes first with the process first.
pub(crate) fn catch(proc: &ProcFs, pid: u32, args_bytes_max: usize) -> Caught {
    let args = proc.args(pid, args_bytes_max);
    let executable = proc.executable(pid);
    let stat = proc.stat(pid);
    // A process that has ended and waits for its parent has no arguments any more, and no program.
    let gone = executable.is_none();
    let args_known = args.as_ref().is_some_and(|(args, _)| !args.is_empty() || !gone);
    let (mut args, truncated) = args.unwrap_or_default();
    mask_args(&mut args);
    let (exe, exe_deleted) = match executable {
        Some(Executable { path, deleted }) => (Some(path), deleted),
        None => (None, false),
    };
    Caught {
        program: Program {
            comm: stat.as_ref().map(|stat| stat.comm.clone()).unwrap_or_default(),
            exe,
            exe_deleted,
            args,
            args_truncated: truncated || !args_known,
        },
        args_known,
        credentials: credentials::read_once(proc, pid),
        placement: proc.placement(pid),
        working_directory: std::fs::read_link(proc.path(pid, "cwd"))
            .ok()
            .map(|path| path.to_string_lossy().into_owned()),
        login_uid: login_uid(proc, pid),
        stat,
    }
}

/// User of the login session, when one is set.
pub(crate) fn login_uid(proc: &ProcFs, pid: u32) -> Option<u32> {
    let text = proc.read_text(pid, "loginuid")?;
    text.trim().parse().ok().filter(|uid| *uid != UNSET)
}
