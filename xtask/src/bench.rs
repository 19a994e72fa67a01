//! `bench`, `lab` and `eval`: they build what they need and hand over to the programs of `tests` and `models`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::layout::{self, Profile};
use crate::setup;

/// The lab that needs no running instance.
const CARRY_CHAOS: &str = "carry-chaos";
/// The lab that works as an administrator does.
const BENIGN_HOUR: &str = "benign-hour";
/// What it works with.
const BENIGN_PACKAGES: &[&str] = &[
    "build-essential",
    "cron",
    "gdb",
    "git",
    "iproute2",
    "logrotate",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3-venv",
    "rsync",
    "sudo",
];

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct BenchArguments {
    /// Which: footprint, ingest, sensor, sigma, churn, spool, enrol, hostile, store or backup
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Short windows and little data
    #[arg(long)]
    quick: bool,
    /// How long `churn` goes on
    #[arg(long)]
    seconds: Option<u64>,
    /// Further arguments for the benchmark
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Arguments of `lab`.
#[derive(clap::Args)]
pub(crate) struct LabArguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(clap::Subcommand)]
enum LabCommand {
    /// Inject one fault and print its timeline
    Run {
        /// runaway-process, disk-fill, reverse-shell-pattern, site-down, unknown-site, benign-hour or carry-chaos
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// State folder of the running instance
        #[arg(long)]
        state: Option<PathBuf>,
        /// Write what benign-hour did and what was raised to this file
        #[arg(long)]
        page: Option<PathBuf>,
        #[command(flatten)]
        chaos: ChaosArguments,
    },
    /// Say which faults there are
    List,
}

/// Size of a run of carry-chaos; the lab has the defaults.
#[derive(Default, PartialEq, clap::Args)]
struct ChaosArguments {
    /// Agents of carry-chaos
    #[arg(long)]
    agents: Option<usize>,
    /// How long carry-chaos injects faults, or benign-hour goes on
    #[arg(long)]
    seconds: Option<u64>,
    /// What chooses the faults of carry-chaos
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the folder of carry-chaos
    #[arg(long)]
    keep: bool,
}

/// Arguments of `eval`.
#[derive(clap::Args)]
pub(crate) struct EvalArguments {
    /// Which model: host-anomaly
    model: String,
    /// Folder with series, or with folders of series
    #[arg(long)]
    data: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs a benchmark with everything built in release.
pub(crate) fn bench(arguments: &BenchArguments) -> Result<()> {
    crate::checks::prepare()?;
    build::programs(
        Profile::Release,
        &[&build::INSTANCE[..], &["fleetmend-tests"]].concat(),
    )?;
    let mut program = Command::new(layout::binary(Profile::Release, "fleetmend-bench"));
    program
        .arg(&arguments.name)
        .args(arguments.json.then_some("--json"))
        .args(arguments.quick.then_some("--quick"));
    if let Some(seconds) = arguments.seconds {
        program.args(["--seconds", &seconds.to_string()]);
    }
    program.args(&arguments.rest);
    hand_over(&mut program, Profile::Release)
}

/// Runs a lab against the running instance, or the one that has an instance of its own.
pub(crate) fn lab(arguments: &LabArguments) -> Result<()> {
    build::programs(Profile::Quick, &["fleetmend-tests"])?;
    if let LabCommand::Run {
        name, json, chaos, ..
    } = &arguments.command
        && name == CARRY_CHAOS
    {
        return carry_chaos(*json, chaos);
    }
    let mut rest = Vec::new();
    if let LabCommand::Run {
        name, chaos, page, ..
    } = &arguments.command
    {
        let seconds = chaos.seconds.filter(|_| name == BENIGN_HOUR);
        let expected = ChaosArguments {
            seconds,
            ..ChaosArguments::default()
        };
        ensure!(
            *chaos == expected,
            "--agents, --seed and --keep are of {CARRY_CHAOS} only, --seconds of {BENIGN_HOUR} too; {name} takes none"
        );
        if let Some(seconds) = seconds {
            rest.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        if let Some(page) = page {
            ensure!(name == BENIGN_HOUR, "--page is of {BENIGN_HOUR} only");
            rest.extend(["--page".to_owned(), page.display().to_string()]);
        }
        if name == BENIGN_HOUR {
            setup::packages(BENIGN_PACKAGES)?;
        }
    }
    let mut program = Command::new(layout::binary(Profile::Quick, "fleetmend-lab"));
    match &arguments.command {
        LabCommand::List => program.arg("list"),
        LabCommand::Run {
            name, json, state, ..
        } => {
            let state = state.clone().map_or_else(layout::up_state, Ok)?;
            program
                .args(["run", name])
                .args(json.then_some("--json"))
                .arg("--state")
                .arg(state)
                .args(rest)
        }
    };
    hand_over(&mut program, Profile::Quick)
}

fn carry_chaos(json: bool, chaos: &ChaosArguments) -> Result<()> {
    build::programs(Profile::Quick, &["fleetmend-collector"])?;
    let mut program = Command::new(layout::binary(Profile::Quick, "fleetmend-lab"));
    program
        .args(["run", CARRY_CHAOS])
        .args(json.then_some("--json"))
        .args(chaos.keep.then_some("--keep"));
    let numbers = [
        ("--agents", chaos.agents.map(|agents| agents.to_string())),
        ("--seconds", chaos.seconds.map(|seconds| seconds.to_string())),
        ("--seed", chaos.seed.map(|seed| seed.to_string())),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            program.args([name, &number]);
        }
    }
    hand_over(&mut program, Profile::Quick)
}

/// Runs an evaluation through the shipped code, in release.
pub(crate) fn eval(arguments: &EvalArguments) -> Result<()> {
    if arguments.model != "host-anomaly" {
        bail!("unknown model {:?}; there is host-anomaly", arguments.model);
    }
    setup::packages(setup::BUILD_PACKAGES)?;
    build::programs(Profile::Release, &["fleetmend-eval"])?;
    let mut program = Command::new(layout::binary(Profile::Release, "fleetmend-eval"));
    program
        .arg(&arguments.model)
        .args(arguments.json.then_some("--json"));
    for folder in &arguments.data {
        program.arg("--data").arg(folder);
    }
    hand_over(&mut program, Profile::Release)
}

fn hand_over(program: &mut Command, profile: Profile) -> Result<()> {
    program.env("FLEETMEND_BIN_DIR", layout::target().join(profile.folder()));
    program.env("FLEETMEND_SOURCE_DIR", layout::root());
    program.env("FLEETMEND_ONNXRUNTIME", setup::onnxruntime()?);
    let status = program
        .stdin(Stdio::null())
        .status()
        .with_context(|| crate::step::line(program))?;
    std::process::exit(status.code().unwrap_or(1));
}
