//! The calls that act on files: which argument is what, and where their returns are seen.
//!
//! Two ways. Where the kernel allows programs at the return of its functions, each call's own function: other calls pay
//! nothing. Elsewhere the tracepoint of the call's return: any one of these costs every other call some tens of
//! nanoseconds (`docs/adr/0010-exits-of-calls.md`).

use fleetmend_ebpf::abi::file::{self as abi, FileCall};

use crate::bpf::spec::{At, Hook, Way};

/// A kind as the table holds it.
const fn kind(kind: u16) -> u8 {
    kind.to_le_bytes()[0]
}

const NONE: FileCall = FileCall {
    kind: 0,
    folder: 0,
    path: 0,
    target_folder: 0,
    target: 0,
    fd: 0,
    flags: 0,
    mode: 0,
    uid: 0,
    gid: 0,
    attribute: 0,
    how: 0,
    implied: 0,
};

/// Numbers of calls that are newer than the table of `libc`; the same on every architecture.
const SYS_FCHMODAT2: i64 = 452;

/// What each call has where.
pub(super) const TABLE: &[(i64, FileCall)] = &[
    (
        libc::SYS_openat,
        FileCall {
            kind: kind(abi::OPEN),
            folder: 1,
            path: 2,
            flags: 3,
            mode: 4,
            ..NONE
        },
    ),
    (
        libc::SYS_openat2,
        FileCall {
            kind: kind(abi::OPEN),
            folder: 1,
            path: 2,
            how: 3,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_open,
        FileCall {
            kind: kind(abi::OPEN),
            path: 1,
            flags: 2,
            mode: 3,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_creat,
        FileCall {
            kind: kind(abi::OPEN),
            path: 1,
            mode: 2,
            implied: 1,
            ..NONE
        },
    ),
    (
        libc::SYS_renameat2,
        FileCall {
            kind: kind(abi::RENAME),
            folder: 1,
            path: 2,
            target_folder: 3,
            target: 4,
            ..NONE
        },
    ),
    (
        libc::SYS_renameat,
        FileCall {
            kind: kind(abi::RENAME),
            folder: 1,
            path: 2,
            target_folder: 3,
            target: 4,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_rename,
        FileCall {
            kind: kind(abi::RENAME),
            path: 1,
            target: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_unlinkat,
        FileCall {
            kind: kind(abi::UNLINK),
            folder: 1,
            path: 2,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_unlink,
        FileCall {
            kind: kind(abi::UNLINK),
            path: 1,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_rmdir,
        FileCall {
            kind: kind(abi::UNLINK),
            path: 1,
            ..NONE
        },
    ),
    (
        libc::SYS_linkat,
        FileCall {
            kind: kind(abi::LINK),
            folder: 1,
            path: 2,
            target_folder: 3,
            target: 4,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_link,
        FileCall {
            kind: kind(abi::LINK),
            path: 1,
            target: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_symlinkat,
        FileCall {
            kind: kind(abi::SYMLINK),
            path: 1,
            target_folder: 2,
            target: 3,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_symlink,
        FileCall {
            kind: kind(abi::SYMLINK),
            path: 1,
            target: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_truncate,
        FileCall {
            kind: kind(abi::TRUNCATE),
            path: 1,
            ..NONE
        },
    ),
    (
        libc::SYS_fchmodat,
        FileCall {
            kind: kind(abi::CHMOD),
            folder: 1,
            path: 2,
            mode: 3,
            ..NONE
        },
    ),
    (
        SYS_FCHMODAT2,
        FileCall {
            kind: kind(abi::CHMOD),
            folder: 1,
            path: 2,
            mode: 3,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_chmod,
        FileCall {
            kind: kind(abi::CHMOD),
            path: 1,
            mode: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_fchmod,
        FileCall {
            kind: kind(abi::CHMOD),
            fd: 1,
            mode: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_fchownat,
        FileCall {
            kind: kind(abi::CHOWN),
            folder: 1,
            path: 2,
            uid: 3,
            gid: 4,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_chown,
        FileCall {
            kind: kind(abi::CHOWN),
            path: 1,
            uid: 2,
            gid: 3,
            ..NONE
        },
    ),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_lchown,
        FileCall {
            kind: kind(abi::CHOWN),
            path: 1,
            uid: 2,
            gid: 3,
            ..NONE
        },
    ),
    (
        libc::SYS_fchown,
        FileCall {
            kind: kind(abi::CHOWN),
            fd: 1,
            uid: 2,
            gid: 3,
            ..NONE
        },
    ),
    (
        libc::SYS_setxattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            path: 1,
            attribute: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_lsetxattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            path: 1,
            attribute: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_fsetxattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            fd: 1,
            attribute: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_removexattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            path: 1,
            attribute: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_lremovexattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            path: 1,
            attribute: 2,
            ..NONE
        },
    ),
    (
        libc::SYS_fremovexattr,
        FileCall {
            kind: kind(abi::ATTRIBUTE),
            fd: 1,
            attribute: 2,
            ..NONE
        },
    ),
];

/// Opens.
pub(super) const OPEN: &[Way] = &[
    Way {
        name: "return of the call's function",
        hooks: &[
            Hook::new("on_openat", At::Fexit("__x64_sys_openat")),
            Hook::optional("on_openat2", At::Fexit("__x64_sys_openat2")),
            Hook::optional("on_open", At::Fexit("__x64_sys_open")),
            Hook::optional("on_creat", At::Fexit("__x64_sys_creat")),
        ],
    },
    Way {
        name: "return of the call",
        hooks: &[
            Hook::new("open_exit", At::Tracepoint("syscalls", "sys_exit_openat")),
            Hook::optional("open_exit", At::Tracepoint("syscalls", "sys_exit_openat2")),
            Hook::optional("open_exit", At::Tracepoint("syscalls", "sys_exit_open")),
            Hook::optional("open_exit", At::Tracepoint("syscalls", "sys_exit_creat")),
        ],
    },
];

/// Names.
pub(super) const NAMES: &[Way] = &[
    Way {
        name: "return of the call's function",
        hooks: &[
            Hook::new("on_renameat2", At::Fexit("__x64_sys_renameat2")),
            Hook::optional("on_renameat", At::Fexit("__x64_sys_renameat")),
            Hook::optional("on_rename", At::Fexit("__x64_sys_rename")),
            Hook::new("on_unlinkat", At::Fexit("__x64_sys_unlinkat")),
            Hook::optional("on_unlink", At::Fexit("__x64_sys_unlink")),
            Hook::optional("on_rmdir", At::Fexit("__x64_sys_rmdir")),
            Hook::new("on_linkat", At::Fexit("__x64_sys_linkat")),
            Hook::optional("on_link", At::Fexit("__x64_sys_link")),
            Hook::new("on_symlinkat", At::Fexit("__x64_sys_symlinkat")),
            Hook::optional("on_symlink", At::Fexit("__x64_sys_symlink")),
            Hook::new("on_truncate", At::Fexit("__x64_sys_truncate")),
        ],
    },
    Way {
        name: "return of the call",
        hooks: &[
            Hook::new("names_exit", At::Tracepoint("syscalls", "sys_exit_renameat2")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_renameat")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_rename")),
            Hook::new("names_exit", At::Tracepoint("syscalls", "sys_exit_unlinkat")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_unlink")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_rmdir")),
            Hook::new("names_exit", At::Tracepoint("syscalls", "sys_exit_linkat")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_link")),
            Hook::new("names_exit", At::Tracepoint("syscalls", "sys_exit_symlinkat")),
            Hook::optional("names_exit", At::Tracepoint("syscalls", "sys_exit_symlink")),
            Hook::new("names_exit", At::Tracepoint("syscalls", "sys_exit_truncate")),
        ],
    },
];

/// Modes, owners and attributes.
pub(super) const METADATA: &[Way] = &[
    Way {
        name: "return of the call's function",
        hooks: &[
            Hook::new("on_fchmodat", At::Fexit("__x64_sys_fchmodat")),
            Hook::optional("on_fchmodat2", At::Fexit("__x64_sys_fchmodat2")),
            Hook::optional("on_chmod", At::Fexit("__x64_sys_chmod")),
            Hook::new("on_fchmod", At::Fexit("__x64_sys_fchmod")),
            Hook::new("on_fchownat", At::Fexit("__x64_sys_fchownat")),
            Hook::optional("on_chown", At::Fexit("__x64_sys_chown")),
            Hook::optional("on_lchown", At::Fexit("__x64_sys_lchown")),
            Hook::new("on_fchown", At::Fexit("__x64_sys_fchown")),
            Hook::new("on_setxattr", At::Fexit("__x64_sys_setxattr")),
            Hook::new("on_lsetxattr", At::Fexit("__x64_sys_lsetxattr")),
            Hook::new("on_fsetxattr", At::Fexit("__x64_sys_fsetxattr")),
            Hook::new("on_removexattr", At::Fexit("__x64_sys_removexattr")),
            Hook::new("on_lremovexattr", At::Fexit("__x64_sys_lremovexattr")),
            Hook::new("on_fremovexattr", At::Fexit("__x64_sys_fremovexattr")),
        ],
    },
    Way {
        name: "return of the call",
        hooks: &[
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fchmodat")),
            Hook::optional("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fchmodat2")),
            Hook::optional("metadata_exit", At::Tracepoint("syscalls", "sys_exit_chmod")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fchmod")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fchownat")),
            Hook::optional("metadata_exit", At::Tracepoint("syscalls", "sys_exit_chown")),
            Hook::optional("metadata_exit", At::Tracepoint("syscalls", "sys_exit_lchown")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fchown")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_setxattr")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_lsetxattr")),
            Hook::new("metadata_exit", At::Tracepoint("syscalls", "sys_exit_fsetxattr")),
            Hook::new(
                "metadata_exit",
                At::Tracepoint("syscalls", "sys_exit_removexattr"),
            ),
            Hook::new(
                "metadata_exit",
                At::Tracepoint("syscalls", "sys_exit_lremovexattr"),
            ),
            Hook::new(
                "metadata_exit",
                At::Tracepoint("syscalls", "sys_exit_fremovexattr"),
            ),
        ],
    },
];
