//! The fault lab: injects one fault into the instance that `up` started and prints what came of it.
//!
//! A lab asks only what a user could ask: the API, the alert receiver's file, the fault itself. Its timeline
//! says when the fault was injected, detected, planned, applied and verified, with the rows that show it, and
//! ends with whether all of it went as it should. Every lab takes its fault back, whatever happens.

mod api;
mod fault;
mod scenario;
mod timeline;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "fleetmend-lab", about = "Injects faults into a running instance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say which faults there are
    List,
    /// Inject one fault and print its timeline
    Run {
        /// Name of the lab
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// State folder of the running instance
        #[arg(long)]
        state: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    match Cli::parse().command {
        Command::List => {
            for (name, about) in scenario::ALL {
                writeln!(out, "{name:<24} {about}").context("print the list")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { name, json, state } => {
            let instance = api::Instance::connect(&state).await?;
            let report = scenario::run(&name, &instance).await?;
            if json {
                writeln!(out, "{}", report.json()).context("print the report")?;
            } else {
                write!(out, "{}", report.text()).context("print the report")?;
            }
            Ok(if report.passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}
