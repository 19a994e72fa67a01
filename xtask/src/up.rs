//! `up`: a collector, a healer and an enrolled agent on this host, with a small demonstration around them.
//!
//! All state lies in one folder. Everything is started with a death signal, so that nothing outlives this
//! process; on Ctrl-C the programs end in order: agent, healer, collector.

mod children;
mod configure;
mod ready;

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::children::Children;
use self::configure::{AGENT_UID, Instance};
use crate::build;
use crate::layout::{self, Profile};
use crate::step::step;

/// How long the programs have to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `up`.
#[derive(clap::Args)]
pub(crate) struct UpArguments {
    /// Print one JSON line when all is ready
    #[arg(long)]
    json: bool,
    /// Folder for all state, instead of ~/.local/state/fleetmend/up
    #[arg(long)]
    state: Option<PathBuf>,
    /// Let the healer only say what it would do
    #[arg(long)]
    observe_only: bool,
    /// Use the release profile
    #[arg(long)]
    release: bool,
}

/// Builds, starts, waits for Ctrl-C, stops.
pub(crate) fn run(arguments: &UpArguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("listen for signals")?;
    }
    crate::checks::prepare()?;
    let profile = if arguments.release {
        Profile::Release
    } else {
        Profile::Quick
    };
    build::programs(profile, &build::INSTANCE)?;
    let state = arguments.state.clone().map_or_else(layout::up_state, Ok)?;
    let _alone = lock(&state)?;
    let mut children = Children::default();
    let outcome = start(arguments, profile, &state, &mut children, &stop).and_then(|instance| {
        if let Some(instance) = &instance {
            announce(arguments, instance)?;
            watch(&mut children, &stop)?;
        }
        Ok(())
    });
    step("stop", || {
        children.stop();
        configure::clean_up(&state);
        Ok(())
    })?;
    outcome
}

/// One `up` for each folder of state, held until it ends.
fn lock(state: &Path) -> Result<File> {
    std::fs::create_dir_all(state).with_context(|| format!("create {}", state.display()))?;
    let path = state.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).context("note our process id")?;
            write!(file, "{}", std::process::id()).context("note our process id")?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => bail!(
            "process {} runs Fleetmend in {}: stop it with Ctrl-C, or choose another folder with --state",
            std::fs::read_to_string(&path).unwrap_or_default().trim(),
            state.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// `None` when a signal came before all was ready.
fn start(
    arguments: &UpArguments,
    profile: Profile,
    state: &Path,
    children: &mut Children,
    stop: &AtomicBool,
) -> Result<Option<Instance>> {
    let instance = step("write the configuration", || {
        Instance::prepare(state, profile, arguments.observe_only)
    })?;
    step("start the collector", || {
        instance.init_collector()?;
        children.start("collector", instance.collector())?;
        ready::http(&instance.api_url(), "/readyz", READY_TIMEOUT, stop, children)
    })?;
    step(
        "start the demonstration site, its resolver and the alert receiver",
        || {
            for (name, program) in instance.demonstration() {
                children.start(name, program)?;
            }
            Ok(())
        },
    )?;
    step("enrol this host", || instance.enrol())?;
    step("start the healer", || {
        instance.sign_policy()?;
        children.start("healer", instance.healer())?;
        ready::socket(&instance.healer_socket(), READY_TIMEOUT, stop, children)?;
        instance.install_policy()
    })?;
    step("start the agent", || {
        children.start("agent", instance.agent())?;
        ready::agent(&instance, READY_TIMEOUT, stop, children)
    })?;
    step("store the first rows", || {
        ready::rows(&instance, READY_TIMEOUT, stop, children)
    })?;
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    instance.record(&children.pids())?;
    Ok(Some(instance))
}

fn announce(arguments: &UpArguments, instance: &Instance) -> Result<()> {
    let summary = instance.summary()?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{summary}").context("print the summary")?;
        return out.flush().context("print the summary");
    }
    let text = |key: &str| {
        summary
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let bin = layout::binary(instance.profile, "fleetmend");
    writeln!(
        out,
        "\nFleetmend is running.\n\n  dashboard  {}\n  user       {}\n  password   {}\n  state      {}\n\nTo use the command line:\n\n  . {}\n  {} hosts\n  {} sql \"select comm, count(*) from process_events group by 1 order by 2 desc limit 5\"\n  {} tail\n\nTo see it heal, in another terminal:\n\n  cargo xtask lab run runaway-process{}\n\nThe agent runs as user {AGENT_UID}, without the rights to act. Ctrl-C stops everything.",
        text("dashboard_url"),
        text("user"),
        text("password"),
        instance.state.display(),
        instance.env_file().display(),
        bin.display(),
        bin.display(),
        bin.display(),
        arguments
            .state
            .as_ref()
            .map_or_else(String::new, |state| format!(" --state {}", state.display())),
    )
    .context("print the summary")
}

fn watch(children: &mut Children, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if let Some(ended) = children.ended() {
            bail!("{ended}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Waits until `done` says so, a signal comes, a child ends, or time is up.
fn wait(
    what: &str,
    timeout: Duration,
    stop: &AtomicBool,
    children: &mut Children,
    mut done: impl FnMut() -> bool,
) -> Result<()> {
    let begun = Instant::now();
    while !done() {
        if let Some(ended) = children.ended() {
            bail!("{ended}");
        }
        if stop.load(Ordering::Relaxed) {
            bail!("stopped while waiting for {what}");
        }
        if begun.elapsed() > timeout {
            bail!("{what} was not ready within {timeout:?}{}", children.complaints());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// An object without secrets, for `up.json`.
fn without_password(mut summary: Value) -> Value {
    if let Some(object) = summary.as_object_mut() {
        object.insert("password".to_owned(), json!(null));
    }
    summary
}
