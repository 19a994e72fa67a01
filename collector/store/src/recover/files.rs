//! Parquet files at a start: which of them are shown, set aside or deleted.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use super::{io_error, list};
use crate::catalogue::FileRow;
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::inner::{SetAside, gap_of_file};
use crate::own::OWN_HOST;
use crate::view::{ParquetFile, View};

/// Shows the registered files; those missing or cut short are set aside.
pub(crate) fn register_files(
    config: &StoreConfig,
    view: &View,
    rows: Vec<FileRow>,
    catalogue_is_new: bool,
) -> Result<Vec<SetAside>, OpenError> {
    let folder = config.parquet_folder();
    let mut aside = Vec::new();
    let mut files = Vec::new();
    let mut known = HashSet::new();
    for row in rows {
        known.insert(folder.join(&row.path));
        let Some(file) = ParquetFile::of_row(&folder, row) else {
            continue;
        };
        match file.fault() {
            Ok(None) => files.push(Arc::new(file)),
            // Queries fail until it can be read: no answer may lack its rows without saying so.
            Err(error) => {
                tracing::warn!(path = %file.path.display(), %error, "cannot look at a Parquet file now");
                files.push(Arc::new(file));
            }
            Ok(Some(reason)) => {
                tracing::error!(path = %file.path.display(), reason, "Parquet file is damaged and set aside");
                file.rename_aside();
                aside.push(SetAside {
                    file_id: file.id,
                    host: OWN_HOST,
                    gap: gap_of_file(&file, &reason),
                });
            }
        }
    }
    sweep(config, &known, catalogue_is_new)?;
    view.add_files(files);
    Ok(aside)
}

/// Deletes Parquet files that are not registered, or moves them aside when the catalogue was made anew.
fn sweep(
    config: &StoreConfig,
    registered: &HashSet<PathBuf>,
    catalogue_is_new: bool,
) -> Result<(), OpenError> {
    let folder = config.parquet_folder();
    for table in list(&folder)? {
        if !table.is_dir() {
            continue;
        }
        for path in list(&table)? {
            let is_parquet = path.extension().is_some_and(|extension| extension == "parquet");
            let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
            if is_temporary || (is_parquet && !registered.contains(&path) && !catalogue_is_new) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(io_error("delete", &path)(error));
                    }
                    _ => {}
                }
            } else if is_parquet && !registered.contains(&path) {
                tracing::error!(path = %path.display(), "the catalogue is new: a Parquet file it does not know is moved aside");
                move_aside(config, &path)?;
            }
        }
    }
    Ok(())
}

/// Keeps a file for a person, where nobody reads it.
pub(crate) fn move_aside(config: &StoreConfig, path: &std::path::Path) -> Result<(), OpenError> {
    let to = config.aside_folder().join(path.file_name().unwrap_or_default());
    fs::rename(path, &to).map_err(io_error("move", path))
}
