//! The tree of one package before it becomes one, and its control files.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::contents::{File, Kind, Package};
use crate::layout;
use crate::step::{command, output, run};

const MAINTAINER: &str = "Fleetmend maintainers <maintainers@fleetmend.example>";
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// An empty tree in place of what a broken build left.
    pub(super) fn new(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
        }
        make_folder(root)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.root).with_context(|| format!("remove {}", self.root.display()))
    }

    pub(super) fn add(&self, file: &File) -> Result<()> {
        let target = self.root.join(file.target.trim_start_matches('/'));
        match file.kind {
            Kind::Folder => copy_folder(&file.source, &target),
            Kind::Manual => compress(&file.source, &target),
            Kind::Program => {
                copy(&file.source, &target, 0o755)?;
                run(command("strip", &["--strip-unneeded"]).arg(&target))
            }
            Kind::Library | Kind::Data | Kind::Configuration => copy(&file.source, &target, 0o644),
        }
    }

    /// Copyright and changelog, where Debian looks for them.
    pub(super) fn documents(&self, name: &str) -> Result<()> {
        let folder = self.root.join("usr/share/doc").join(name);
        copy(&packaging("deb/copyright"), &folder.join("copyright"), 0o644)?;
        compress(&packaging("deb/changelog"), &folder.join("changelog.gz"))?;
        let overrides = packaging(&format!("deb/{name}.lintian-overrides"));
        if overrides.exists() {
            copy(
                &overrides,
                &self.root.join("usr/share/lintian/overrides").join(name),
                0o644,
            )?;
        }
        Ok(())
    }

    /// The packages whose shared libraries the programs load, as dpkg-shlibdeps finds them.
    pub(super) fn shared_libraries(&self, name: &str, architecture: &str) -> Result<String> {
        // It insists on a source package around it.
        let around = self.root.with_extension("shlibdeps");
        make_folder(&around.join("debian"))?;
        let control = format!("Source: {name}\n\nPackage: {name}\nArchitecture: {architecture}\n");
        fs::write(around.join("debian/control"), control)
            .context("write a control file for dpkg-shlibdeps")?;
        let mut find = command("dpkg-shlibdeps", &["-O", "--ignore-missing-info"]);
        find.current_dir(&around);
        for program in self.files()?.iter().filter(|path| is_elf(path)) {
            find.arg("-e").arg(program);
        }
        let found = output(&mut find)?;
        fs::remove_dir_all(&around).context("remove the folder of dpkg-shlibdeps")?;
        Ok(found.trim_start_matches("shlibs:Depends=").to_owned())
    }

    /// Everything below DEBIAN: control, conffiles, md5sums, scripts.
    pub(super) fn metadata(
        &self,
        package: &Package,
        version: &str,
        architecture: &str,
        libraries: &str,
    ) -> Result<()> {
        let folder = self.root.join("DEBIAN");
        let (mut sums, mut bytes) = (String::new(), 0_u64);
        for path in self.files()? {
            let relative = path
                .strip_prefix(&self.root)
                .context("stay inside the staged tree")?;
            bytes += fs::symlink_metadata(&path)
                .with_context(|| format!("look at {}", path.display()))?
                .len();
            let sum = output(command("md5sum", &["--"]).arg(&path))?;
            let sum = sum.split(' ').next().unwrap_or_default();
            writeln!(sums, "{sum}  {}", relative.display())?;
        }
        make_folder(&folder)?;
        write(&folder.join("md5sums"), &sums, 0o644)?;

        let kept = package
            .files
            .iter()
            .filter(|file| file.kind == Kind::Configuration);
        let kept: String = kept.map(|file| format!("{}\n", file.target)).collect();
        if !kept.is_empty() {
            write(&folder.join("conffiles"), &kept, 0o644)?;
        }
        for script in SCRIPTS {
            let source = packaging(&format!("deb/{}.{script}", package.name));
            if source.exists() {
                copy(&source, &folder.join(script), 0o755)?;
            }
        }
        let control = control(package, version, architecture, libraries, bytes.div_ceil(1024));
        write(&folder.join("control"), &control, 0o644)
    }

    /// All files in a fixed order, without DEBIAN.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.retain(|path| !path.starts_with(self.root.join("DEBIAN")));
        found.sort();
        Ok(found)
    }
}

fn control(package: &Package, version: &str, architecture: &str, libraries: &str, kibibytes: u64) -> String {
    let depends: Vec<&str> = std::iter::once(libraries)
        .chain(package.depends.iter().copied())
        .filter(|one| !one.is_empty())
        .collect();
    let mut text = format!(
        "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {kibibytes}\nDepends: {}\n",
        package.name,
        depends.join(", "),
    );
    if !package.recommends.is_empty() {
        text += &format!("Recommends: {}\n", package.recommends.join(", "));
    }
    text += &format!(
        "Section: admin\nPriority: optional\nDescription: {}\n",
        package.summary
    );
    for line in package.description {
        text += &format!(" {line}\n");
    }
    text
}

fn packaging(path: &str) -> PathBuf {
    layout::root().join("packaging").join(path)
}

fn copy_folder(source: &Path, target: &Path) -> Result<()> {
    make_folder(target)?;
    let entries = fs::read_dir(source).with_context(|| format!("list {}", source.display()))?;
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let below = target.join(name);
        if path.is_symlink() {
            let to = fs::read_link(&path).with_context(|| format!("read the link {}", path.display()))?;
            symlink(to, &below).with_context(|| format!("link {}", below.display()))?;
        } else if path.is_dir() {
            copy_folder(&path, &below)?;
        } else {
            copy(&path, &below, 0o644)?;
        }
    }
    Ok(())
}

fn copy(source: &Path, target: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = target.parent() {
        make_folder(folder)?;
    }
    fs::copy(source, target).with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    set_mode(target, mode)
}

/// With the best compression and without name and time, as Debian wants it.
fn compress(source: &Path, target: &Path) -> Result<()> {
    let Some(folder) = target.parent() else {
        bail!("{} lies nowhere", target.display())
    };
    make_folder(folder)?;
    let plain = target.with_extension("");
    copy(source, &plain, 0o644)?;
    run(command("gzip", &["-9", "-n", "--force"]).arg(&plain))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    set_mode(path, mode)
}

/// Folders get their mode whatever the umask is.
fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_folder(above)?;
    }
    fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
    set_mode(path, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0_u8; 4];
    let read = fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}
