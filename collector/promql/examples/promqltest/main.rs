//! Runs scripts of Prometheus' promqltest format: `promqltest PATH…`, files or folders of `*.test`.
//!
//! Prints, per file, how many evaluations passed, failed, or need native histograms, with line numbers. Ends with 1
//! when any failed.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]

mod check;
mod memory;
mod report;
mod script;
mod series;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> Result<ExitCode> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    anyhow::ensure!(!paths.is_empty(), "name the scripts: promqltest PATH…");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let (mut passed, mut failed, mut native) = (0, 0, 0);
    for file in report::files(&paths)? {
        let report = runtime.block_on(report::run(&file))?;
        print!("{report}");
        passed += report.passed.len();
        failed += report.failed.len();
        native += report.native.len();
    }
    println!("all: {passed} passed, {failed} failed, {native} native histogram cases");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
