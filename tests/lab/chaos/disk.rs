//! Small disks that can be filled: an ext4 in a file where loop devices are, a tmpfs where they are not.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};

/// The small spool's disk.
const SMALL_MIB: u64 = 24;
/// The collector's: its reserve of 64 MiB, and what it writes.
const STORE_MIB: u64 = 2_048;
const FILLER: &str = "filler";
/// What the filler grows by at first, and in the end.
const PIECE_BYTES: std::ops::RangeInclusive<i64> = 4_096..=64 << 20;

/// A mounted disk; it is unmounted when dropped.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    kind: &'static str,
}

impl Disk {
    /// A disk for a spool at `folder`; none where nothing may be mounted.
    pub(super) fn small(folder: &Path) -> Result<Option<Self>> {
        Self::mount(folder, SMALL_MIB)
    }

    /// A disk for the collector at `folder`; none where nothing may be mounted.
    pub(super) fn store(folder: &Path) -> Result<Option<Self>> {
        Self::mount(folder, STORE_MIB)
    }

    fn mount(folder: &Path, mib: u64) -> Result<Option<Self>> {
        std::fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
        let image = folder.with_extension("ext4");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .context("make a disk image")?;
        let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
            let status = Command::new(program)
                .args(arguments)
                .args(paths)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            status.is_ok_and(|status| status.success())
        };
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&image])
            && run("mount", &["-o", "loop"], &[&image, folder]);
        let kind = if made {
            "ext4"
        } else if run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"],
            &[folder],
        ) {
            "tmpfs"
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            folder: folder.to_owned(),
            kind,
        }))
    }

    /// Where it is mounted.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its filesystem.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Takes every block that is left; returns the bytes.
    pub(super) fn fill(&self) -> Result<i64> {
        let file = std::fs::File::create(self.folder.join(FILLER)).context("make the filler")?;
        let (mut bytes, mut piece) = (0, *PIECE_BYTES.end());
        while piece >= *PIECE_BYTES.start() {
            match fallocate(file.as_fd(), FallocateFlags::empty(), bytes, piece) {
                Ok(()) => bytes += piece,
                Err(_) => piece /= 2,
            }
        }
        Ok(bytes)
    }

    /// Takes the filler away.
    pub(super) fn free(&self) -> Result<()> {
        std::fs::remove_file(self.folder.join(FILLER)).context("remove the filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            super::progress(format!("{} stays mounted: {error}", self.folder.display()));
        }
    }
}
