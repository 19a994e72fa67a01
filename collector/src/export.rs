//! `fleetmend-collector export`: facts to files, while the collector does not run.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use collector_export::parquet::{MANIFEST, ParquetRequest, export_to_folder};
use collector_store::{OpenError, Store};
use fleetmend_event::{HostId, HostScope, TimeMicros};

use crate::ConfigArguments;
use crate::adapt::ExportAdapter;
use crate::config::CollectorConfig;

/// What is exported.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(subcommand)]
    command: ExportCommand,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Write rows as Parquet files, one a day, with a manifest
    Parquet(ParquetArguments),
}

#[derive(Debug, Args)]
struct ParquetArguments {
    /// Table
    #[arg(long)]
    table: String,
    /// From when, RFC 3339, by the hosts' clocks
    #[arg(long)]
    from: jiff::Timestamp,
    /// Until when, itself left out
    #[arg(long)]
    to: jiff::Timestamp,
    /// Only of this host, by its id; may be repeated
    #[arg(long)]
    host: Vec<HostId>,
    /// Folder for the files; it must not hold an export yet
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    config: ConfigArguments,
}

/// Runs it.
pub(crate) fn run(arguments: ExportArguments) -> Result<ExitCode> {
    let ExportCommand::Parquet(arguments) = arguments.command;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(parquet(arguments))
}

async fn parquet(arguments: ParquetArguments) -> Result<ExitCode> {
    let config = CollectorConfig::load(&arguments.config.config)?;
    let store = match Store::open(config.store.clone()).await {
        Ok(store) => store,
        Err(error @ OpenError::Locked { .. }) => bail!(
            "{error}: the collector is running; ask it with `fleetmend export parquet`, or stop it first"
        ),
        Err(error) => return Err(error).context("open the store"),
    };
    let source = ExportAdapter::new(Arc::new(store), None);
    let request = ParquetRequest {
        table: arguments.table,
        from: TimeMicros(arguments.from.as_microsecond()),
        to: TimeMicros(arguments.to.as_microsecond()),
        hosts: (!arguments.host.is_empty()).then(|| BTreeSet::from_iter(arguments.host)),
        scope: HostScope::All,
    };
    let manifest = export_to_folder(&source, &request, &arguments.out)
        .await
        .context("export to Parquet")?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} rows in {} files; {} names them, and {} known losses that overlap",
        manifest.rows,
        manifest.files.len(),
        arguments.out.join(MANIFEST).display(),
        manifest.gaps.len()
    )
    .context("print the result")?;
    Ok(ExitCode::SUCCESS)
}
