//! Acts that the critical lane has to tell, each different from the one before, so that none counts as its repeat.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::unistd::{Gid, chroot, geteuid, setresgid};

/// Groups that are taken in turn: numbers that Debian gives to nobody.
const GROUPS_FROM: u32 = 61_184;

/// Does the acts and counts them.
#[derive(Debug)]
pub(super) struct Acts {
    root: bool,
    credential: u32,
    kernel: u32,
}

impl Acts {
    pub(super) fn new() -> Self {
        Self {
            root: geteuid().is_root(),
            credential: 0,
            kernel: 0,
        }
    }

    /// The next act: an attempt at another root, or, of root, by turns the effective group of another.
    pub(super) fn one(&mut self) -> Result<()> {
        if self.root && self.credential < self.kernel {
            let group = Gid::from_raw(GROUPS_FROM + self.credential);
            setresgid(Gid::from_raw(0), group, Gid::from_raw(0)).context("change the group")?;
            self.credential += 1;
            return Ok(());
        }
        // Equal are those whose first 32 letters are. There is no such folder, so that everybody may try.
        let folder = format!("/fleetmend-{:06}", self.kernel);
        match chroot(folder.as_str()) {
            Err(Errno::ENOENT) => self.kernel += 1,
            other => bail!("change the root to {folder}, which should not exist: {other:?}"),
        }
        Ok(())
    }

    /// Changes of credentials, and attempts at another root.
    pub(super) fn done(&self) -> (u32, u32) {
        (self.credential, self.kernel)
    }
}
