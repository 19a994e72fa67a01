//! Really making the calls that are denied, so that nobody has to believe the filter.
#![expect(
    unsafe_code,
    reason = "most of these calls have no safe wrapper, and here they are made by their numbers"
)]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use libc::c_long;
use serde::Serialize;

/// One call and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Attempt {
    /// The call as a person names it.
    pub(crate) call: &'static str,
    /// What the kernel answered.
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// What the kernel answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// EPERM: the answer of the filter.
    Denied,
    /// ENOSYS for a call that is to look as if it did not exist.
    Absent,
    /// It was done.
    Allowed,
    /// It failed, but not by our doing: the kernel looked at the arguments.
    Reached {
        /// The error number.
        errno: i32,
    },
}

impl Attempt {
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(
            (self.outcome, self.call),
            (Outcome::Denied, _) | (Outcome::Absent, "clone3")
        )
    }
}

/// A process of our own that the attempts may reach into; made before the sandbox is entered.
pub(crate) struct Victim {
    child: Child,
    /// The last word of its stack, which is zero: what process_vm_* may read and overwrite.
    stack: usize,
}

impl Victim {
    /// Starts it.
    ///
    /// # Errors
    /// When `cat` cannot be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        // It waits for input until it is dropped, and ends with its pipe even when we are killed.
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id()))?;
        let stack = end_of_stack(&maps).ok_or_else(|| std::io::Error::other("the process has no stack"))?;
        Ok(Self {
            child,
            stack: stack - 8,
        })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Where the attempt was allowed it is traced by us and stopped; its end is then ours to bring about.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Makes every forbidden call once, with arguments that do no harm where it is allowed.
pub(crate) fn attempt_forbidden(victim: &Victim) -> std::io::Result<Vec<Attempt>> {
    let null = File::open("/dev/null")?;
    let null = c_long::from(null.as_raw_fd());
    let namespace = File::open("/proc/self/ns/uts")?;
    let namespace = c_long::from(namespace.as_raw_fd());
    let folder = std::env::temp_dir().join(format!("fleetmend-sandbox-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let attempts = [
        processes(victim),
        kernel(null),
        mounts(&folder),
        namespaces(namespace),
        rest(),
    ]
    .concat();
    // It may still be a mount point when unmounting was what failed; a temporary folder may stay then.
    std::fs::remove_dir(&folder).ok();
    Ok(attempts)
}

fn end_of_stack(maps: &str) -> Option<usize> {
    let range = maps
        .lines()
        .find(|line| line.ends_with("[stack]"))?
        .split(' ')
        .next()?;
    usize::from_str_radix(range.split('-').nth(1)?, 16).ok()
}

fn processes(victim: &Victim) -> Vec<Attempt> {
    let pid = c_long::from(victim.child.id());
    let own = c_long::from(std::process::id());
    let mut byte = [0_u8; 1];
    let local = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let there = std::ptr::with_exposed_provenance_mut(victim.stack);
    let remote = libc::iovec {
        iov_base: there,
        iov_len: 1,
    };
    let (local, remote) = (address(&raw const local), address(&raw const remote));
    // SAFETY: the arguments are a process and flags.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    vec![
        attempt(
            "ptrace",
            libc::SYS_ptrace,
            &[c_long::from(libc::PTRACE_ATTACH), pid, 0, 0],
        ),
        attempt(
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            &[pid, local, 1, remote, 1, 0],
        ),
        attempt(
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            &[pid, local, 1, remote, 1, 0],
        ),
        // Advice 0 is none for another process: refused by the kernel where it is reached.
        attempt(
            "process_madvise",
            libc::SYS_process_madvise,
            &[pidfd, remote, 1, 0, 0],
        ),
        attempt("pidfd_getfd", libc::SYS_pidfd_getfd, &[pidfd, 0, 0]),
        attempt(
            "pidfd_send_signal",
            libc::SYS_pidfd_send_signal,
            &[pidfd, 0, 0, 0],
        ),
        attempt("kcmp", libc::SYS_kcmp, &[own, pid, 0, 0, 0]),
    ]
}

fn kernel(null: c_long) -> Vec<Attempt> {
    let nothing = text(c"");
    // One attribute block of zeroes: no program.
    let block = [0_u64; 16];
    let program = address(block.as_ptr());
    vec![
        attempt("init_module", libc::SYS_init_module, &[0, 0, nothing]),
        attempt("finit_module", libc::SYS_finit_module, &[null, nothing, 0]),
        attempt(
            "delete_module",
            libc::SYS_delete_module,
            &[text(c"fleetmend_no_such_module"), 0],
        ),
        attempt("kexec_load", libc::SYS_kexec_load, &[0, 99, 0, 0]),
        attempt("kexec_file_load", libc::SYS_kexec_file_load, &[-1, -1, 0, 0, 0]),
        // Without the magic numbers nothing reboots.
        attempt("reboot", libc::SYS_reboot, &[0, 0, 0, 0]),
        attempt("bpf(BPF_PROG_LOAD)", libc::SYS_bpf, &[5, program, 128]),
        attempt("bpf(BPF_LINK_CREATE)", libc::SYS_bpf, &[28, program, 64]),
        attempt("bpf(BPF_MAP_CREATE)", libc::SYS_bpf, &[0, program, 128]),
        attempt("bpf(BPF_OBJ_PIN)", libc::SYS_bpf, &[6, program, 128]),
        attempt("bpf(BPF_PROG_ATTACH)", libc::SYS_bpf, &[8, program, 128]),
        attempt("bpf(BPF_PROG_TEST_RUN)", libc::SYS_bpf, &[10, program, 128]),
        attempt("bpf(BPF_BTF_LOAD)", libc::SYS_bpf, &[18, program, 128]),
    ]
}

/// Whether attaching a loaded program to a raw tracepoint is left to the kernel to judge: there is no program behind
/// this descriptor, and it says so.
pub(crate) fn attaching_reaches_the_kernel() -> bool {
    const BPF_RAW_TRACEPOINT_OPEN: c_long = 17;
    // struct { u64 name; u32 prog_fd; } of linux/bpf.h.
    let attributes = [0_u64, u64::from(u32::MAX)];
    let tried = attempt(
        "bpf(BPF_RAW_TRACEPOINT_OPEN)",
        libc::SYS_bpf,
        &[BPF_RAW_TRACEPOINT_OPEN, address(attributes.as_ptr()), 16],
    );
    tried.outcome == Outcome::Reached { errno: libc::EBADF }
}

fn mounts(folder: &std::path::Path) -> Vec<Attempt> {
    let mut path = folder.as_os_str().as_encoded_bytes().to_vec();
    path.push(0);
    let path = address(path.as_ptr());
    let tmpfs = text(c"tmpfs");
    let missing = text(c"/nonexistent");
    let here = c_long::from(libc::AT_FDCWD);
    vec![
        attempt("mount", libc::SYS_mount, &[tmpfs, path, tmpfs, 0, 0]),
        attempt("umount2", libc::SYS_umount2, &[path, 0]),
        attempt(
            "move_mount",
            libc::SYS_move_mount,
            &[here, missing, here, missing, 0],
        ),
        attempt("fsopen", libc::SYS_fsopen, &[tmpfs, 0]),
        attempt("fsmount", libc::SYS_fsmount, &[-1, 0, 0]),
        attempt("open_tree", libc::SYS_open_tree, &[here, missing, 0]),
        attempt(
            "mount_setattr",
            libc::SYS_mount_setattr,
            &[here, missing, 0, 0, 0],
        ),
        attempt("pivot_root", libc::SYS_pivot_root, &[missing, missing]),
        attempt("chroot", libc::SYS_chroot, &[missing]),
        attempt("open_by_handle_at", libc::SYS_open_by_handle_at, &[-1, 0, 0]),
        attempt("swapon", libc::SYS_swapon, &[missing, 0]),
    ]
}

fn namespaces(namespace: c_long) -> Vec<Attempt> {
    let new_names = c_long::from(libc::CLONE_NEWUTS);
    vec![
        attempt("setns", libc::SYS_setns, &[namespace, 0]),
        attempt("unshare", libc::SYS_unshare, &[new_names]),
        Attempt {
            call: "clone(CLONE_NEWUTS)",
            outcome: clone_into(new_names),
        },
        attempt("clone3", libc::SYS_clone3, &[0, 0]),
    ]
}

fn rest() -> Vec<Attempt> {
    vec![
        attempt("io_uring_setup", libc::SYS_io_uring_setup, &[1, 0]),
        attempt("clock_settime", libc::SYS_clock_settime, &[-1, 0]),
        // A length beyond the limit: refused by the kernel where it is reached.
        attempt("sethostname", libc::SYS_sethostname, &[text(c"x"), 4096]),
    ]
}

fn attempt(call: &'static str, number: c_long, arguments: &[c_long]) -> Attempt {
    let [a, b, c, d, e, f] = std::array::from_fn(|index| arguments.get(index).copied().unwrap_or(0));
    // SAFETY: pointers among the arguments are null or point to values of this module's callers that live until
    // this returns and are large enough for what each call reads or, in process_vm_readv, writes.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Attempt {
        call,
        outcome: outcome_of(answer),
    }
}

fn clone_into(flags: c_long) -> Outcome {
    let flags = flags | c_long::from(libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has a copy of everything, like after fork.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: ends the copy at once, without running anything of the original.
        unsafe { libc::_exit(0) };
    }
    let outcome = outcome_of(child);
    if let (Outcome::Allowed, Ok(child)) = (outcome, i32::try_from(child)) {
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).ok();
    }
    outcome
}

fn outcome_of(answer: c_long) -> Outcome {
    if answer >= 0 {
        return Outcome::Allowed;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) => Outcome::Denied,
        Some(libc::ENOSYS) => Outcome::Absent,
        errno => Outcome::Reached {
            errno: errno.unwrap_or(0),
        },
    }
}

fn text(text: &'static CStr) -> c_long {
    address(text.as_ptr())
}

fn address<T>(pointer: *const T) -> c_long {
    pointer.expose_provenance().cast_signed() as c_long
}
