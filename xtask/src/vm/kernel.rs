//! Stock kernels of Debian's suites, by apt itself with a configuration of our own: nothing is installed, and the
//! machine's own sources, lists and packages stay as they are.
//!
//! The mirror is the one that apt is configured with. What a suite offers changes with its point releases, so the
//! newest is taken once and kept; which one it was stands beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout;
use crate::step::{command, output, run, step};

/// Verifies what the suites offer; kept by apt's own package.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the newest kernel of its suite.
const META_PACKAGE: &str = "linux-image-amd64";
/// Modules that tests load, each without one that it would need before: a network device that leads nowhere, and
/// what tells the sockets through netlink.
const MODULES: [&str; 4] = ["dummy", "inet_diag", "tcp_diag", "udp_diag"];

/// A kernel of the matrix.
#[derive(Debug)]
pub(crate) struct Release {
    /// Name in the matrix: the kernel's major and minor number.
    pub(crate) name: &'static str,
    /// Debian's suite that carries it.
    suite: &'static str,
}

/// A kernel that lies ready.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called by itself.
    pub(crate) version: String,
    folder: PathBuf,
}

impl Release {
    /// Oldest first.
    pub(crate) const ALL: [Release; 3] = [
        Release {
            name: "5.10",
            suite: "bullseye",
        },
        Release {
            name: "6.1",
            suite: "bookworm",
        },
        Release {
            name: "6.12",
            suite: "trixie",
        },
    ];

    /// The kernel of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Release> {
        const ALL: &[Release] = &Release::ALL;
        ALL.iter().find(|release| release.name == name)
    }

    /// The kernel, downloaded when it is not there.
    pub(crate) fn fetch(&self, refresh: bool) -> Result<Kernel> {
        let folder = layout::cache()?.join("kernels").join(self.name);
        if !refresh && let Ok(version) = fs::read_to_string(folder.join("version")) {
            return Ok(Kernel { version, folder });
        }
        step(
            &format!("fetch kernel {} of {} (55 to 110 MB)", self.name, self.suite),
            || self.download(&folder),
        )
    }

    fn download(&self, folder: &Path) -> Result<Kernel> {
        let partial = folder.with_extension("partial");
        remove(&partial)?;
        let apt = Apt::new(&partial.join("apt"), self.suite)?;
        run(&mut apt.get(&["update", "--quiet=2"]))
            .with_context(|| format!("read what {} offers", self.suite))?;
        let package = apt.newest_kernel()?;
        run(apt
            .get(&["download", "--quiet=2", &package])
            .current_dir(&partial))
        .with_context(|| format!("download {package}"))?;
        let archive = with_extension(&partial, "deb")?;
        let tree = partial.join("tree");
        run(command("dpkg-deb", &["--extract"]).arg(&archive).arg(&tree))?;
        let version = keep(&tree, &partial)?;
        fs::write(partial.join("package"), &package).context("note the package")?;
        fs::write(partial.join("version"), &version).context("note the version")?;
        for done in [&tree, &partial.join("apt")] {
            remove(done)?;
        }
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        remove(folder)?;
        fs::rename(&partial, folder).with_context(|| format!("move {} into place", partial.display()))?;
        Ok(Kernel {
            version,
            folder: folder.to_path_buf(),
        })
    }
}

impl Kernel {
    /// The image that is booted.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Its modules that were kept, not compressed.
    pub(crate) fn modules(&self) -> Vec<PathBuf> {
        MODULES
            .iter()
            .map(|name| self.folder.join("modules").join(format!("{name}.ko")))
            .filter(|path| path.exists())
            .collect()
    }
}

/// Moves the image and the modules out of the package's tree; gives the kernel's version.
fn keep(tree: &Path, to: &Path) -> Result<String> {
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))?;
    let image = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with("vmlinuz-"))
        .with_context(|| format!("find an image in {}", boot.display()))?;
    fs::rename(boot.join(&image), to.join("vmlinuz")).context("keep the image")?;
    let version = image.trim_start_matches("vmlinuz-").to_owned();
    let modules = to.join("modules");
    fs::create_dir_all(&modules).with_context(|| format!("create {}", modules.display()))?;
    let find = |name: &str| {
        let pattern = format!("{name}.ko*");
        output(
            command("find", &[])
                .arg(tree)
                .args(["-type", "f", "-name", &pattern]),
        )
    };
    for name in MODULES {
        let found = find(name)?;
        let Some(path) = found.lines().next() else {
            bail!("kernel {version} has no module {name}");
        };
        let kept = modules.join(Path::new(path).file_name().context("name a module")?);
        fs::rename(path, &kept).with_context(|| format!("keep {path}"))?;
        if kept.extension().is_some_and(|extension| extension == "xz") {
            run(command("xz", &["--decompress"]).arg(&kept))?;
        }
    }
    Ok(version)
}

fn with_extension(folder: &Path, extension: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("find a .{extension} in {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// apt with lists, cache and sources of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let sources = folder.join("sources.list");
        let line = format!("deb {signed}{} {suite} main\n", mirror()?);
        fs::write(&sources, line).with_context(|| format!("write {}", sources.display()))?;
        let status = folder.join("status");
        fs::write(&status, "").with_context(|| format!("write {}", status.display()))?;
        let set = |key: &str, value: &Path| format!("{key}={}", value.display());
        let mut options = vec![
            set("Dir::State", &folder.join("state")),
            set("Dir::State::status", &status),
            set("Dir::Cache", &folder.join("cache")),
            set("Dir::Etc::sourcelist", &sources),
            "Dir::Etc::sourceparts=-".to_owned(),
            // The lists lie in the user's own folder, where apt's own user may not look.
            "APT::Sandbox::User=".to_owned(),
        ];
        if crate::setup::is_root() {
            options.pop();
            options.push("APT::Sandbox::User=root".to_owned());
        }
        Ok(Self { options })
    }

    fn with_options(&self, program: &str, arguments: &[&str]) -> Command {
        let mut apt = command(program, arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        for option in &self.options {
            apt.args(["-o", option]);
        }
        apt
    }

    fn get(&self, arguments: &[&str]) -> Command {
        self.with_options("apt-get", arguments)
    }

    /// Name and version of the package of the newest kernel, as the meta package depends on it.
    fn newest_kernel(&self) -> Result<String> {
        let shown =
            output(&mut self.with_options("apt-cache", &["show", "--no-all-versions", META_PACKAGE]))?;
        let depends = shown
            .lines()
            .find_map(|line| line.strip_prefix("Depends:"))
            .with_context(|| format!("find on what {META_PACKAGE} depends"))?;
        pinned(depends).with_context(|| format!("read {depends:?}"))
    }
}

/// `linux-image-6.1.0-1-amd64 (= 6.1.2-3)` as apt wants it: name and version.
fn pinned(depends: &str) -> Option<String> {
    let first = depends.split(',').next()?.trim();
    let (name, version) = first.split_once(" (= ")?;
    Some(format!("{name}={}", version.trim_end_matches(')')))
}

/// The mirror of Debian that apt is configured with.
fn mirror() -> Result<String> {
    let targets = || {
        let format = "$(LABEL) $(COMPONENT) $(REPO_URI)";
        output(&mut command(
            "apt-get",
            &["indextargets", "--format", format, "Created-By: Packages"],
        ))
    };
    let find = |targets: &str| {
        targets
            .lines()
            .find_map(|line| line.strip_prefix("Debian main "))
            .map(str::to_owned)
    };
    if let Some(found) = find(&targets()?) {
        return Ok(found);
    }
    // Without lists apt cannot tell whose a source is.
    run(&mut command("apt-get", &["update", "--quiet=2"])).context("read what apt's sources offer")?;
    find(&targets()?)
        .context("find a mirror of Debian in apt's sources: the matrix takes its kernels from there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_is_named_with_its_version() {
        let depends = " linux-image-6.1.0-1-amd64 (= 6.1.2-3), other";
        assert_eq!(
            pinned(depends).as_deref(),
            Some("linux-image-6.1.0-1-amd64=6.1.2-3")
        );
        assert_eq!(pinned("linux-image"), None);
    }
}
