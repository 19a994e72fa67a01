//! Records of the family `kernel`: `abi/kernel.h`.

use super::layout::{self, record};
use super::{AbiError, FieldLayout, Layout};

/// A module loaded.
pub const KIND_MODULE_LOAD: u16 = 96;
/// A module removed.
pub const KIND_MODULE_UNLOAD: u16 = 97;
/// bpf(2) that changes something.
pub const KIND_BPF: u16 = 98;
/// A file system mounted, or a step of it.
pub const KIND_MOUNT: u16 = 99;
/// A file system unmounted.
pub const KIND_UMOUNT: u16 = 100;
/// setns(2).
pub const KIND_SETNS: u16 = 101;
/// unshare(2) of namespaces.
pub const KIND_UNSHARE: u16 = 102;
/// A process made in namespaces of its own.
pub const KIND_CLONE: u16 = 103;
/// chroot(2).
pub const KIND_CHROOT: u16 = 104;
/// pivot_root(2).
pub const KIND_PIVOT_ROOT: u16 = 105;
/// Another kernel loaded.
pub const KIND_KEXEC: u16 = 106;
/// The clock set or steered.
pub const KIND_CLOCK: u16 = 107;
/// io_uring set up.
pub const KIND_URING: u16 = 108;
/// A 32-bit program executed.
pub const KIND_COMPAT: u16 = 109;
/// The host's name or its NIS domain's set.
pub const KIND_HOST_NAME: u16 = 110;

record! {
    /// `kernel_record`: something asked of the kernel.
    pub struct KernelRecord("kernel_record", 352) {
        time_ns: u64 = 0, "act.head.time_ns";
        kind: u16 = 8, "act.head.kind";
        flags: u16 = 10, "act.head.flags";
        act_flags: u64 = 104, "flags";
        value: u64 = 112, "value";
        command: u32 = 120, "command";
    }
}

const NAME: FieldLayout = FieldLayout {
    name: "name",
    offset: 128,
    size: 64,
};
const PATH: FieldLayout = FieldLayout {
    name: "path",
    offset: 192,
    size: 128,
};
const DETAIL: FieldLayout = FieldLayout {
    name: "detail",
    offset: 320,
    size: 32,
};
const TEXTS: Layout = Layout {
    name: "kernel_record",
    size: KernelRecord::SIZE,
    fields: &[NAME, PATH, DETAIL],
};

impl KernelRecord {
    /// Name of a module or program, source of a mount, name that the host is given.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn name(bytes: &[u8]) -> Result<&[u8], AbiError> {
        layout::tail(bytes, NAME.offset, NAME.size)
    }

    /// Path mounted at, pinned at, or of a program.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn path(bytes: &[u8]) -> Result<&[u8], AbiError> {
        layout::tail(bytes, PATH.offset, PATH.size)
    }

    /// Type of a file system.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn detail(bytes: &[u8]) -> Result<&[u8], AbiError> {
        layout::tail(bytes, DETAIL.offset, DETAIL.size)
    }
}

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[KernelRecord::LAYOUT, TEXTS];

/// Reads bytes as a record.
///
/// # Errors
/// When they are fewer than it has, or of a kind that is not known.
pub fn read(bytes: &[u8]) -> Result<KernelRecord, AbiError> {
    match super::kind_of(bytes)? {
        KIND_MODULE_LOAD..=KIND_HOST_NAME => KernelRecord::parse(bytes),
        other => Err(AbiError::Kind(other)),
    }
}

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    super::check_act(bytes, read)
}
