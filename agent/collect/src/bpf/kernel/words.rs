//! Numbers of the kernel as its headers name them.

/// `enum bpf_prog_type` of linux/bpf.h, by number, without its prefix.
const PROGRAM_TYPES: &[&str] = &[
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

/// Clocks of linux/time.h by number.
const CLOCKS: &[&str] = &["realtime", "monotonic"];

/// The type of a BPF program.
pub(super) fn program_type(number: u64) -> String {
    word(PROGRAM_TYPES, number)
}

/// A clock that is set.
pub(super) fn clock(number: u64) -> String {
    word(CLOCKS, number)
}

/// A command of bpf(2) that changes something.
pub(super) fn bpf_command(number: u32) -> String {
    let name = match number {
        5 => "BPF_PROG_LOAD",
        6 => "BPF_OBJ_PIN",
        8 => "BPF_PROG_ATTACH",
        9 => "BPF_PROG_DETACH",
        17 => "BPF_RAW_TRACEPOINT_OPEN",
        28 => "BPF_LINK_CREATE",
        29 => "BPF_LINK_UPDATE",
        34 => "BPF_LINK_DETACH",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// The kinds of namespaces among the flags of clone(2), as /proc/PID/ns names them.
pub(super) fn namespaces(flags: u64) -> Option<String> {
    const KINDS: &[(i32, &str)] = &[
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (0x80, "time"),
    ];
    let named: Vec<&str> = KINDS
        .iter()
        .filter(|(flag, _)| flags & u64::from(flag.unsigned_abs()) != 0)
        .map(|(_, name)| *name)
        .collect();
    (!named.is_empty()).then(|| named.join(" "))
}

fn word(words: &[&str], number: u64) -> String {
    let found = usize::try_from(number).ok().and_then(|at| words.get(at));
    found.map_or_else(|| number.to_string(), |word| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_words_of_the_headers() {
        assert_eq!(program_type(26), "tracing");
        assert_eq!(program_type(32), "netfilter");
        assert_eq!(program_type(999), "999");
        assert_eq!(clock(0), "realtime");
        let flags = u64::from((libc::CLONE_NEWNS | libc::CLONE_NEWUSER).unsigned_abs());
        assert_eq!(namespaces(flags | 17).as_deref(), Some("user mnt"));
        assert_eq!(namespaces(17), None);
    }
}
