//! What the family tells, and the hooks for it.

use crate::bpf::spec::{At, Duty, Hook, Way};

const FUNCTION: &str = "return of the kernel's function";
const CALL: &str = "return of the call";

/// A program at the return of a call.
macro_rules! exit {
    ($program:literal, $call:literal) => {
        Hook::new(
            concat!($program, "_exit"),
            At::Tracepoint("syscalls", concat!("sys_exit_", $call)),
        )
    };
    ($program:literal, $call:literal, optional) => {
        Hook::optional(
            concat!($program, "_exit"),
            At::Tracepoint("syscalls", concat!("sys_exit_", $call)),
        )
    };
}

/// The same at the kernel's function for the call.
macro_rules! fexit {
    ($program:literal, $call:literal) => {
        Hook::new(
            concat!($program, "_fexit"),
            At::Fexit(concat!("__x64_sys_", $call)),
        )
    };
    ($program:literal, $call:literal, optional) => {
        Hook::optional(
            concat!($program, "_fexit"),
            At::Fexit(concat!("__x64_sys_", $call)),
        )
    };
}

/// In the order of their numbers in the object.
pub(super) const DUTIES: &[Duty] = &[
    Duty {
        name: "modules",
        ways: &[
            Way {
                name: "tracepoints of modules",
                hooks: &[
                    Hook::new("on_module_load", At::BtfTracepoint("module_load")),
                    Hook::new("on_module_free", At::BtfTracepoint("module_free")),
                ],
            },
            Way {
                name: "none: this kernel takes no modules",
                hooks: &[Hook::new("", At::Absent("/proc/modules"))],
            },
        ],
    },
    Duty {
        name: "bpf",
        ways: &[
            Way {
                name: FUNCTION,
                hooks: &[fexit!("on_bpf", "bpf")],
            },
            Way {
                name: CALL,
                hooks: &[exit!("on_bpf", "bpf")],
            },
        ],
    },
    Duty {
        name: "mounts",
        ways: &[
            Way {
                name: FUNCTION,
                hooks: &[
                    fexit!("on_mount", "mount"),
                    fexit!("on_umount", "umount"),
                    fexit!("on_move_mount", "move_mount", optional),
                    fexit!("on_fsopen", "fsopen", optional),
                    fexit!("on_fsmount", "fsmount", optional),
                ],
            },
            Way {
                name: CALL,
                hooks: &[
                    exit!("on_mount", "mount"),
                    exit!("on_umount", "umount"),
                    exit!("on_move_mount", "move_mount", optional),
                    exit!("on_fsopen", "fsopen", optional),
                    exit!("on_fsmount", "fsmount", optional),
                ],
            },
        ],
    },
    Duty {
        name: "namespaces",
        ways: &[
            Way {
                name: FUNCTION,
                hooks: &[fexit!("on_setns", "setns"), fexit!("on_unshare", "unshare")],
            },
            Way {
                name: CALL,
                hooks: &[exit!("on_setns", "setns"), exit!("on_unshare", "unshare")],
            },
        ],
    },
    Duty {
        name: "clones",
        ways: &[
            Way {
                name: "scheduler tracepoint",
                hooks: &[Hook::new("on_newtask", At::BtfTracepoint("task_newtask"))],
            },
            Way {
                name: "scheduler tracepoint, plain reads",
                hooks: &[Hook::new("on_newtask_raw", At::RawTracepoint("task_newtask"))],
            },
        ],
    },
    Duty {
        name: "root",
        ways: &[
            Way {
                name: FUNCTION,
                hooks: &[fexit!("on_chroot", "chroot"), fexit!("on_pivot", "pivot_root")],
            },
            Way {
                name: CALL,
                hooks: &[exit!("on_chroot", "chroot"), exit!("on_pivot", "pivot_root")],
            },
        ],
    },
    // A kernel without kexec has nothing to tell of it.
    Duty {
        name: "clock_and_kexec",
        ways: &[Way {
            name: CALL,
            hooks: &[
                exit!("on_set_time", "settimeofday"),
                exit!("on_clock_settime", "clock_settime"),
                exit!("on_adjtimex", "adjtimex"),
                exit!("on_clock_adjtime", "clock_adjtime"),
                exit!("on_kexec", "kexec_load", optional),
                exit!("on_kexec_file", "kexec_file_load", optional),
            ],
        }],
    },
    Duty {
        name: "uring",
        ways: &[Way {
            name: "tracepoint of io_uring",
            hooks: &[Hook::new("on_uring", At::BtfTracepoint("io_uring_create"))],
        }],
    },
    Duty {
        name: "compat",
        ways: &[Way {
            name: "scheduler tracepoint",
            hooks: &[Hook::new("on_exec", At::BtfTracepoint("sched_process_exec"))],
        }],
    },
];
