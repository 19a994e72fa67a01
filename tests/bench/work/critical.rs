//! Acts that the critical lane has to tell, each different from the one before, so that none counts as its repeat.

use std::ffi::CString;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, geteuid, setresgid};

/// Groups that are taken in turn: numbers that Debian gives to nobody.
const GROUPS_FROM: u32 = 61_184;

/// Does the acts and counts them.
#[derive(Debug)]
pub(super) struct Acts {
    root: bool,
    credential: u32,
    memory: u32,
}

impl Acts {
    pub(super) fn new() -> Self {
        Self {
            root: geteuid().is_root(),
            credential: 0,
            memory: 0,
        }
    }

    /// The next act: a file in memory, or, of root, by turns the effective group of another.
    pub(super) fn one(&mut self) -> Result<()> {
        if self.root && self.credential < self.memory {
            let group = Gid::from_raw(GROUPS_FROM + self.credential);
            setresgid(Gid::from_raw(0), group, Gid::from_raw(0)).context("change the group")?;
            self.credential += 1;
            return Ok(());
        }
        let name =
            CString::new(format!("fleetmend-bench-{}", self.memory)).context("name a file in memory")?;
        memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC).context("make a file in memory")?;
        self.memory += 1;
        Ok(())
    }

    /// Changes of credentials, and files in memory.
    pub(super) fn done(&self) -> (u32, u32) {
        (self.credential, self.memory)
    }
}
