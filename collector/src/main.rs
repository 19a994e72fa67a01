//! The collector: takes in what the agents send, keeps it, answers questions about it, and alerts.

mod adapt;
mod authority;
mod backup;
mod config;
mod control;
mod descriptors;
mod export;
mod init;
mod memory;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Stores, alerts and answers for a fleet.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-collector", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector
    Run(ConfigArguments),
    /// Make the fleet: root key, collector keys, first administrator
    Init(init::InitArguments),
    /// Look at the keys that the fleet trusts, and replace them
    Authority(authority::AuthorityArguments),
    /// Back up the collector's data, also while it runs; list and prune backups, make their key
    Backup(backup::BackupArguments),
    /// Restore a backup, or the state of a moment
    Restore(backup::RestoreArguments),
    /// Read backups back and see whether they can be restored
    Verify(backup::VerifyArguments),
    /// Write facts to files, while the collector does not run
    Export(export::ExportArguments),
    /// Move users, hosts, tokens and alerts between SQLite and PostgreSQL
    Control(control::ControlArguments),
    /// Read the configuration and report every fault
    Check(ConfigArguments),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArguments {
    /// Main configuration file, TOML or YAML; files in `<name>.d` beside it are read over it
    #[arg(
        long,
        global = true,
        default_value = "/etc/fleetmend/collector.toml",
        env = "FLEETMEND_COLLECTOR_CONFIG"
    )]
    pub(crate) config: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(arguments) => wiring::run(&arguments.config),
        Command::Init(arguments) => init::run(&arguments),
        Command::Authority(arguments) => authority::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => backup::restore(&arguments),
        Command::Verify(arguments) => backup::verify(&arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Control(arguments) => control::run(&arguments),
        Command::Check(arguments) => config::check(&arguments.config),
    }
}
