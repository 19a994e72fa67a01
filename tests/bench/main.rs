//! `fleetmend-bench`: measures a release build against the budgets, on this machine and with real programs.
//!
//! Each benchmark starts what it measures in a folder of its own, makes its own load, and ends within minutes.
//! Figures that a benchmark could not measure are missing from its answer and named in
//! `conditions.not_measured`; none is ever filled in.

mod api;
mod backup;
mod child;
mod churn;
mod enrol;
mod footprint;
mod hostile;
mod http;
mod ingest;
mod instance;
mod process;
mod report;
mod samples;
mod sensor;
mod sigma;
mod spool;
mod statistics;
mod store;
mod work;

use anyhow::Result;
use clap::Parser;

/// The collector's: the benchmark of the store runs the store in processes of this program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures a release build against the budgets.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Short windows: shows that the benchmark works; its figures mean little
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// CPU and memory of a whole instance, idle and under the standard load
    Footprint,
    /// What the sensor delivers flat out, and what it costs the traced programs
    Sensor(sensor::SensorArguments),
    /// What a fork bomb, a million paths, short connections and threads do to the agent's memory
    Churn(churn::ChurnArguments),
    /// What a collector takes from fifty agents
    Ingest,
    /// What one event costs with 10, 100 and 1,000 Sigma rules
    Sigma(sigma::SigmaArguments),
    /// How fast facts become durable, what a recovery costs, what a day without a collector takes
    Spool,
    /// How fast hosts enrol, and how a fleet comes back after a restart
    Enrol,
    /// What peers that speak wrongly on purpose cost a collector and its honest hosts
    Hostile,
    /// What the store takes, keeps and finds, beside Prometheus and VictoriaMetrics
    Store(store::StoreArguments),
    /// How fast a store is backed up, verified and restored
    Backup(backup::BackupArguments),
    /// Writes bodies of made-up hosts, to train the dictionary on
    #[command(hide = true)]
    WorkSamples(samples::SampleArguments),
    /// Recovers a spool; `spool` starts it
    #[command(hide = true)]
    WorkRecover(spool::RecoverArguments),
    /// One phase of `store`, which starts it
    #[command(hide = true)]
    WorkStore(store::PhaseArguments),
    /// Makes load; the benchmarks start it
    #[command(hide = true)]
    Work(work::WorkArguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = match &arguments.command {
        Command::Footprint => footprint::run(arguments.quick)?,
        Command::Sensor(sensor) => sensor::run(arguments.quick, sensor)?,
        Command::Churn(churn) => churn::run(arguments.quick, churn)?,
        Command::Ingest => ingest::run(arguments.quick)?,
        Command::Sigma(sigma) => sigma::run(arguments.quick, sigma)?,
        Command::Spool => spool::run(arguments.quick)?,
        Command::Enrol => enrol::run(arguments.quick)?,
        Command::Hostile => hostile::run(arguments.quick)?,
        Command::Store(store) => store::run(arguments.quick, store)?,
        Command::Backup(backup) => backup::run(arguments.quick, backup)?,
        Command::WorkSamples(work) => return samples::run(work),
        Command::WorkRecover(work) => return spool::recover(work),
        Command::WorkStore(work) => return store::work(arguments.quick, work),
        Command::Work(work) => return work::run(work),
    };
    report.print(arguments.json)
}
