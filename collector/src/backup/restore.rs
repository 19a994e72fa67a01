//! `restore`: the newest backup, or the state of a moment, to where the configuration says or below another folder.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use collector_store::backup::{Plan, RestoreTarget, Restored, plan, restore};
use fleetmend_event::TimeMicros;
use serde_json::json;

use super::report::{self, Lines, say};
use super::source::{AUTHORITY, CONTROL, CONTROL_ELSEWHERE, control_file};
use super::{Place, runtime};
use crate::ConfigArguments;
use crate::config::CollectorConfig;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    place: Place,
    /// The moment to restore, as 2026-01-31T12:00:00Z [default: that of the newest backup]
    #[arg(long, value_parser = moment)]
    to: Option<TimeMicros>,
    /// Restore below this folder instead of to where the configuration says
    #[arg(long)]
    into: Option<PathBuf>,
    /// Rename what is in the way instead of refusing
    #[arg(long)]
    force: bool,
    /// Only say what would be restored
    #[arg(long)]
    dry_run: bool,
}

fn moment(text: &str) -> Result<TimeMicros, String> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed
        .map(|time| TimeMicros(time.as_microsecond()))
        .map_err(|error| format!("{error}; write it as 2026-01-31T12:00:00Z"))
}

/// Restores.
pub(crate) fn run(arguments: &RestoreArguments) -> Result<ExitCode> {
    let config = config(arguments)?;
    let repository = arguments.place.open(&config)?;
    let chosen = plan(&repository, arguments.to)?;
    if arguments.dry_run {
        return tell_plan(arguments, &chosen);
    }
    let target = target(arguments, &config)?;
    let lines = Lines::new("restored");
    let runtime = runtime()?;
    let restored = restore(&repository, &chosen, &target, runtime.handle(), &lines)?;
    let placed = place_keys(&target, &config, arguments)?;
    tell(arguments, &target, &chosen, &restored, placed)
}

/// Where everything is named on the command line no configuration is needed.
fn config(arguments: &RestoreArguments) -> Result<CollectorConfig> {
    let file = &arguments.config.config;
    if arguments.into.is_some() && arguments.place.folder.is_some() && !file.exists() {
        return Ok(CollectorConfig::default());
    }
    Ok(CollectorConfig::load(file)?)
}

fn target(arguments: &RestoreArguments, config: &CollectorConfig) -> Result<RestoreTarget> {
    let control = |path| (CONTROL.to_owned(), path);
    Ok(match &arguments.into {
        Some(folder) => RestoreTarget {
            store: folder.join("store"),
            databases: vec![control(folder.join("control.sqlite"))],
            files: Some(folder.join("restored-files")),
            displace: arguments.force,
        },
        None => RestoreTarget {
            store: config.store.folder.clone(),
            databases: control_file(config)?.map(control).into_iter().collect(),
            files: Some(config.state_dir.join("restored-files")),
            displace: arguments.force,
        },
    })
}

/// Puts restored keys where the collector looks for them, unless there are some.
fn place_keys(
    target: &RestoreTarget,
    config: &CollectorConfig,
    arguments: &RestoreArguments,
) -> Result<bool> {
    let Some(files) = &target.files else {
        return Ok(false);
    };
    let authority = match &arguments.into {
        Some(folder) => folder.join("authority"),
        None => config.authority_dir(),
    };
    let restored = files.join(AUTHORITY);
    if authority.exists() || !restored.exists() {
        return Ok(false);
    }
    std::fs::rename(&restored, &authority)
        .with_context(|| format!("move the keys to {}", authority.display()))?;
    // A collector that starts without them makes new ones.
    let folders = [files.as_path(), authority.parent().unwrap_or(files)];
    for folder in folders {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("sync {}", folder.display()))?;
    }
    Ok(true)
}

/// By how much the moment asked for is missed, and why.
fn off(arguments: &RestoreArguments, chosen: &Plan) -> String {
    match arguments.to.map(|to| to.micros_since(chosen.lands_at)) {
        Some(micros) if micros != 0 => format!(
            " ({:.1} s before the moment asked for: no later backup holds all that came between)",
            micros as f64 / 1e6
        ),
        _ => String::new(),
    }
}

fn tell_plan(arguments: &RestoreArguments, chosen: &Plan) -> Result<ExitCode> {
    let manifest = &chosen.manifest;
    let value = json!({
        "sequence": manifest.sequence, "time": manifest.time, "lands_at": chosen.lands_at, "cut_at": chosen.until,
        "asked_for": arguments.to, "bytes": chosen.bytes(), "parquet_files": manifest.parquet_files(), "rows_compacted": manifest.rows_compacted(),
        "missing": manifest.missing,
    });
    let cut = if chosen.until.is_some() {
        " and what came until then"
    } else {
        ""
    };
    let text = format!(
        "would restore the state of {}{} from backup {}{cut}: {} in {} Parquet files and what is not compacted",
        chosen.lands_at,
        off(arguments, chosen),
        manifest.sequence,
        report::bytes(chosen.bytes()),
        manifest.parquet_files()
    );
    say(arguments.place.json, &value, &text)
}

fn tell(
    arguments: &RestoreArguments,
    target: &RestoreTarget,
    chosen: &Plan,
    restored: &Restored,
    placed: bool,
) -> Result<ExitCode> {
    let manifest = &chosen.manifest;
    let seconds = restored.elapsed.as_secs_f64();
    let value = json!({
        "sequence": manifest.sequence, "lands_at": chosen.lands_at, "asked_for": arguments.to, "store": target.store, "bytes": restored.bytes,
        "parquet_files": restored.parquet_files, "segments": restored.segments, "displaced": restored.displaced,
        "keys_placed": placed, "missing": manifest.missing, "seconds": seconds,
    });
    let mut text = format!(
        "restored the state of {}{} to {}: {} in {seconds:.1} s; every digest was verified",
        chosen.lands_at,
        off(arguments, chosen),
        target.store.display(),
        report::bytes(restored.bytes)
    );
    for path in &restored.displaced {
        text.push_str(&format!("\nwhat was in the way is {}", path.display()));
    }
    for missing in &manifest.missing {
        text.push_str(&format!(
            "\nmissing in the backup: {}: {}",
            missing.path, missing.reason
        ));
    }
    if target.databases.is_empty() {
        text.push('\n');
        text.push_str(CONTROL_ELSEWHERE);
    }
    if let Some(files) = target.files.as_ref().filter(|files| files.exists()) {
        let keys = if placed {
            "the keys are in their place; "
        } else {
            ""
        };
        text.push_str(&format!(
            "\n{keys}other files of the backup are in {}",
            files.display()
        ));
    }
    say(arguments.place.json, &value, &text)?;
    let whole = manifest.missing.is_empty();
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(super::DAMAGED)
    })
}
