//! The calls that act on files: which argument is what, and where their returns are seen.
//!
//! Two ways. Where the kernel allows programs at the return of its functions, each call's own function: other calls pay
//! nothing. Elsewhere the tracepoint of the call's return: any one of these costs every other call some tens of
//! nanoseconds (`docs/adr/0010-exits-of-calls.md`).

use fleetmend_ebpf::abi::file::{self as abi, FileCall};

use crate::bpf::spec::{At, Hook, Way};

/// What a call of this kind has nowhere.
const fn of(kind: u16) -> FileCall {
    FileCall {
        kind: kind.to_le_bytes()[0],
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
    }
}

/// Numbers of calls that are newer than the table of `libc`; the same on every architecture.
const SYS_FCHMODAT2: i64 = 452;
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;

/// For each duty its ways, and for all of them what each call has where. A call without which the duty is not kept is
/// `new`; the others are `optional`.
macro_rules! calls {
    ($(
        $(#[$meta:meta])*
        $ways:ident, $exit:literal {
            $($(#[cfg($target:meta)])? $need:ident $call:ident = $number:expr => $kind:ident {
                $($has:ident: $place:literal),+
            })+
        }
    )+) => {
        /// What each call has where.
        pub(super) const TABLE: &[(i64, FileCall)] = &[$($(
            $(#[cfg($target)])?
            ($number, FileCall { $($has: $place,)+ ..of(abi::$kind) }),
        )+)+];

        $(
            $(#[$meta])*
            pub(super) const $ways: &[Way] = &[
                Way {
                    name: "return of the call's function",
                    hooks: &[$(Hook::$need(
                        concat!("on_", stringify!($call)),
                        At::Fexit(concat!("__x64_sys_", stringify!($call))),
                    ),)+],
                },
                Way {
                    name: "return of the call",
                    hooks: &[$(Hook::$need(
                        $exit,
                        At::Tracepoint("syscalls", concat!("sys_exit_", stringify!($call))),
                    ),)+],
                },
            ];
        )+
    };
}

calls! {
    /// Opens.
    OPEN, "open_exit" {
        new openat = libc::SYS_openat => OPEN { folder: 1, path: 2, flags: 3, mode: 4 }
        optional openat2 = libc::SYS_openat2 => OPEN { folder: 1, path: 2, how: 3 }
        #[cfg(target_arch = "x86_64")]
        optional open = libc::SYS_open => OPEN { path: 1, flags: 2, mode: 3 }
        #[cfg(target_arch = "x86_64")]
        optional creat = libc::SYS_creat => OPEN { path: 1, mode: 2, implied: 1 }
        optional open_by_handle_at = libc::SYS_open_by_handle_at => OPEN { flags: 3 }
    }
    /// Names.
    NAMES, "names_exit" {
        new renameat2 = libc::SYS_renameat2 => RENAME { folder: 1, path: 2, target_folder: 3, target: 4 }
        optional renameat = libc::SYS_renameat => RENAME { folder: 1, path: 2, target_folder: 3, target: 4 }
        #[cfg(target_arch = "x86_64")]
        optional rename = libc::SYS_rename => RENAME { path: 1, target: 2 }
        new unlinkat = libc::SYS_unlinkat => UNLINK { folder: 1, path: 2 }
        #[cfg(target_arch = "x86_64")]
        optional unlink = libc::SYS_unlink => UNLINK { path: 1 }
        #[cfg(target_arch = "x86_64")]
        optional rmdir = libc::SYS_rmdir => UNLINK { path: 1 }
        new linkat = libc::SYS_linkat => LINK { folder: 1, path: 2, target_folder: 3, target: 4 }
        #[cfg(target_arch = "x86_64")]
        optional link = libc::SYS_link => LINK { path: 1, target: 2 }
        new symlinkat = libc::SYS_symlinkat => SYMLINK { path: 1, target_folder: 2, target: 3 }
        #[cfg(target_arch = "x86_64")]
        optional symlink = libc::SYS_symlink => SYMLINK { path: 1, target: 2 }
        new truncate = libc::SYS_truncate => TRUNCATE { path: 1 }
    }
    /// Modes, owners and attributes.
    METADATA, "metadata_exit" {
        new fchmodat = libc::SYS_fchmodat => CHMOD { folder: 1, path: 2, mode: 3 }
        optional fchmodat2 = SYS_FCHMODAT2 => CHMOD { folder: 1, path: 2, mode: 3 }
        #[cfg(target_arch = "x86_64")]
        optional chmod = libc::SYS_chmod => CHMOD { path: 1, mode: 2 }
        new fchmod = libc::SYS_fchmod => CHMOD { fd: 1, mode: 2 }
        new fchownat = libc::SYS_fchownat => CHOWN { folder: 1, path: 2, uid: 3, gid: 4 }
        #[cfg(target_arch = "x86_64")]
        optional chown = libc::SYS_chown => CHOWN { path: 1, uid: 2, gid: 3 }
        #[cfg(target_arch = "x86_64")]
        optional lchown = libc::SYS_lchown => CHOWN { path: 1, uid: 2, gid: 3 }
        new fchown = libc::SYS_fchown => CHOWN { fd: 1, uid: 2, gid: 3 }
        new setxattr = libc::SYS_setxattr => ATTRIBUTE { path: 1, attribute: 2 }
        new lsetxattr = libc::SYS_lsetxattr => ATTRIBUTE { path: 1, attribute: 2 }
        new fsetxattr = libc::SYS_fsetxattr => ATTRIBUTE { fd: 1, attribute: 2 }
        optional setxattrat = SYS_SETXATTRAT => ATTRIBUTE { folder: 1, path: 2, attribute: 4 }
        new removexattr = libc::SYS_removexattr => ATTRIBUTE { path: 1, attribute: 2 }
        new lremovexattr = libc::SYS_lremovexattr => ATTRIBUTE { path: 1, attribute: 2 }
        new fremovexattr = libc::SYS_fremovexattr => ATTRIBUTE { fd: 1, attribute: 2 }
        optional removexattrat = SYS_REMOVEXATTRAT => ATTRIBUTE { folder: 1, path: 2, attribute: 4 }
    }
}
