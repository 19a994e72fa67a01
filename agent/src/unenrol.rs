//! `fleetmend-agent unenrol`: the host leaves its fleet.
//!
//! In this order: what is there and what of it never left is said; the collector is told, with the certificate, and
//! revokes the key; then the key, the certificate with its trust bundle, the trusted time and whom the healer trusts
//! are deleted, and the spool with `--purge-spool`. A collector that cannot be reached stands in the way of nothing:
//! what its operator has to do is said instead. Cut short anywhere, it is run again; run once more, it changes nothing.

mod unsent;
mod wipe;

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent_stream::enrol::{Leaving, is_too_old, unenrol};
use anyhow::{Context, Result, bail};
use fleetmend_event::{HostId, Mark};
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{HostIdentity, LiveIdentity, TrustedTime};

use self::unsent::Unsent;
use crate::command::{ask, tell};
use crate::config::AgentConfig;

/// Longest answer to a question.
const ANSWER_BYTES_MAX: u64 = 64;

/// Arguments of `unenrol`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnenrolArguments {
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Do it without asking, also when data would be lost
    #[arg(long)]
    yes: bool,
    /// Delete what waits on disk too; otherwise it stays, and would be sent under the new id after another enrolment
    #[arg(long)]
    purge_spool: bool,
    /// Why, for the collector's audit
    #[arg(long, default_value = "")]
    reason: String,
    /// Folder in which the healer finds whom to trust
    #[arg(long, default_value = "/etc/fleetmend/healer")]
    healer_dir: PathBuf,
}

/// What the collector made of it.
#[derive(Debug)]
enum Told {
    /// It revoked the key.
    Done,
    /// It had revoked the key before.
    Before,
    /// It does not know; why, and the next step.
    Not(String),
}

/// Takes this host out of its fleet.
pub(crate) fn run(arguments: &UnenrolArguments) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if !nix::unistd::geteuid().is_root() {
        bail!("leaving the fleet is root's to do: sudo fleetmend-agent unenrol");
    }
    let config = AgentConfig::load(&arguments.config.config)?;
    if ask(&config.admin_socket, "/status").is_ok() {
        bail!(
            "the agent runs, and would go on with what it has in memory: first systemctl disable --now fleetmend-agent"
        );
    }
    let loaded = HostIdentity::load(&config.identity_dir());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    // What keeps the collector from being told does not keep the host from leaving.
    let fleet = match &loaded {
        Ok(Some(_)) => Fleet::new(&config).map_err(|error| format!("{error:#}")),
        Ok(None) | Err(_) => Err("its certificate cannot be used".to_owned()),
    };
    let marks = fleet
        .as_ref()
        .ok()
        .and_then(|fleet| runtime.block_on(fleet.marks()));
    let unsent = Unsent::look(&config.spool.folder, marks.as_deref());
    let unsent = match unsent {
        Err(error) if !arguments.purge_spool => {
            writeln!(
                out,
                "what waits in the spool stays, and cannot be counted: {error:#}"
            )?;
            Unsent::default()
        }
        looked => looked?,
    };
    match &loaded {
        Ok(Some(identity)) => writeln!(out, "host {} of fleet {}", identity.host(), identity.fleet())?,
        Ok(None) => writeln!(out, "this host is not enrolled")?,
        Err(error) => writeln!(out, "the identity of this host cannot be read: {error}")?,
    }
    unsent.tell(&mut out, arguments.purge_spool)?;
    let nothing_there = matches!(loaded, Ok(None)) && !(arguments.purge_spool && unsent.is_anything());
    if !nothing_there && !agreed(arguments, &unsent, &mut out)? {
        writeln!(out, "nothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }
    match (&fleet, &loaded) {
        (Ok(fleet), _) => {
            let told = runtime.block_on(fleet.leave(&arguments.reason));
            told.say(fleet.host, &mut out)?;
        }
        (Err(why), Ok(Some(identity))) => Told::Not(why.clone()).say(identity.host(), &mut out)?,
        (Err(why), Err(_)) => {
            let host = read_host(&arguments.healer_dir).unwrap_or_else(|| "HOST".to_owned());
            Told::Not(why.clone()).say_of(&host, &mut out)?;
        }
        (Err(_), Ok(None)) => {}
    }
    drop(fleet);
    drop(loaded);
    wipe_all(arguments, &config, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn wipe_all(arguments: &UnenrolArguments, config: &AgentConfig, out: &mut impl Write) -> Result<()> {
    let mut gone = 0_usize;
    // The key last: until then a second run can still prove to the collector who it is.
    for path in [
        arguments.healer_dir.join("trust-bundle.json"),
        arguments.healer_dir.join("host-id"),
        config.time_file(),
    ] {
        gone += usize::from(wipe::file(&path)?);
    }
    gone += usize::from(wipe::folder(&config.identity_dir())?);
    if arguments.purge_spool {
        gone += usize::from(wipe::spool(&config.spool.folder)?);
    }
    match gone {
        0 => writeln!(out, "there is nothing left to delete")?,
        _ => writeln!(out, "deleted what made this host one of its fleet")?,
    }
    writeln!(
        out,
        "so that it does not start again: systemctl disable --now fleetmend-agent fleetmend-healer"
    )?;
    Ok(())
}

/// Whether the person wants it.
fn agreed(arguments: &UnenrolArguments, unsent: &Unsent, out: &mut impl Write) -> Result<bool> {
    if arguments.yes {
        return Ok(true);
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!(
            "nothing was changed, because nobody is here to ask: --yes does it{}",
            if unsent.would_be_lost(arguments.purge_spool) {
                ", and loses what was never sent"
            } else {
                ""
            }
        );
    }
    write!(out, "Take this host out of its fleet? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::Read::take(stdin.lock(), ANSWER_BYTES_MAX)
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn read_host(healer_dir: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(healer_dir.join("host-id")).ok()?;
    text.trim().parse::<HostId>().ok().map(|host| host.to_string())
}

/// The collectors, and who we are to them.
struct Fleet {
    dialer: agent_stream::network::Dialer,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    collectors: Vec<String>,
    host: HostId,
}

impl Fleet {
    fn new(config: &AgentConfig) -> Result<Self> {
        let folder = config.identity_dir();
        let identity = HostIdentity::load(&folder)?.context("the identity is gone")?;
        let host = identity.host();
        let collectors = match config.stream.collectors.as_slice() {
            [] => identity.collectors().to_vec(),
            named => named.to_vec(),
        };
        Ok(Self {
            dialer: config.stream.dialer().context("set up stream.proxy")?,
            // Nothing is to be written any more.
            identity: LiveIdentity::new(identity, None),
            time: TrustedTime::open(config.time_file()).context("open the trusted time")?,
            collectors,
            host,
        })
    }

    /// What the collector has of this host; none when it cannot be asked.
    async fn marks(&self) -> Option<Vec<Mark>> {
        for address in &self.collectors {
            let asked = unenrol(&self.dialer, &self.identity, address, &self.time, Leaving::Ask).await;
            match asked {
                Ok(marks) => return Some(marks),
                Err(error) => tracing::debug!(%error, address, "collector was not asked"),
            }
        }
        None
    }

    async fn leave(&self, reason: &str) -> Told {
        let mut last = "it was told no collector address".to_owned();
        for address in &self.collectors {
            let leaving = Leaving::Now(reason);
            match unenrol(&self.dialer, &self.identity, address, &self.time, leaving).await {
                Ok(_) => return Told::Done,
                Err(error) if error.fault() == Some(TlsFault::OursRevoked) => return Told::Before,
                Err(error) if is_too_old(&error) => {
                    last = format!("the collector at {address} is of a version that cannot be told")
                }
                Err(error) => last = format!("{:#}", anyhow::Error::from(error)),
            }
        }
        Told::Not(last)
    }
}

impl Told {
    fn say(&self, host: HostId, out: &mut impl Write) -> Result<()> {
        self.say_of(&host.to_string(), out)
    }

    fn say_of(&self, host: &str, out: &mut impl Write) -> Result<()> {
        match self {
            Told::Done => writeln!(
                out,
                "the collector took it out of the fleet; its data there stays"
            )?,
            Told::Before => writeln!(
                out,
                "the collector had revoked it before; `fleetmend hosts remove {host}` takes it off its lists"
            )?,
            Told::Not(why) => tell(&format!(
                "THE COLLECTOR WAS NOT TOLD: {why}\n  Until an operator runs `fleetmend hosts remove {host}` there, it waits for \
                 this host, and a copy of its key would still be let in."
            )),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
