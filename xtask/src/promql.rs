//! `promqltest`: Prometheus' test scripts through our evaluator.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::layout;
use crate::step::command;

/// Arguments of `promqltest`.
#[derive(clap::Args)]
pub(crate) struct PromqltestArguments {
    /// Scripts, or folders of `*.test`
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Builds the runner and lets it report; fails when any evaluation failed that is not of a native histogram.
pub(crate) fn promqltest(arguments: &PromqltestArguments) -> Result<()> {
    let mut paths: Vec<OsString> = Vec::new();
    for path in &arguments.paths {
        ensure!(path.exists(), "{} does not exist", path.display());
        paths.push(std::path::absolute(path)?.into());
    }
    let runner = [
        "run",
        "--quiet",
        "--package",
        "collector-promql",
        "--example",
        "promqltest",
        "--",
    ];
    // The report is this task's result, so that it goes to standard output.
    let status = command("cargo", &runner)
        .args(paths)
        .current_dir(layout::root())
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "evaluations failed");
    Ok(())
}
