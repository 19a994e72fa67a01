//! Writes a cpio archive of the `newc` format.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major and minor number of /dev/console.
const CONSOLE: (u32, u32) = (5, 1);
const TRAILER: &str = "TRAILER!!!";

/// An archive that is written; every name once, the folders of a name before it.
pub(super) struct Archive<W: Write = BufWriter<File>> {
    to: W,
    names: HashSet<String>,
    inode: u32,
}

impl Archive {
    /// An empty one.
    pub(super) fn new(file: File) -> Self {
        Self::into_writer(BufWriter::new(file))
    }
}

impl<W: Write> Archive<W> {
    fn into_writer(to: W) -> Self {
        Self {
            to,
            names: HashSet::new(),
            inode: 0,
        }
    }

    /// A folder, with those that it lies in.
    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || self.names.contains(name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.entry(name, FOLDER, &[], (0, 0))
    }

    /// A file with these bytes.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.above(name)?;
        self.entry(name, REGULAR | mode, bytes, (0, 0))
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.above(name)?;
        self.entry(name, LINK, target.as_bytes(), (0, 0))
    }

    /// /dev/console, which the first process is given.
    pub(super) fn console(&mut self) -> Result<()> {
        self.entry("dev/console", CHARACTER_DEVICE, &[], CONSOLE)
    }

    /// A file of this machine under another name, executable when it is.
    pub(super) fn copy(&mut self, path: &Path, name: &str) -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mode = path
            .metadata()
            .with_context(|| format!("look at {}", path.display()))?
            .permissions()
            .mode();
        self.file(name, &bytes, mode & 0o4755)
    }

    /// A file of this machine where it lies, with the links that lead to it.
    pub(super) fn tree_file(&mut self, path: &Path) -> Result<()> {
        let folder = path.parent().context("find the folder of a file")?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("look at {}", folder.display()))?;
        let real = folder.join(path.file_name().context("name a file")?);
        let name = in_archive(&real);
        if self.names.contains(&name) {
            return Ok(());
        }
        let Ok(target) = fs::read_link(&real) else {
            return self.copy(&real, &name);
        };
        self.link(&name, &target.to_string_lossy())?;
        self.tree_file(&folder.join(target))
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        self.entry(TRAILER, 0, &[], (0, 0))?;
        self.to.flush().context("write the archive")
    }

    fn above(&mut self, name: &str) -> Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8], device: (u32, u32)) -> Result<()> {
        if !self.names.insert(name.to_owned()) {
            return Ok(());
        }
        let size =
            |len: usize| u32::try_from(len).with_context(|| format!("{name} is too large for the archive"));
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            size(bytes.len())?,
            0,
            0,
            device.0,
            device.1,
            size(name.len() + 1)?,
            0,
        ];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08X}"));
        }
        head.push_str(name);
        head.push('\0');
        self.padded(head.as_bytes())?;
        self.padded(bytes)
    }

    /// Header and contents each end on a multiple of four bytes.
    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        let padding = [0; 3];
        let missing = (4 - bytes.len() % 4) % 4;
        let written = self
            .to
            .write_all(bytes)
            .and_then(|()| self.to.write_all(padding.get(..missing).unwrap_or_default()));
        written.context("write the archive")
    }
}

/// The name in the archive, where the folders that are links on a Debian host are links too.
fn in_archive(path: &Path) -> String {
    let name = path.to_string_lossy().trim_start_matches('/').to_owned();
    let first = name.split('/').next().unwrap_or_default();
    if matches!(first, "bin" | "sbin" | "lib" | "lib64") {
        format!("usr/{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn archive_is_what_cpio_reads() {
        let folder = std::env::temp_dir().join(format!("fleetmend-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("archive");
        let mut archive = Archive::new(File::create(&path).unwrap());
        archive.file("a/b/hello", b"hello", 0o755).unwrap();
        archive.link("c", "a/b").unwrap();
        archive.folder("a/b").unwrap();
        archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let names: Vec<String> = entries(&bytes);
        assert_eq!(names, ["a", "a/b", "a/b/hello", "c", TRAILER]);
    }

    /// Reads the names back by the lengths that the headers tell.
    fn entries(bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let from = at + 6 + index * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 110 + name - 1].to_vec()).unwrap());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        names
    }

    #[test]
    fn folders_that_are_links_are_not_filled_twice() {
        assert_eq!(in_archive(&PathBuf::from("/lib64/ld.so")), "usr/lib64/ld.so");
        assert_eq!(in_archive(&PathBuf::from("/usr/bin/true")), "usr/bin/true");
    }
}
