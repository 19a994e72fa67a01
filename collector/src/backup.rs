//! Backups: `backup`, `restore` and `verify`, and the task that a running collector makes them with.
//!
//! Each command works beside a running collector on the same folders; only a restore wants it stopped. They end with
//! 0 when all is well, 1 when it could not be done, and 3 when it was done and something is damaged or missing.

mod config;
mod metrics;
mod report;
mod restore;
mod source;
mod task;
mod verify;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use collector_store::backup::{BackupKey, Repository, back_up, prune};
use fleetmend_event::TimeMicros;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::ConfigArguments;
use crate::config::CollectorConfig;
pub(crate) use config::BackupConfig;
use report::{Lines, say};
pub(crate) use restore::{RestoreArguments, run as restore};
pub(crate) use task::spawn;
pub(crate) use verify::{VerifyArguments, run as verify};

/// What ends a command that found damage.
const DAMAGED: u8 = 3;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// Go on in a repository whose newest backup is of another store
    #[arg(long)]
    adopt: bool,
    /// Back up keys and configuration although nothing is encrypted
    #[arg(long)]
    keys_in_plain: bool,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// List the backups, the oldest first
    List,
    /// Delete backups that are not kept any more, and what only they needed
    Prune {
        /// Hours of which every backup stays [default: backup.keep.all_hours]
        #[arg(long)]
        keep_all_hours: Option<u32>,
        /// Hours of which the newest backup stays [default: backup.keep.hourly]
        #[arg(long)]
        keep_hourly: Option<u32>,
        /// Days of which the newest backup stays [default: backup.keep.daily]
        #[arg(long)]
        keep_daily: Option<u32>,
    },
    /// Make a key for new backups; keep a copy of it elsewhere
    MakeKey {
        /// The file, which may not be there yet
        file: PathBuf,
    },
}

/// Where the repository is, and how it is told of.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Folder of the repository [default: backup.folder]
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    /// File of the key [default: backup.key_file]
    #[arg(long, global = true)]
    key_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

impl Place {
    fn folder(&self, config: &CollectorConfig) -> Result<PathBuf> {
        let folder = self.folder.clone().or_else(|| config.backup.folder.clone());
        folder.context("no repository is named: pass --folder, or set backup.folder in the configuration")
    }

    fn key(&self, config: &CollectorConfig) -> Result<Option<BackupKey>> {
        let file = self.key_file.as_ref().or(config.backup.key_file.as_ref());
        source::key(file)
    }

    fn open(&self, config: &CollectorConfig) -> Result<Repository> {
        Ok(Repository::open(&self.folder(config)?, self.key(config)?)?)
    }
}

/// A runtime for the databases; the rest of the work blocks.
fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")
}

/// Makes a backup, or does what else was asked for.
pub(crate) fn run(arguments: &BackupArguments) -> Result<ExitCode> {
    if let Some(BackupCommand::MakeKey { file }) = &arguments.command {
        let key = BackupKey::create(file)?;
        let text = format!(
            "key {} is in {}: without a copy elsewhere the backups are lost with it",
            key.id(),
            file.display()
        );
        return say(
            arguments.place.json,
            &json!({"key_id": key.id(), "file": file}),
            &text,
        );
    }
    let config = CollectorConfig::load(&arguments.config.config)?;
    match &arguments.command {
        None => make(arguments, &config),
        Some(BackupCommand::List) => list(arguments, &config),
        Some(BackupCommand::Prune {
            keep_all_hours,
            keep_hourly,
            keep_daily,
        }) => {
            refuse_root(&config.store.folder)?;
            let mut keep = config.backup.keep.keep();
            keep.all_hours = keep_all_hours.unwrap_or(keep.all_hours);
            keep.hourly = keep_hourly.unwrap_or(keep.hourly);
            keep.daily = keep_daily.unwrap_or(keep.daily);
            let pruned = prune(&arguments.place.open(&config)?, keep, TimeMicros::now())?;
            let value = json!({"backups": pruned.backups, "objects": pruned.objects, "bytes": pruned.bytes,
                "postponed": pruned.postponed});
            let later = if pruned.postponed {
                "; objects stay until nobody reads the repository"
            } else {
                ""
            };
            let text = format!(
                "{} backups deleted, and {} objects of {}{later}",
                pruned.backups,
                pruned.objects,
                report::bytes(pruned.bytes)
            );
            say(arguments.place.json, &value, &text)
        }
        Some(BackupCommand::MakeKey { .. }) => Ok(ExitCode::SUCCESS),
    }
}

/// Refuses root where the collector is another user: it could neither read nor replace what root leaves in the store's
/// folder and in the repository, and its own backups would end.
fn refuse_root(store: &Path) -> Result<()> {
    // Where there is no store yet, what comes next says so.
    let user = std::fs::metadata(store).map_or(0, |found| found.uid());
    if rustix::process::geteuid().is_root() && user != 0 {
        bail!(
            "{} belongs to user {user}, who could not use what root writes: run this as that user, as in \
             `runuser -u fleetmend-collector -- fleetmend-collector backup`",
            store.display()
        );
    }
    Ok(())
}

fn make(arguments: &BackupArguments, config: &CollectorConfig) -> Result<ExitCode> {
    refuse_root(&config.store.folder)?;
    let place = &arguments.place;
    crate::descriptors::raise();
    let repository = Repository::open_or_create(&place.folder(config)?, place.key(config)?)?;
    let with_secrets = repository.is_encrypted() || arguments.keys_in_plain || config.backup.keys_in_plain;
    let source = source::source(config, &arguments.config.config, with_secrets)?;
    let lines = Lines::new("backed up");
    let runtime = runtime()?;
    let made = back_up(&repository, &source, arguments.adopt, runtime.handle(), &lines)?;
    let manifest = &made.manifest;
    let value = json!({
        "sequence": manifest.sequence, "time": manifest.time, "digest": made.digest, "bytes": manifest.bytes(),
        "bytes_added": manifest.bytes_added, "objects_added": made.objects_added, "missing": manifest.missing,
        "encrypted": repository.is_encrypted(), "seconds": made.elapsed.as_secs_f64(),
    });
    let mut text = format!(
        "backup {} of {}: {}, of which {} are new, in {:.1} s",
        manifest.sequence,
        manifest.time,
        report::bytes(manifest.bytes()),
        report::bytes(manifest.bytes_added),
        made.elapsed.as_secs_f64()
    );
    if source::control_file(config)?.is_none() {
        text.push('\n');
        text.push_str(source::CONTROL_ELSEWHERE);
    }
    for missing in &manifest.missing {
        text.push_str(&format!("\nmissing: {}: {}", missing.path, missing.reason));
    }
    say(place.json, &value, &text)?;
    Ok(if manifest.missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DAMAGED)
    })
}

fn list(arguments: &BackupArguments, config: &CollectorConfig) -> Result<ExitCode> {
    let repository = arguments.place.open(config)?;
    let (mut values, mut lines, mut damaged) = (Vec::new(), Vec::new(), false);
    for entry in repository.list()? {
        match entry.manifest {
            Ok(manifest) => {
                values.push(json!({"sequence": entry.sequence, "time": manifest.time, "digest": entry.digest,
                    "bytes": manifest.bytes(), "bytes_added": manifest.bytes_added, "missing": manifest.missing.len()}));
                let missing = match manifest.missing.len() {
                    0 => String::new(),
                    count => format!("  {count} files missing"),
                };
                let (all, added) = (
                    report::bytes(manifest.bytes()),
                    report::bytes(manifest.bytes_added),
                );
                lines.push(format!(
                    "{:>8}  {}  {all:>10}  +{added}{missing}",
                    entry.sequence, manifest.time
                ));
            }
            Err(error) => {
                damaged = true;
                let error = format!("{:#}", anyhow::Error::from(error));
                values.push(json!({"sequence": entry.sequence, "error": error}));
                lines.push(format!("{:>8}  {error}", entry.sequence));
            }
        }
    }
    say(
        arguments.place.json,
        &json!({"backups": values}),
        &lines.join("\n"),
    )?;
    Ok(if damaged {
        ExitCode::from(DAMAGED)
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests;
