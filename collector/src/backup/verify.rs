//! `verify`: whether what is in the repository can be restored.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use collector_store::backup::{Repository, RestoreTarget, Verified, VerifyExtent, plan, restore, verify};
use collector_store::{QueryLimits, Store, StoreConfig, to_json_rows};
use serde_json::{Value, json};

use super::report::{self, Lines, say};
use super::{Place, runtime};
use crate::ConfigArguments;
use crate::config::CollectorConfig;

/// How long the count of one table may take.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    place: Place,
    /// Read this share of the objects, chosen at random: 0 to 1 [default: all of them]
    #[arg(long, value_parser = share)]
    sample: Option<f64>,
    /// Restore the newest backup into an empty folder, open it, count its rows, and delete it again
    #[arg(long, value_name = "FOLDER")]
    rehearse: Option<PathBuf>,
    /// Digest that the newest manifest must have, as `backup` printed it: shows whether it was replaced by an older one
    #[arg(long, value_name = "DIGEST")]
    expect: Option<String>,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().map_err(|error| error.to_string())?;
    (0.0..=1.0)
        .contains(&share)
        .then_some(share)
        .ok_or_else(|| "it is from 0 to 1".to_owned())
}

/// Verifies.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    let config = CollectorConfig::load(&arguments.config.config)?;
    let repository = arguments.place.open(&config)?;
    let extent = arguments
        .sample
        .map_or(VerifyExtent::Everything, VerifyExtent::Sample);
    let mut verified = verify(&repository, extent, &Lines::new("read"))?;
    if let Some(expected) = &arguments.expect
        && verified.newest.as_ref().map(|(_, digest)| digest) != Some(expected)
    {
        verified.faults = verified.faults.saturating_add(1);
        verified
            .told
            .push("the newest manifest is not the one that was expected".to_owned());
    }
    let rehearsed = match &arguments.rehearse {
        Some(folder) if verified.faults == 0 => Some(rehearse(&repository, &config, folder)?),
        _ => None,
    };
    tell(arguments, &verified, rehearsed.as_ref())?;
    let whole = verified.faults == 0;
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(super::DAMAGED)
    })
}

fn tell(arguments: &VerifyArguments, verified: &Verified, rehearsed: Option<&Value>) -> Result<ExitCode> {
    let mut value = json!(verified);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("seconds".to_owned(), json!(verified.elapsed.as_secs_f64()));
        fields.insert("rehearsed".to_owned(), json!(rehearsed));
    }
    let mut text = format!(
        "{} backups, {} of their {} objects read, {}, {} faults, {:.1} s",
        verified.backups,
        verified.objects_read,
        verified.objects,
        report::bytes(verified.bytes_read),
        verified.faults,
        verified.elapsed.as_secs_f64()
    );
    for fault in &verified.told {
        text.push_str(&format!("\n{fault}"));
    }
    if let Some(rehearsed) = rehearsed {
        text.push_str(&format!("\nrestored and counted: {rehearsed}"));
    }
    say(arguments.place.json, &value, &text)
}

/// Restores the newest backup, opens it as a store, and counts.
fn rehearse(repository: &Repository, config: &CollectorConfig, folder: &Path) -> Result<Value> {
    let target = RestoreTarget {
        store: folder.join("rehearsal"),
        ..RestoreTarget::default()
    };
    if target.store.exists() {
        bail!(
            "{} is there already: remove it, or name another folder",
            target.store.display()
        );
    }
    let runtime = runtime()?;
    let chosen = plan(repository, None)?;
    let restored = restore(
        repository,
        &chosen,
        &target,
        runtime.handle(),
        &Lines::new("restored"),
    )?;
    let store_config = StoreConfig {
        folder: target.store.clone(),
        ..config.store.clone()
    };
    let counted = runtime.block_on(count(store_config));
    // Also when it could not be counted: the folder is a copy of what is in the repository.
    std::fs::remove_dir_all(&target.store).with_context(|| format!("delete {}", target.store.display()))?;
    let (rows, compacted) = counted?;
    let expected = chosen.manifest.rows_compacted();
    ensure!(
        compacted == expected,
        "the restored store shows {compacted} compacted rows where the backup holds {expected}"
    );
    Ok(json!({"sequence": chosen.manifest.sequence, "seconds": restored.elapsed.as_secs_f64(), "rows": rows}))
}

/// Rows of every table as SQL counts them, and all compacted rows as the catalogue does.
async fn count(config: StoreConfig) -> Result<(Value, u64)> {
    let store = Store::open(config).await.context("open the restored store")?;
    let stats = store.stats();
    let mut rows = serde_json::Map::new();
    for table in &stats.tables {
        let limits = QueryLimits {
            timeout: COUNT_TIMEOUT,
            ..QueryLimits::default()
        };
        let answer = store
            .sql(&format!("SELECT count(*) AS rows FROM {}", table.table), limits)
            .await;
        let answer = answer.with_context(|| format!("count the rows of {}", table.table))?;
        let counted = to_json_rows(&answer.batches).context("read the count")?;
        let counted = counted
            .first()
            .and_then(|row| row.get("rows"))
            .cloned()
            .unwrap_or_default();
        rows.insert(table.table.to_owned(), counted);
    }
    let compacted = stats
        .tables
        .iter()
        .map(|table| table.rows)
        .fold(0, u64::saturating_add);
    Ok((Value::Object(rows), compacted))
}
