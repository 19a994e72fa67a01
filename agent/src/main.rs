//! The agent of one host: reads it, finds what is abnormal, proposes repairs to the healer, and carries what it
//! knows to the collector. It cannot act itself; see [`sandbox`].

mod budget;
mod command;
mod config;
mod doctor;
mod hub;
mod integrity;
mod memory;
mod probe_tool;
mod rules;
mod sandbox;
mod source;
mod spool_tool;
mod status;
mod trust;
mod unenrol;
mod wiring;

use std::path::PathBuf;
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
    /// Run the agent
    Run(ConfigArguments),
    /// Enrol this host with a one-use token
    Enroll(command::EnrollArguments),
    /// Take this host out of its fleet: tell the collector, then wipe the identity
    #[command(alias = "unenroll")]
    Unenrol(unenrol::UnenrolArguments),
    /// Say how the running agent stands
    Status(command::StatusArguments),
    /// Look at everything the agent needs, and say what is wrong and what to do
    Doctor(doctor::DoctorArguments),
    /// Look at what waits on disk; reads only
    Spool {
        #[command(subcommand)]
        command: spool_tool::SpoolCommand,
    },
    /// Check the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at the probes in the kernel; reads only
    Probe {
        #[command(subcommand)]
        command: probe_tool::ProbeCommand,
    },
    /// Files that should not change: what did, and what of it is as it should be
    Integrity {
        #[command(subcommand)]
        command: integrity::IntegrityCommand,
    },
    /// Check, explain and try the detection rules
    Rules {
        #[command(subcommand)]
        command: rules::RulesCommand,
    },
    SandboxTest(sandbox::command::SandboxTest),
    /// Write down how the service ended; for ExecStopPost=
    #[command(hide = true)]
    NoteEnd(ConfigArguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration and report every fault
    Check(ConfigArguments),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArguments {
    /// Main configuration file, TOML or YAML; files in `<name>.d` beside it are read over it
    #[arg(
        long,
        default_value = "/etc/fleetmend/agent.toml",
        env = "FLEETMEND_AGENT_CONFIG"
    )]
    config: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(arguments) => wiring::run(&arguments.config),
        Command::Enroll(arguments) => command::enroll(&arguments),
        Command::Unenrol(arguments) => unenrol::run(&arguments),
        Command::Status(arguments) => command::status(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Spool { command } => command.run(),
        Command::Probe { command } => command.run(),
        Command::Config {
            command: ConfigCommand::Check(arguments),
        } => command::check(&arguments.config),
        Command::Rules { command } => command.run(),
        Command::Integrity { command } => command.run(),
        Command::SandboxTest(test) => test.run(),
        Command::NoteEnd(arguments) => command::note_end(&arguments.config),
    }
}
