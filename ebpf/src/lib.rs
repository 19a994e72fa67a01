//! The kernel's half of the sensor: one CO-RE object per probe family, and the records that they write.
//!
//! Each family is a C file of its own (`process.bpf.c`, `network.bpf.c`) compiled by the build script into an
//! object that loads on any kernel with BTF, because every access to a kernel struct is moved to that kernel's
//! layout at load time. A kernel that refuses one object still runs the others.
//!
//! Invariants:
//! - an object has a ring `RING`, per-CPU counters `COUNTS` (indexes in [`abi::Counter`]) and programs whose
//!   section names their tracepoint; [`Family::programs`] lists them;
//! - an event is counted as seen exactly once, and then as delivered or as lost;
//! - records are little-endian, have no implicit padding, and are read by [`abi`] field by field: bytes that are
//!   too short or of an unknown kind are an error, never a panic;
//! - [`abi::VERSION`] changes with any layout.
//!
//! The C files and their objects are GPL-2.0-only (see `LICENSE` here), the rest is Apache-2.0.
//! Nothing here runs: loading and draining are the agent's (`agent-collect`).

pub mod abi;

/// Bytes that start on an eight-byte boundary, as an ELF parser wants them.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PROCESS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/process.bpf.o")));
static NETWORK: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/network.bpf.o")));

/// A group of probes that is loaded, and refused, as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Exec, fork and exit of processes.
    Process,
    /// Connect, listen, accept and close of TCP sockets.
    Network,
}

/// A program of an object and the tracepoint it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Name of the program in the object.
    pub program: &'static str,
    /// Name of the kernel's tracepoint.
    pub tracepoint: &'static str,
}

impl Family {
    /// Every family.
    pub const ALL: &'static [Family] = &[Family::Process, Family::Network];

    /// The word that stands for the family in status rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Process => "process",
            Family::Network => "network",
        }
    }

    /// The compiled object.
    pub fn object(self) -> &'static [u8] {
        match self {
            Family::Process => &PROCESS.0,
            Family::Network => &NETWORK.0,
        }
    }

    /// The programs of the object.
    pub const fn programs(self) -> &'static [Probe] {
        match self {
            Family::Process => &[
                Probe {
                    program: "on_exec",
                    tracepoint: "sched_process_exec",
                },
                Probe {
                    program: "on_fork",
                    tracepoint: "sched_process_fork",
                },
                Probe {
                    program: "on_exit",
                    tracepoint: "sched_process_exit",
                },
            ],
            Family::Network => &[Probe {
                program: "on_state",
                tracepoint: "inet_sock_set_state",
            }],
        }
    }
}
