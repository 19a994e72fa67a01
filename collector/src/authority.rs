//! `authority`: what the fleet trusts, and replacing the keys that it trusts.
//!
//! A rotation has three stages, each a command: `introduce` makes the new keys and lists them beside the old ones,
//! `switch` uses them, `retire` drops the old ones. A running collector takes each over within seconds. Between two
//! stages every host has to see the trust bundle of the stage before; it does at its next renewal.

mod roots;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use collector_ingest::enrol::Standing;
use fleetmend_event::TimeMicros;
use fleetmend_identity::authority::{BUNDLE_FILE, Rotated, RotationKind, RotationState, Stage};
use fleetmend_identity::{CollectorAuthority, Fingerprint, FleetRoot, Signed, TrustBundle};

use crate::ConfigArguments;
use crate::config::CollectorConfig;
use crate::control;

/// Arguments of `authority`.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthorityArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(subcommand)]
    command: AuthorityCommand,
}

#[derive(Debug, Subcommand)]
enum AuthorityCommand {
    /// Show the fleet root, the keys in use, how far a rotation is and which hosts have not followed it
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Replace this collector's online key and issuing certificate
    RotateOnline(StageArguments),
    /// Replace the fleet root, and with it the keys under it
    RotateRoot {
        #[command(flatten)]
        stage: StageArguments,
        /// Folder of the new root; made when it is not there [default: <state_dir>/root.next]
        #[arg(long)]
        new_root: Option<PathBuf>,
    },
    /// Look at trust bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Verify a bundle, and every bundle that led to it
    Verify {
        /// The bundle, as a host has it [default: this collector's own]
        file: Option<PathBuf>,
        /// Fingerprint of the root that must stand at the beginning [default: the first this collector knows]
        #[arg(long)]
        root: Option<Fingerprint>,
    },
}

/// Arguments of a rotation.
#[derive(Debug, clap::Args)]
struct StageArguments {
    /// The stage to take; each once, in this order
    #[arg(long)]
    stage: StageName,
    /// Folder of the present fleet root [default: <state_dir>/root]
    #[arg(long)]
    root: Option<PathBuf>,
    /// Go on although hosts have not seen the stage before; they lose their stream until they recovered
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StageName {
    /// Make new keys and list them beside the old ones
    Introduce,
    /// Use the new keys
    Switch,
    /// Drop the old keys
    Retire,
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Introduce => Stage::Introduce,
            StageName::Switch => Stage::Switch,
            StageName::Retire => Stage::Retire,
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &AuthorityArguments) -> Result<ExitCode> {
    let config = CollectorConfig::load(&arguments.config.config)?;
    let mut out = std::io::stdout().lock();
    run_with(&config, &arguments.command, &mut out)
}

fn run_with(config: &CollectorConfig, command: &AuthorityCommand, out: &mut impl Write) -> Result<ExitCode> {
    match command {
        AuthorityCommand::Show { json } => show(config, *json, out),
        AuthorityCommand::RotateOnline(stage) => rotate(config, stage, None, out),
        AuthorityCommand::RotateRoot { stage, new_root } => {
            let new_root = new_root
                .clone()
                .unwrap_or_else(|| config.state_dir.join("root.next"));
            rotate(config, stage, Some(&new_root), out)
        }
        AuthorityCommand::Bundle(BundleCommand::Verify { file, root }) => {
            verify(config, file.as_deref(), *root, out)
        }
    }
}

fn rotate(
    config: &CollectorConfig,
    arguments: &StageArguments,
    new_root: Option<&Path>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let folder = config.authority_dir();
    let present = CollectorAuthority::open(&folder).context("open the collector's keys")?;
    let old_root = arguments.root.clone().unwrap_or_else(|| config.root_dir());
    let stage = Stage::from(arguments.stage);
    let moved = new_root.is_some_and(|new_root| {
        stage == Stage::Retire && roots::are_exchanged(&old_root, new_root, present.bundle())
    });
    if !moved && stage != Stage::Introduce && !arguments.force {
        let standing = standing(config, present.bundle().version)?;
        if standing.behind > 0 {
            refuse(out, &standing, present.bundle().version)?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let rotated = if moved {
        Rotated::Already(present.bundle().version)
    } else {
        let root = FleetRoot::open(&old_root).context("open the fleet root")?;
        let successor = new_root
            .map(|folder| roots::successor(folder, root.fleet(), stage))
            .transpose()?;
        CollectorAuthority::rotate(&folder, stage, &root, successor.as_ref(), TimeMicros::now())
            .with_context(|| format!("rotate the keys in {}", folder.display()))?
    };
    if let (Stage::Retire, Some(new_root)) = (stage, new_root) {
        let present = CollectorAuthority::open(&folder).context("open the new keys")?;
        if let Some(kept) = roots::settle(&old_root, new_root, present.bundle())? {
            writeln!(
                out,
                "the old root is in {}; keep it offline or destroy it",
                kept.display()
            )?;
        }
    }
    tell(out, arguments.stage, rotated, new_root.is_some())?;
    Ok(ExitCode::SUCCESS)
}

fn refuse(out: &mut impl Write, standing: &Standing, version: u64) -> Result<()> {
    writeln!(
        out,
        "not done: {} of {} hosts are not known to have seen trust bundle {version}:",
        standing.behind, standing.hosts
    )?;
    for host in &standing.named {
        writeln!(
            out,
            "  {} {:<24} has seen {}, certificate until {}",
            host.host, host.hostname, host.seen, host.not_after
        )?;
    }
    let unnamed = standing.behind.saturating_sub(standing.named.len() as u64);
    if unnamed > 0 {
        writeln!(out, "  and {unnamed} more")?;
    }
    writeln!(
        out,
        "wait until they renewed (`authority show`), revoke those that will not come back, or use --force: then they \
         lose their stream until they recovered through the enrolment listener"
    )?;
    Ok(())
}

fn tell(out: &mut impl Write, stage: StageName, rotated: Rotated, with_root: bool) -> Result<()> {
    let version = match rotated {
        Rotated::Done(version) => version,
        Rotated::Already(version) => {
            writeln!(out, "nothing to do: this was done before, trust bundle {version}")?;
            return Ok(());
        }
    };
    writeln!(
        out,
        "done: trust bundle {version}; a running collector takes it over within seconds"
    )?;
    let next = match stage {
        StageName::Introduce => "when all hosts have seen it (`authority show`), take the stage switch",
        StageName::Switch if with_root => {
            "sign the policies anew with the new root and install them: healers stop believing the old one with the \
             stage retire. When all hosts have seen it (`authority show`), take that"
        }
        StageName::Switch => "when all hosts have seen it (`authority show`), take the stage retire",
        StageName::Retire if with_root => {
            "the rotation is over. Healers follow by themselves within minutes of their host's next renewal; what the \
             old root signed is then no longer in force"
        }
        StageName::Retire => "the rotation is over",
    };
    writeln!(out, "{next}")?;
    Ok(())
}

fn show(config: &CollectorConfig, json: bool, out: &mut impl Write) -> Result<ExitCode> {
    let folder = config.authority_dir();
    let present = CollectorAuthority::open(&folder).context("open the collector's keys")?;
    let state = CollectorAuthority::rotation(&folder).context("look at the rotation")?;
    let bundle = present.bundle();
    let standing = standing(config, bundle.version)?;
    let rotation = match state {
        RotationState::Idle => "none",
        RotationState::Introduced(RotationKind::Online) => "online key: introduced, not switched to",
        RotationState::Introduced(RotationKind::Root) => "fleet root: introduced, not switched to",
        RotationState::Switched(RotationKind::Online) => "online key: switched, the old one not retired",
        RotationState::Switched(RotationKind::Root) => "fleet root: switched, the old one not retired",
    };
    let roots: Vec<String> = bundle
        .roots
        .iter()
        .map(|root| root.key.fingerprint().to_string())
        .collect();
    if json {
        let laggards: Vec<_> = standing
            .named
            .iter()
            .map(|host| {
                serde_json::json!({
                    "host": host.host.to_string(), "hostname": host.hostname, "seen": host.seen,
                    "not_after": host.not_after.to_string(),
                })
            })
            .collect();
        let shown = serde_json::json!({
            "fleet": present.fleet().to_string(),
            "collector": present.name().to_string(),
            "bundle_version": bundle.version,
            "bundle_created": bundle.created.to_string(),
            "roots": roots,
            "issuing_not_after": present.issuing_not_after().map(|end| end.to_string()),
            "rotation": rotation,
            "hosts": standing.hosts,
            "hosts_behind": standing.behind,
            "behind": laggards,
        });
        writeln!(out, "{shown}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "fleet         {}", present.fleet())?;
    writeln!(out, "collector     {}", present.name())?;
    for root in roots {
        writeln!(out, "root          {root}")?;
    }
    if let Some(end) = present.issuing_not_after() {
        writeln!(
            out,
            "issuing       until {end}; rotate the online key before that"
        )?;
    }
    writeln!(
        out,
        "trust bundle  {} of {}, seen by {} of {} hosts",
        bundle.version,
        bundle.created,
        standing.hosts.saturating_sub(standing.behind),
        standing.hosts
    )?;
    writeln!(out, "rotation      {rotation}")?;
    for host in &standing.named {
        writeln!(
            out,
            "behind        {} {} has seen {}",
            host.host, host.hostname, host.seen
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn standing(config: &CollectorConfig, version: u64) -> Result<Standing> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    if config.control.url.is_none() && !config.control_database().exists() {
        // No collector has run here yet.
        return Ok(Standing::default());
    }
    let read = async {
        let pool = control::open(config).await?;
        let standing = Standing::read(&pool, &config.enrolment, version, TimeMicros::now()).await;
        pool.close().await;
        anyhow::Ok(standing?)
    };
    runtime
        .block_on(read)
        .context("ask the control database which hosts have followed")
}

fn verify(
    config: &CollectorConfig,
    file: Option<&Path>,
    root: Option<Fingerprint>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let present = CollectorAuthority::open(&config.authority_dir()).context("open the collector's keys")?;
    let own = config.authority_dir().join(BUNDLE_FILE);
    let path = file.unwrap_or(&own);
    let (signed, _) = TrustBundle::read(path).with_context(|| format!("read {}", path.display()))?;
    let history: Vec<Signed<TrustBundle>> = present.history_since(0).into_iter().cloned().collect();
    let first = history.first().unwrap_or(present.signed_bundle());
    let root = root.unwrap_or_else(|| first.signer());
    match TrustBundle::open_pinned_chain(&history, &signed, &root) {
        Ok(bundle) => {
            writeln!(
                out,
                "{}: version {} of fleet {}, good from root {root} on",
                path.display(),
                bundle.version,
                bundle.fleet
            )?;
            if bundle.version != present.bundle().version {
                writeln!(
                    out,
                    "it is not the present one, which is {}",
                    present.bundle().version
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => bail!("{} is not good from root {root} on: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests;
