//! The command line.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use fleetmend_event::healer::{
    HealerReply, HealerRequest, PROTOCOL_VERSION, decode_message, encode_message, message_len,
};
use fleetmend_identity::{Context as Signing, Signed};

use crate::anchors;
use crate::config::{Config, ENV_PREFIX};
use crate::engine::set_stop_file;
use crate::ledger::Ledger;
use crate::policy::Policy;
use crate::task;

const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Repairs this host within what a signed policy allows.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-healer", version)]
pub struct Arguments {
    /// Configuration file.
    #[arg(long, short, global = true, default_value = "/etc/fleetmend/healer.toml")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run, as a service does.
    Run,
    /// Say what is wrong with the configuration, and what else would keep `run` from starting.
    Check,
    /// Ask the running healer how things stand.
    Status,
    /// Stop all acting on this host, at once.
    Stop,
    /// Resume acting.
    Resume,
    /// Say that the host's clock is right, though the ledger has entries of a later time. Recorded.
    AcceptClock,
    /// The record of everything that was done.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// The policy in force.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The fleet's keys by which policies are judged.
    #[command(subcommand)]
    Trust(TrustCommand),
}

/// About the ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Verify the whole chain; works while the healer runs, or on a copy.
    Verify {
        /// Another ledger file.
        file: Option<PathBuf>,
    },
}

/// About the policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the installed policy, if it verifies.
    Show,
    /// Send a signed policy to the running healer.
    Install {
        /// The signed envelope.
        file: PathBuf,
    },
}

/// About the fleet's keys.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Send a newer trust bundle to the running healer, as where no agent carries it: it is believed when a root of
    /// the bundle in force signed it.
    Advance {
        /// The signed bundle.
        file: PathBuf,
    },
}

/// Reads the configuration; its drop-in folder lies beside it, with `.d` instead of `.toml`.
///
/// # Errors
/// All faults at once.
pub fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(fleetmend_config::load(
        Some(path),
        Some(&path.with_extension("d")),
        ENV_PREFIX,
    )?)
}

/// Carries out everything but `run`.
///
/// # Errors
/// What could not be done.
pub fn execute(command: &Command, config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Command::Run => bail!("run is not a command of this function"),
        Command::Check => check(config, out)?,
        Command::Status => print_status(&ask(config, &HealerRequest::Status)?, out)?,
        Command::Stop | Command::Resume => {
            let stopped = matches!(command, Command::Stop);
            let file = config.options().stop_file();
            set_stop_file(&file, stopped).with_context(|| format!("change {}", file.display()))?;
            writeln!(out, "acting is {}", if stopped { "stopped" } else { "resumed" })?;
        }
        Command::AcceptClock => {
            let file = config.options().accept_clock_file();
            std::fs::write(&file, b"accept\n").with_context(|| format!("write {}", file.display()))?;
            writeln!(
                out,
                "the healer takes the clock over within a second while it runs"
            )?;
        }
        Command::Ledger(LedgerCommand::Verify { file }) => {
            let path = file.clone().unwrap_or_else(|| config.options().ledger_file());
            let found = Ledger::verify(&path)?;
            writeln!(
                out,
                "{}: {} entries, head {}",
                path.display(),
                found.entries,
                found.head
            )?;
            writeln!(
                out,
                "{} rows erased, {} torn bytes at the end",
                found.erased, found.torn_bytes
            )?;
        }
        Command::Policy(PolicyCommand::Show) => {
            let path = config.state_dir.join("policy.json");
            let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let anchors = anchors::who_we_are(&config.options())?.anchors;
            let anchors = anchors.context("there is no trust bundle on this host; enrol it as root first")?;
            let policy = Signed::<Policy>::from_bytes(&bytes)?.verify(&anchors, Signing::Policy)?;
            writeln!(out, "{}", serde_json::to_string_pretty(&policy)?)?;
        }
        Command::Policy(PolicyCommand::Install { file }) => {
            let envelope =
                std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            print_status(&ask(config, &HealerRequest::InstallPolicy { envelope })?, out)?;
        }
        Command::Trust(TrustCommand::Advance { file }) => {
            let bundle = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            print_status(&ask(config, &HealerRequest::AdvanceTrust { bundle })?, out)?;
        }
    }
    Ok(())
}

fn check(config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
    let obstacles: Vec<String> = task::obstacles(config)
        .into_iter()
        .map(|obstacle| format!("\n  {:#}", anyhow::Error::from(obstacle)))
        .collect();
    if !obstacles.is_empty() {
        bail!(
            "the configuration can be read, but run would not start:{}",
            obstacles.concat()
        );
    }
    writeln!(out, "the configuration is good")?;
    if !rustix::process::geteuid().is_root() {
        writeln!(
            out,
            "files that belong to root were not looked at: check as root for them"
        )?;
    }
    Ok(())
}

fn ask(config: &Config, request: &HealerRequest) -> anyhow::Result<HealerReply> {
    let socket = &config.socket;
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("connect to the healer at {}", socket.display()))?;
    stream
        .set_read_timeout(Some(ANSWER_DEADLINE))
        .context("set a deadline")?;
    stream
        .set_write_timeout(Some(ANSWER_DEADLINE))
        .context("set a deadline")?;
    exchange(
        &mut stream,
        &HealerRequest::Hello {
            protocol: PROTOCOL_VERSION,
        },
    )?;
    exchange(&mut stream, request)
}

fn exchange(stream: &mut UnixStream, request: &HealerRequest) -> anyhow::Result<HealerReply> {
    stream
        .write_all(&encode_message(request)?)
        .context("write to the healer")?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).context("read from the healer")?;
    let mut body = vec![0; message_len(prefix)?];
    stream.read_exact(&mut body).context("read from the healer")?;
    match decode_message(&body)? {
        HealerReply::Refused { reason } => bail!("the healer refused: {reason}"),
        reply => Ok(reply),
    }
}

fn print_status(reply: &HealerReply, out: &mut dyn Write) -> anyhow::Result<()> {
    let HealerReply::Status(status) = reply else {
        bail!("the healer gave another answer than was asked for")
    };
    writeln!(out, "fleetmend-healer {}", status.version)?;
    writeln!(
        out,
        "mode      {}{}",
        status.mode,
        if status.stopped { ", stopped" } else { "" }
    )?;
    writeln!(
        out,
        "policy    {}",
        match status.policy_version {
            0 => "none".to_owned(),
            version => format!("version {version}"),
        }
    )?;
    writeln!(
        out,
        "trust     {}",
        match status.bundle_version {
            None => "no trust bundle: no policy counts".to_owned(),
            Some(version) => format!("bundle {version}"),
        }
    )?;
    writeln!(out, "ledger    {} entries", status.ledger_next)?;
    for remedy in &status.remedies {
        let mark = if remedy.applicable { "yes" } else { "no " };
        writeln!(out, "remedy    {:<18} {mark} {}", remedy.remedy, remedy.detail)?;
    }
    Ok(())
}
