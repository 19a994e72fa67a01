//! `fleetmend-healer`: parse, build, run, drain.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fleetmend_healer::command::{Arguments, Command, execute, load};
use fleetmend_healer::config::Config;
use fleetmend_healer::task;
use fleetmend_shutdown::{Tasks, listen_for_signals};

/// A transaction notices the end at its next measurement.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = load(&arguments.config).and_then(|config| match &arguments.command {
        Command::Run => run(&config),
        command => execute(command, &config, &mut std::io::stdout()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet, and this is the last word.
            drop(std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("fleetmend-healer: {error:#}\n"),
            ));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    fleetmend_telemetry::init_logs(config.log).context("start logging")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        listen_for_signals(&tasks).context("listen for signals")?;
        let healer = task::start(config, &tasks).context("start the healer")?;
        tracing::info!(socket = %config.socket.display(), mode = healer.status().mode, "healer is ready");
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "service manager was not told");
        }
        tasks.wait_for_end().await;
        healer.close();
        let report = tasks.drain(DRAIN_DEADLINE).await;
        anyhow::ensure!(!report.end.failed, "{}", report.end);
        Ok(())
    })
}
