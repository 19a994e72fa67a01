//! The shim that gives a process a wall clock and a boot of its own; `clock.c` is what it is made of.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use fleetmend_event::TimeMicros;
use nix::time::{ClockId, clock_gettime};

/// The compiled shim.
#[derive(Debug)]
pub(super) struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it into `folder`; none where there is no C compiler.
    pub(super) fn build(folder: &Path) -> Result<Option<Self>> {
        let source = folder.join("clock.c");
        std::fs::write(&source, include_str!("clock.c")).context("write the shim's source")?;
        let library = folder.join("clock.so");
        for compiler in ["cc", "clang"] {
            let built = Command::new(compiler)
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .args([&library, &source])
                .stdin(Stdio::null())
                .status();
            if built.is_ok_and(|status| status.success()) {
                return Ok(Some(Self { library }));
            }
        }
        Ok(None)
    }

    /// What goes into `LD_PRELOAD`.
    pub(super) fn library(&self) -> &Path {
        &self.library
    }
}

/// The boot clock, microseconds. The shim leaves it alone.
pub(super) fn boot_us() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("read the boot clock")?;
    Ok(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

/// When this machine's boot clock stood at zero by its wall clock, which is that of the collector.
pub(super) fn zero_us() -> Result<i64> {
    Ok(TimeMicros::now().0 - boot_us()?)
}
