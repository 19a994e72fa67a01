//! `fuzz`: libFuzzer over every decoder of outside bytes, on the stable compiler.
//!
//! Coverage counters are an LLVM pass that stable rustc can be asked for. Cargo compiles our own crates through
//! [`compile`], which adds the pass; dependencies are the ones that are built already. What was learnt stays in
//! the cache, so that each run goes on where the last one ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::layout::{self, Profile};
use crate::setup;
use crate::step::{command, run as run_command, step};

/// Environment variable that makes this program a compiler wrapper.
pub(crate) const WRAPPER: &str = "FLEETMEND_COVERAGE_WRAPPER";

/// Names as in `tests/fuzz/src/main.rs`.
const TARGETS: [&str; 26] = [
    "frame",
    "batch",
    "relative",
    "agent-message",
    "collector-message",
    "kernel-record",
    "token",
    "request",
    "certificate",
    "bundle",
    "healer-message",
    "enrolment-request",
    "enrolment-answer",
    "chain",
    "identity",
    "ledger",
    "address",
    "tunnel",
    "audit-log",
    "rule",
    "journal",
    "log-line",
    "spool",
    "chunk",
    "backup-manifest",
    "backup-object",
];
/// What cargo-fuzz asks the compiler for when no sanitizer is wanted.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// One decoder may use so much, the program itself included; a decompression bomb goes beyond it.
const MEMORY_MIB_MAX: u32 = 512;
/// One input may take so long, on a slow machine too.
const INPUT_SECONDS_MAX: u32 = 20;
const INPUT_BYTES_MAX: u32 = 64 * 1024;

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct FuzzArguments {
    /// Only this target
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long to feed each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Read this one file instead, as after a failure
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// Builds and feeds the targets.
pub(crate) fn run(arguments: &FuzzArguments) -> Result<()> {
    setup::packages(setup::BUILD_PACKAGES)?;
    let targets: Vec<&str> = match &arguments.target {
        Some(target) => vec![target],
        None => TARGETS.to_vec(),
    };
    build()?;
    match &arguments.input {
        Some(input) => targets.iter().try_for_each(|target| replay(target, input)),
        None => targets
            .iter()
            .try_for_each(|target| feed(target, Bound::Seconds(arguments.seconds))),
    }
}

/// Builds the targets and feeds each the same inputs every time: a test that fails is one that was broken. As many at
/// once as there are processors: each is one thread, and none looks at a clock but for an input that never ends.
pub(crate) fn all() -> Result<()> {
    build()?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let queue = Mutex::new(TARGETS.iter());
    let next = || queue.lock().ok()?.next();
    let work = || {
        while let Some(target) = next() {
            feed(target, Bound::Repeatable)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        // All are waited for, so that nothing goes on while the failure is told.
        let ends: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| bail!("a thread that fed the targets panicked"))
            })
            .collect();
        ends.into_iter().collect()
    })
}

/// How much a target is fed.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// As many inputs as take some seconds, from the seeds alone, with a fixed seed of the fuzzer.
    Repeatable,
    /// For so long, on from what earlier runs learnt.
    Seconds(u32),
}

/// Inputs of a repeatable run.
fn runs(target: &str) -> u32 {
    match target {
        "spool" => 4_000,
        "rule" | "journal" | "audit-log" => 20_000,
        "batch" => 60_000,
        // Files that are synced, and signatures that are verified.
        "identity" | "ledger" => 10_000,
        "chain" | "enrolment-answer" => 40_000,
        // Folders that are made and restored, a database among them.
        "backup-manifest" => 10_000,
        "backup-object" => 2_000,
        _ => 200_000,
    }
}

fn build() -> Result<()> {
    step("build the fuzz targets with coverage counters", || {
        let mut cargo = command("cargo", &["build", "--package", "fleetmend-fuzz", "--quiet"]);
        cargo
            .current_dir(layout::root())
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper()?)
            .env(WRAPPER, "1");
        run_command(&mut cargo)
    })
}

/// A copy of this program that stays: a build of the workspace replaces the one that cargo runs.
fn wrapper() -> Result<PathBuf> {
    let path = layout::cache()?.join("fuzz").join("coverage-rustc");
    let own = fs::read("/proc/self/exe").context("read this program")?;
    if fs::read(&path).ok().as_ref() == Some(&own) {
        return Ok(path);
    }
    let (folder, fresh) = (layout::cache()?.join("fuzz"), path.with_extension("new"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    fs::write(&fresh, own).with_context(|| format!("write {}", fresh.display()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).context("make the wrapper a program")?;
    fs::rename(&fresh, &path).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn program(target: &str) -> Command {
    let mut program = Command::new(layout::binary(Profile::Quick, "fleetmend-fuzz"));
    program
        .env("FLEETMEND_FUZZ_TARGET", target)
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    program
}

fn replay(target: &str, input: &Path) -> Result<()> {
    run_command(program(target).arg(input)).with_context(|| format!("{target} fails on {}", input.display()))
}

fn feed(target: &str, bound: Bound) -> Result<()> {
    let root = layout::cache()?.join("fuzz");
    let (learnt, amount) = match bound {
        Bound::Repeatable => ("scratch", format!("-runs={}", runs(target))),
        Bound::Seconds(seconds) => ("corpus", format!("-max_total_time={seconds}")),
    };
    let learnt = root.join(learnt).join(target);
    if matches!(bound, Bound::Repeatable) && learnt.exists() {
        fs::remove_dir_all(&learnt).with_context(|| format!("empty {}", learnt.display()))?;
    }
    let (learnt, seeds, failures) = (learnt, root.join("seeds"), root.join("failures"));
    for folder in [&learnt, &seeds.join(target), &failures] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    step(
        &format!("fuzz {target}, {}", amount.trim_start_matches('-')),
        || {
            let log = root.join(format!("{target}.log"));
            let output = fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
            let mut program = program(target);
            program
                .env("FLEETMEND_FUZZ_SEEDS", &seeds)
                .arg(&amount)
                .args(matches!(bound, Bound::Repeatable).then_some("-seed=1"))
                .arg(format!("-max_len={INPUT_BYTES_MAX}"))
                .arg(format!("-artifact_prefix={}/{target}-", failures.display()))
                .args(["-print_final_stats=1", "-verbosity=0"])
                .args([&learnt, &seeds.join(target)])
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output);
            let status = program.status().context("start fleetmend-fuzz: is it built?")?;
            let said = fs::read_to_string(&log).unwrap_or_default();
            if !status.success() {
                eprintln!("{said}");
                bail!(
                    "{target} failed; the input lies in {}: `cargo xtask fuzz {target} --input FILE` repeats it",
                    failures.display()
                );
            }
            for figure in said.lines().filter(|line| line.starts_with("stat::number_of")) {
                eprintln!("    {target} {}", figure.trim_start_matches("stat::"));
            }
            Ok(())
        },
    )
}

/// Runs the compiler that the arguments name, with the coverage pass where a library or the targets are compiled.
/// Build scripts and macros run in the compiler, without libFuzzer, and get none.
pub(crate) fn compile() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (compiler, rest) = arguments
        .split_first()
        .context("a compiler wrapper is called with a compiler")?;
    let is = |index: usize, wanted: &str| rest.get(index).is_some_and(|value| value == wanted);
    let for_the_compiler = (0..rest.len()).any(|index| {
        is(index, "--crate-name") && is(index + 1, "build_script_build")
            || is(index, "--crate-type") && is(index + 1, "proc-macro")
    });
    let asks_only = !(0..rest.len()).any(|index| is(index, "--crate-name"));
    let mut rustc = Command::new(compiler);
    rustc.args(rest);
    if !for_the_compiler && !asks_only {
        rustc.args(COVERAGE);
    }
    Err(rustc.exec()).with_context(|| format!("start {}", compiler.to_string_lossy()))
}
