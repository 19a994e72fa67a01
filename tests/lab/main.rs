//! The fault lab: injects one fault into the instance that `up` started and prints what came of it.
//!
//! A lab asks only what a user could ask: the API, the alert receiver's file, the fault itself. Its timeline
//! says when the fault was injected, detected, planned, applied and verified, with the rows that show it, and
//! ends with whether all of it went as it should. Every lab takes its fault back, whatever happens.
//!
//! `benign-hour` injects nothing: it works, and lists what was raised meanwhile.
//! `carry-chaos` needs no running instance: it has a collector and agents of its own, and many faults.

mod api;
mod benign;
mod chaos;
mod fault;
mod scenario;
mod setting;
mod timeline;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::Value;

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
        state: Option<PathBuf>,
        #[command(flatten)]
        chaos: chaos::ChaosArguments,
        #[command(flatten)]
        benign: benign::BenignArguments,
    },
    /// Body of a process of agents, started by carry-chaos
    #[command(hide = true)]
    ChaosAgents {
        /// What the agents are
        plan: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let command = Cli::parse().command;
    if let Command::ChaosAgents { plan } = command {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start the runtime")?;
        let ended = runtime.block_on(chaos::agent::run(&plan));
        // A thread may wait for our input, and nobody writes there.
        runtime.shutdown_background();
        return ended.map(|()| ExitCode::SUCCESS);
    }
    // One thread: a child that must not outlive us is tied to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(run(command))
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match command {
        Command::ChaosAgents { .. } => Ok(ExitCode::SUCCESS),
        Command::List => {
            for (name, about) in scenario::ALL {
                writeln!(out, "{name:<24} {about}").context("print the list")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run {
            name,
            json,
            state,
            chaos,
            benign,
        } => {
            let (report, more) = if name == chaos::NAME {
                chaos::run(chaos).await?
            } else {
                let state = state.context("find --state, the folder of the running instance")?;
                let instance = api::Instance::connect(&state).await?;
                if name == benign::NAME {
                    let time = Duration::from_secs(chaos.seconds.unwrap_or(benign::SECONDS));
                    benign::run(&instance, &state, time, &benign).await?
                } else {
                    (scenario::run(&name, &instance).await?, Value::Null)
                }
            };
            if json {
                writeln!(out, "{}", report.json(&more)).context("print the report")?;
            } else {
                write!(out, "{}", report.text(&more)).context("print the report")?;
            }
            Ok(if report.passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}
