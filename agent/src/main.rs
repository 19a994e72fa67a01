//! The agent of one host.

mod sandbox;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Watches this host and proposes repairs.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    SandboxTest(sandbox::command::SandboxTest),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::SandboxTest(test) => test.run(),
    }
}
