//! The root file system of a virtual machine, held in memory: our init, the tests, and what they run.
//!
//! Programs are this machine's own, with the libraries that the loader names for them; the shell of the init is
//! `busybox-static`. The archive is a cpio of the `newc` format, as `Documentation/driver-api/early-userspace/
//! buffer-format.rst` of the kernel has it, not compressed: an emulated processor would unpack it slowly.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use super::suite::Suite;
use crate::step::{command, run};
use crate::{layout, setup};
use archive::Archive;

const INIT: &str = include_str!("init.sh");
/// Longest run of one test in an emulated machine.
const TEST_SECONDS: u32 = 300;
/// Programs of this machine that tests start; the init's own are busybox's.
const PROGRAMS: &[&str] = &[
    "sh", "bash", "true", "false", "sleep", "cat", "cp", "mv", "rm", "ln", "touch", "chmod", "chown", "id",
    "env", "ls", "dd", "setpriv", "unshare", "nsenter", "readlink", "mount", "umount", "kill", "timeout",
    "ip", "prlimit", "perl", "su",
];
/// Folders that are links on a Debian host.
const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// Makes the archive for `kernel`; gives its path.
pub(crate) fn make(name: &str, kernel: &Kernel, suites: &[Suite], filter: Option<&str>) -> Result<PathBuf> {
    let path = layout::cache()?.join("kernels").join(format!("{name}.cpio"));
    let file = fs::File::create(&path).with_context(|| format!("write {}", path.display()))?;
    let mut archive = Archive::new(file);
    for (link, target) in LINKS {
        archive.folder(target)?;
        archive.link(link, target)?;
    }
    archive.file("init", INIT.as_bytes(), 0o755)?;
    // The first process has no other console before /dev is mounted.
    archive.folder("dev")?;
    archive.console()?;
    for (name, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/shadow", "root:*:19000:0:99999:7:::\n"),
        ("etc/hostname", "fleetmend-matrix\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/os-release", "ID=debian\nNAME=\"Debian GNU/Linux\"\n"),
        ("etc/machine-id", "00000000000000000000000000000001\n"),
    ] {
        archive.file(name, text.as_bytes(), 0o644)?;
    }
    let busybox = setup::unpacked_folder("busybox-static")?.join("bin/busybox");
    archive.copy(&busybox, "usr/bin/busybox")?;
    for program in PROGRAMS {
        add_program(&mut archive, program)?;
    }
    add_tests(&mut archive, suites, filter)?;
    for module in kernel.modules() {
        let name = module.file_name().context("name a module")?.to_string_lossy();
        archive.copy(&module, &format!("usr/lib/modules/{}/{name}", kernel.version))?;
    }
    archive.finish()?;
    Ok(path)
}

fn add_tests(archive: &mut Archive, suites: &[Suite], filter: Option<&str>) -> Result<()> {
    let mut list = String::new();
    for suite in suites {
        let stripped = layout::cache()?
            .join("kernels")
            .join(format!("{}.stripped", suite.package));
        run(command("strip", &["-o"]).arg(&stripped).arg(&suite.program))?;
        archive.copy(&stripped, &format!("tests/{}", suite.package))?;
        for library in libraries(&suite.program)? {
            archive.tree_file(&library)?;
        }
        list.push_str(&format!("{} {}\n", suite.package, suite.filter));
    }
    let filter = filter.unwrap_or_default();
    if filter.contains(['\'', '\n']) {
        bail!("a filter is part of a test's name: {filter:?} cannot be");
    }
    let environment = format!("FILTER='{filter}'\nTEST_SECONDS={TEST_SECONDS}\n");
    archive.file("tests/environment", environment.as_bytes(), 0o644)?;
    archive.file("tests/suites", list.as_bytes(), 0o644)
}

/// A program of this machine with its libraries.
fn add_program(archive: &mut Archive, name: &str) -> Result<()> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = folders
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    let path = found
        .with_context(|| format!("find the program {name}, which tests in the virtual machine start"))?;
    archive.tree_file(&path)?;
    for library in libraries(&path)? {
        archive.tree_file(&library)?;
    }
    Ok(())
}

/// The libraries that the loader finds for a program, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let head = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    if !head.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let told = Command::new("ldd").arg(program).output().context("start ldd")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    if told.contains("not found") {
        bail!("{} lacks libraries:\n{told}", program.display());
    }
    let words = told.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
