//! `carry-chaos`: agents and a collector through everything that breaks on the way, and an audit that counts.
//!
//! The collector is the built program. The agents are processes of this one, several agents in each, with real keys,
//! certificates, spools and streams; in the place of sensors a generator makes numbered facts for every lane and
//! notes each step in a journal before it takes it (`journal.rs`). Faults come one after the other, chosen by the
//! seed (`plan.rs`), and each is taken back. In the end everything is healed, the agents deliver what they hold, and
//! the audit compares the numbers of the journals with those that SQL shows (`audit.rs`).
//!
//! # What counts as lost
//! A number that was appended, is not stored, and whose moment lies in no gap row of its host and table. What the
//! spool had promised (`flush`) may not be explained by an unclean stop; what it had not may.

pub(crate) mod agent;
mod audit;
mod central;
mod clock;
mod disk;
mod faults;
mod fleet;
mod journal;
mod plan;
mod rude;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::central::Central;
use self::disk::Disk;
use self::faults::Scene;
use self::fleet::Fleet;
use self::plan::{Fault, Plan};
use self::rude::Rude;
use crate::timeline::Timeline;

/// Its name.
pub(crate) const NAME: &str = "carry-chaos";
/// Fewer agents could not play every part.
const AGENTS_MIN: usize = 4;
/// How long faults are injected when nothing else is said.
const SECONDS: u64 = 600;
/// Runs shorter than this hold each fault for a moment only.
const LONG_RUN: Duration = Duration::from_secs(120);

/// Size of a run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChaosArguments {
    /// Agents of carry-chaos
    #[arg(long, default_value_t = 50)]
    agents: usize,
    /// How long carry-chaos injects faults (600 when not given), or benign-hour goes on (3600)
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// What chooses the faults of carry-chaos
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kinds of faults of carry-chaos, in the order of the first round; all when none is named
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Keep the folder of carry-chaos, with logs, journals and the collector's configuration
    #[arg(long)]
    keep: bool,
}

/// Runs it; the second value has what belongs into the report beside the timeline.
pub(crate) async fn run(arguments: ChaosArguments) -> Result<(Timeline, Value)> {
    let ChaosArguments {
        agents,
        seconds,
        seed,
        faults,
        keep,
    } = arguments;
    let seconds = seconds.unwrap_or(SECONDS);
    let kinds = kinds(&faults)?;
    ensure!(
        agents >= AGENTS_MIN,
        "carry-chaos needs at least {AGENTS_MIN} agents"
    );
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let mut timeline = Timeline::new(NAME);
    let mut folder = tempfile::Builder::new()
        .prefix("fleetmend-chaos-")
        .tempdir()
        .context("make a folder")?;
    if keep {
        folder.disable_cleanup(true);
        progress(format!("everything is in {}", folder.path().display()));
    }
    let mut scene = prepare(folder.path(), agents, (seed, &kinds)).await?;
    if seconds < LONG_RUN.as_secs() {
        scene.hold = Duration::from_secs(1);
    }
    timeline.step(
        "started",
        json!({"reason": format!("{agents} agents in {} processes, seed {seed}", scene.fleet.processes.len())}),
    );
    progress(format!("{agents} agents run; faults for {seconds} s"));
    let begun = Instant::now();
    // A slow machine gets the time that each kind needs to come once.
    let all_came = |scene: &Scene| kinds.iter().all(|fault| scene.tried.contains(fault));
    while begun.elapsed() < Duration::from_secs(seconds) || !all_came(&scene) {
        let Some(fault) = scene.plan.next() else { break };
        let said = scene.inject(fault).await;
        let said = said.with_context(|| format!("inject {}", fault.name()))?;
        progress(format!(
            "{:>4} s  {}: {said}",
            begun.elapsed().as_secs(),
            fault.name()
        ));
        timeline.step(fault.name(), json!({"reason": said}));
        tokio::time::sleep(scene.pause()).await;
    }
    progress("heal, deliver and count");
    scene.heal().await?;
    timeline.step(
        "delivered",
        json!({"reason": "every agent delivered what its spool held"}),
    );
    check_kinds(&scene, &kinds, &mut timeline);
    let audit = audit::count(&scene, &mut timeline).await?;
    let clean = scene.central.stop().await?;
    timeline.check("the collector ends in order", clean);
    let mut more = audit;
    if let Some(fields) = more.as_object_mut() {
        fields.insert("agents".to_owned(), json!(agents));
        fields.insert("seconds".to_owned(), json!(seconds));
        fields.insert("seed".to_owned(), json!(seed));
        fields.insert("faults".to_owned(), json!(scene.injected));
        fields.insert("not_covered".to_owned(), json!(not_covered(&scene)));
    }
    // Mounts go before the folder.
    drop(scene);
    Ok((timeline, more))
}

/// The kinds with these names; every kind when there is none.
fn kinds(names: &[String]) -> Result<Vec<Fault>> {
    let named = |name: &String| Fault::named(name).with_context(|| format!("no fault is called {name:?}"));
    if names.is_empty() {
        return Ok(Fault::ALL.to_vec());
    }
    names.iter().map(named).collect()
}

/// Every kind of fault came.
fn check_kinds(scene: &Scene, kinds: &[Fault], timeline: &mut Timeline) {
    let came = kinds.iter().filter(|fault| scene.count(fault.name()) > 0).count();
    // What cannot be had here is named in the report.
    let wanted = kinds
        .iter()
        .filter(|fault| !scene.not_covered.contains_key(fault))
        .count();
    timeline.check(
        format!("{came} kinds of faults came, of {wanted} wanted"),
        came == wanted && wanted > 0,
    );
}

/// The faults that cannot be had here, by name, with the reason.
fn not_covered(scene: &Scene) -> BTreeMap<&'static str, &'static str> {
    scene
        .not_covered
        .iter()
        .map(|(fault, why)| (fault.name(), *why))
        .collect()
}

async fn prepare(folder: &Path, agents: usize, (seed, kinds): (u64, &[Fault])) -> Result<Scene> {
    progress("start the collector and enrol the agents");
    let mut not_covered = BTreeMap::new();
    let shim = clock::Shim::build(folder)?.map(Arc::new);
    if shim.is_none() {
        // A clone has another boot clock than its original.
        for fault in [Fault::ClockJumps, Fault::HostCloned] {
            not_covered.insert(fault, "there is no C compiler");
        }
    }
    let store = folder.join("collector");
    let store_disk = Disk::store(&store)?;
    let central = Central::start(folder, store).await?;
    let token = central.enrolment_token(agents + 1).await?;
    let mut fleet = Fleet::enrol(folder, &token, agents, central.carrier, seed, shim).await?;
    let rude_home = folder.join("rude");
    fleet::enrol(&token.parse().context("read the token")?, &rude_home, agents).await?;
    let rude = Rude::new(&rude_home.join("identity"), central.carrier)?;
    for (disk, fault) in [
        (&store_disk, Fault::StoreDiskFull),
        (&fleet.disk, Fault::SpoolDiskFull),
    ] {
        if disk.is_none() {
            not_covered.insert(fault, "nothing may be mounted here");
        }
    }
    for process in &mut fleet.processes {
        process.start().await?;
    }
    Ok(Scene {
        central,
        fleet,
        rude,
        plan: Plan::new(seed, kinds),
        hold: Duration::from_secs(5),
        clones: Vec::new(),
        not_covered,
        store_disk,
        folder: folder.to_owned(),
        injected: BTreeMap::new(),
        tried: Vec::new(),
    })
}

/// Says what is being done.
fn progress(text: impl std::fmt::Display) {
    // Nobody listening is no reason to end.
    let _ended = writeln!(std::io::stderr(), "carry-chaos: {text}");
}

/// A program that was built beside this one.
fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("FLEETMEND_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("find this program")?;
            own.parent().context("find this program's folder")?.to_owned()
        }
    };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// A command that does not outlive this process.
fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// How often a log says so; not at all when there is none.
fn said(log: &Path, words: &str) -> Result<usize> {
    match std::fs::read_to_string(log) {
        Ok(text) => Ok(text.matches(words).count()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).context("read a log"),
    }
}

fn tail(log: &Path, bytes: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(bytes);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}

/// Copies the entries of a folder into another, which is made when it is not there.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let status = Command::new("cp")
        .args(["--archive", "--no-target-directory"])
        .args([from, to])
        .status()
        .context("run cp")?;
    ensure!(status.success(), "could not copy {}", from.display());
    Ok(())
}

/// Removes every entry of a folder.
fn empty_folder(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list a folder")?.path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
