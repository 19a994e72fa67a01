//! `vm`: stock kernels in virtual machines, by software emulation, so that it works without any privilege.
//!
//! `kernel-matrix` boots each kernel with a root file system in memory that holds the sensor's tests and the few
//! programs that they run ([`image`]), runs every test in a process of its own, and reads from the second serial
//! port what became of each ([`outcome`]). The last row is the kernel of this machine, without a virtual machine.
//! A test that fails, does not end, or says that it did not run where [`promise`] says that it has to, fails all.

mod image;
mod kernel;
mod machine;
mod outcome;
mod promise;
mod suite;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::step::step;
use kernel::{Kernel, Release};
use machine::Share;
use outcome::Row;
use suite::Suite;

/// Packages that only virtual machines need.
const PACKAGES: &[&str] = &["qemu-system-x86", "xz-utils"];
/// The kernel that `cargo xtask test` boots: the one of the Debian release that the packages are made for.
const TESTED: &str = "6.1";
/// Machines that share the tests of a kernel.
const MACHINES: usize = 2;
/// The row of this machine.
const OWN: &str = "own";

/// Arguments of `vm`.
#[derive(clap::Args)]
pub(crate) struct VmArguments {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(clap::Subcommand)]
enum VmCommand {
    /// Run the sensor's tests on stock kernels, and on this machine's own
    KernelMatrix(MatrixArguments),
}

#[derive(clap::Args)]
struct MatrixArguments {
    /// Only this kernel: 5.10, 6.1, 6.12 or own; may be given more than once
    #[arg(long)]
    kernel: Vec<String>,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Put the table into this page as well, between its two marks
    #[arg(long)]
    page: Option<PathBuf>,
    /// Fetch the newest packages of the kernels, though older ones are there
    #[arg(long)]
    refresh: bool,
    /// Test programs to run instead of building them, as PACKAGE=PATH
    #[arg(long)]
    program: Vec<String>,
}

/// Runs what was asked for.
pub(crate) fn run(arguments: &VmArguments) -> Result<()> {
    match &arguments.command {
        VmCommand::KernelMatrix(matrix) => kernel_matrix(matrix),
    }
}

/// The part of the matrix that belongs to every run of the tests.
pub(crate) fn test() -> Result<()> {
    let release = Release::named(TESTED).context("find the kernel that is tested")?;
    ensure_packages()?;
    let suites = suite::build(&[])?;
    finish(&[on_release(release, &suites, None, false)?], None)
}

fn kernel_matrix(arguments: &MatrixArguments) -> Result<()> {
    let all: Vec<String> = Release::ALL
        .iter()
        .map(|release| release.name)
        .chain([OWN])
        .map(str::to_owned)
        .collect();
    for name in &arguments.kernel {
        ensure!(
            all.contains(name),
            "there is no kernel {name:?}; there are {}",
            all.join(", ")
        );
    }
    let names = if arguments.kernel.is_empty() {
        &all
    } else {
        &arguments.kernel
    };
    ensure_packages()?;
    let suites = suite::build(&arguments.program)?;
    let filter = arguments.filter.as_deref();
    let mut rows = Vec::new();
    for name in names {
        rows.push(match Release::named(name) {
            Some(release) => on_release(release, &suites, filter, arguments.refresh)?,
            None => suite::on_this_machine(&suites, filter)?,
        });
    }
    finish(&rows, arguments.page.as_deref())
}

fn ensure_packages() -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the kernels of the matrix are for x86_64, this machine is {}",
        std::env::consts::ARCH
    );
    setup::packages(PACKAGES)
}

fn on_release(
    release: &'static Release,
    suites: &[Suite],
    filter: Option<&str>,
    refresh: bool,
) -> Result<Row> {
    let kernel = release.fetch(refresh)?;
    let what = format!(
        "run the sensor's tests on kernel {} ({})",
        release.name, kernel.version
    );
    step(&what, || {
        let image = image::make(release.name, &kernel, suites, filter)?;
        let shares = (0..MACHINES).map(|index| Share { index, of: MACHINES });
        // Side by side, so that both processors of a small machine work; apart, so that no test sees another's load.
        let rows = std::thread::scope(|scope| {
            let boot = |share| {
                let (kernel, image) = (&kernel, &image);
                scope.spawn(move || one_machine(release.name, kernel, image, share))
            };
            let machines: Vec<_> = shares.map(boot).collect();
            machines
                .into_iter()
                .map(|machine| {
                    machine
                        .join()
                        .unwrap_or_else(|_| bail!("the thread of a machine panicked"))
                })
                .collect::<Result<Vec<Row>>>()
        })?;
        Row::joined(rows)
    })
}

fn one_machine(name: &str, kernel: &Kernel, image: &Path, share: Share) -> Result<Row> {
    let said = machine::boot(name, kernel, image, share)?;
    Row::read(name, &said.results).with_context(|| format!("the console said last: {}", said.console_tail()))
}

/// Prints the table and fails when a promise was not kept.
fn finish(rows: &[Row], page: Option<&Path>) -> Result<()> {
    let markdown = outcome::markdown(rows);
    eprintln!("{markdown}");
    if let Some(path) = page {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let text = outcome::into_page(&text, &markdown)
            .with_context(|| format!("find the two marks of the table in {}", path.display()))?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let broken: Vec<String> = rows.iter().flat_map(promise::broken).collect();
    ensure!(
        broken.is_empty(),
        "promises that were not kept:\n{}",
        broken.join("\n")
    );
    Ok(())
}
