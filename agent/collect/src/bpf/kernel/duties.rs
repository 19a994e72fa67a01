//! What the family tells, and the hooks for it.

use crate::bpf::returns::{CALL, exits, returns};
use crate::bpf::spec::{At, Duty, Hook, Way};

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
        ways: returns!(new "on_bpf" at "bpf"),
    },
    Duty {
        name: "mounts",
        ways: returns!(
            new "on_mount" at "mount",
            new "on_umount" at "umount",
            optional "on_move_mount" at "move_mount",
            optional "on_fsopen" at "fsopen",
            optional "on_fsmount" at "fsmount",
        ),
    },
    Duty {
        name: "namespaces",
        ways: returns!(new "on_setns" at "setns", new "on_unshare" at "unshare"),
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
        ways: returns!(new "on_chroot" at "chroot", new "on_pivot" at "pivot_root"),
    },
    // A kernel without kexec has nothing to tell of it.
    Duty {
        name: "clock_and_kexec",
        ways: &[Way {
            name: CALL,
            hooks: exits!(
                new "on_set_time" at "settimeofday",
                new "on_clock_settime" at "clock_settime",
                new "on_adjtimex" at "adjtimex",
                new "on_clock_adjtime" at "clock_adjtime",
                optional "on_kexec" at "kexec_load",
                optional "on_kexec_file" at "kexec_file_load",
            ),
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
    Duty {
        name: "host_name",
        ways: returns!(new "on_host_name" at "sethostname", new "on_domain_name" at "setdomainname"),
    },
];
