//! The file integrity room in this process: what it needs of others, and what people may ask of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent_collect::process::{Inventory, Process, ProcessKey};
use agent_collect::{Pace, PaceHandle};
use agent_integrity::{Ancestor, Ancestry, Control, Eye, Outlet, Parts, RequestError};
use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Subcommand;
use fleetmend_event::Fact;
use fleetmend_shutdown::Tasks;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::command::{ask, post as tell_agent};
use crate::config::AgentConfig;

/// Processes above a writer that are asked for.
const DEPTH_MAX: usize = 16;

/// Starts the room, when it is wanted.
pub(crate) fn start(
    config: &AgentConfig,
    sources: &Tasks,
    facts: &mpsc::Sender<Fact>,
    inventory: &Inventory,
    pace: &PaceHandle,
) -> Result<Option<(Eye, Control)>> {
    if !config.integrity.enabled {
        return Ok(None);
    }
    let pace = pace.clone();
    let parts = Parts {
        outlet: Box::new(Hub(facts.clone())),
        ancestry: Box::new(Processes(inventory.clone())),
        paused: Arc::new(move || pace.get() > Pace::Full),
    };
    let folder = config.integrity_dir();
    let started = agent_integrity::start(&config.integrity, folder, sources, parts);
    started.context("start the file integrity watch").map(Some)
}

/// The hub's channel, which the room never waits for.
struct Hub(mpsc::Sender<Fact>);

impl Outlet for Hub {
    fn offer(&self, fact: Fact) -> Result<(), Fact> {
        match self.0.try_send(fact) {
            // Once the hub is gone nobody wants it any more.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(fact)) => Err(fact),
        }
    }
}

/// The process inventory.
struct Processes(Inventory);

impl Ancestry for Processes {
    fn chain(&self, pid: u32, start_boot_ns: u64) -> Vec<Ancestor> {
        let key = ProcessKey::new(pid, start_boot_ns);
        let Some(process) = self.0.get(key) else {
            return Vec::new();
        };
        let above = self.0.ancestors(key, DEPTH_MAX);
        std::iter::once(process).chain(above).map(ancestor).collect()
    }
}

fn ancestor(process: Process) -> Ancestor {
    Ancestor {
        pid: process.key.pid,
        start_boot_ns: process.key.start_boot_ns,
        comm: process.program.comm.clone(),
        exe: process.program.exe.clone(),
        ppid: process.ppid,
    }
}

/// What `accept` is asked to accept; nothing named is everything.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accept {
    path: Option<PathBuf>,
}

/// The routes of the admin socket.
pub(crate) fn routes(control: Option<Control>) -> Router {
    Router::new()
        .route("/integrity", get(list))
        .route("/integrity/accept", post(accept))
        .route("/integrity/rebuild", post(rebuild))
        .with_state(control)
}

async fn list(State(control): State<Option<Control>>) -> Response {
    match control {
        Some(control) => answer(control.list().await),
        None => off(),
    }
}

async fn accept(State(control): State<Option<Control>>, Json(wanted): Json<Accept>) -> Response {
    match control {
        Some(control) => answer(
            control
                .accept(wanted.path)
                .await
                .map(|count| json!({ "accepted": count })),
        ),
        None => off(),
    }
}

async fn rebuild(State(control): State<Option<Control>>) -> Response {
    match control {
        Some(control) => answer(control.rebuild().await.map(|()| json!({}))),
        None => off(),
    }
}

fn answer(done: Result<Value, RequestError>) -> Response {
    match done {
        Ok(value) => Json(value).into_response(),
        Err(error) => Json(json!({ "error": error.to_string() })).into_response(),
    }
}

fn off() -> Response {
    let why = json!({ "error": "files are not watched: integrity.enabled is false" });
    (StatusCode::OK, Json(why)).into_response()
}

/// Subcommands of `integrity`.
#[derive(Debug, Subcommand)]
pub(crate) enum IntegrityCommand {
    /// Show what differs from the baseline
    List {
        #[command(flatten)]
        config: super::ConfigArguments,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take a changed file as it is now: its finding is resolved
    Accept {
        #[command(flatten)]
        config: super::ConfigArguments,
        /// The file, as `list` names it
        #[arg(required_unless_present = "all")]
        path: Option<PathBuf>,
        /// Take every changed file
        #[arg(long, conflicts_with = "path")]
        all: bool,
    },
    /// Forget the baseline, and take everything as it is now
    Rebuild(super::ConfigArguments),
}

impl IntegrityCommand {
    /// Asks the running agent.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let socket = |path: &Path| AgentConfig::load(path).map(|config| config.admin_socket);
        let mut out = std::io::stdout().lock();
        let text = match self {
            Self::List { config, json } => {
                let answer = ask(&socket(&config.config)?, "/integrity")?;
                let value = understood(&answer)?;
                if *json {
                    value.to_string()
                } else {
                    in_words(&value)
                }
            }
            Self::Accept { config, path, .. } => {
                let body =
                    serde_json::to_string(&Accept { path: path.clone() }).context("write the request")?;
                let value = understood(&tell_agent(&socket(&config.config)?, "/integrity/accept", &body)?)?;
                format!("{} accepted", value.get("accepted").unwrap_or(&Value::Null))
            }
            Self::Rebuild(config) => {
                understood(&tell_agent(&socket(&config.config)?, "/integrity/rebuild", "{}")?)?;
                "the baseline is made anew; `fleetmend-agent status` says how far it is".to_owned()
            }
        };
        writeln!(out, "{text}").context("print the answer")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn understood(answer: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(answer).context("read the agent's answer")?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) => anyhow::bail!("{error}"),
        None => Ok(value),
    }
}

fn in_words(value: &Value) -> String {
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut lines = vec![text(value, "status")];
    for changed in list("changed") {
        lines.push(format!(
            "  {:<8} {}  [since {}, {} times]",
            text(&changed, "severity"),
            text(&changed, "title"),
            text(&changed, "first_time"),
            changed.get("count").unwrap_or(&Value::Null)
        ));
    }
    for file in list("not_as_packaged") {
        lines.push(format!(
            "  not as package {} delivered it: {}",
            text(&file, "package"),
            text(&file, "path")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_in_words_and_errors_are_errors() {
        let value = json!({
            "status": "9 files watched, 1 differ",
            "changed": [{"path": "/etc/x", "severity": "high", "title": "/etc/x was changed", "first_time": "t", "count": 2}],
            "not_as_packaged": [{"path": "/usr/bin/y", "package": "y"}],
        });
        let words = in_words(&value);
        for part in [
            "9 files watched",
            "high",
            "/etc/x was changed",
            "2 times",
            "not as package y",
        ] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(understood(r#"{"error":"no"}"#).unwrap_err().to_string(), "no");
        assert!(understood("{}").is_ok());
    }
}
