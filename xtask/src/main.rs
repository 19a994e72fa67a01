//! The task runner: `cargo xtask up | test | lint | bench | lab | eval | fuzz | promqltest |
//! sigma-oracle | vm | deb`.
//!
//! It builds with the quick profile only, installs what is missing where it may, says what it installs, and
//! prints how long each step took. It links none of our rooms, so that it is built in seconds.

mod bench;
mod build;
mod checks;
mod deb;
mod fuzz;
mod layout;
mod ports;
mod promql;
mod setup;
mod sigma;
mod step;
mod times;
mod up;
mod vm;
mod web;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs, tests and packages Fleetmend")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and start a collector and an enrolled agent on this host, until Ctrl-C
    Up(up::UpArguments),
    /// Run all tests
    Test(checks::TestArguments),
    /// Check format, lints and dependencies
    Lint,
    /// Measure: `bench footprint | ingest | sensor | spool | enrol [--json]`
    Bench(bench::BenchArguments),
    /// Inject a fault into the instance started by `up`: `lab run NAME [--json]`
    Lab(bench::LabArguments),
    /// Evaluate a model: `eval host-anomaly --data PATH [--json]`
    Eval(bench::EvalArguments),
    /// Feed every decoder of outside bytes: `fuzz [TARGET] [--seconds N]`
    Fuzz(fuzz::FuzzArguments),
    /// Run scripts of Prometheus' promqltest format: `promqltest PATH…`
    Promqltest(promql::PromqltestArguments),
    /// Compare our verdicts on Sigma rules with pySigma's
    SigmaOracle,
    /// Run tests in virtual machines: `vm kernel-matrix [--kernel 6.1]`
    Vm(vm::VmArguments),
    /// Build the Debian packages
    Deb(deb::DebArguments),
}

fn main() -> anyhow::Result<()> {
    if std::env::var_os(fuzz::WRAPPER).is_some() {
        return fuzz::compile();
    }
    match Arguments::parse().task {
        Task::Up(arguments) => up::run(&arguments),
        Task::Test(arguments) => checks::test(&arguments),
        Task::Lint => checks::lint(),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Lab(arguments) => bench::lab(&arguments),
        Task::Eval(arguments) => bench::eval(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Promqltest(arguments) => promql::promqltest(&arguments),
        Task::SigmaOracle => sigma::oracle(),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::Deb(arguments) => deb::run(&arguments),
    }
}
