//! The command as it is run, against a real HTTP server that answers as the API does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod policy;
mod queries;
mod server;
mod session;
mod tail;

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the command with nothing in its environment but this.
pub(crate) async fn run(home: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetmend"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    for (name, value) in environment {
        command.env(name, value);
    }
    let ran = tokio::time::timeout(std::time::Duration::from_secs(60), command.output());
    let Output {
        status,
        stdout,
        stderr,
    } = ran.await.unwrap().unwrap();
    Ran {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}
