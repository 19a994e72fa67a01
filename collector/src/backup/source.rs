//! What of a collector belongs into its backups, by its configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use collector_store::backup::{BackupKey, Source};
use fleetmend_control::ControlUrl;

use crate::config::CollectorConfig;

/// Name of the control database in a backup.
pub(super) const CONTROL: &str = "control";
/// Folder of the collector's keys in a backup.
pub(super) const AUTHORITY: &str = "authority";
/// Folder of the configuration in a backup.
const CONFIGURATION: &str = "configuration";

/// Everything that a collector's backup holds. Keys and configuration hold secrets: they are in it when it is
/// encrypted, or when that was asked for.
pub(super) fn source(config: &CollectorConfig, config_file: &Path, with_secrets: bool) -> Result<Source> {
    let mut source = Source {
        store: config.store.folder.clone(),
        ..Source::default()
    };
    if let Some(control) = control_file(config)?.filter(|file| file.exists()) {
        source.databases.push((CONTROL.to_owned(), control));
    }
    if with_secrets {
        add_files(&mut source.files, &config.authority_dir(), AUTHORITY)?;
        add_files(&mut source.files, &config_file.with_extension("d"), CONFIGURATION)?;
        if config_file.exists() {
            let name = config_file.file_name().unwrap_or_default().to_string_lossy();
            source
                .files
                .push((format!("{CONFIGURATION}/{name}"), config_file.to_owned()));
        }
    }
    Ok(source)
}

/// The file of the control database; `None` where a PostgreSQL keeps it, whose own backups hold it then.
pub(super) fn control_file(config: &CollectorConfig) -> Result<Option<PathBuf>> {
    let default = config.control_database();
    Ok(match config.control.address(&default).context("control.url")? {
        ControlUrl::Sqlite(file) => Some(file),
        ControlUrl::Postgres(_) => None,
    })
}

/// What to say where the control database is not in the backups.
pub(super) const CONTROL_ELSEWHERE: &str =
    "control state is in PostgreSQL and not in this backup: use pg_dump and pg_restore (docs/backup.md)";

/// The key in `file`, if one is named.
pub(super) fn key(file: Option<&PathBuf>) -> Result<Option<BackupKey>> {
    let key = file.map(|file| BackupKey::read(file));
    key.transpose().context("read the key of the backups")
}

/// Adds the files of a folder under `name`; neither links nor deeper folders than keys have.
fn add_files(files: &mut Vec<(String, PathBuf)>, folder: &Path, name: &str) -> Result<()> {
    let mut waiting = vec![(folder.to_owned(), name.to_owned())];
    while let Some((folder, name)) = waiting.pop() {
        if !folder.is_dir() {
            continue;
        }
        let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let kind = entry
                .file_type()
                .with_context(|| format!("inspect {}", entry.path().display()))?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if kind.is_dir() && name.matches('/').count() < 8 {
                waiting.push((entry.path(), name));
            } else if kind.is_file() {
                files.push((name, entry.path()));
            }
        }
    }
    files.sort();
    Ok(())
}
