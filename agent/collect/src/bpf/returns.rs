//! The two ways to see the return of a call: at the kernel's function for it, for which other calls pay nothing, and at
//! the call's tracepoint (`docs/adr/0010-exits-of-calls.md`).

/// At the return of the kernel's function.
pub(super) const FUNCTION: &str = "return of the kernel's function";
/// At the tracepoint of the return.
pub(super) const CALL: &str = "return of the call";

/// Hooks at the tracepoints of returns: `[new "PROGRAM" at "CALL", optional …]`. Without a `new` one the way does not
/// serve.
macro_rules! exits {
    ($($need:ident $program:literal at $call:literal),+ $(,)?) => {
        &[$($crate::bpf::spec::Hook::$need(
            concat!($program, "_exit"),
            $crate::bpf::spec::At::Tracepoint("syscalls", concat!("sys_exit_", $call)),
        )),+]
    };
}
pub(super) use exits;

/// Both ways for the programs that `SYSCALL_PROGRAMS` of `probe.h` makes, the calls as in [`exits`].
macro_rules! returns {
    ($($need:ident $program:literal at $call:literal),+ $(,)?) => {
        &[
            $crate::bpf::spec::Way {
                name: $crate::bpf::returns::FUNCTION,
                hooks: &[$($crate::bpf::spec::Hook::$need(
                    concat!($program, "_fexit"),
                    $crate::bpf::spec::At::Fexit(concat!("__x64_sys_", $call)),
                )),+],
            },
            $crate::bpf::spec::Way {
                name: $crate::bpf::returns::CALL,
                hooks: $crate::bpf::returns::exits!($($need $program at $call),+),
            },
        ]
    };
}
pub(super) use returns;
