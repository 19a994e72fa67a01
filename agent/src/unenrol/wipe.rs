//! Deleting. The folders belong to the agent's user and this runs as root: no symbolic link is followed, so that
//! what that user may have put in their place is not somebody else's file.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use agent_spool::inspect;
use anyhow::{Context, Result, bail};

/// Deletes a file; false when there was none.
pub(super) fn file(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => synced(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("delete {}", path.display())),
    }
}

/// Deletes a folder with everything in it; false when there was none. A link is deleted, not what it leads to.
pub(super) fn folder(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        Ok(found) if !found.is_dir() => return file(path),
        Ok(_) => {}
    }
    fs::remove_dir_all(path).with_context(|| format!("delete {}", path.display()))?;
    synced(path)
}

/// Deletes a spool; a folder that holds anything else is left alone, because it may have been configured by mistake.
pub(super) fn spool(path: &Path) -> Result<bool> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(false);
    }
    if path.is_symlink() {
        bail!(
            "{} is a link, which is not followed: delete it and what it leads to by hand; everything else was deleted",
            path.display()
        );
    }
    let report = inspect::inspect(path).with_context(|| format!("look at the spool {}", path.display()))?;
    let foreign = report
        .epochs
        .iter()
        .flat_map(|epoch| &epoch.foreign)
        .chain(&report.foreign);
    let foreign: Vec<String> = foreign.map(|name| format!("{name:?}")).collect();
    if !foreign.is_empty() {
        bail!(
            "{} holds what is not of a spool ({}), and was not deleted; everything else was",
            path.display(),
            foreign.join(", ")
        );
    }
    folder(path)
}

/// Makes it durable that `path` is gone.
fn synced(path: &Path) -> Result<bool> {
    let above = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(above)
        .and_then(|opened| opened.sync_all())
        .with_context(|| format!("sync {}", above.display()))?;
    Ok(true)
}
