//! Names of system calls by architecture. The tables lie beside this file and say where they are from.

use std::collections::HashMap;
use std::sync::LazyLock;

/// `arch=` of a record: the ELF machine, with bits for 64 bits and little endian (include/uapi/linux/audit.h).
const X86_64: &str = "c000003e";
const AARCH64: &str = "c00000b7";
const I386: &str = "40000003";
const ARM: &str = "40000028";

static X86_64_NAMES: LazyLock<HashMap<u32, &str>> = LazyLock::new(|| read(include_str!("syscalls/x86_64")));
static AARCH64_NAMES: LazyLock<HashMap<u32, &str>> = LazyLock::new(|| read(include_str!("syscalls/aarch64")));
static I386_NAMES: LazyLock<HashMap<u32, &str>> = LazyLock::new(|| read(include_str!("syscalls/i386")));

/// On x86-64 the numbers of x32 have this bit set.
const X32_BIT: u32 = 0x4000_0000;

/// The calls of one architecture.
#[derive(Clone, Copy)]
pub(super) struct Table(&'static HashMap<u32, &'static str>);

impl Table {
    /// The table of an `arch=` value; 32-bit ARM has none here.
    pub(super) fn of(arch: &str) -> Option<Self> {
        match arch {
            X86_64 | "x86_64" => Some(Self(&X86_64_NAMES)),
            AARCH64 | "aarch64" => Some(Self(&AARCH64_NAMES)),
            I386 | "i386" => Some(Self(&I386_NAMES)),
            _ => None,
        }
    }

    pub(super) fn name(self, number: u32) -> Option<&'static str> {
        self.0.get(&(number & !X32_BIT)).copied()
    }
}

/// What `arch=` means, for a person.
pub(super) fn architecture(arch: &str) -> Option<&'static str> {
    Some(match arch {
        X86_64 => "x86_64",
        AARCH64 => "aarch64",
        I386 => "i386",
        ARM => "arm",
        _ => return None,
    })
}

/// `number name` a line, comments begin with `#`.
fn read(text: &'static str) -> HashMap<u32, &'static str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(number, name)| Some((number.parse().ok()?, name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_whole_and_agree_with_the_kernels_headers() {
        for (arch, least) in [(X86_64, 370), (AARCH64, 310), (I386, 440)] {
            let table = Table::of(arch).unwrap();
            assert!(table.0.len() >= least, "{arch}: {}", table.0.len());
            assert_eq!(table.name(452), Some("fchmodat2"), "{arch}");
        }
        #[cfg(target_arch = "x86_64")]
        let own = Table::of(X86_64).unwrap();
        #[cfg(target_arch = "aarch64")]
        let own = Table::of(AARCH64).unwrap();
        for (number, name) in [
            (libc::SYS_execve, "execve"),
            (libc::SYS_openat, "openat"),
            (libc::SYS_connect, "connect"),
            (libc::SYS_finit_module, "finit_module"),
            (libc::SYS_memfd_create, "memfd_create"),
            (libc::SYS_openat2, "openat2"),
        ] {
            assert_eq!(own.name(u32::try_from(number).unwrap()), Some(name));
        }
    }
}
