//! The calls that are denied, by what they would let the agent do.

use libc::c_long;

/// Reaching into other processes: their memory, registers, descriptors, and what they share.
const PROCESSES: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
];

/// Loading code into the kernel or replacing it.
const KERNEL: &[c_long] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
];

/// Changing what is mounted, or opening files behind the mounts' back.
const MOUNTS: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
];

/// Other namespaces; `clone` is denied with their flags only.
const NAMESPACES: &[c_long] = &[libc::SYS_setns, libc::SYS_unshare];

/// The host's clock, names and keys.
const HOST: &[c_long] = &[
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// A ring runs calls that no filter sees.
const RINGS: &[c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURE: &[c_long] = &[];

/// On x86-64 a second table of numbers, x32, has this bit set and its own numbers for some calls
/// (arch/x86/entry/syscalls/syscall_64.tbl: kexec_load, ptrace, process_vm_readv, process_vm_writev).
#[cfg(target_arch = "x86_64")]
const X32: &[c_long] = &[528, 521, 539, 540];
#[cfg(target_arch = "x86_64")]
const X32_BIT: c_long = 0x4000_0000;

/// Flags of `clone` that make a namespace, and the older names of two of them.
pub(super) const CLONE_FLAGS: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Commands of `bpf` that bring a program into the kernel, attach or pin it, or make new objects for one
/// (`enum bpf_cmd` of linux/bpf.h). What is left reads and writes maps, looks at objects, and, by
/// `BPF_RAW_TRACEPOINT_OPEN` (17), attaches a program whose descriptor we hold: since none can be loaded, that is one
/// that was loaded before the sandbox, which is how system calls are profiled now and then.
pub(super) const BPF_COMMANDS: &[u64] = &[
    0,  // BPF_MAP_CREATE
    5,  // BPF_PROG_LOAD
    6,  // BPF_OBJ_PIN
    8,  // BPF_PROG_ATTACH
    9,  // BPF_PROG_DETACH
    10, // BPF_PROG_TEST_RUN
    18, // BPF_BTF_LOAD
    28, // BPF_LINK_CREATE
    29, // BPF_LINK_UPDATE
    34, // BPF_LINK_DETACH
    35, // BPF_PROG_BIND_MAP
    36, // BPF_TOKEN_CREATE
];

/// Every call that is denied whatever its arguments.
pub(super) fn calls() -> Vec<c_long> {
    let families = [PROCESSES, KERNEL, MOUNTS, NAMESPACES, HOST, RINGS, ARCHITECTURE];
    let mut calls: Vec<c_long> = families.concat();
    #[cfg(target_arch = "x86_64")]
    {
        let other: Vec<c_long> = calls.iter().chain(X32).map(|call| call | X32_BIT).collect();
        calls.extend(other);
    }
    calls
}

/// The numbers of a call that is judged by its arguments.
pub(super) fn numbers(call: c_long) -> Vec<c_long> {
    #[cfg(target_arch = "x86_64")]
    return vec![call, call | X32_BIT];
    #[cfg(not(target_arch = "x86_64"))]
    return vec![call];
}
