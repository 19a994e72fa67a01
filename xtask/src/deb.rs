//! Debian packages, made with `dpkg-deb` from a staged tree.
//!
//! What is in which package stands in [`contents`]; the texts (units, scripts, examples, man pages) are files of
//! `packaging/`. The tree is staged as root would own it, so that building needs no privilege.

mod contents;
mod stage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::build;
use crate::layout::{self, Profile};
use crate::step::{self, command, output, step};
use crate::{setup, web};
use contents::Package;
use stage::Stage;

/// Arguments of `deb`.
#[derive(Args)]
pub(crate) struct DebArguments {
    /// Which build to package
    #[arg(long, value_enum, default_value = "release")]
    profile: Build,
    /// Folder for the packages [default: deb/ in the build folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Package what is built already
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Build {
    Quick,
    Release,
}

/// Builds the programs and the packages, and prints the packages' paths.
pub(crate) fn run(arguments: &DebArguments) -> Result<()> {
    let profile = match arguments.profile {
        Build::Quick => Profile::Quick,
        Build::Release => Profile::Release,
    };
    if !arguments.no_build {
        web::build()?;
        build::programs(profile, &build::INSTANCE)?;
    }
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| layout::target().join("deb"));
    for path in build(profile, &out)? {
        eprintln!("    {}", path.display());
    }
    Ok(())
}

/// Makes the packages of what is built, in `out`.
pub(crate) fn build(profile: Profile, out: &Path) -> Result<Vec<PathBuf>> {
    setup::packages(&["binutils", "dpkg-dev"])?;
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let architecture = output(&mut command("dpkg", &["--print-architecture"]))?;
    let onnxruntime = setup::onnxruntime()?;
    let mut packages = Vec::new();
    for package in contents::all(profile, &onnxruntime) {
        let path = step(&format!("package {}", package.name), || {
            make(&package, &architecture, out)
        })?;
        packages.push(path);
    }
    Ok(packages)
}

fn make(package: &Package, architecture: &str, out: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let stage = Stage::new(&out.join("stage").join(package.name))?;
    for file in &package.files {
        stage.add(file)?;
    }
    stage.documents(package.name)?;
    let depends = stage.shared_libraries(package.name, architecture)?;
    stage.metadata(package, version, architecture, &depends)?;
    let path = out.join(format!("{}_{version}_{architecture}.deb", package.name));
    let mut build = command("dpkg-deb", &["--root-owner-group", "-Zxz", "-z6", "--build"]);
    build
        .arg(stage.root())
        .arg(&path)
        .env("SOURCE_DATE_EPOCH", commit_time());
    step::run(&mut build)?;
    stage.remove()?;
    Ok(path)
}

/// The same commit gives the same package.
fn commit_time() -> String {
    let mut git = command("git", &["log", "-1", "--format=%ct"]);
    output(git.current_dir(layout::root())).unwrap_or_else(|_| "0".to_owned())
}
